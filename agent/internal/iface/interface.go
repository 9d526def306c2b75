// SPDX-License-Identifier: Apache-2.0

// Package iface selects the network interfaces to watch and follows them as
// they come, go and change their names.
package iface

import "github.com/vishvananda/netlink"

// Kind is what an interface is to the agent.
type Kind string

// Roles: the host end of a pod's interface, and a node's way to other nodes.
const (
	VNIC Kind = "vnic"
	PNIC Kind = "pnic"
)

// Interface is a selected network interface of the agent's network namespace.
type Interface struct {
	// Index is the kernel's interface index, which a rename does not change.
	Index int
	// Name is the present name.
	Name string
	// Kind is netlink's IFLA_INFO_KIND (veth, bridge, vxlan, ...), "physical"
	// for a device without a kind, "loopback" for the loopback device.
	LinkKind string
	// Kind follows from the patterns.
	Kind Kind
}

// Change says what happened to an interface.
type Change uint8

// Changes, in the order in which an interface can have them.
const (
	// Added: it is there and matches, from now on watch it.
	Added Change = iota
	// Renamed: the same interface has a new name and still the same kind.
	Renamed
	// Removed: it is gone or no longer matches.
	Removed
)

// Event is one change of one selected interface.
type Event struct {
	Change    Change
	Interface Interface
}

// Kinds that are not netlink's.
const (
	linkPhysical = "physical"
	linkLoopback = "loopback"
)

// linkKindOf names a link's kind. A link without IFLA_INFO_KIND is backed by a
// driver: netlink calls it "device".
func linkKindOf(link netlink.Link) string {
	if link.Attrs().RawFlags&flagLoopback != 0 {
		return linkLoopback
	}
	if link.Type() == "device" {
		return linkPhysical
	}
	return link.Type()
}
