// SPDX-License-Identifier: Apache-2.0

package iface

import (
	"encoding/hex"
	"log/slog"
	"maps"
	"net"
	"slices"
	"strings"
	"testing"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/layertrace/layertrace/internal/observe"
)

func TestSelectorKind(t *testing.T) {
	s := Selector{VNIC: []string{"kind:veth", "cali*", "tap[0-9]"}, PNIC: []string{"kind:physical", "eth0", "bond?"}}
	for _, test := range []struct {
		name, kind string
		want       observe.Kind
	}{
		{"veth1", "veth", observe.KindVNIC}, {"cali12ab", "veth", observe.KindVNIC}, {"cali12ab", "ipvlan", observe.KindVNIC}, {"tap7", "tun", observe.KindVNIC},
		{"tap77", "tun", ""}, {"br0", "bridge", ""}, {"lo", "loopback", ""},
		{"ens3", "physical", observe.KindPNIC}, {"eth0", "veth", observe.KindPNIC}, {"eth1", "veth", observe.KindVNIC}, {"bond0", "bond", observe.KindPNIC}, {"bond", "bond", observe.KindPNIC}, {"eth1", "team-port", ""}, {"eth0", "bond-port", observe.KindPNIC}, {"veth3", "bond-port", ""}, {"team0", "team", observe.KindPNIC},
	} {
		if got := s.Kind(test.name, test.kind); got != test.want {
			t.Errorf("%s (%s) is %q, want %q", test.name, test.kind, got, test.want)
		}
	}
}

func TestKind(t *testing.T) {
	for want, link := range map[string]netlink.Link{
		"physical": &netlink.Device{},
		"loopback": &netlink.Device{LinkAttrs: netlink.LinkAttrs{RawFlags: unix.IFF_LOOPBACK}},
		"veth":     &netlink.Veth{},
		"bridge":   &netlink.Bridge{},
		"vxlan":    &netlink.Vxlan{},
		"macvlan":  &netlink.Macvlan{},
	} {
		if got := linkKindOf(link, ""); got != want {
			t.Errorf("kind %s, want %s", got, want)
		}
	}
}

func TestCheckNames(t *testing.T) {
	for _, s := range []Selector{
		{PNIC: []string{"lo"}}, {VNIC: []string{"nosuch*", "kind:nosuch", "nosuch[0-9]"}},
	} {
		if err := s.CheckNames(); err != nil {
			t.Errorf("%v: %v", s, err)
		}
	}
	err := Selector{VNIC: []string{"kind:veth"}, PNIC: []string{"nosuch0"}}.CheckNames()
	if err == nil || !strings.Contains(err.Error(), `--pnic: there is no interface "nosuch0"`) || !strings.Contains(err.Error(), "lo") {
		t.Errorf("got %v", err)
	}
}

// recordedLinks are answers to RTM_GETLINK of Linux 6.1 with a bond of two dummy devices
// and a team of one veth, without the attributes that the agent does not read.
var recordedLinks = []string{
	"000001000400000002140000000000000a000300626f6e64370000001000120009000100626f6e6400000000",
	"0000010005000000c30801000000000009000300657468300000000008000a00040000001c0012000a00010064756d6d7900000009000400626f6e6400000000",
	"0000010006000000c30801000000000009000300657468310000000008000a00040000001c0012000a00010064756d6d7900000009000400626f6e6400000000",
	"000001000700000002100000000000000a0003007465616d3000000010001200090001007465616d00000000",
	"0000010009000000431000000000000009000300657468320000000008000a00070000001c001200090001007665746800000000090004007465616d00000000",
}

// A bond or team is one physical interface. Its ports are none, whatever their own
// kind, unless they are named. By recorded netlink attributes: not every kernel has
// bonds. The ports come first, as they can after a reboot.
func TestRecordedBond(t *testing.T) {
	for name, test := range map[string]struct {
		selector Selector
		want     map[string]observe.Kind
	}{
		"default": {
			Selector{VNIC: []string{"kind:veth"}, PNIC: []string{"kind:physical"}},
			map[string]observe.Kind{"bond7": observe.KindPNIC, "team0": observe.KindPNIC},
		},
		"ports by kind": {
			Selector{PNIC: []string{"kind:bond-port", "kind:dummy"}},
			map[string]observe.Kind{"eth0": observe.KindPNIC, "eth1": observe.KindPNIC},
		},
		"ports by name": {
			Selector{VNIC: []string{"eth2"}, PNIC: []string{"eth[01]"}},
			map[string]observe.Kind{"eth0": observe.KindPNIC, "eth1": observe.KindPNIC, "eth2": observe.KindVNIC},
		},
	} {
		w := NewWatcher(test.selector, slog.New(slog.DiscardHandler))
		w.events = make(chan Event, len(recordedLinks))
		var links []netlink.Link
		for _, recorded := range recordedLinks {
			link := deserialize(t, recorded)
			links = append([]netlink.Link{link}, links...)
		}
		w.compare(t.Context(), links)
		close(w.events)
		got := map[string]observe.Kind{}
		for e := range w.events {
			got[e.Interface.Name] = e.Interface.Kind
		}
		if !maps.Equal(got, test.want) {
			t.Errorf("%s: %v, want %v", name, got, test.want)
		}
	}
}

