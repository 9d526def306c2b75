// SPDX-License-Identifier: Apache-2.0

package lab

import (
	"errors"
	"fmt"
	"net"
	"os"

	"github.com/vishvananda/netlink"

	"github.com/layertrace/layertrace/e2e/lab/envoy"
	"github.com/layertrace/layertrace/e2e/lab/netspace"
)

// network is the testbed's namespaces: nothing of it is in the host's own.
type network struct {
	sw    *netspace.Space
	nodes map[int]*netspace.Space
	pods  map[string]*netspace.Space
}

const (
	switchBridge = "br0"
	nodeBridge   = "cni0"
)

// build makes all namespaces, links, addresses and routes. After an error the
// network holds what was made so far, for delete.
func (n *network) build(prefix string) (err error) {
	n.nodes, n.pods = map[int]*netspace.Space{}, map[string]*netspace.Space{}
	if n.sw, err = netspace.Create(prefix + "switch"); err != nil {
		return err
	}
	if err := addBridge(n.sw, switchBridge, InfraIP+"/24"); err != nil {
		return err
	}
	for _, node := range Nodes {
		if n.nodes[node], err = netspace.Create(prefix + NodeName(node)); err != nil {
			return err
		}
		if err := n.connectNode(node); err != nil {
			return err
		}
	}
	for _, pod := range Pods {
		if n.pods[pod.Name], err = netspace.Create(prefix + pod.Name); err != nil {
			return err
		}
		node := n.nodes[pod.Node]
		if err := addPair(node, pod.VNIC, nodeBridge, n.pods[pod.Name], pod.IP+"/24"); err != nil {
			return err
		}
		if err := addRoute(n.pods[pod.Name], "0.0.0.0/0", podGateway(pod.Node)); err != nil {
			return err
		}
		if !pod.Gateway {
			if err := envoy.Redirect(n.pods[pod.Name], AppPort); err != nil {
				return err
			}
		}
	}
	return nil
}

// connectNode plugs a node into the switch and routes the pod subnets.
func (n *network) connectNode(node int) error {
	space := n.nodes[node]
	if err := addPair(n.sw, NodeName(node), switchBridge, space, NodeIP(node)+"/24"); err != nil {
		return err
	}
	if err := addBridge(space, nodeBridge, podGateway(node)+"/24"); err != nil {
		return err
	}
	err := space.Do(func() error {
		return os.WriteFile("/proc/sys/net/ipv4/ip_forward", []byte("1"), 0)
	})
	if err != nil {
		return fmt.Errorf("make %s a router: %w", NodeName(node), err)
	}
	for _, other := range Nodes {
		if other == node {
			continue
		}
		if err := addRoute(space, podSubnet(other), NodeIP(other)); err != nil {
			return err
		}
	}
	return addRoute(n.sw, podSubnet(node), NodeIP(node))
}

// delete removes every namespace that was made, and the links with them.
func (n *network) delete() error {
	var errs []error
	spaces := []*netspace.Space{n.sw}
	for _, s := range n.nodes {
		spaces = append(spaces, s)
	}
	for _, s := range n.pods {
		spaces = append(spaces, s)
	}
	for _, s := range spaces {
		if s != nil {
			errs = append(errs, s.Delete())
		}
	}
	return errors.Join(errs...)
}

// addBridge makes a bridge with an address.
func addBridge(space *netspace.Space, name, address string) error {
	nl, err := space.Netlink()
	if err != nil {
		return err
	}
	defer nl.Close()
	attrs := netlink.NewLinkAttrs()
	attrs.Name = name
	if err := nl.LinkAdd(&netlink.Bridge{LinkAttrs: attrs}); err != nil {
		return fmt.Errorf("add bridge %s in %s: %w", name, space.Name, err)
	}
	return configure(nl, space, name, address)
}

// addPair makes a veth pair: name, a port of bridge in outer, and eth0 with an
// address in inner.
func addPair(outer *netspace.Space, name, bridge string, inner *netspace.Space, address string) error {
	nl, err := outer.Netlink()
	if err != nil {
		return err
	}
	defer nl.Close()
	br, err := nl.LinkByName(bridge)
	if err != nil {
		return fmt.Errorf("find bridge %s in %s: %w", bridge, outer.Name, err)
	}
	attrs := netlink.NewLinkAttrs()
	attrs.Name, attrs.MasterIndex = name, br.Attrs().Index
	veth := &netlink.Veth{LinkAttrs: attrs, PeerName: "eth0", PeerNamespace: netlink.NsFd(inner.FD())}
	if err := nl.LinkAdd(veth); err != nil {
		return fmt.Errorf("add veth %s in %s: %w", name, outer.Name, err)
	}
	if err := configure(nl, outer, name, ""); err != nil {
		return err
	}
	peer, err := inner.Netlink()
	if err != nil {
		return err
	}
	defer peer.Close()
	return configure(peer, inner, "eth0", address)
}

// configure gives a link its address, if any, and sets it up.
func configure(nl *netlink.Handle, space *netspace.Space, name, address string) error {
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
		return fmt.Errorf("configure %s in %s: %w", name, space.Name, err)
	}
	return nil
}

func addRoute(space *netspace.Space, destination, via string) error {
	nl, err := space.Netlink()
	if err != nil {
		return err
	}
	defer nl.Close()
	_, dst, err := net.ParseCIDR(destination)
	if err == nil {
		err = nl.RouteAdd(&netlink.Route{Dst: dst, Gw: net.ParseIP(via)})
	}
	if err != nil {
		return fmt.Errorf("route %s via %s in %s: %w", destination, via, space.Name, err)
	}
	return nil
}
