// SPDX-License-Identifier: Apache-2.0

package iface

import (
	"fmt"
	"testing"

	"github.com/vishvananda/netlink"
)

func TestInterfacesComeAndGo(t *testing.T) {
	n := newNamespace(t)
	n.add(veth("veth-a", "eth0")) // one pair, two kinds: pnic wins at eth0
	events := n.watch(Selector{VNIC: []string{"kind:veth"}, PNIC: []string{"eth0"}})
	first, second := next(t, events), next(t, events)
	kinds := map[string]Kind{first.Interface.Name: first.Interface.Kind, second.Interface.Name: second.Interface.Kind}
	if kinds["veth-a"] != VNIC || kinds["eth0"] != PNIC {
		t.Fatalf("at start: %v", kinds)
	}
	n.add(&netlink.Bridge{LinkAttrs: netlink.LinkAttrs{Name: "br0"}}) // not selected
	n.add(&netlink.Vxlan{LinkAttrs: netlink.LinkAttrs{Name: "vxlan0"}, VxlanId: 1, Port: 4789})
	n.add(veth("veth-b", "veth-c"))
	added := map[string]bool{next(t, events).Interface.Name: true, next(t, events).Interface.Name: true}
	if !added["veth-b"] || !added["veth-c"] {
		t.Fatalf("added %v", added)
	}
	if err := n.links.LinkDel(n.link("veth-b")); err != nil {
		t.Fatal(err)
	}
	for range 2 { // the pair goes together
		if e := next(t, events); e.Change != Removed || !added[e.Interface.Name] {
			t.Fatalf("got %+v", e)
		}
	}
}

// Leaving a bridge is told by a DELLINK of the bridge family: the interface
// is still there.
func TestLeavingABridgeIsNotGoing(t *testing.T) {
	n := newNamespace(t)
	n.add(&netlink.Bridge{LinkAttrs: netlink.LinkAttrs{Name: "br0"}})
	n.add(veth("veth-a", "peer"))
	events := n.watch(Selector{VNIC: []string{"veth-*"}})
	expect(t, events, Added, "veth-a", VNIC)
	if err := n.links.LinkSetMaster(n.link("veth-a"), n.link("br0")); err != nil {
		t.Fatal(err)
	}
	if err := n.links.LinkSetNoMaster(n.link("veth-a")); err != nil {
		t.Fatal(err)
	}
	n.add(veth("veth-last", "peer2"))
	expect(t, events, Added, "veth-last", VNIC) // and nothing before it
}

func TestRename(t *testing.T) {
	n := newNamespace(t)
	n.add(veth("tmp0", "peer"))
	events := n.watch(Selector{VNIC: []string{"veth*"}, PNIC: []string{"eth*"}})
	index := n.link("tmp0").Attrs().Index
	rename := func(from, to string) {
		t.Helper()
		if err := n.links.LinkSetName(n.link(from), to); err != nil {
			t.Fatal(err)
		}
	}
	rename("tmp0", "veth0") // begins to match
	expect(t, events, Added, "veth0", VNIC)
	rename("veth0", "veth1")
	if e := expect(t, events, Renamed, "veth1", VNIC); e.Interface.Index != index {
		t.Errorf("index %d, want %d", e.Interface.Index, index)
	}
	rename("veth1", "eth1") // changes its kind
	expect(t, events, Removed, "veth1", VNIC)
	expect(t, events, Added, "eth1", PNIC)
	rename("eth1", "tmp1") // matches no more
	expect(t, events, Removed, "eth1", PNIC)
}

// An interface that is moved to another namespace (as CNI plugins do) is gone.
func TestMoveToAnotherNamespace(t *testing.T) {
	n, other := newNamespace(t), newNamespace(t)
	n.add(veth("veth-a", "peer"))
	events := n.watch(Selector{VNIC: []string{"veth-a"}})
	expect(t, events, Added, "veth-a", VNIC)
	if err := n.links.LinkSetNsFd(n.link("veth-a"), int(other.handle)); err != nil {
		t.Fatal(err)
	}
	expect(t, events, Removed, "veth-a", VNIC)
}

// More changes than fit into the socket's buffer, while nobody reads: the
// watcher ends up with what is there.
func TestOverrun(t *testing.T) {
	n := newNamespace(t)
	events := n.watch(Selector{VNIC: []string{"d*"}})
	const links = 120
	present := map[int]string{}
	n.add(&netlink.Bridge{LinkAttrs: netlink.LinkAttrs{Name: "d-first"}})
	first := expect(t, events, Added, "d-first", VNIC)
	present[first.Interface.Index] = first.Interface.Name
	for i := range links {
		d := &netlink.Bridge{LinkAttrs: netlink.LinkAttrs{Name: fmt.Sprintf("d%d", i)}}
		n.add(d)
		for _, up := range []bool{true, false, true} { // several messages each
			set := n.links.LinkSetDown
			if up {
				set = n.links.LinkSetUp
			}
			if err := set(d); err != nil {
				t.Fatal(err)
			}
		}
		if i%2 == 1 {
			if err := n.links.LinkDel(d); err != nil {
				t.Fatal(err)
			}
		}
	}
	for len(present) != links/2+1 || present[n.link("d118").Attrs().Index] == "" {
		switch e := next(t, events); e.Change {
		case Added:
			present[e.Interface.Index] = e.Interface.Name
		case Removed:
			delete(present, e.Interface.Index)
		}
	}
	if n.overruns.Load() == 0 {
		t.Error("nothing overran: the test is too weak")
	}
}
