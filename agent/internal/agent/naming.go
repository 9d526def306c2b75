// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"context"
	"fmt"
	"net/netip"
	"os"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/layertrace/layertrace/agent/internal/identity"
	"github.com/layertrace/layertrace/agent/internal/iface"
	"github.com/layertrace/layertrace/internal/observe"
)

// naming is the source of names, and the name of this node.
type naming struct {
	identity.Source
	node    string
	cluster *identity.Kubernetes // nil: names come from the file alone
}

// loadIdentity reads the identity file and prepares to watch the cluster. The
// file takes precedence. The node's name is that of --node, else the file's,
// else the host name.
func loadIdentity(opts Options) (naming, error) {
	cfg := opts.Config
	file := &identity.File{}
	if cfg.Identity != "" {
		var err error
		if file, err = identity.LoadFile(cfg.Identity); err != nil {
			return naming{}, err
		}
	}
	n := naming{Source: file, node: cfg.Node}
	if n.node == "" {
		n.node = file.Node()
	}
	if n.node == "" {
		var err error
		if n.node, err = os.Hostname(); err != nil {
			return naming{}, fmt.Errorf("find out this node's name: %w; set --node", err)
		}
	}
	if !cfg.Kubernetes {
		return n, nil
	}
	server, err := identity.LoadKubeConfig(cfg.Kubeconfig)
	if err != nil {
		return naming{}, err
	}
	n.cluster, err = identity.NewKubernetes(identity.KubernetesOptions{
		Config: server, Node: n.node, GracePeriod: linger(cfg), UserAgent: "layertrace-agent/" + opts.Version, Log: opts.Log,
	})
	n.Source = identity.First{file, n.cluster}
	return n, err
}

// run watches the cluster, if there is one, until ctx is done.
func (n naming) run(ctx context.Context) error {
	if n.cluster == nil {
		return nil
	}
	return n.cluster.Run(ctx)
}

// came, went and forgotten pass on the events of a virtual interface.
func (n naming) came(i iface.Interface) {
	if n.cluster != nil && i.Kind == observe.KindVNIC {
		n.cluster.Track(i.Index)
	}
}

func (n naming) went(ifindex int) {
	if n.cluster != nil {
		n.cluster.Leave(ifindex)
	}
}

func (n naming) forgotten(ifindex int) {
	if n.cluster != nil {
		n.cluster.Forget(ifindex)
	}
}

// unsettled reports whether the name of an interface may become known soon.
func (n naming) unsettled(ifindex int) bool {
	return n.cluster != nil && n.cluster.MayChange(ifindex)
}

// ready reports whether the cluster has been read.
func (n naming) ready() (remark string, err error) {
	if n.cluster == nil {
		return "", nil
	}
	return n.cluster.Ready()
}

// collectors are the metrics of the source, if it has any.
func (n naming) collectors() []prometheus.Collector {
	if n.cluster == nil {
		return nil
	}
	return []prometheus.Collector{n.cluster}
}

// behind returns the workload that owns a virtual interface, given an exchange there.
func (n naming) behind(i iface.Interface, x *observe.Observation) observe.Workload {
	lookup := identity.Lookup{Index: i.Index, Name: i.Name, At: x.Request.First}
	switch x.Direction {
	case observe.DirectionIngress:
		lookup.Address = x.Client.Addr()
	case observe.DirectionEgress:
		lookup.Address = x.Server.Addr()
	default:
		lookup.Address = netip.Addr{}
	}
	w, _ := n.Owner(lookup)
	return w
}

// peers are the names of both ends. A node stands for itself only where its
// address is no workload's.
func (n naming) peers(o *observe.Observation) observe.Peers {
	start, _ := o.Extent()
	return observe.Peers{Client: n.peer(o.Client.Addr(), start), Server: n.peer(o.Server.Addr(), start)}
}

func (n naming) peer(addr netip.Addr, at uint64) observe.Peer {
	w, _ := n.Peer(addr, at)
	if w.Service != "" {
		return observe.Peer{Service: w.Service}
	}
	return observe.Peer{Node: w.Node}
}
