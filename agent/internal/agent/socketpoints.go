// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"net/netip"
	"time"

	"github.com/layertrace/layertrace/agent/internal/identity"
	"github.com/layertrace/layertrace/internal/observe"
	"github.com/layertrace/layertrace/internal/recent"
)

// maxProcessPoints bounds the points of processes that are kept.
const maxProcessPoints = 4096

// socketPoints resolves the capture points of observations at sockets.
//
// All sockets of one process in one pod are one point. A socket shows its network
// namespace, and the pod's address at one end of most connections shows whose namespace
// that is; the pod is then known for its loopback connections too.
//
// Without a cluster the file can name namespaces by their addresses in the same way.
// Elsewhere all sockets of a container, a service or a program in one namespace are one
// point, whatever user they belong to: a server that binds as root and works as another
// user has sockets of both.
//
// It must not be used concurrently.
type socketPoints struct {
	names      resolver
	sidecarUID uint32
	version    uint64                       // of the file that the maps are from
	pods       map[uint32]*netnsOwner       // by network namespace
	unnamed    map[uint32]time.Time         // namespaces whose addresses nothing names, without a cluster
	processes  map[processKey]*processPoint // without a cluster
	forgotten  []string                     // IDs of points, for purge
	// unowned are the points of namespaces without their owner, so that observations which
	// wait share them.
	unowned *recent.Table[unownedKey, *observe.Point]
}

// maxUnowned is the number of points without an owner that are shared, twice, some 300 bytes
// each.
const maxUnowned = 1024

// unownedKey is a process of a network namespace.
type unownedKey struct {
	netns   uint32
	process observe.Process
}

type netnsOwner struct {
	workload observe.Workload
	seen     time.Time
	// points of the last observations, shared with the next.
	sidecar, application *observe.Point
}

// processKey is a container, service or program in a network namespace.
type processKey struct {
	netns uint32
	name  string
}

type processPoint struct {
	served observe.Workload // by the file, of the port that it last served at
	seen   time.Time
	point  *observe.Point // of the last observation, shared with the next
}

func newSocketPoints(names resolver, sidecarUID uint32) *socketPoints {
	return &socketPoints{
		names: names, sidecarUID: sidecarUID,
		pods: map[uint32]*netnsOwner{}, unnamed: map[uint32]time.Time{}, processes: map[processKey]*processPoint{},
		unowned: recent.New(maxUnowned, func(k unownedKey) *observe.Point {
			return &observe.Point{
				ID:   observe.SocketPointID(names.node, k.netns, string(k.process)),
				Kind: observe.KindSocket, Node: names.node, Process: k.process,
			}
		}),
	}
}

// point returns the capture point of an observation at a socket.
func (s *socketPoints) point(o *observe.Observation) *observe.Point {
	s.learn(o)
	pod := s.pods[o.Socket.Netns]
	if s.names.processes != nil && (pod == nil || s.names.file.NamesServers()) {
		if p := s.ofProcess(o, pod); p != nil {
			return p
		}
	}
	process := observe.AppProcess
	if o.Socket.UID == s.sidecarUID && (pod != nil || s.names.processes == nil) {
		process = observe.Sidecar
	}
	unowned := s.unowned.Get(unownedKey{o.Socket.Netns, process})
	if pod == nil {
		return unowned
	}
	p := *unowned
	p.Workload = pod.workload
	kept := &pod.application
	if process == observe.Sidecar {
		kept = &pod.sidecar
	}
	*kept = share(*kept, p)
	return *kept
}

// ofProcess returns the point of the container, service or program that the socket
// belongs to, nil if it is unknown or the pod has the name.
func (s *socketPoints) ofProcess(o *observe.Observation, pod *netnsOwner) *observe.Point {
	process := identity.Process{Cgroup: o.Socket.Cgroup, PID: o.Socket.PID, Name: o.Socket.ProcessName}
	name := s.names.processes.Service(process)
	var served observe.Workload
	if !o.Socket.Client {
		served, _ = s.names.file.Server(o.Server, o.Socket.Netns == s.names.netns)
	}
	key := processKey{o.Socket.Netns, name}
	known := s.processes[key]
	if known == nil {
		known = &processPoint{served: s.servedBy(process, o.Socket.Netns)}
		if name != "" && len(s.processes) < maxProcessPoints {
			s.processes[key] = known
		}
	}
	known.seen = time.Now()
	if served.Service != "" {
		known.served = served
	}
	p := observe.Point{
		ID:   observe.SocketPointID(s.names.node, o.Socket.Netns, name),
		Kind: observe.KindSocket, Node: s.names.node, Process: observe.AppProcess, Workload: known.served,
	}
	switch {
	case p.Workload.Service != "":
	case name == "" || pod != nil:
		return nil
	default:
		p.Workload.Service = name
	}
	known.point = share(known.point, p)
	return known.point
}

