// SPDX-License-Identifier: Apache-2.0

package identity

import (
	"log/slog"
	"net/netip"
	"testing"
	"time"

	meta "k8s.io/apimachinery/pkg/apis/meta/v1"
)

func newTestOwners() (*ifaceOwners, *fakeTime) {
	x, clock := newTestIndex()
	return newIfaceOwners(x, nil, slog.New(slog.DiscardHandler)), clock
}

func reaches(ips ...string) *peerEvidence {
	e := &peerEvidence{}
	for _, ip := range ips {
		e.addresses = append(e.addresses, netip.MustParseAddr(ip))
	}
	return e
}

// name returns the service that owns an interface, for an exchange at a time in
// seconds with an address, if any, at the pod's end.
func (o *ifaceOwners) name(ifindex int, address string, at uint64) string {
	lookup := Lookup{Index: ifindex, At: at * second}
	if address != "" {
		lookup.Address = netip.MustParseAddr(address)
	}
	w, _ := o.owner(lookup)
	return w.Service
}

func TestInterfaceOfAPod(t *testing.T) {
	o, clock := newTestOwners()
	put(o.index, somePod("a", "n", "10.0.0.1"), true, true)
	put(o.index, somePod("b", "n", "10.0.0.2"), true, true)
	put(o.index, somePod("far", "m", "10.0.0.3"), false, true)
	o.track(7)
	for _, e := range []*peerEvidence{reaches(), reaches("10.0.0.3"), reaches("10.0.0.9"), reaches("10.0.0.1", "10.0.0.2")} {
		if o.bind(7, e, "routes") || o.name(7, "", 100) != "" {
			t.Errorf("%v made it %q", e, o.name(7, "", 100))
		}
	}
	if counts := o.count(); counts[ambiguous] != 1 {
		t.Errorf("counts %v, want an ambiguous one", counts)
	}
	if !o.bind(7, &peerEvidence{podUIDs: []string{"a"}, addresses: reaches("10.0.0.1").addresses}, "namespace") {
		t.Error("UID and address did not identify the pod")
	}
	if counts := o.count(); o.name(7, "", 100) != "a" || counts["namespace"] != 1 {
		t.Errorf("it is %q, counts %v", o.name(7, "", 100), counts)
	}
	// The pod is deleted, then its interface; exchanges are still to come.
	clock.seconds = 110
	o.index.remove("a")
	o.leave(7)
	if got := o.name(7, "", 105); got != "a" {
		t.Errorf("after the pod's end it is %q", got)
	}
	o.forget(7)
	if got := o.name(7, "10.0.0.2", 105); got != "" {
		t.Errorf("an untracked interface is %q", got)
	}
}

// The API server may still report the address of a pod in deletion when the
// next pod has it: the new interface does not belong to the old pod.
func TestInterfaceThatCameAfterThePodsDeletion(t *testing.T) {
	o, clock := newTestOwners()
	put(o.index, somePod("old", "n", "10.0.0.1"), true, true)
	o.track(7)
	clock.seconds = 110
	ending := somePod("old", "n", "10.0.0.1")
	ending.DeletionTimestamp = &meta.Time{Time: time.Unix(1, 0)}
	put(o.index, ending, true, false)
	clock.seconds = 111
	o.track(8)
	if o.bind(8, reaches("10.0.0.1"), "routes") {
		t.Errorf("the new interface is %q", o.name(8, "", 111))
	}
	if !o.bind(7, reaches("10.0.0.1"), "routes") {
		t.Error("the old interface is not the old pod's")
	}
	clock.seconds = 112
	put(o.index, somePod("new", "n", "10.0.0.1"), true, false)
	if !o.bind(8, reaches("10.0.0.1"), "routes") || o.name(8, "", 112) != "new" || o.name(7, "", 112) != "old" {
		t.Errorf("the new interface is %q, the old one %q", o.name(8, "", 112), o.name(7, "", 112))
	}
	// An agent that starts meanwhile cannot know which came first.
	late, _ := newTestOwners()
	put(late.index, ending, true, true)
	late.track(7)
	if !late.bind(7, reaches("10.0.0.1"), "routes") {
		t.Error("a pod in deletion has no interface after the agent's start")
	}
}

// Without evidence from the kernel, the packets' address decides.
func TestInterfaceByTraffic(t *testing.T) {
	o, clock := newTestOwners()
	put(o.index, somePod("a", "n", "10.0.0.1"), true, true)
	put(o.index, somePod("far", "m", "10.0.0.3"), false, true)
	o.track(7)
	for address, want := range map[string]string{"10.0.0.1": "a", "10.0.0.3": "", "10.0.0.9": "", "": ""} {
		if got := o.name(7, address, 100); got != want {
			t.Errorf("with %q at the pod's end it is %q, want %q", address, got, want)
		}
	}
	if n := o.byTraffic.Load(); n != 1 {
		t.Errorf("counted %d times", n)
	}
	clock.seconds = 105
	if !o.mayChange(7, clock.now()) || o.mayChange(9, clock.now()) {
		t.Error("the pod of a young interface may change, that of an unknown one may not")
	}
	clock.seconds = 111
	if o.mayChange(7, clock.now()) {
		t.Error("the pod of an old interface may change")
	}
}

// Interfaces are searched as long as a pod can still be found.
func TestWanted(t *testing.T) {
	o, clock := newTestOwners()
	put(o.index, somePod("a", "n", "10.0.0.1"), true, true)
	for _, ifindex := range []int{7, 8, 9} {
		o.track(ifindex)
	}
	o.leave(9)
	o.bind(8, reaches("10.0.0.1"), "routes")
	for _, test := range []struct {
		name           string
		all, aged      bool
		at             uint64
		wanted, offset int
	}{
		{"young", false, false, 101, 1, 7}, {"old", false, false, 200, 0, 0}, {"old, periodically", false, true, 200, 1, 7},
		{"pods changed", true, false, 200, 2, 0},
	} {
		clock.seconds = test.at
		got := o.wanted(test.all, test.aged, clock.now())
		if len(got) != test.wanted || test.offset != 0 && got[0] != test.offset {
			t.Errorf("%s: %v", test.name, got)
		}
	}
}
