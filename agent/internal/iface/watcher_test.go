// SPDX-License-Identifier: Apache-2.0

package iface

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync/atomic"
	"testing"
	"time"

	"github.com/vishvananda/netlink"

	"github.com/layertrace/layertrace/internal/observe"
	"github.com/layertrace/layertrace/internal/testkit"
)

func TestInterfacesComeAndGo(t *testing.T) {
	n := newNamespace(t)
	n.add(veth("veth-a", "eth0")) // one pair, two kinds: pnic wins at eth0
	events := n.watch(Selector{VNIC: []string{"kind:veth"}, PNIC: []string{"eth0"}})
	first, second := next(t, events), next(t, events)
	kinds := map[string]observe.Kind{first.Interface.Name: first.Interface.Kind, second.Interface.Name: second.Interface.Kind}
	if kinds["veth-a"] != observe.KindVNIC || kinds["eth0"] != observe.KindPNIC {
		t.Fatalf("at start: %v", kinds)
	}
	n.add(&netlink.Bridge{LinkAttrs: netlink.LinkAttrs{Name: "br0"}}) // not selected
	n.add(&netlink.Vxlan{LinkAttrs: netlink.LinkAttrs{Name: "vxlan0"}, VxlanId: 1, Port: 4789})
	n.add(veth("veth-b", "veth-c"))
	added := map[string]bool{next(t, events).Interface.Name: true, next(t, events).Interface.Name: true}
	if !added["veth-b"] || !added["veth-c"] {
		t.Fatalf("added %v", added)
	}
	if err := n.Links.LinkDel(n.link("veth-b")); err != nil {
		t.Fatal(err)
	}
	for range 2 { // the pair goes together
		if e := next(t, events); e.Change != Removed || !added[e.Interface.Name] {
			t.Fatalf("got %+v", e)
		}
	}
}

// A DELLINK of the bridge family means that the interface left its bridge, not
// that it is gone.
func TestLeavingABridgeIsNotGoing(t *testing.T) {
	n := newNamespace(t)
	n.add(&netlink.Bridge{LinkAttrs: netlink.LinkAttrs{Name: "br0"}})
	n.add(veth("veth-a", "peer"))
	events := n.watch(Selector{VNIC: []string{"veth-*"}})
	expect(t, events, Added, "veth-a", observe.KindVNIC)
	if err := n.Links.LinkSetMaster(n.link("veth-a"), n.link("br0")); err != nil {
		t.Fatal(err)
	}
	if err := n.Links.LinkSetNoMaster(n.link("veth-a")); err != nil {
		t.Fatal(err)
	}
	n.add(veth("veth-last", "peer2"))
	expect(t, events, Added, "veth-last", observe.KindVNIC) // and nothing before it
}

func TestRename(t *testing.T) {
	n := newNamespace(t)
	n.add(veth("tmp0", "peer"))
	events := n.watch(Selector{VNIC: []string{"veth*"}, PNIC: []string{"eth*"}})
	index := n.link("tmp0").Attrs().Index
	rename := func(from, to string) {
		t.Helper()
		if err := n.Links.LinkSetName(n.link(from), to); err != nil {
			t.Fatal(err)
		}
	}
	rename("tmp0", "veth0") // now matches
	expect(t, events, Added, "veth0", observe.KindVNIC)
	rename("veth0", "veth1")
	if e := expect(t, events, Renamed, "veth1", observe.KindVNIC); e.Interface.Index != index {
		t.Errorf("index %d, want %d", e.Interface.Index, index)
	}
	rename("veth1", "eth1") // changes its kind
	expect(t, events, Removed, "veth1", observe.KindVNIC)
	expect(t, events, Added, "eth1", observe.KindPNIC)
	rename("eth1", "tmp1") // no longer matches
	expect(t, events, Removed, "eth1", observe.KindPNIC)
}