// servedBy returns the workload that the file has for a port at which a process listens.
// What a process sends is often reported before the first request that it served.
func (s *socketPoints) servedBy(process identity.Process, netns uint32) observe.Workload {
	if s.names.file.NamesServers() {
		for _, at := range s.names.processes.Listeners(process) {
			if w, ok := s.names.file.Listener(at, netns == s.names.netns); ok {
				return w
			}
		}
	}
	return observe.Workload{}
}

// mayChange reports whether the names at a socket may be known soon: in a cluster while
// the pod is unknown, as another of its connections may show it. On a plain machine
// only the file can name a namespace of its own, and nothing waits for the others.
func (s *socketPoints) mayChange(o *observe.Observation) bool {
	s.learn(o)
	if s.pods[o.Socket.Netns] != nil {
		return false
	}
	if s.names.cluster != nil {
		return true
	}
	_, unnamed := s.unnamed[o.Socket.Netns]
	return !unnamed && o.Socket.Netns != s.names.netns && isLoopback(o) && s.names.file.NamesServices()
}

// learn takes the owner of the socket's network namespace from an observation.
func (s *socketPoints) learn(o *observe.Observation) {
	s.forgetOld()
	if pod := s.pods[o.Socket.Netns]; pod != nil && isLoopback(o) {
		pod.seen = time.Now()
		return
	}
	addr := ownAddress(o)
	if o.Socket.Netns == 0 || addr.IsLoopback() {
		return
	}
	w, known := s.names.exact.Peer(addr, o.Request.First)
	if known && w.Service != "" && (w.Node == "" || w.Node == s.names.node) {
		pod := s.pods[o.Socket.Netns]
		if pod == nil {
			pod = &netnsOwner{}
			s.pods[o.Socket.Netns] = pod
		}
		pod.workload, pod.seen = w, time.Now()
	} else if s.names.cluster == nil && len(s.unnamed) < maxProcessPoints {
		s.unnamed[o.Socket.Netns] = time.Now()
	}
}

// ownAddress returns the address of the socket's network namespace, a loopback address
// if the connection shows no other.
func ownAddress(o *observe.Observation) netip.Addr {
	own, other := o.Server, o.Client
	if o.Socket.Client {
		own, other = other, own
	}
	if own.Addr().IsLoopback() { // then the other end is in the same namespace
		return other.Addr()
	}
	return own.Addr()
}

func isLoopback(o *observe.Observation) bool {
	return o.Client.Addr().IsLoopback() && o.Server.Addr().IsLoopback()
}

// forgetOld forgets what came from a file that was replaced.
func (s *socketPoints) forgetOld() {
	if version := s.names.file.Version(); version != s.version {
		s.version = version
		s.forgotten = append(s.forgotten, s.forget(func(time.Time) bool { return true })...)
	}
}

// purge forgets namespaces and processes without an observation since a time, because
// the kernel reuses the numbers of namespaces. It returns the IDs of their points.
func (s *socketPoints) purge(since time.Time) (ids []string) {
	ids = append(s.forgotten, s.forget(func(seen time.Time) bool { return seen.Before(since) })...)
	s.forgotten = nil
	return ids
}

// forget forgets what was last seen at a time that is old.
func (s *socketPoints) forget(old func(seen time.Time) bool) (ids []string) {
	for netns, pod := range s.pods {
		if old(pod.seen) {
			delete(s.pods, netns)
			for _, process := range []observe.Process{observe.Sidecar, observe.AppProcess} {
				ids = append(ids, observe.SocketPointID(s.names.node, netns, string(process)))
			}
		}
	}
	for key, p := range s.processes {
		if old(p.seen) {
			delete(s.processes, key)
			ids = append(ids, observe.SocketPointID(s.names.node, key.netns, key.name))
		}
	}
	for netns, seen := range s.unnamed {
		if old(seen) {
			delete(s.unnamed, netns)
		}
	}
	return ids
}
