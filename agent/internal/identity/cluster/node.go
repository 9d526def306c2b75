// SPDX-License-Identifier: Apache-2.0

package cluster

import (
	"net/netip"
	"slices"
	"unique"
)

// A node's addresses are taken from the status of its pods, which are read
// anyhow: a Node object is large and is written every few minutes, and the
// agent needs no right to read it. The caller holds the lock.

// addToNode counts a pod, the first time that it is seen.
func (x *index) addToNode(name string) {
	if name == "" {
		return
	}
	n := x.nodes[name]
	if n == nil {
		n = &node{}
		x.nodes[unique.Make(name).Value()] = n
	}
	n.pods++
}

// setNode takes over a node's addresses, which a pod's status has from when the
// kubelet first wrote it.
func (x *index) setNode(name string, addresses []netip.Addr) {
	n := x.nodes[name]
	if n == nil {
		return
	}
	if len(addresses) == 0 || slices.Equal(addresses, n.addresses) {
		return
	}
	x.forgetHosts(name, n)
	n.addresses = addresses
	for _, addr := range addresses {
		x.hosts[addr] = unique.Make(name).Value()
	}
}

func (x *index) removeFromNode(name string) {
	n := x.nodes[name]
	if n == nil {
		return
	}
	if n.pods--; n.pods == 0 {
		x.forgetHosts(name, n)
		delete(x.nodes, name)
	}
}

func (x *index) forgetHosts(name string, n *node) {
	for _, addr := range n.addresses {
		if x.hosts[addr] == name {
			delete(x.hosts, addr)
		}
	}
}
