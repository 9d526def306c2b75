// SPDX-License-Identifier: Apache-2.0

package cost

import (
	"fmt"
	"net"
	"strings"

	core "k8s.io/api/core/v1"
	meta "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/layertrace/layertrace/e2e/podserver"
)

// servePods serves n pods, two of them on the agent's node, as an API server does, until Down.
func (t *Testbed) servePods(listener net.Listener, n int) error {
	server, err := podserver.New()
	if err != nil {
		return err
	}
	for i := range n {
		one := pod(i-2, false)
		if i < 2 {
			one = pod(i, true)
		}
		server.Put(&one)
	}
	server.Serve(listener, func(err error) { t.options.Progress("the pods' server ended: %v", err) })
	t.pods = n
	t.closers = append(t.closers, server.Close)
	return nil
}

// pod returns a running pod with what Istio and a Deployment put into one. Two on the
// agent's node are client and server.
func pod(i int, local bool) core.Pod {
	name, node, address := fmt.Sprintf("service-%d-7d9c5b8f6d-x2k4j", i%500), "other", fmt.Sprintf("10.80.%d.%d", i/250, 1+i%250)
	if local {
		name, node, address = []string{"client", "server"}[i], "node", []string{clientAddress(0), "10.79.0.2"}[i]
	}
	app := strings.TrimSuffix(name, "-7d9c5b8f6d-x2k4j")
	container := func(name string) core.Container {
		return core.Container{
			Name: name, Image: "registry.example/team/" + name + ":v1.2.3",
			Env:          []core.EnvVar{{Name: "POD_NAME", Value: name}, {Name: "LOG_LEVEL", Value: "info"}, {Name: "ENDPOINT", Value: "http://collector.observability:4318"}},
			VolumeMounts: []core.VolumeMount{{Name: "token", MountPath: "/var/run/secrets/tokens"}, {Name: "config", MountPath: "/etc/config"}},
		}
	}
	return core.Pod{
		ObjectMeta: meta.ObjectMeta{
			Name: fmt.Sprintf("%s-%d", name, i), Namespace: "default", UID: types.UID(fmt.Sprintf("%08d-0000-4000-8000-%012d", i, btoi(local))),
			ResourceVersion: "1",
			Labels:          map[string]string{"app": app, "version": "v1", "pod-template-hash": "7d9c5b8f6d", "service.istio.io/canonical-name": app},
			Annotations:     map[string]string{"sidecar.istio.io/status": `{"initContainers":["istio-init"],"containers":["istio-proxy"],"volumes":["istio-envoy","istio-data"]}`},
			OwnerReferences: []meta.OwnerReference{{APIVersion: "apps/v1", Kind: "ReplicaSet", Name: app + "-7d9c5b8f6d", UID: types.UID(app)}},
		},
		Spec: core.PodSpec{NodeName: node, Containers: []core.Container{container("istio-proxy"), container(app)}},
		Status: core.PodStatus{
			Phase: core.PodRunning, PodIP: address, PodIPs: []core.PodIP{{IP: address}}, HostIP: "192.0.2.1", HostIPs: []core.HostIP{{IP: "192.0.2.1"}},
		},
	}
}
