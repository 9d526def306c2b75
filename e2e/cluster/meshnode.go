// SPDX-License-Identifier: Apache-2.0

package cluster

import (
	"context"
	"fmt"
	"net/netip"
	"os"
	"runtime"

	"github.com/layertrace/layertrace/e2e/sandbox"
)

// MeshNode is a node of the mesh without a kubelet: a network namespace with a bridge for
// its pods and eth0 in BridgeIP's network. It ends with the cluster.
type MeshNode struct {
	// Name is the node's name, IP its address.
	Name, IP string
	// Namespace is the node's network namespace.
	Namespace *sandbox.Namespace

	cluster *Cluster
	pods    netip.Prefix
}

// nodeBridge is the bridge of a node's pods.
const nodeBridge = "cni0"

// AddNode adds a node. ip is an address in BridgeIP's network, pods a /24 for its pods,
// whose first address becomes their gateway.
func (m *Mesh) AddNode(ctx context.Context, name, ip string, pods netip.Prefix) (*MeshNode, error) {
	n := &MeshNode{Name: name, IP: ip, cluster: m.cluster, pods: pods}
	var err error
	if n.Namespace, err = m.cluster.AddPodNamespace(name, ip); err != nil {
		return nil, err
	}
	err = n.Namespace.Do(func() error { return os.WriteFile("/proc/sys/net/ipv4/ip_forward", []byte("1"), 0) })
	if err != nil {
		return nil, fmt.Errorf("make node %s a router: %w", name, err)
	}
	if err := n.Namespace.AddBridge(nodeBridge, n.gateway()+"/24"); err != nil {
		return nil, err
	}
	if err := m.cluster.Namespace.AddRoute(pods.String(), ip); err != nil {
		return nil, err
	}
	for _, other := range m.nodes {
		if err := other.Namespace.AddRoute(pods.String(), ip); err != nil {
			return nil, err
		}
		if err := n.Namespace.AddRoute(other.pods.String(), other.IP); err != nil {
			return nil, err
		}
	}
	m.nodes = append(m.nodes, n)
	// The labels are those by which the agents' DaemonSet selects nodes.
	return n, m.registerNode(ctx, name, map[string]string{"kubernetes.io/os": "linux", "kubernetes.io/arch": runtime.GOARCH})
}

func (n *MeshNode) gateway() string { return n.pods.Masked().Addr().Next().String() }

// addPod creates the network namespace of a pod.
func (n *MeshNode) addPod(name, ip string) (*sandbox.Namespace, error) {
	namespace, err := sandbox.NewNamespace(n.cluster.namespaceName(name))
	if err != nil {
		return nil, err
	}
	n.cluster.pods = append(n.cluster.pods, namespace)
	if err := n.Namespace.AddPair("veth-"+name, nodeBridge, namespace, ip+"/24"); err != nil {
		return nil, err
	}
	return namespace, namespace.AddRoute("0.0.0.0/0", n.gateway())
}
