// SPDX-License-Identifier: Apache-2.0

package netspace

import (
	"fmt"
	"net"

	"github.com/vishvananda/netlink"
)

// AddBridge makes a bridge with an address, as 10.0.0.1/24.
func (s *Space) AddBridge(name, address string) error {
	nl, err := s.Netlink()
	if err != nil {
		return err
	}
	defer nl.Close()
	attrs := netlink.NewLinkAttrs()
	attrs.Name = name
	if err := nl.LinkAdd(&netlink.Bridge{LinkAttrs: attrs}); err != nil {
		return fmt.Errorf("add bridge %s in %s: %w", name, s.Name, err)
	}
	return s.configure(nl, name, address)
}

// AddPair makes a veth pair: name, a port of s's bridge, and eth0 with an
// address in inner.
func (s *Space) AddPair(name, bridge string, inner *Space, address string) error {
	nl, err := s.Netlink()
	if err != nil {
		return err
	}
	defer nl.Close()
	br, err := nl.LinkByName(bridge)
	if err != nil {
		return fmt.Errorf("find bridge %s in %s: %w", bridge, s.Name, err)
	}
	attrs := netlink.NewLinkAttrs()
	attrs.Name, attrs.MasterIndex = name, br.Attrs().Index
	veth := &netlink.Veth{LinkAttrs: attrs, PeerName: "eth0", PeerNamespace: netlink.NsFd(inner.FD())}
	if err := nl.LinkAdd(veth); err != nil {
		return fmt.Errorf("add veth %s in %s: %w", name, s.Name, err)
	}
	if err := s.configure(nl, name, ""); err != nil {
		return err
	}
	peer, err := inner.Netlink()
	if err != nil {
		return err
	}
	defer peer.Close()
	return inner.configure(peer, "eth0", address)
}

// configure gives a link its address, if any, and sets it up.
func (s *Space) configure(nl *netlink.Handle, name, address string) error {
	link, err := nl.LinkByName(name)
	if err == nil && address != "" {
		var addr *netlink.Addr
		if addr, err = netlink.ParseAddr(address); err == nil {
			err = nl.AddrAdd(link, addr)
		}
	}
	if err == nil {
		err = nl.LinkSetUp(link)
	}
	if err != nil {
		return fmt.Errorf("configure %s in %s: %w", name, s.Name, err)
	}
	return nil
}

// AddRoute sends what goes to destination, as 10.1.0.0/24, via a router.
func (s *Space) AddRoute(destination, via string) error {
	return s.route((*netlink.Handle).RouteAdd, destination, via)
}

// ReplaceRoute sends it via another router from now on.
func (s *Space) ReplaceRoute(destination, via string) error {
	return s.route((*netlink.Handle).RouteReplace, destination, via)
}

func (s *Space) route(do func(*netlink.Handle, *netlink.Route) error, destination, via string) error {
	nl, err := s.Netlink()
	if err != nil {
		return err
	}
	defer nl.Close()
	_, dst, err := net.ParseCIDR(destination)
	if err == nil {
		err = do(nl, &netlink.Route{Dst: dst, Gw: net.ParseIP(via)})
	}
	if err != nil {
		return fmt.Errorf("route %s via %s in %s: %w", destination, via, s.Name, err)
	}
	return nil
}
