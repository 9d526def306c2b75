// SPDX-License-Identifier: Apache-2.0

package cost

import (
	"bytes"
	"errors"
	"fmt"
	"net"
	"net/http"
	"strings"

	core "k8s.io/api/core/v1"
	meta "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/serializer/protobuf"
	"k8s.io/apimachinery/pkg/types"
)

// servePods serves lists of pods as an API server does, in protobuf, until Down: n pods,
// two of them on the agent's node. Watches stay open and have no events. A real API server
// takes minutes to store 10,000 pods, and its own CPU time would be measured with the
// agent's.
func (t *Testbed) servePods(listener net.Listener, n int) error {
	scheme := runtime.NewScheme()
	if err := core.AddToScheme(scheme); err != nil {
		return fmt.Errorf("register core/v1: %w", err)
	}
	encoder := protobuf.NewSerializer(scheme, scheme)
	lists := map[bool][]byte{}
	for local, count := range map[bool]int{true: 2, false: n - 2} {
		list := core.PodList{TypeMeta: meta.TypeMeta{APIVersion: "v1", Kind: "PodList"}, ListMeta: meta.ListMeta{ResourceVersion: "1"}}
		for i := range count {
			list.Items = append(list.Items, pod(i, local))
		}
		var body bytes.Buffer
		if err := encoder.Encode(&list, &body); err != nil {
			return fmt.Errorf("encode %d pods: %w", count, err)
		}
		lists[local] = body.Bytes()
	}
	server := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		query := r.URL.Query()
		switch {
		case r.URL.Path != "/api/v1/pods":
			http.NotFound(w, r)
		case query.Get("sendInitialEvents") == "true":
			// As from a server without streaming lists.
			w.Header().Set("Content-Type", "application/json")
			w.WriteHeader(http.StatusUnprocessableEntity)
			fmt.Fprint(w, `{"kind":"Status","apiVersion":"v1","status":"Failure","reason":"Invalid","message":"sendInitialEvents is forbidden","code":422}`)
		case query.Get("watch") == "true":
			w.Header().Set("Content-Type", "application/vnd.kubernetes.protobuf;stream=watch")
			w.WriteHeader(http.StatusOK)
			w.(http.Flusher).Flush()
			<-r.Context().Done()
		default:
			w.Header().Set("Content-Type", runtime.ContentTypeProtobuf)
			// Only the connection can fail; then the client asks again.
			_, _ = w.Write(lists[strings.Contains(query.Get("fieldSelector"), "spec.nodeName=")])
		}
	})}
	t.pods = n
	t.closers = append(t.closers, server.Close)
	go func() {
		if err := server.Serve(listener); !errors.Is(err, http.ErrServerClosed) {
			t.options.Progress("the pods' server ended: %v", err)
		}
	}()
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
