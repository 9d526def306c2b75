// SPDX-License-Identifier: Apache-2.0

package lab

import (
	"encoding/binary"
	"errors"
	"fmt"
	"maps"
	"os"
	"slices"

	"github.com/google/nftables"
	"github.com/google/nftables/binaryutil"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"

	"github.com/layertrace/layertrace/e2e/sandbox"
)

// network is the testbed's network namespaces. Nothing of it is in the host's.
type network struct {
	infra *sandbox.Namespace
	nodes map[int]*sandbox.Namespace
	pods  map[string]*sandbox.Namespace
	// devices and links are by name; empty: a switch connects the nodes.
	devices, links map[string]*sandbox.Namespace
}

// Bridges of the switch between the nodes, and of every node for its pods. A port
// of the switch has the name of its node.
const (
	SwitchBridge = "br0"
	NodeBridge   = "cni0"
)

// build creates all namespaces, links, addresses and routes. After an error the
// network has what was created so far, for delete.
func (n *network) build(prefix string, pods []Pod, devices bool) (err error) {
	n.nodes, n.pods = map[int]*sandbox.Namespace{}, map[string]*sandbox.Namespace{}
	if n.infra, err = sandbox.NewNamespace(prefix + "switch"); err != nil {
		return err
	}
	if err := n.infra.AddBridge(SwitchBridge, InfraIP+"/24"); err != nil {
		return err
	}
	for _, node := range Nodes {
		if n.nodes[node], err = sandbox.NewNamespace(prefix + NodeName(node)); err != nil {
			return err
		}
	}
	if devices {
		if err := n.buildDevices(prefix); err != nil {
			return err
		}
	}
	for _, node := range Nodes {
		if err := n.connectNode(node, devices); err != nil {
			return err
		}
	}
	for _, pod := range pods {
		if n.pods[pod.Name], err = sandbox.NewNamespace(prefix + pod.Name); err != nil {
			return err
		}
		node := n.nodes[pod.Node]
		if err := node.AddPair(pod.VNIC, NodeBridge, n.pods[pod.Name], pod.IP+"/24"); err != nil {
			return err
		}
		if err := n.pods[pod.Name].AddRoute("0.0.0.0/0", PodGateway(pod.Node)); err != nil {
			return err
		}
		if !pod.Gateway && !pod.Plain {
			if err := RedirectToEnvoy(n.pods[pod.Name], AppPort); err != nil {
				return err
			}
		}
	}
	return nil
}

// connectNode connects a node to the switch, unless a device does, and routes the pod
// subnets.
func (n *network) connectNode(node int, devices bool) error {
	namespace := n.nodes[node]
	if !devices {
		if err := n.infra.AddPair(NodeName(node), SwitchBridge, namespace, NodeIP(node)+"/24"); err != nil {
			return err
		}
	}
	if err := namespace.AddBridge(NodeBridge, PodGateway(node)+"/24"); err != nil {
		return err
	}
	err := namespace.Do(func() error {
		return os.WriteFile("/proc/sys/net/ipv4/ip_forward", []byte("1"), 0)
	})
	if err != nil {
		return fmt.Errorf("make %s a router: %w", NodeName(node), err)
	}
	for _, other := range Nodes {
		if other == node {
			continue
		}
		if err := namespace.AddRoute(PodSubnet(other), NodeIP(other)); err != nil {
			return err
		}
	}
	return n.infra.AddRoute(PodSubnet(node), NodeIP(node))
}

// delete removes every namespace that was created, and the links with them.
func (n *network) delete() error {
	var errs []error
	all := slices.Concat([]*sandbox.Namespace{n.infra}, slices.Collect(maps.Values(n.nodes)), slices.Collect(maps.Values(n.pods)),
		slices.Collect(maps.Values(n.devices)), slices.Collect(maps.Values(n.links)))
	for _, s := range all {
		if s != nil {
			errs = append(errs, s.Delete())
		}
	}
	return errors.Join(errs...)
}

// UID and GID are the user and group of the Envoy processes, as of Istio's proxy
// (--proxy-uid and --proxy-gid). Traffic of the group is not redirected.
const (
	UID = 1337
	GID = 1337
)

// RedirectToEnvoy redirects the pod's TCP traffic as Istio's init container does:
// connections to inboundPort go to Envoy's inbound listener, and connections that
// other processes than Envoy open, except to loopback addresses, go to its outbound
// listener.
func RedirectToEnvoy(pod *sandbox.Namespace, inboundPort uint16) error {
	conn, err := nftables.New(nftables.WithNetNSFd(pod.FD()))
	if err != nil {
		return fmt.Errorf("open nftables in %s: %w", pod.Name, err)
	}
	table := conn.AddTable(&nftables.Table{Name: "layertrace-lab", Family: nftables.TableFamilyIPv4})
	natChain := func(name string, hook *nftables.ChainHook) *nftables.Chain {
		return conn.AddChain(&nftables.Chain{
			Name: name, Table: table, Type: nftables.ChainTypeNAT,
			Hooknum: hook, Priority: nftables.ChainPriorityNATDest,
		})
	}
	inbound := natChain("inbound", nftables.ChainHookPrerouting)
	outbound := natChain("outbound", nftables.ChainHookOutput)

	rule := func(chain *nftables.Chain, parts ...[]expr.Any) {
		var all []expr.Any
		for _, part := range parts {
			all = append(all, part...)
		}
		conn.AddRule(&nftables.Rule{Table: table, Chain: chain, Exprs: all})
	}
	rule(inbound, tcp(), destinationPort(inboundPort), redirectTo(InboundPort))
	rule(outbound, socketGroup(GID), accept())
	rule(outbound, loopbackDestination(), accept())
	rule(outbound, tcp(), redirectTo(OutboundPort))
	if err := conn.Flush(); err != nil {
		return fmt.Errorf("redirect the traffic of %s to its Envoy (needs nf_tables, nft_nat, nft_redir): %w", pod.Name, err)
	}
	return nil
}

// tcp matches TCP.
func tcp() []expr.Any {
	return []expr.Any{
		&expr.Meta{Key: expr.MetaKeyL4PROTO, Register: 1},
		&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: []byte{unix.IPPROTO_TCP}},
	}
}

// destinationPort matches the port in the TCP header.
func destinationPort(port uint16) []expr.Any {
	return []expr.Any{
		&expr.Payload{DestRegister: 1, Base: expr.PayloadBaseTransportHeader, Offset: 2, Len: 2},
		&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: binaryutil.BigEndian.PutUint16(port)},
	}
}

// socketGroup matches packets of processes with a group ID.
func socketGroup(gid uint32) []expr.Any {
	return []expr.Any{
		&expr.Meta{Key: expr.MetaKeySKGID, Register: 1},
		&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: binary.NativeEndian.AppendUint32(nil, gid)},
	}
}

// loopbackDestination matches packets to 127.0.0.0/8.
func loopbackDestination() []expr.Any {
	return []expr.Any{
		&expr.Payload{DestRegister: 1, Base: expr.PayloadBaseNetworkHeader, Offset: 16, Len: 1},
		&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: []byte{127}},
	}
}

func redirectTo(port uint16) []expr.Any {
	return []expr.Any{
		&expr.Immediate{Register: 1, Data: binaryutil.BigEndian.PutUint16(port)},
		&expr.Redir{RegisterProtoMin: 1},
	}
}

func accept() []expr.Any {
	return []expr.Any{&expr.Verdict{Kind: expr.VerdictAccept}}
}
