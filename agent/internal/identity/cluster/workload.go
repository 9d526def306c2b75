// SPDX-License-Identifier: Apache-2.0

package cluster

import (
	"regexp"
	"strings"

	core "k8s.io/api/core/v1"
	meta "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/layertrace/layertrace/internal/observe"
)

// nameLabels are the labels that name a pod's service, the first wins: Istio's
// order, so that our spans stand beside the proxy's own (istio/istio,
// pkg/kube/labels/labels.go, canonicalServiceName).
var nameLabels = [...]string{"service.istio.io/canonical-name", "app.kubernetes.io/name", "app"}

// hashLabel holds the end of a ReplicaSet's name, behind its Deployment's.
const hashLabel = "pod-template-hash"

// scheduled matches the name of a Job that a CronJob made: its name and the
// time in minutes.
var scheduled = regexp.MustCompile(`^(.+)-\d{8,10}$`)

// workloadOf describes a pod. The service is Istio's canonical service: what
// the labels say, else the controller's name.
func workloadOf(p *core.Pod) observe.Workload {
	kind, name := controllerOf(p)
	w := observe.Workload{
		Service: name, Namespace: p.Namespace, Pod: p.Name, Node: p.Spec.NodeName,
		PodUID: string(p.UID), Kind: kind, Name: name,
	}
	for _, label := range nameLabels {
		if v := p.Labels[label]; v != "" {
			w.Service = v
			break
		}
	}
	return w
}

// controllerOf returns kind and name of what the user made to have the pod. As
// Istio does (istio/istio, pkg/kube/util.go, GetWorkloadMetaFromPod), it takes
// a Deployment's name from its ReplicaSet's and a CronJob's from its Job's, so
// that neither has to be read. A pod of its own is of kind Pod.
func controllerOf(p *core.Pod) (kind, name string) {
	owner := meta.GetControllerOfNoCopy(p)
	switch {
	case owner == nil || owner.Kind == "Node": // the latter: a static pod
		return "Pod", p.Name
	case owner.Kind == "ReplicaSet":
		if name, ok := strings.CutSuffix(owner.Name, "-"+p.Labels[hashLabel]); ok && name != "" {
			return "Deployment", name
		}
	case owner.Kind == "Job":
		if m := scheduled.FindStringSubmatch(owner.Name); m != nil {
			return "CronJob", m[1]
		}
	}
	return owner.Kind, owner.Name
}
