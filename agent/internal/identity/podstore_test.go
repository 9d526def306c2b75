// SPDX-License-Identifier: Apache-2.0

package identity

import (
	"fmt"
	"net/netip"
	"runtime"
	"strings"
	"testing"
	"time"

	core "k8s.io/api/core/v1"
	meta "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
)

const second = uint64(time.Second)

// fakeTime is the clock of a test's index.
type fakeTime struct{ seconds uint64 }

func (f *fakeTime) now() uint64 { return f.seconds * second }

func newTestIndex() (*podIndex, *fakeTime) {
	clock := &fakeTime{100}
	return newPodIndex(time.Minute, clock.now), clock
}

// somePod returns a running pod whose UID and service equal its name.
func somePod(name, node string, ips ...string) *core.Pod {
	p := &core.Pod{
		ObjectMeta: meta.ObjectMeta{Name: name, Namespace: "shop", UID: types.UID(name)},
		Spec:       core.PodSpec{NodeName: node},
		Status:     core.PodStatus{Phase: core.PodRunning, HostIP: "192.0.2.1", HostIPs: []core.HostIP{{IP: "192.0.2.1"}, {IP: "2001:db8::1"}}},
	}
	for _, ip := range ips {
		p.Status.PodIP = ips[0]
		p.Status.PodIPs = append(p.Status.PodIPs, core.PodIP{IP: ip})
	}
	return p
}

func put(x *podIndex, p *core.Pod, local, first bool) { x.put(newPodRecord(p), local, first) }

// peerName returns the service, else the node, with an address at a time in seconds.
func peerName(x *podIndex, addr string, at uint64) string {
	w, ok := x.peer(netip.MustParseAddr(addr), at*second)
	switch {
	case !ok:
		return ""
	case w.Service == "":
		return "node " + w.Node
	}
	return w.Service
}

func check(t *testing.T, x *podIndex, addr string, want map[uint64]string) {
	t.Helper()
	for at, name := range want {
		if got := peerName(x, addr, at); got != name {
			t.Errorf("%s at %d s is %q, want %q", addr, at, got, name)
		}
	}
}

// The owner of an address that is reused depends on the time.
func TestAddressIsReused(t *testing.T) {
	x, clock := newTestIndex()
	put(x, somePod("old", "n", "10.0.0.1", "fd00::1"), true, true)
	check(t, x, "10.0.0.1", map[uint64]string{1: "old", 100: "old"})
	check(t, x, "::ffff:10.0.0.1", map[uint64]string{100: "old"})
	clock.seconds = 110
	x.remove("old")
	check(t, x, "10.0.0.1", map[uint64]string{109: "old", 110: "", 111: ""})
	clock.seconds = 115
	put(x, somePod("new", "n", "10.0.0.1"), true, false)
	// The new pod's first packets precede the address in its status.
	check(t, x, "10.0.0.1", map[uint64]string{109: "old", 112: "new", 115: "new", 999: "new"})
	check(t, x, "fd00::1", map[uint64]string{109: "old", 115: ""})
	clock.seconds = 169
	x.purge()
	check(t, x, "10.0.0.1", map[uint64]string{109: "old"})
	clock.seconds = 171
	x.purge()
	check(t, x, "10.0.0.1", map[uint64]string{109: "new", 84: ""})
	if len(x.tenures) != 1 {
		t.Errorf("%d addresses are kept, want 1", len(x.tenures))
	}
}

// The API server reports the new pod before the old one is gone.
func TestAddressIsTakenOver(t *testing.T) {
	x, clock := newTestIndex()
	put(x, somePod("old", "n", "10.0.0.1"), false, true)
	clock.seconds = 110
	put(x, somePod("new", "m", "10.0.0.1"), false, false)
	clock.seconds = 111
	x.remove("old")
	check(t, x, "10.0.0.1", map[uint64]string{105: "old", 110: "new", 120: "new"})
	// A late event of a former owner changes nothing.
	x.remove("old")
	check(t, x, "10.0.0.1", map[uint64]string{120: "new"})
}

