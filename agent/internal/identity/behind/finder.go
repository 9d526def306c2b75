// SPDX-License-Identifier: Apache-2.0

// Package behind finds out whose network namespace is behind a virtual
// interface, from what the kernel knows: host routes, neighbours, a bridge's
// forwarding table, the peer's network namespace. No CNI is asked, and none has
// to be known.
package behind

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"syscall"

	"github.com/vishvananda/netlink"
)

// Evidence is what was found behind one interface.
type Evidence struct {
	// Addresses that packets out of this interface reach.
	Addresses []netip.Addr
	// PodUIDs of processes in the peer's network namespace.
	PodUIDs []string
}

// Found is evidence by interface index.
type Found map[int]*Evidence

func (f Found) at(index int) *Evidence {
	if f[index] == nil {
		f[index] = &Evidence{}
	}
	return f[index]
}

func (f Found) address(index int, ip net.IP) {
	if addr, ok := netip.AddrFromSlice(ip); ok {
		e := f.at(index)
		if addr = addr.Unmap(); !slices.Contains(e.Addresses, addr) {
			e.Addresses = append(e.Addresses, addr)
		}
	}
}

func (f Found) podUID(index int, uid string) {
	if e := f.at(index); !slices.Contains(e.PodUIDs, uid) {
		e.PodUIDs = append(e.PodUIDs, uid)
	}
}

// Finder is one way to find out.
type Finder struct {
	// Name for metrics: routes, neighbours, bridge, namespace.
	Name string
	find func(*netlink.Handle, map[int]bool, Found) error
}

// Finders are all, in the order in which they are to be believed.
func Finders() []Finder {
	return []Finder{
		{"routes", routes},
		{"neighbours", neighbours},
		{"bridge", bridge},
		{"namespace", func(nl *netlink.Handle, links map[int]bool, found Found) error {
			return namespaces(nl, "/proc", links, found)
		}},
	}
}

// Find looks behind the given interfaces of the network namespace of nl. What
// it found before an error is true all the same.
func (f Finder) Find(nl *netlink.Handle, links []int) (Found, error) {
	wanted, found := map[int]bool{}, Found{}
	for _, index := range links {
		wanted[index] = true
	}
	if err := f.find(nl, wanted, found); err != nil {
		return found, fmt.Errorf("look behind interfaces by %s: %w", f.Name, err)
	}
	return found, nil
}

// families are the address families of pods.
var families = [...]int{netlink.FAMILY_V4, netlink.FAMILY_V6}

// partial takes away the errors of a dump that change nothing: that the table
// changed meanwhile (what came is right, and the next look has the rest), and
// that the kernel has no IPv6.
func partial(err error) error {
	if errors.Is(err, netlink.ErrDumpInterrupted) || errors.Is(err, syscall.EAFNOSUPPORT) || errors.Is(err, syscall.EOPNOTSUPP) {
		return nil
	}
	return err
}
