// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"context"
	"fmt"
	"net/netip"
	"os"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/layertrace/layertrace/agent/internal/identity"
	"github.com/layertrace/layertrace/agent/internal/iface"
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
	r.interfaces[i.Index] = &interfacePoint{iface: i}
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
	r.mu.Lock()
	known, ok := r.interfaces[o.Interface]
	var i iface.Interface
	if ok {
		i = known.iface
	}
	r.mu.Unlock()
	if !ok {
		return false
	}
	p := observe.Point{
		ID: observe.InterfacePointID(r.names.node, o.Interface), Kind: i.Kind,
		Node: r.names.node, Interface: i.Name,
	}
	if i.Kind == observe.KindVNIC {
		p.Workload = r.names.owner(i, o)
	}
	known.point = share(known.point, p) // of the pipeline's goroutine alone, so without the lock
	o.Point = known.point
	return true
}

// share returns the old point if it equals p, so that the observations of a point
// share one.
func share(old *observe.Point, p observe.Point) *observe.Point {
	if old != nil && *old == p {
		return old
	}
	return &p
}

// nameMayChange reports whether the names of an observation may be known soon.
func (r *registry) nameMayChange(o *observe.Observation) bool {
	if o.Socket != nil {
		return r.sockets.isUnknown(o)
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

// socketPoints resolves the capture points of observations at sockets: all sockets
// of one process in one pod are one point. A socket shows its network namespace,
// and the pod's address at one end of most connections shows whose namespace that
// is; the pod is then known for its loopback connections too. It must not be used
// concurrently.
type socketPoints struct {
	names      resolver
	sidecarUID uint32
	pods       map[uint32]*netnsOwner // by network namespace
}

type netnsOwner struct {
	workload observe.Workload
	seen     time.Time
	// points of the last observations, shared with the next. The points of a
	// namespace without a known owner are not kept, as nothing would purge them.
	sidecar, application *observe.Point
}

func newSocketPoints(names resolver, sidecarUID uint32) *socketPoints {
	return &socketPoints{names: names, sidecarUID: sidecarUID, pods: map[uint32]*netnsOwner{}}
}

// point returns the capture point of an observation at a socket.
func (s *socketPoints) point(o *observe.Observation) *observe.Point {
	s.learn(o)
	process := observe.AppProcess
	if o.Socket.UID == s.sidecarUID {
		process = observe.Sidecar
	}
	p := observe.Point{
		ID:   observe.SocketPointID(s.names.node, o.Socket.Netns, process),
		Kind: observe.KindSocket, Node: s.names.node, Process: process,
	}
	pod := s.pods[o.Socket.Netns]
	if pod == nil {
		return &p
	}
	p.Workload = pod.workload
	kept := &pod.application
	if process == observe.Sidecar {
		kept = &pod.sidecar
	}
	*kept = share(*kept, p)
	return *kept
}

// isUnknown reports whether the pod is still unknown. Another of its connections
// may show it soon.
func (s *socketPoints) isUnknown(o *observe.Observation) bool {
	s.learn(o)
	return s.pods[o.Socket.Netns] == nil
}

// learn takes the owner of the socket's network namespace from an observation.
func (s *socketPoints) learn(o *observe.Observation) {
	if pod := s.pods[o.Socket.Netns]; pod != nil && isLoopback(o) {
		pod.seen = time.Now()
		return
	}
	own, other := o.Server, o.Client
	if o.Socket.Client {
		own, other = other, own
	}
	addr := own.Addr()
	if addr.IsLoopback() { // then the other end is in the same namespace
		addr = other.Addr()
	}
	if o.Socket.Netns == 0 || addr.IsLoopback() {
		return
	}
	w, known := s.names.Peer(addr, o.Request.First)
	if known && w.Service != "" && (w.Node == "" || w.Node == s.names.node) {
		pod := s.pods[o.Socket.Netns]
		if pod == nil {
			pod = &netnsOwner{}
			s.pods[o.Socket.Netns] = pod
		}
		pod.workload, pod.seen = w, time.Now()
	}
}

func isLoopback(o *observe.Observation) bool {
	return o.Client.Addr().IsLoopback() && o.Server.Addr().IsLoopback()
}

// purge forgets network namespaces without an observation since a time, because
// the kernel reuses their numbers. It returns the IDs of their points.
func (s *socketPoints) purge(since time.Time) (ids []string) {
	for netns, pod := range s.pods {
		if pod.seen.Before(since) {
			delete(s.pods, netns)
			for _, process := range []observe.Process{observe.Sidecar, observe.AppProcess} {
				ids = append(ids, observe.SocketPointID(s.names.node, netns, process))
			}
		}
	}
	return ids
}

// resolver is the source of names, and the name of this node.
type resolver struct {
	identity.Source
	node    string
	cluster *identity.Kubernetes // nil: names come from the file only
}

// newResolver reads the identity file and prepares to watch the cluster. The file
// takes precedence. The node's name is that of --node, else the file's, else the
// host name.
func newResolver(opts Options) (resolver, error) {
	cfg := opts.Config
	file := &identity.File{}
	if cfg.Identity != "" {
		var err error
		if file, err = identity.LoadFile(cfg.Identity); err != nil {
			return resolver{}, err
		}
	}
	n := resolver{Source: file, node: cfg.Node}
	if n.node == "" {
		n.node = file.Node()
	}
	if n.node == "" {
		var err error
		if n.node, err = os.Hostname(); err != nil {
			return resolver{}, fmt.Errorf("get this node's name: %w; set --node", err)
		}
	}
	if !cfg.Kubernetes {
		return n, nil
	}
	server, err := identity.LoadKubeConfig(cfg.Kubeconfig)
	if err != nil {
		return resolver{}, err
	}
	n.cluster, err = identity.NewKubernetes(identity.KubernetesOptions{
		Config: server, Node: n.node, GracePeriod: gracePeriod(cfg), UserAgent: "layertrace-agent/" + opts.Version, Log: opts.Log,
	})
	n.Source = identity.First{file, n.cluster}
	return n, err
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
	return observe.Peers{Client: n.peer(o.Client.Addr(), start), Server: n.peer(o.Server.Addr(), start)}
}

// peer returns the workload that has an address, or the node if no workload has it.
func (n resolver) peer(addr netip.Addr, at uint64) observe.Peer {
	w, _ := n.Peer(addr, at)
	if w.Service != "" {
		return observe.Peer{Service: w.Service}
	}
	return observe.Peer{Node: w.Node}
}
