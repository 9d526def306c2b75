// SPDX-License-Identifier: Apache-2.0

package span

import (
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/sdk/resource"
	semconv "go.opentelemetry.io/otel/semconv/v1.43.0"
)

// controllerKeys name what controls a pod, by its kind; OpenTelemetry has no
// name for other kinds.
var controllerKeys = map[string]attribute.Key{
	"Deployment": semconv.K8SDeploymentNameKey, "StatefulSet": semconv.K8SStatefulSetNameKey,
	"DaemonSet": semconv.K8SDaemonSetNameKey, "ReplicaSet": semconv.K8SReplicaSetNameKey,
	"Job": semconv.K8SJobNameKey, "CronJob": semconv.K8SCronJobNameKey,
}

// resourceOf describes what all spans of the point have in common: who they are
// about, the workload behind a virtual interface or the node, and where they
// were seen. k8s.* is given for a pod only; outside of Kubernetes there is none.
func resourceOf(p *Point) *resource.Resource {
	kv := []attribute.KeyValue{keyKind.String(string(p.Kind())), keyPoint.String(p.ID)}
	if p.Socket {
		kv = append(kv, keyProcess.String(string(p.Process)))
	} else {
		kv = append(kv, semconv.NetworkInterfaceName(p.Interface.Name))
	}
	return resourceWith(p, kv)
}

// resourceWith adds who it is about.
func resourceWith(p *Point, kv []attribute.KeyValue) *resource.Resource {
	kv = append(kv, semconv.ServiceName(p.Service()), semconv.HostName(p.Node))
	if w := p.Workload; w.Namespace != "" || w.Pod != "" {
		kv = append(kv, semconv.K8SNodeName(p.Node))
		if w.Namespace != "" {
			kv = append(kv, semconv.ServiceNamespace(w.Namespace), semconv.K8SNamespaceName(w.Namespace))
		}
		if w.Pod != "" {
			kv = append(kv, semconv.K8SPodName(w.Pod))
		}
		if w.PodUID != "" {
			kv = append(kv, semconv.K8SPodUID(w.PodUID))
		}
		if key, ok := controllerKeys[w.Kind]; ok && w.Name != "" {
			kv = append(kv, key.String(w.Name))
		}
	}
	return resource.NewWithAttributes(semconv.SchemaURL, kv...)
}
