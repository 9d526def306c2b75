// SPDX-License-Identifier: Apache-2.0

// Package iface selects network interfaces and watches them as they appear,
// disappear and are renamed.
package iface

import (
	"bytes"
	"fmt"
	"path"
	"slices"
	"sort"
	"strings"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/layertrace/layertrace/internal/observe"
)

// Interface is a selected network interface of the agent's network namespace.
type Interface struct {
	// Index is the kernel's interface index, which survives a rename.
	Index int
	// Name is the current name.
	Name string
	// LinkKind is netlink's IFLA_INFO_KIND (veth, bridge, bond, vxlan, ...),
	// "physical" for a device without one, "loopback" for the loopback device, and
	// "bond-port" or "team-port" for a device of any kind that belongs to one.
	LinkKind string
	// Kind is the kind of capture point, which the Selector sets: KindVNIC, the
	// host end of a pod's interface, or KindPNIC, the node's link to others.
	Kind observe.Kind
	// PassesOn: it may take packets for the link-layer addresses of others, as a port of a
	// bridge does, and an interface with macvlan interfaces on it. False only for physical
	// ones: what arrives at a vNIC comes from its pod.
	PassesOn bool
}

// isNodesOwn reports whether a link of a kind connects the node to others.
func isNodesOwn(linkKind string) bool { return linkKind == linkPhysical || isAggregate(linkKind) }

// isMacvlan reports whether a link takes packets from its parent by a link-layer address of
// its own.
func isMacvlan(link netlink.Link) bool { return link.Type() == "macvlan" || link.Type() == "macvtap" }

// takesForOthers reports whether the kernel has asked a link for packets to other addresses
// than its own: for a macvlan link in the network namespace of a pod, or a VLAN's bridge. True
// if that cannot be found out.
func takesForOthers(link netlink.Link) bool {
	attrs := link.Attrs()
	if attrs.Promisc != 0 {
		return true
	}
	addresses, err := netlink.NeighList(attrs.Index, unix.AF_BRIDGE)
	return err != nil || hasForeignAddress(attrs, addresses)
}

// hasForeignAddress reports whether a link's own list of addresses (bridge fdb show dev, "self")
// has one of a single host that is not the link's.
func hasForeignAddress(attrs *netlink.LinkAttrs, addresses []netlink.Neigh) bool {
	return slices.ContainsFunc(addresses, func(n netlink.Neigh) bool {
		isGroup := len(n.HardwareAddr) == 0 || n.HardwareAddr[0]&1 != 0
		return n.LinkIndex == attrs.Index && n.Flags&netlink.NTF_SELF != 0 && !isGroup && !bytes.Equal(n.HardwareAddr, attrs.HardwareAddr)
	})
}

// Link kinds other than netlink's.
const (
	linkPhysical = "physical"
	linkLoopback = "loopback"
	portSuffix   = "-port" // after the kind of an aggregate
)

// isAggregate reports whether links of a kind spread their packets over several ports.
// A port sees some of the packets of a connection only, often of one direction: it
// would give the response to one request to another. The whole counts as one physical
// interface.
func isAggregate(kind string) bool { return kind == "bond" || kind == "team" }

// linkKindOf returns a link's kind. A link without IFLA_INFO_KIND is backed by
// a driver; netlink calls it "device". masterKind is the kind of the link that it
// belongs to, "" if it belongs to none.
func linkKindOf(link netlink.Link, masterKind string) string {
	if isAggregate(masterKind) {
		return masterKind + portSuffix
	}
	if link.Attrs().RawFlags&unix.IFF_LOOPBACK != 0 {
		return linkLoopback
	}
	if link.Type() == "device" {
		return linkPhysical
	}
	return link.Type()
}

// Selector selects interfaces by patterns. A pattern is an interface name, a
// glob (see path.Match), or kind:KIND with a link kind; physical is also the kind of
// a bond or team.
type Selector struct {
	// VNIC and PNIC are the patterns of each kind; PNIC wins if both match.
	VNIC, PNIC []string
}

// Kind returns the kind of an interface, "" if it is not selected.
func (s Selector) Kind(name, linkKind string) observe.Kind {
	switch {
	case matchAny(s.PNIC, name, linkKind):
		return observe.KindPNIC
	case matchAny(s.VNIC, name, linkKind):
		return observe.KindVNIC
	default:
		return ""
	}
}

func matchAny(patterns []string, name, linkKind string) bool {
	for _, p := range patterns {
		if want, ok := strings.CutPrefix(p, "kind:"); ok {
			if want == linkKind || want == linkPhysical && isAggregate(linkKind) {
				return true
			}
			continue
		}
		// The configuration rejects malformed patterns.
		if ok, err := path.Match(p, name); err == nil && ok {
			return true
		}
	}
	return false
}

// CheckNames returns an error if an interface that is selected by its plain name
// does not exist, which is probably a typo. Globs and kinds wait for their
// interfaces.
func (s Selector) CheckNames() error {
	links, err := list()
	if err != nil {
		return err
	}
	present := map[string]bool{}
	var names []string
	for _, l := range links {
		present[l.Attrs().Name] = true
		names = append(names, l.Attrs().Name)
	}
	sort.Strings(names)
	for _, option := range []struct {
		flag     string
		patterns []string
	}{{"--vnic", s.VNIC}, {"--pnic", s.PNIC}} {
		for _, p := range option.patterns {
			if strings.HasPrefix(p, "kind:") || strings.ContainsAny(p, `*?[\`) || present[p] {
				continue
			}
			return fmt.Errorf("%s: there is no interface %q here; choose one of %s, or a pattern such as %q that waits for it",
				option.flag, p, strings.Join(names, ", "), p+"*")
		}
	}
	return nil
}

// listAttempts bounds the retries of a dump that a change interrupted.
const listAttempts = 10

// list returns all links and retries an interrupted dump.
func list() ([]netlink.Link, error) {
	var links []netlink.Link
	var err error
	for range listAttempts {
		if links, err = netlink.LinkList(); err == nil {
			return links, nil
		}
	}
	return nil, fmt.Errorf("list network interfaces: %w", err)
}