// An interface moved to another namespace, as CNI plugins do, is gone.
func TestMoveToAnotherNamespace(t *testing.T) {
	n, other := newNamespace(t), newNamespace(t)
	n.add(veth("veth-a", "peer"))
	events := n.watch(Selector{VNIC: []string{"veth-a"}})
	expect(t, events, Added, "veth-a", observe.KindVNIC)
	if err := n.Links.LinkSetNsFd(n.link("veth-a"), int(other.NS)); err != nil {
		t.Fatal(err)
	}
	expect(t, events, Removed, "veth-a", observe.KindVNIC)
}

// After more changes than the socket's buffer holds, the watcher still ends up
// with the present interfaces.
func TestOverrun(t *testing.T) {
	n := newNamespace(t)
	events := n.watch(Selector{VNIC: []string{"d*"}})
	const links = 120
	present := map[int]string{}
	n.add(&netlink.Bridge{LinkAttrs: netlink.LinkAttrs{Name: "d-first"}})
	first := expect(t, events, Added, "d-first", observe.KindVNIC)
	present[first.Interface.Index] = first.Interface.Name
	for i := range links {
		d := &netlink.Bridge{LinkAttrs: netlink.LinkAttrs{Name: fmt.Sprintf("d%d", i)}}
		n.add(d)
		for _, up := range []bool{true, false, true} { // several messages each
			set := n.Links.LinkSetDown
			if up {
				set = n.Links.LinkSetUp
			}
			if err := set(d); err != nil {
				t.Fatal(err)
			}
		}
		if i%2 == 1 {
			if err := n.Links.LinkDel(d); err != nil {
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
		t.Error("no overrun: the test is too weak")
	}
}

// namespace is a network namespace, and the log of its watcher.
type namespace struct {
	*testkit.Namespace
	t *testing.T

	overruns atomic.Int32 // that the watcher has logged
}

func newNamespace(t *testing.T) *namespace {
	t.Helper()
	return &namespace{Namespace: testkit.NewNamespace(t), t: t}
}

// Handle implements slog.Handler and counts overruns.
func (n *namespace) Handle(_ context.Context, r slog.Record) error {
	r.Attrs(func(a slog.Attr) bool {
		if err, ok := a.Value.Any().(error); ok && errors.Is(err, errOverrun) {
			n.overruns.Add(1)
		}
		return true
	})
	return nil
}

// Enabled, WithAttrs and WithGroup implement slog.Handler.
func (n *namespace) Enabled(context.Context, slog.Level) bool { return true }
func (n *namespace) WithAttrs([]slog.Attr) slog.Handler       { return n }
func (n *namespace) WithGroup(string) slog.Handler            { return n }

// watch runs a watcher in the namespace until the test ends.
func (n *namespace) watch(s Selector) <-chan Event {
	n.t.Helper()
	w := NewWatcher(s, slog.New(n))
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- n.Run(func() error { return w.Run(ctx) }) }()
	n.t.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil {
			n.t.Error(err)
		}
		if _, open := <-w.Events(); open {
			n.t.Error("Events is open after Run")
		}
	})
	return w.Events()
}

func (n *namespace) add(link netlink.Link) {
	n.t.Helper()
	if err := n.Links.LinkAdd(link); err != nil {
		n.t.Fatal(err)
	}
}

func (n *namespace) link(name string) netlink.Link {
	n.t.Helper()
	l, err := n.Links.LinkByName(name)
	if err != nil {
		n.t.Fatal(err)
	}
	return l
}

func veth(name, peer string) *netlink.Veth {
	return &netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: name}, PeerName: peer}
}

// next returns the next event.
func next(t *testing.T, events <-chan Event) Event {
	t.Helper()
	select {
	case e, open := <-events:
		if !open {
			t.Fatal("the watcher ended")
		}
		return e
	case <-time.After(10 * time.Second):
		t.Fatal("no event")
		return Event{}
	}
}

func expect(t *testing.T, events <-chan Event, change Change, name string, kind observe.Kind) Event {
	t.Helper()
	e := next(t, events)
	if e.Change != change || e.Interface.Name != name || e.Interface.Kind != kind {
		t.Fatalf("got %+v, want change %d of %s as %s", e, change, name, kind)
	}
	return e
}