// An interface that becomes a port of a bond is left, and comes back when it leaves it.
func TestRecordedJoiningABond(t *testing.T) {
	w := NewWatcher(Selector{PNIC: []string{"eth0", "kind:physical"}, VNIC: []string{"kind:dummy"}}, slog.New(slog.DiscardHandler))
	w.events = make(chan Event, 8)
	port := deserialize(t, recordedLinks[1])
	alone := deserialize(t, recordedLinks[2])
	w.compare(t.Context(), []netlink.Link{deserialize(t, recordedLinks[0]), port})
	alone.Attrs().MasterIndex = 0
	message := func(link netlink.Link) netlink.LinkUpdate {
		return netlink.LinkUpdate{Header: unix.NlMsghdr{Type: unix.RTM_NEWLINK}, Link: link}
	}
	w.handle(t.Context(), message(alone))
	alone.Attrs().MasterIndex = 4
	w.handle(t.Context(), message(alone))
	close(w.events)
	want := []Event{
		{Added, Interface{4, "bond7", "bond", observe.KindPNIC, false}},
		{Added, Interface{5, "eth0", "bond-port", observe.KindPNIC, true}}, // by its name
		{Added, Interface{6, "eth1", "dummy", observe.KindVNIC, true}},
		{Removed, Interface{6, "eth1", "dummy", observe.KindVNIC, true}},
	}
	for _, e := range want {
		if got := <-w.events; got != e {
			t.Errorf("got %+v, want %+v", got, e)
		}
	}
	if extra, open := <-w.events; open {
		t.Errorf("also %+v", extra)
	}
}

// The node's own links drop packets for other hosts, unless they are in a bridge or have
// macvlan links on them.
func TestPassesOn(t *testing.T) {
	w := NewWatcher(Selector{PNIC: []string{"bond7"}}, slog.New(slog.DiscardHandler))
	w.events = make(chan Event, 8)
	bond := deserialize(t, recordedLinks[0])
	handle := func(link netlink.Link) {
		w.handle(t.Context(), netlink.LinkUpdate{Header: unix.NlMsghdr{Type: unix.RTM_NEWLINK}, Link: link})
	}
	handle(bond)
	bond.Attrs().MasterIndex = 20
	handle(bond)
	bond.Attrs().MasterIndex = 0
	handle(bond)
	handle(&netlink.Macvlan{LinkAttrs: netlink.LinkAttrs{Index: 21, Name: "mac0", ParentIndex: bond.Attrs().Index}})
	handle(bond)
	w.compare(t.Context(), []netlink.Link{bond})
	close(w.events)
	var changes []Change
	var passesOn []bool
	for e := range w.events {
		changes, passesOn = append(changes, e.Change), append(passesOn, e.Interface.PassesOn)
	}
	if want := []Change{Added, Renamed, Renamed, Renamed, Renamed}; !slices.Equal(changes, want) {
		t.Errorf("changes %v, want %v", changes, want)
	}
	if want := []bool{false, true, false, true, false}; !slices.Equal(passesOn, want) {
		t.Errorf("passes on %v, want %v", passesOn, want)
	}
}

// A macvlan link in a pod's network namespace shows at its parent by its address only.
func TestHasForeignAddress(t *testing.T) {
	attrs := &netlink.LinkAttrs{Index: 3, HardwareAddr: net.HardwareAddr{2, 0, 0, 0, 0, 1}}
	for name, test := range map[string]struct {
		entry netlink.Neigh
		want  bool
	}{
		"of a macvlan link":   {netlink.Neigh{LinkIndex: 3, Flags: netlink.NTF_SELF, HardwareAddr: net.HardwareAddr{2, 0, 0, 0, 0, 9}}, true},
		"its own":             {netlink.Neigh{LinkIndex: 3, Flags: netlink.NTF_SELF, HardwareAddr: attrs.HardwareAddr}, false},
		"a group":             {netlink.Neigh{LinkIndex: 3, Flags: netlink.NTF_SELF, HardwareAddr: net.HardwareAddr{0x33, 0x33, 0, 0, 0, 1}}, false},
		"learned by a bridge": {netlink.Neigh{LinkIndex: 3, Flags: netlink.NTF_MASTER, HardwareAddr: net.HardwareAddr{2, 0, 0, 0, 0, 9}}, false},
		"of another link":     {netlink.Neigh{LinkIndex: 4, Flags: netlink.NTF_SELF, HardwareAddr: net.HardwareAddr{2, 0, 0, 0, 0, 9}}, false},
	} {
		if got := hasForeignAddress(attrs, []netlink.Neigh{test.entry}); got != test.want {
			t.Errorf("%s: %v, want %v", name, got, test.want)
		}
	}
}

func deserialize(t *testing.T, recorded string) netlink.Link {
	t.Helper()
	message, err := hex.DecodeString(recorded)
	if err != nil {
		t.Fatal(err)
	}
	link, err := netlink.LinkDeserialize(nil, message)
	if err != nil {
		t.Fatal(err)
	}
	return link
}
