// SPDX-License-Identifier: Apache-2.0

// Package identity names the workloads of interfaces and addresses. There
// are two sources: an identity file (File) and the cluster's API server
// (Kubernetes), which also needs the node's routes, bridges and processes to
// find the pod of an interface.
package identity

import (
	"net/netip"

	"github.com/layertrace/layertrace/internal/observe"
)

// Lookup asks for the owner of a virtual interface, with what an exchange
// there shows of it.
type Lookup struct {
	// Index and Name are the interface's, now.
	Index int
	Name  string
	// Address is the address at the pod's end of the connection: the client's
	// for a request on ingress, the server's on egress. It is invalid when the
	// direction is unknown.
	Address netip.Addr
	// At is the time of the exchange's first byte, in ns of CLOCK_MONOTONIC.
	At uint64
}

// Source names workloads. It is safe for concurrent use.
type Source interface {
	// Owner returns the workload that an interface of this node belongs to.
	Owner(Lookup) (observe.Workload, bool)
	// Peer returns the workload that had an address at a time (ns of
	// CLOCK_MONOTONIC). For a node's own address, only Node is set.
	Peer(addr netip.Addr, at uint64) (observe.Workload, bool)
}

// First asks several sources in order; the first that knows wins.
type First []Source

// Owner implements Source.
func (f First) Owner(l Lookup) (observe.Workload, bool) {
	for _, source := range f {
		if w, ok := source.Owner(l); ok {
			return w, true
		}
	}
	return observe.Workload{}, false
}

// Peer implements Source.
func (f First) Peer(addr netip.Addr, at uint64) (observe.Workload, bool) {
	for _, source := range f {
		if w, ok := source.Peer(addr, at); ok {
			return w, true
		}
	}
	return observe.Workload{}, false
}