func TestPodsWithoutAnAddress(t *testing.T) {
	x, _ := newTestIndex()
	ended, host, pending := somePod("ended", "n", "10.0.0.1"), somePod("host", "n", "192.0.2.1"), somePod("pending", "n")
	ended.Status.Phase, host.Spec.HostNetwork = core.PodSucceeded, true
	for _, p := range []*core.Pod{ended, host, pending} {
		put(x, p, true, true)
	}
	check(t, x, "10.0.0.1", map[uint64]string{100: ""})
	check(t, x, "192.0.2.1", map[uint64]string{100: "node n"})
	check(t, x, "2001:db8::1", map[uint64]string{100: "node n"})
	if local, remote, nodes := x.count(); local != 2 || remote != 0 || nodes != 1 {
		t.Errorf("%d and %d pods, %d nodes; want 2, 0, 1", local, remote, nodes)
	}
	running := somePod("running", "n", "10.0.0.1")
	put(x, running, true, false)
	running.Status.Phase = core.PodFailed
	put(x, running, true, false)
	check(t, x, "10.0.0.1", map[uint64]string{101: ""})
	for _, uid := range []string{"host", "pending"} {
		x.remove(uid)
	}
	check(t, x, "192.0.2.1", map[uint64]string{100: ""})
	if len(x.pods)+len(x.nodes)+len(x.hosts) != 0 {
		t.Errorf("kept %v, %v, %v", x.pods, x.nodes, x.hosts)
	}
}

// A pod's status is written step by step, and its labels can change.
func TestPodChanges(t *testing.T) {
	x, clock := newTestIndex()
	put(x, somePod("a", "n"), true, false)
	before := x.version()
	put(x, somePod("a", "n"), true, false)
	if x.version() != before {
		t.Error("an update without a change counts as one")
	}
	clock.seconds = 103
	put(x, somePod("a", "n", "10.0.0.1"), true, false)
	if x.version() == before {
		t.Error("a new address does not count as a change")
	}
	check(t, x, "10.0.0.1", map[uint64]string{102: "a", 60: ""})
	named := somePod("a", "n", "10.0.0.1")
	named.Labels = map[string]string{"app": "b"}
	before = x.version()
	put(x, named, true, false)
	check(t, x, "10.0.0.1", map[uint64]string{104: "b"})
	if x.version() == before {
		t.Error("another name does not count as a change")
	}
	clock.seconds = 110
	put(x, somePod("a", "n", "10.0.0.2"), true, false) // its sandbox was restarted
	check(t, x, "10.0.0.1", map[uint64]string{109: "b", 110: ""})
	check(t, x, "10.0.0.2", map[uint64]string{110: "a"})
	before = x.version()
	put(x, somePod("elsewhere", "m", "10.0.0.3"), false, false)
	if x.version() != before {
		t.Error("a pod of another node counts as a change of this node's")
	}
}

// A list after an outage removes and adds pods.
func TestReplace(t *testing.T) {
	x, clock := newTestIndex()
	here := &podStore{index: x, local: true, changed: func() {}}
	there := &podStore{index: x, changed: func() {}}
	list := func(f *podStore, pods ...*core.Pod) {
		var objects []any
		for _, p := range pods {
			objects = append(objects, p)
		}
		if err := f.Replace(objects, "1"); err != nil {
			t.Fatal(err)
		}
	}
	list(here, somePod("a", "n", "10.0.0.1"))
	list(there, somePod("b", "m", "10.0.0.2"))
	check(t, x, "10.0.0.1", map[uint64]string{1: "a"})
	check(t, x, "10.0.0.2", map[uint64]string{1: "b"})
	clock.seconds = 200
	list(there, somePod("c", "m", "10.0.0.2"))
	check(t, x, "10.0.0.1", map[uint64]string{200: "a"})
	check(t, x, "10.0.0.2", map[uint64]string{199: "b", 200: "c"})
	if !here.synced.Load() || !there.synced.Load() {
		t.Error("not synced")
	}
}

// largePod returns a pod with a typical Istio manifest: several KiB, of which
// very little is needed.
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

// heap returns the bytes of live objects.
func heap() uint64 {
	runtime.GC()
	runtime.GC() // frees what finalizers and pools kept through the first one
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.HeapAlloc
}

// A pod of the cluster costs the agent less than 1 KiB, whatever its manifest.
func TestMemoryOfTenThousandPods(t *testing.T) {
	const count, bound = 10_000, 1024
	x, _ := newTestIndex()
	f := &podStore{index: x, changed: func() {}}
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
	// Churn leaks nothing.
	for i := range count {
		if err := f.Delete(largePod(i)); err != nil {
			t.Fatal(err)
		}
	}
	x.now = func() uint64 { return 1000 * second }
	x.purge()
	if len(x.pods)+len(x.tenures)+len(x.nodes)+len(x.hosts) != 0 {
		t.Errorf("kept %d pods, %d addresses, %d nodes, %d of their addresses", len(x.pods), len(x.tenures), len(x.nodes), len(x.hosts))
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
		if peerName(x, addr, 100) == "" {
			b.Fatal("unknown")
		}
	}
}
