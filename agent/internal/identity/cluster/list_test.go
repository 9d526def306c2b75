// SPDX-License-Identifier: Apache-2.0

package cluster

import (
	"bytes"
	"fmt"
	"testing"

	core "k8s.io/api/core/v1"
	meta "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/serializer/protobuf"
)

// encode writes a list as an API server does.
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
	got, err := readList(bytes.NewReader(encode(t, list)))
	if err != nil {
		t.Fatal(err)
	}
	if got.ResourceVersion != "4711" || len(got.Items) != len(list.Items) {
		t.Fatalf("version %s, %d pods", got.ResourceVersion, len(got.Items))
	}
	for i := range got.Items {
		want := newRecord(&list.Items[i])
		r := &got.Items[i]
		if r.pod.workload != want.pod.workload || fmt.Sprint(r.pod.addresses, r.hosts) != fmt.Sprint(want.pod.addresses, want.hosts) {
			t.Errorf("pod %d is %+v, want %+v", i, *r.pod, *want.pod)
		}
	}
	empty, err := readList(bytes.NewReader(encode(t, &core.PodList{ListMeta: meta.ListMeta{ResourceVersion: "1"}})))
	if err != nil || len(empty.Items) != 0 || empty.ResourceVersion != "1" {
		t.Errorf("an empty list: %+v, %v", empty, err)
	}
}

// An answer that is cut off is no shorter list.
func TestReadListNoticesWhatIsMissing(t *testing.T) {
	data := encode(t, &core.PodList{Items: []core.Pod{*largePod(1), *largePod(2)}})
	// The last fields of the envelope, content encoding and type, are empty
	// and behind the list: two bytes each.
	const behind = 4
	for n := range len(data) - behind {
		if got, err := readList(bytes.NewReader(data[:n])); err == nil {
			t.Fatalf("%d of %d bytes are a list of %d pods", n, len(data), len(got.Items))
		}
	}
}

func FuzzReadList(f *testing.F) {
	f.Add([]byte(magic + "\x12\x00"))
	f.Add([]byte(magic + "\x0a\x01x\x12\x04\x12\x02\x0a\x00"))
	f.Add([]byte(magic + "\x12\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01"))
	f.Add([]byte("{\"kind\":\"PodList\"}"))
	f.Fuzz(func(t *testing.T, data []byte) {
		list, err := readList(bytes.NewReader(data))
		if (list == nil) == (err == nil) {
			t.Errorf("list %v, error %v", list, err)
		}
	})
}
