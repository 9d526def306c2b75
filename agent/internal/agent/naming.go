// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"context"
	"fmt"
	"net/netip"
	"os"

	"github.com/layertrace/layertrace/agent/internal/identity"
	"github.com/layertrace/layertrace/agent/internal/identity/cluster"
	"github.com/layertrace/layertrace/agent/internal/iface"
	"github.com/layertrace/layertrace/agent/internal/status"
	"github.com/layertrace/layertrace/internal/observe"
)

// naming is who tells names, and the name of this node.
type naming struct {
	identity.Source
	node    string
	cluster *cluster.Source // nil: names come from the file alone
}

// loadIdentity reads the identity file and prepares to follow the cluster. What
// the file says comes first. The node's name is that of --node, else the
// file's, else the host name.
func loadIdentity(opts Options) (naming, error) {
	cfg := opts.Config
	static := &identity.Static{}
	if cfg.Identity != "" {
		var err error
		if static, err = identity.Load(cfg.Identity); err != nil {
			return naming{}, err
		}
	}
	n := naming{Source: static, node: cfg.Node}
	if n.node == "" {
		n.node = static.Node()
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
	server, err := cluster.Load(cfg.Kubeconfig)
	if err != nil {
		return naming{}, err
	}
	n.cluster, err = cluster.New(cluster.Options{
		Config: server, Node: n.node, Linger: linger(cfg), UserAgent: "layertrace-agent/" + opts.Version, Log: opts.Log,
	})
	n.Source = identity.First{static, n.cluster}
	return n, err
}

// run follows the cluster, if there is one, until ctx is done.
func (n naming) run(ctx context.Context) error {
	if n.cluster == nil {
		return nil
	}
	return n.cluster.Run(ctx)
}

// came, went and forgotten tell the cluster about a virtual interface.
func (n naming) came(i iface.Interface) {
	if n.cluster != nil && i.Role == iface.VNIC {
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

// unsettled reports whether the names of an exchange may be known soon.
func (n naming) unsettled(ifindex int) bool {
	return n.cluster != nil && n.cluster.Unsettled(ifindex)
}

// ready adds what the cluster says to what the capture does.
func (n naming) ready() (remark string, err error) {
	if n.cluster == nil {
		return "", nil
	}
	return n.cluster.Ready()
}

func (n naming) samples() ([]status.Sample, error) {
	if n.cluster == nil {
		return nil, nil
	}
	return n.cluster.Samples()
}

// behind returns the workload behind a virtual interface, as an exchange sees it.
func (n naming) behind(i iface.Interface, x *observe.Observation) observe.Workload {
	sight := identity.Sight{Index: i.Index, Name: i.Name, At: x.Request.First}
	switch x.Direction {
	case observe.DirectionIngress:
		sight.Address = x.Client.Addr()
	case observe.DirectionEgress:
		sight.Address = x.Server.Addr()
	default:
		sight.Address = netip.Addr{}
	}
	w, _ := n.Behind(sight)
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
