// SPDX-License-Identifier: Apache-2.0

package lab

import (
	"errors"
	"fmt"
	"os"

	"github.com/layertrace/layertrace/e2e/lab/envoy"
	"github.com/layertrace/layertrace/e2e/lab/netspace"
)

// network is the testbed's namespaces: nothing of it is in the host's own.
type network struct {
	sw    *netspace.Space
	nodes map[int]*netspace.Space
	pods  map[string]*netspace.Space
}

// Bridges: of the switch between the nodes, and of every node for its pods. A
// port of the switch has the name of its node.
const (
	SwitchBridge = "br0"
	NodeBridge   = "cni0"
)

// build makes all namespaces, links, addresses and routes. After an error the
// network holds what was made so far, for delete.
func (n *network) build(prefix string) (err error) {
	n.nodes, n.pods = map[int]*netspace.Space{}, map[string]*netspace.Space{}
	if n.sw, err = netspace.Create(prefix + "switch"); err != nil {
		return err
	}
	if err := n.sw.AddBridge(SwitchBridge, InfraIP+"/24"); err != nil {
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
		if err := node.AddPair(pod.VNIC, NodeBridge, n.pods[pod.Name], pod.IP+"/24"); err != nil {
			return err
		}
		if err := n.pods[pod.Name].AddRoute("0.0.0.0/0", podGateway(pod.Node)); err != nil {
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
	if err := n.sw.AddPair(NodeName(node), SwitchBridge, space, NodeIP(node)+"/24"); err != nil {
		return err
	}
	if err := space.AddBridge(NodeBridge, podGateway(node)+"/24"); err != nil {
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
		if err := space.AddRoute(PodSubnet(other), NodeIP(other)); err != nil {
			return err
		}
	}
	return n.sw.AddRoute(PodSubnet(node), NodeIP(node))
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
