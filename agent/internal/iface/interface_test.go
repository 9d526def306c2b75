// SPDX-License-Identifier: Apache-2.0

package iface

import (
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
