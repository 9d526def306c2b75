// SPDX-License-Identifier: Apache-2.0

package cluster

import (
	"net/netip"
	"slices"
	"sync"
	"time"
)

// always is the time, as pod.ending, of a pod that was being deleted before
// anything was known.
const always = ^uint64(0)

// statusLag is how long after a pod's first packet its address can become
// known: the kubelet writes it into the pod's status when its sandbox is up.
const statusLag = uint64(30 * time.Second)

// index knows the pods of the cluster by UID and by address, who had an
// address before, and the nodes' addresses. Times are ns of CLOCK_MONOTONIC.
type index struct {
	now    func() uint64
	linger uint64 // how long a former holder of an address is remembered

	mu      sync.RWMutex
	pods    map[string]*pod         // by UID
	held    map[netip.Addr]*holding // the last holder
	nodes   map[string]*node
	hosts   map[netip.Addr]string // a node's address -> its name
	changes uint64                // of this node's pods
}

// holding is the time in which a pod had an address.
type holding struct {
	pod         *pod
	from, until uint64 // until is 0 while it has it
	before      *holding
}

// node counts the pods of a node, from whose status its addresses are: a node
// whose last pod goes is forgotten.
type node struct {
	addresses []netip.Addr
	pods      int
}

func newIndex(linger time.Duration, now func() uint64) *index {
	return &index{
		now: now, linger: uint64(linger), pods: map[string]*pod{}, held: map[netip.Addr]*holding{},
		nodes: map[string]*node{}, hosts: map[netip.Addr]string{},
	}
}

// put adds a pod or takes over what changed; the record is its own from then on. first tells that it is of the
// first list: it had its addresses before.
func (x *index) put(r *record, local, first bool) {
	uid := r.pod.workload.PodUID
	if r.over {
		x.remove(uid)
		return
	}
	x.mu.Lock()
	defer x.mu.Unlock()
	now, old := x.now(), x.pods[uid]
	kept := r.pod
	kept.local, kept.ending = local, ending(r, old, first, now)
	x.pods[uid] = kept
	if old == nil {
		x.addToNode(kept.workload.Node)
	}
	x.setNode(kept.workload.Node, r.hosts)
	if old == nil || !slices.Equal(old.addresses, kept.addresses) || old.ending != kept.ending || old.workload != kept.workload {
		x.note(kept)
	}
	if old != nil {
		for _, addr := range old.addresses {
			if !slices.Contains(kept.addresses, addr) {
				x.end(addr, uid, now)
			}
		}
	}
	from := now
	if first {
		from = 0
	}
	for _, addr := range kept.addresses {
		x.hold(addr, kept, from, now)
	}
}

// ending is since when a pod is known to have been told to end.
func ending(r *record, old *pod, first bool, now uint64) uint64 {
	switch {
	case !r.deleted:
		return 0
	case old != nil && old.ending != 0:
		return old.ending
	case first:
		return always
	default:
		return now
	}
}

// hold lets a pod have an address. Another pod that had it so far has it no more.
func (x *index) hold(addr netip.Addr, p *pod, from, now uint64) {
	last := x.held[addr]
	switch {
	case last == nil:
	case last.until != 0:
	case last.pod.workload.PodUID == p.workload.PodUID:
		last.pod = p // what is known of it may have changed
		return
	default:
		last.until = now
	}
	x.held[addr] = &holding{pod: p, from: from, before: last}
}

// remove forgets a pod; who asks for earlier times still gets it for a while.
func (x *index) remove(uid string) {
	x.mu.Lock()
	defer x.mu.Unlock()
	p, ok := x.pods[uid]
	if !ok {
		return
	}
	delete(x.pods, uid)
	x.removeFromNode(p.workload.Node)
	x.note(p)
	now := x.now()
	for _, addr := range p.addresses {
		x.end(addr, uid, now)
	}
}

func (x *index) end(addr netip.Addr, uid string, now uint64) {
	if h := x.held[addr]; h != nil && h.until == 0 && h.pod.workload.PodUID == uid {
		h.until = now
	}
}

// note counts a change of this node's pods.
func (x *index) note(p *pod) {
	if p.local {
		x.changes++
	}
}

// purge forgets who had an address longer ago than anybody asks for.
func (x *index) purge() {
	x.mu.Lock()
	defer x.mu.Unlock()
	now := x.now()
	for addr, last := range x.held {
		if last.until != 0 && now-last.until > x.linger {
			delete(x.held, addr)
			continue
		}
		for h := last; h.before != nil; h = h.before {
			if now-h.before.until > x.linger {
				h.before = nil
				break
			}
		}
	}
}
