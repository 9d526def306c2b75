// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"context"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"slices"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/sys/unix"

	"github.com/layertrace/layertrace/agent/internal/identity"
	"github.com/layertrace/layertrace/agent/internal/iface"
	"github.com/layertrace/layertrace/agent/internal/span"
	"github.com/layertrace/layertrace/internal/observe"
)

// registry resolves the capture points of observations. An interface that was
// removed stays for a grace period: its open exchanges are still to come.
type registry struct {
	names       resolver
	gracePeriod time.Duration
	sockets     *socketPoints

	mu         sync.Mutex
	interfaces map[int]*interfacePoint // by index
}

type interfacePoint struct {
	id      string // of the point
	iface   iface.Interface
	point   *observe.Point // of the last observation, shared with the next
	removed time.Time      // zero: present
}

func newRegistry(names resolver, gracePeriod time.Duration, sidecarUID uint32) *registry {
	return &registry{
		names: names, gracePeriod: gracePeriod,
		sockets:    newSocketPoints(names, sidecarUID),
		interfaces: map[int]*interfacePoint{},
	}
}

// add adds an interface or replaces what is known about it.
func (r *registry) add(i iface.Interface) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.interfaces[i.Index] = &interfacePoint{id: observe.InterfacePointID(r.names.node, i.Index), iface: i}
	r.names.added(i)
}

// remove marks an interface as removed.
func (r *registry) remove(index int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if p, ok := r.interfaces[index]; ok {
		p.removed = time.Now()
		r.names.removed(index)
	}
}

// resolve sets the capture point of an observation, with its workload at that
// time. It returns false for an interface that was never selected.
func (r *registry) resolve(o *observe.Observation) bool {
	if o.Socket != nil {
		o.Point = r.sockets.point(o)
		return true
	}
	known, i, ok := r.lookUp(o.Interface)
	if !ok {
		return false
	}
	p := observe.Point{
		ID: known.id, Kind: i.Kind, Node: r.names.node, Interface: i.Name,
	}
	if i.Kind == observe.KindVNIC {
		p.Workload = r.names.owner(i, o)
	}
	known.point = share(known.point, p) // of the pipeline alone, so without the lock
	o.Point = known.point
	return true
}

// lookUp returns an interface that was selected, with a copy of what describes it.
func (r *registry) lookUp(ifindex int) (known *interfacePoint, i iface.Interface, ok bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if known, ok = r.interfaces[ifindex]; ok {
		i = known.iface
	}
	return known, i, ok
}

// share returns the old point if it equals p, so that the observations of a point
// share one.
func share(old *observe.Point, p observe.Point) *observe.Point {
	if old != nil && *old == p {
		return old
	}
	fresh := p // only this one is garbage later
	return &fresh
}

// nameMayChange reports whether the names of an observation may be known soon.
func (r *registry) nameMayChange(o *observe.Observation) bool {
	if o.Socket != nil {
		return r.sockets.mayChange(o)
	}
	return r.names.mayChange(o.Interface)
}

// purge forgets interfaces that were removed, and pods whose sockets were last
// seen, more than a grace period ago. It returns the IDs of their points.
func (r *registry) purge(now time.Time) (ids []string) {
	ids = r.sockets.purge(now.Add(-r.gracePeriod))
	r.mu.Lock()
	defer r.mu.Unlock()
	for index, p := range r.interfaces {
		if !p.removed.IsZero() && now.Sub(p.removed) > r.gracePeriod {
			delete(r.interfaces, index)
			r.names.forget(index)
			ids = append(ids, observe.InterfacePointID(r.names.node, index))
		}
	}
	return ids
}

// resolver is the source of names, and the name of this node.
type resolver struct {
	identity.Source
	node string
	file *identity.File
	// exact is the Source without the file's patterns and prefixes.
	exact identity.Source
	// cluster is nil on a machine without one; then processes names what the file
	// does not.
	cluster   *identity.Kubernetes
	processes *identity.Processes
	netns     uint32 // the agent's network namespace
}

// newResolver reads the identity file and prepares to watch the cluster, or to look at
// the processes of this machine. The file takes precedence, except for what it has for
// many interfaces or addresses. The node's name is that of --node, else the file's,
// else the host name.
func newResolver(opts Options) (resolver, error) {
	cfg := opts.Config
	file := &identity.File{}
	if cfg.Identity != "" {
		var err error
		if file, err = identity.LoadFile(cfg.Identity); err != nil {
			return resolver{}, err
		}
	}
	n := resolver{file: file, exact: file, node: cfg.Node}
	n.Source = identity.First{file, file.Wildcards()}
	if n.node == "" {
		n.node = file.Node()
	}
	if n.node == "" {
		var err error
		if n.node, err = os.Hostname(); err != nil {
			return resolver{}, fmt.Errorf("get this node's name: %w; set --node", err)
		}
	}
	var err error
	if n.netns, err = ownNetns(); err != nil {
		return resolver{}, err
	}
	if !cfg.Kubernetes {
		n.processes = identity.NewProcesses(identity.ProcessOptions{})
		return n, nil
	}
	server, err := identity.LoadKubeConfig(cfg.Kubeconfig)
	if err != nil {
		return resolver{}, err
	}
	n.cluster, err = identity.NewKubernetes(identity.KubernetesOptions{
		Config: server, Node: n.node, GracePeriod: gracePeriod(cfg), UserAgent: "layertrace-agent/" + opts.Version, Log: opts.Log,
	})
	n.exact = identity.First{file, n.cluster}
	n.Source = identity.First{file, n.cluster, file.Wildcards()}
	return n, err
}

