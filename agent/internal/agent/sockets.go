// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"time"

	"github.com/layertrace/layertrace/internal/observe"
)

// socketNames knows the pods of network namespaces. A socket tells its
// namespace; the pod's address tells whose that is, and stands at one end of
// most of its connections. What is learned from these holds for the pod's
// loopback connections too. It is for one goroutine.
type socketNames struct {
	names      naming
	sidecarUID uint32
	pods       map[uint32]*podOf
	points     map[socketKey]*observe.Point // of the last observations
}

// podOf is who has a network namespace.
type podOf struct {
	workload observe.Workload
	seen     time.Time
}

type socketKey struct {
	netns   uint32
	process observe.Process
}

func newSocketNames(names naming, sidecarUID uint32) *socketNames {
	return &socketNames{names: names, sidecarUID: sidecarUID, pods: map[uint32]*podOf{}, points: map[socketKey]*observe.Point{}}
}

// point returns the capture point of an exchange at a socket: all sockets of
// one process in one pod are one point.
func (s *socketNames) point(x *observe.Observation) *observe.Point {
	s.learn(x)
	process := observe.AppProcess
	if x.Socket.UID == s.sidecarUID {
		process = observe.Sidecar
	}
	p := observe.Point{
		ID:   observe.SocketPointID(s.names.node, x.Socket.Netns, process),
		Kind: observe.KindSocket, Node: s.names.node, Process: process,
	}
	if pod := s.pods[x.Socket.Netns]; pod != nil {
		p.Workload = pod.workload
	}
	key := socketKey{x.Socket.Netns, process}
	s.points[key] = shared(s.points[key], p)
	return s.points[key]
}

// unsettled reports whether the pod may be known soon, from another of its
// connections.
func (s *socketNames) unsettled(x *observe.Observation) bool {
	s.learn(x)
	return s.pods[x.Socket.Netns] == nil
}

// learn takes from an exchange who has its socket's namespace.
func (s *socketNames) learn(x *observe.Observation) {
	if pod := s.pods[x.Socket.Netns]; pod != nil && isLoopback(x) {
		pod.seen = time.Now()
		return
	}
	own, other := x.Server, x.Client
	if x.Socket.Client {
		own, other = other, own
	}
	addr := own.Addr()
	if addr.IsLoopback() { // and so is the other end in the same namespace
		addr = other.Addr()
	}
	if x.Socket.Netns == 0 || addr.IsLoopback() {
		return
	}
	w, known := s.names.Peer(addr, x.Request.First)
	if known && w.Service != "" && (w.Node == "" || w.Node == s.names.node) {
		s.pods[x.Socket.Netns] = &podOf{workload: w, seen: time.Now()}
	}
}

func isLoopback(x *observe.Observation) bool {
	return x.Client.Addr().IsLoopback() && x.Server.Addr().IsLoopback()
}

// purge forgets namespaces without an exchange since then, and returns the IDs
// of their points: the kernel gives their numbers to others.
func (s *socketNames) purge(then time.Time) (ids []string) {
	for netns, pod := range s.pods {
		if pod.seen.Before(then) {
			delete(s.pods, netns)
			for _, process := range []observe.Process{observe.Sidecar, observe.AppProcess} {
				delete(s.points, socketKey{netns, process})
				ids = append(ids, observe.SocketPointID(s.names.node, netns, process))
			}
		}
	}
	return ids
}
