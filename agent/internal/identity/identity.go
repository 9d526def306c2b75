// SPDX-License-Identifier: Apache-2.0

// Package identity tells which workload is behind an interface or an address.
// There are two sources: a static file (here), and a Kubernetes cluster
// (package cluster). Whoever asks owns the interface Source.
package identity

import (
	"net/netip"

	"github.com/layertrace/layertrace/internal/observe"
)

// Sight is what an exchange at a virtual interface tells about who is behind.
type Sight struct {
	// Index and Name are the interface's, now.
	Index int
	Name  string
	// Address is that of the end that the request's direction puts behind the
	// interface: of the client on the way into the host, of the server on the
	// way out. It is invalid when the direction is not known.
	Address netip.Addr
	// At is the exchange's first byte, in ns of CLOCK_MONOTONIC.
	At uint64
}

// Source knows workloads. It is safe for use by several goroutines.
type Source interface {
	// Behind returns the workload behind an interface of this node.
	Behind(Sight) (observe.Workload, bool)
	// Peer returns the workload that has an address at a time (ns of
	// CLOCK_MONOTONIC), or a Workload without a service: the node that has it.
	Peer(addr netip.Addr, at uint64) (observe.Workload, bool)
}

// First asks one source after the other; the first that knows wins.
type First []Source

// Behind is Source's.
func (f First) Behind(s Sight) (observe.Workload, bool) {
	for _, source := range f {
		if w, ok := source.Behind(s); ok {
			return w, true
		}
	}
	return observe.Workload{}, false
}

// Peer is Source's.
func (f First) Peer(addr netip.Addr, at uint64) (observe.Workload, bool) {
	for _, source := range f {
		if w, ok := source.Peer(addr, at); ok {
			return w, true
		}
	}
	return observe.Workload{}, false
}
