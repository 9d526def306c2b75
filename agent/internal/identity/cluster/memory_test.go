// SPDX-License-Identifier: Apache-2.0

package cluster

import (
	"fmt"
	"runtime"
	"strings"
	"testing"

	core "k8s.io/api/core/v1"
	meta "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// largePod is a pod as Istio's users have them: a manifest of some KiB, of
// which next to nothing is needed.
func largePod(i int) *core.Pod {
	yes := true
	name := fmt.Sprintf("service-%d-6b7f4cc8d9-%05d", i%200, i)
	p := somePod(name, fmt.Sprintf("node-%d", i%300), fmt.Sprintf("10.%d.%d.%d", 1+i>>16, i>>8&255, i&255))
	p.Labels = map[string]string{"app": fmt.Sprintf("service-%d", i%200), hashLabel: "6b7f4cc8d9", "version": "v1"}
	p.OwnerReferences = []meta.OwnerReference{{Kind: "ReplicaSet", Name: fmt.Sprintf("service-%d-6b7f4cc8d9", i%200), Controller: &yes}}
	p.Annotations = map[string]string{"sidecar.istio.io/status": strings.Repeat("x", 4000)}
	p.Spec.Containers = make([]core.Container, 3)
	p.Spec.Containers[0].Args = strings.Fields(strings.Repeat("--flag=value ", 40))
	return p
}

// heap is what lives.
func heap() uint64 {
	runtime.GC()
	runtime.GC() // frees what finalizers and the pools of the first one kept
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.HeapAlloc
}

// A pod of the cluster costs the agent less than 1 KiB, whatever its manifest.
func TestMemoryOfTenThousandPods(t *testing.T) {
	const count, bound = 10_000, 1024
	x, _ := newTestIndex()
	f := &feed{index: x, changed: func() {}}
	before := heap()
	for i := range count {
		if err := f.Add(largePod(i)); err != nil {
			t.Fatal(err)
		}
	}
	each := int64(heap()-before) / count
	t.Logf("%d bytes per pod", each)
	if each > bound {
		t.Errorf("%d bytes per pod, want at most %d", each, bound)
	}
	// Churn leaves nothing behind.
	for i := range count {
		if err := f.Delete(largePod(i)); err != nil {
			t.Fatal(err)
		}
	}
	x.now = func() uint64 { return 1000 * second }
	x.purge()
	if len(x.pods)+len(x.held)+len(x.nodes)+len(x.hosts) != 0 {
		t.Errorf("kept %d pods, %d addresses, %d nodes, %d of their addresses", len(x.pods), len(x.held), len(x.nodes), len(x.hosts))
	}
	runtime.KeepAlive(f)
}

func BenchmarkPut(b *testing.B) {
	x, _ := newTestIndex()
	p := largePod(1)
	b.ReportAllocs()
	for b.Loop() {
		put(x, p, false, false)
	}
}

func BenchmarkPeer(b *testing.B) {
	x, _ := newTestIndex()
	for i := range 10_000 {
		put(x, largePod(i), false, true)
	}
	addr := largePod(77).Status.PodIP
	b.ReportAllocs()
	for b.Loop() {
		if who(x, addr, 100) == "" {
			b.Fatal("unknown")
		}
	}
}