// admits returns whether an address may read the agent's metrics: those of pods of the
// namespaces, and those that are no pod's, such as nodes' and the API server's.
// The first refusal of each namespace is logged.
func (r *resolver) admits(namespaces []string, log *slog.Logger) func(netip.Addr) error {
	var refused sync.Map // namespaces that were logged
	return func(from netip.Addr) error {
		pod, known := r.cluster.Peer(from, span.Monotonic())
		if !known || pod.Pod == "" || slices.Contains(namespaces, pod.Namespace) {
			return nil
		}
		err := fmt.Errorf("pods of namespace %s may not read the agent's metrics; add it to the setting metrics-namespaces", pod.Namespace)
		if _, logged := refused.LoadOrStore(pod.Namespace, true); !logged {
			log.Warn("refused to show metrics", "address", from, "error", err)
		}
		return err
	}
}

// ownNetns returns the inode number of the agent's network namespace.
func ownNetns() (uint32, error) {
	var st unix.Stat_t
	if err := unix.Stat("/proc/self/ns/net", &st); err != nil {
		return 0, fmt.Errorf("find the agent's network namespace: %w; mount /proc", &os.PathError{Op: "stat", Path: "/proc/self/ns/net", Err: err})
	}
	return uint32(st.Ino), nil
}

// reload reads the identity file again at each signal, until ctx is done. With a bad
// file the names stay.
func (n resolver) reload(ctx context.Context, signals <-chan os.Signal, log *slog.Logger) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-signals:
		}
		node := n.file.Node()
		if err := n.file.Reload(); err != nil {
			log.Error("keeping the names of before", "error", err)
			continue
		}
		log.Info("read the identity file again")
		if now := n.file.Node(); now != node {
			log.Warn("the name of this node changes with a restart only", "node", n.node, "file", now)
		}
	}
}

// run watches the cluster, if there is one, until ctx is done.
func (n resolver) run(ctx context.Context) error {
	if n.cluster == nil {
		return nil
	}
	return n.cluster.Run(ctx)
}

// added, removed and forget pass on the events of a virtual interface.
func (n resolver) added(i iface.Interface) {
	if n.cluster != nil && i.Kind == observe.KindVNIC {
		n.cluster.Track(i.Index)
	}
}

func (n resolver) removed(ifindex int) {
	if n.cluster != nil {
		n.cluster.Leave(ifindex)
	}
}

func (n resolver) forget(ifindex int) {
	if n.cluster != nil {
		n.cluster.Forget(ifindex)
	}
}

// mayChange reports whether the name of an interface may be known soon.
func (n resolver) mayChange(ifindex int) bool {
	return n.cluster != nil && n.cluster.MayChange(ifindex)
}

// ready reports whether the cluster has been read.
func (n resolver) ready() (remark string, err error) {
	if n.cluster == nil {
		return "", nil
	}
	return n.cluster.Ready()
}

// collectors are the metrics of the cluster, if there is one.
func (n resolver) collectors() []prometheus.Collector {
	if n.cluster == nil {
		return nil
	}
	return []prometheus.Collector{n.cluster}
}

// owner returns the workload that owns a virtual interface, as an observation
// there shows it.
func (n resolver) owner(i iface.Interface, o *observe.Observation) observe.Workload {
	lookup := identity.Lookup{Index: i.Index, Name: i.Name, At: o.Request.First}
	switch o.Direction {
	case observe.DirectionIngress:
		lookup.Address = o.Client.Addr()
	case observe.DirectionEgress:
		lookup.Address = o.Server.Addr()
	default:
		lookup.Address = netip.Addr{}
	}
	w, _ := n.Owner(lookup)
	return w
}

// peers returns the names of both ends.
func (n resolver) peers(o *observe.Observation) observe.Peers {
	start, _ := o.Extent()
	peers := observe.Peers{Client: n.peer(o.Client.Addr(), start), Server: n.peer(o.Server.Addr(), start)}
	if w, ok := n.file.Endpoint(o.Server, o.Socket == nil || o.Socket.Netns == n.netns); ok {
		peers.Server = observe.Peer{Service: w.Service, Namespace: w.Namespace}
	}
	return peers
}

// peer returns the workload that has an address, or the node if no workload has it.
func (n resolver) peer(addr netip.Addr, at uint64) observe.Peer {
	w, _ := n.Peer(addr, at)
	if w.Service != "" {
		return observe.Peer{Service: w.Service, Namespace: w.Namespace}
	}
	return observe.Peer{Node: w.Node}
}
