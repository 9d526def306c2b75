// SPDX-License-Identifier: Apache-2.0

package cluster

import (
	"log/slog"
	"net/netip"
	"testing"
	"time"

	meta "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/layertrace/layertrace/agent/internal/identity"
	"github.com/layertrace/layertrace/agent/internal/identity/behind"
)

func newTestLinks() (*links, *fakeTime) {
	x, clock := newTestIndex()
	return newLinks(x, nil, slog.New(slog.DiscardHandler)), clock
}

func reaches(ips ...string) *behind.Evidence {
	e := &behind.Evidence{}
	for _, ip := range ips {
		e.Addresses = append(e.Addresses, netip.MustParseAddr(ip))
	}
	return e
}

// name is who is behind an interface for an exchange at a time in seconds,
// whose end on the pod's side has an address, if any.
func (l *links) name(ifindex int, address string, at uint64) string {
	sight := identity.Sight{Index: ifindex, At: at * second}
	if address != "" {
		sight.Address = netip.MustParseAddr(address)
	}
	w, _ := l.behind(sight)
	return w.Service
}

func TestInterfaceOfAPod(t *testing.T) {
	l, clock := newTestLinks()
	put(l.index, somePod("a", "n", "10.0.0.1"), true, true)
	put(l.index, somePod("b", "n", "10.0.0.2"), true, true)
	put(l.index, somePod("far", "m", "10.0.0.3"), false, true)
	l.track(7)
	for _, e := range []*behind.Evidence{reaches(), reaches("10.0.0.3"), reaches("10.0.0.9"), reaches("10.0.0.1", "10.0.0.2")} {
		if l.take(7, e, "routes") || l.name(7, "", 100) != "" {
			t.Errorf("%v made it %q", e, l.name(7, "", 100))
		}
	}
	if counts := l.count(); counts[ambiguous] != 1 {
		t.Errorf("counts %v, want an ambiguous one", counts)
	}
	if !l.take(7, &behind.Evidence{PodUIDs: []string{"a"}, Addresses: reaches("10.0.0.1").Addresses}, "namespace") {
		t.Error("the pod's UID and address did not tell")
	}
	if counts := l.count(); l.name(7, "", 100) != "a" || counts["namespace"] != 1 {
		t.Errorf("it is %q, counts %v", l.name(7, "", 100), counts)
	}
	// The pod goes, then its interface; exchanges are still to come.
	clock.seconds = 110
	l.index.remove("a")
	l.leave(7)
	if got := l.name(7, "", 105); got != "a" {
		t.Errorf("behind the pod's end it is %q", got)
	}
	l.forget(7)
	if got := l.name(7, "10.0.0.2", 105); got != "" {
		t.Errorf("an interface that nobody tracks is %q", got)
	}
}

// A pod that is being deleted still has its address when the next one has it
// already: the new interface is not the old pod's.
func TestInterfaceThatCameAfterThePodsDeletion(t *testing.T) {
	l, clock := newTestLinks()
	put(l.index, somePod("old", "n", "10.0.0.1"), true, true)
	l.track(7)
	clock.seconds = 110
	ending := somePod("old", "n", "10.0.0.1")
	ending.DeletionTimestamp = &meta.Time{Time: time.Unix(1, 0)}
	put(l.index, ending, true, false)
	clock.seconds = 111
	l.track(8)
	if l.take(8, reaches("10.0.0.1"), "routes") {
		t.Errorf("the new interface is %q", l.name(8, "", 111))
	}
	if !l.take(7, reaches("10.0.0.1"), "routes") {
		t.Error("the old interface is not the old pod's")
	}
	clock.seconds = 112
	put(l.index, somePod("new", "n", "10.0.0.1"), true, false)
	if !l.take(8, reaches("10.0.0.1"), "routes") || l.name(8, "", 112) != "new" || l.name(7, "", 112) != "old" {
		t.Errorf("the new interface is %q, the old one %q", l.name(8, "", 112), l.name(7, "", 112))
	}
	// An agent that starts meanwhile cannot tell which came first.
	late, _ := newTestLinks()
	put(late.index, ending, true, true)
	late.track(7)
	if !late.take(7, reaches("10.0.0.1"), "routes") {
		t.Error("a pod that ends has no interface after the agent's start")
	}
}

// Where the kernel tells nothing, the packets do.
func TestInterfaceByTraffic(t *testing.T) {
	l, clock := newTestLinks()
	put(l.index, somePod("a", "n", "10.0.0.1"), true, true)
	put(l.index, somePod("far", "m", "10.0.0.3"), false, true)
	l.track(7)
	for address, want := range map[string]string{"10.0.0.1": "a", "10.0.0.3": "", "10.0.0.9": "", "": ""} {
		if got := l.name(7, address, 100); got != want {
			t.Errorf("with %q at the pod's end it is %q, want %q", address, got, want)
		}
	}
	if n := l.byTraffic.Load(); n != 1 {
		t.Errorf("counted %d times", n)
	}
	clock.seconds = 105
	if !l.unsettled(7, clock.now()) || l.unsettled(9, clock.now()) {
		t.Error("a young interface without a pod is unsettled, an unknown one is not")
	}
	clock.seconds = 111
	if l.unsettled(7, clock.now()) {
		t.Error("an old interface is unsettled")
	}
}

// Interfaces are looked at as long as it can help.
func TestWanted(t *testing.T) {
	l, clock := newTestLinks()
	put(l.index, somePod("a", "n", "10.0.0.1"), true, true)
	for _, ifindex := range []int{7, 8, 9} {
		l.track(ifindex)
	}
	l.leave(9)
	l.take(8, reaches("10.0.0.1"), "routes")
	for _, test := range []struct {
		name           string
		all, aged      bool
		at             uint64
		wanted, offset int
	}{
		{"young", false, false, 101, 1, 7}, {"old", false, false, 200, 0, 0}, {"old, from time to time", false, true, 200, 1, 7},
		{"pods changed", true, false, 200, 2, 0},
	} {
		clock.seconds = test.at
		got := l.wanted(test.all, test.aged, clock.now())
		if len(got) != test.wanted || test.offset != 0 && got[0] != test.offset {
			t.Errorf("%s: %v", test.name, got)
		}
	}
}
