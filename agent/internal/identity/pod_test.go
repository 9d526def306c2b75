// SPDX-License-Identifier: Apache-2.0

package identity

import (
	"bytes"
	"fmt"
	"testing"

	core "k8s.io/api/core/v1"
	meta "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/serializer/protobuf"
)

func TestWorkload(t *testing.T) {
	for name, test := range map[string]struct {
		labels              map[string]string
		ownerKind, owner    string
		service, kind, from string
	}{
		"canonical name first": {
			map[string]string{"service.istio.io/canonical-name": "a", "app.kubernetes.io/name": "b", "app": "c"},
			"StatefulSet", "db", "a", "StatefulSet", "db",
		},
		"recommended label before app": {map[string]string{"app.kubernetes.io/name": "b", "app": "c"}, "DaemonSet", "d", "b", "DaemonSet", "d"},
		"app":                          {map[string]string{"app": "c"}, "Job", "once", "c", "Job", "once"},
		"an empty label is ignored":    {map[string]string{"app": ""}, "", "", "pod-1", "Pod", "pod-1"},
		"Deployment of a ReplicaSet": {
			map[string]string{hashLabel: "6b7f4cc8d9"}, "ReplicaSet", "reviews-v2-6b7f4cc8d9", "reviews-v2", "Deployment", "reviews-v2",
		},
		"ReplicaSet of its own":          {nil, "ReplicaSet", "reviews", "reviews", "ReplicaSet", "reviews"},
		"ReplicaSet with another's hash": {map[string]string{hashLabel: "1"}, "ReplicaSet", "reviews-2", "reviews-2", "ReplicaSet", "reviews-2"},
		"CronJob of a Job":               {nil, "Job", "backup-28912345", "backup", "CronJob", "backup"},
		"Job with a number":              {nil, "Job", "backup-7", "backup-7", "Job", "backup-7"},
		"static pod":                     {nil, "Node", "node1", "pod-1", "Pod", "pod-1"},
		"unknown controller":             {nil, "Rollout", "x", "x", "Rollout", "x"},
	} {
		p := &core.Pod{ObjectMeta: meta.ObjectMeta{Name: "pod-1", Labels: test.labels}}
		if test.owner != "" {
			yes := true
			p.OwnerReferences = []meta.OwnerReference{{Kind: "ConfigMap", Name: "no-controller"}, {Kind: test.ownerKind, Name: test.owner, Controller: &yes}}
		}
		w := workloadOf(p)
		if w.Service != test.service || w.Kind != test.kind || w.Name != test.from {
			t.Errorf("%s: service %s, %s %s; want %s, %s %s", name, w.Service, w.Kind, w.Name, test.service, test.kind, test.from)
		}
	}
}

// encode encodes a list as an API server does.
func encode(t *testing.T, list *core.PodList) []byte {
	t.Helper()
	scheme := runtime.NewScheme()
	if err := core.AddToScheme(scheme); err != nil {
		t.Fatal(err)
	}
	list.TypeMeta = meta.TypeMeta{Kind: "PodList", APIVersion: "v1"}
	var out bytes.Buffer
	if err := protobuf.NewSerializer(scheme, scheme).Encode(list, &out); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

func TestReadList(t *testing.T) {
	list := &core.PodList{ListMeta: meta.ListMeta{ResourceVersion: "4711"}}
	for i := range 300 {
		list.Items = append(list.Items, *largePod(i))
	}
	got, err := readPodList(bytes.NewReader(encode(t, list)))
	if err != nil {
		t.Fatal(err)
	}
	if got.ResourceVersion != "4711" || len(got.Items) != len(list.Items) {
		t.Fatalf("version %s, %d pods", got.ResourceVersion, len(got.Items))
	}
	for i := range got.Items {
		want := newPodRecord(&list.Items[i])
		r := &got.Items[i]
		if r.pod.workload != want.pod.workload || fmt.Sprint(r.pod.addresses, r.hosts) != fmt.Sprint(want.pod.addresses, want.hosts) {
			t.Errorf("pod %d is %+v, want %+v", i, *r.pod, *want.pod)
		}
	}
	empty, err := readPodList(bytes.NewReader(encode(t, &core.PodList{ListMeta: meta.ListMeta{ResourceVersion: "1"}})))
	if err != nil || len(empty.Items) != 0 || empty.ResourceVersion != "1" {
		t.Errorf("an empty list: %+v, %v", empty, err)
	}
}

// A truncated response is an error, not a shorter list.
func TestReadListNoticesWhatIsMissing(t *testing.T) {
	data := encode(t, &core.PodList{Items: []core.Pod{*largePod(1), *largePod(2)}})
	// The envelope ends with two empty fields after the list, content encoding
	// and type: two bytes each.
	const trailer = 4
	for n := range len(data) - trailer {
		if got, err := readPodList(bytes.NewReader(data[:n])); err == nil {
			t.Fatalf("%d of %d bytes are a list of %d pods", n, len(data), len(got.Items))
		}
	}
}

func FuzzReadList(f *testing.F) {
	f.Add([]byte(podListMagic + "\x12\x00"))
	f.Add([]byte(podListMagic + "\x0a\x01x\x12\x04\x12\x02\x0a\x00"))
	f.Add([]byte(podListMagic + "\x12\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01"))
	f.Add([]byte("{\"kind\":\"PodList\"}"))
	f.Fuzz(func(t *testing.T, data []byte) {
		list, err := readPodList(bytes.NewReader(data))
		if (list == nil) == (err == nil) {
			t.Errorf("list %v, error %v", list, err)
		}
	})
}
