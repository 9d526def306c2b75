// SPDX-License-Identifier: Apache-2.0

package identity

import (
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"time"
	"unique"

	core "k8s.io/api/core/v1"
	"k8s.io/client-go/tools/cache"

	"github.com/layertrace/layertrace/internal/observe"
)

// podStore writes the pods that one reflector reads into the index, which
// keeps the only copy. It is a cache.TransformingStore.
type podStore struct {
	index   *podIndex
	local   bool   // this node's pods, or all others
	changed func() // called after each change
	synced  atomic.Bool
}

var _ cache.TransformingStore = (*podStore)(nil)

// Transformer implements cache.TransformingStore for lists.
func (s *podStore) Transformer() cache.TransformFunc { return trimPod }

// Add implements cache.Store for a new pod.
func (s *podStore) Add(object any) error {
	if r := recordOf(object); r != nil {
		s.index.put(r, s.local, false)
		s.changed()
	}
	return nil
}

// Update implements cache.Store for a changed pod.
func (s *podStore) Update(object any) error { return s.Add(object) }

// Delete implements cache.Store for a pod that is gone or no longer selected.
func (s *podStore) Delete(object any) error {
	if r := recordOf(object); r != nil {
		s.index.remove(r.pod.workload.PodUID)
		s.changed()
	}
	return nil
}

// Replace implements cache.Store for a full list: the first one, or the one
// after a broken watch. Pods that are not in it are gone.
func (s *podStore) Replace(objects []any, _ string) error {
	listed := make(map[string]bool, len(objects))
	for _, object := range objects {
		if r := recordOf(object); r != nil {
			listed[r.pod.workload.PodUID] = true
		}
	}
	for _, uid := range s.index.uids(s.local) {
		if !listed[uid] {
			s.index.remove(uid)
		}
	}
	first := !s.synced.Load()
	for _, object := range objects {
		if r := recordOf(object); r != nil {
			s.index.put(r, s.local, first)
		}
	}
	s.synced.Store(true)
	s.changed()
	return nil
}

// Resync implements cache.Store. Nothing is derived from the pods later.
func (s *podStore) Resync() error { return nil }

// recordOf accepts the objects of both a list and a watch.
func recordOf(object any) *podRecord {
	switch object := object.(type) {
	case *podRecord:
		return object
	case *core.Pod:
		return newPodRecord(object)
	}
	return nil
}

// podIndex finds the cluster's pods by UID and by address, former owners of an
// address included, and nodes by address. Times are ns of CLOCK_MONOTONIC.
type podIndex struct {
	now       func() uint64
	retention uint64 // how long the former owner of an address is kept

	mu      sync.RWMutex
	pods    map[string]*pod        // by UID
	tenures map[netip.Addr]*tenure // the latest one
	nodes   map[string]*node
	hosts   map[netip.Addr]string // a node's address -> its name
	changes uint64                // of this node's pods
}

// tenure is the time during which a pod owned an address.
type tenure struct {
	pod         *pod
	from, until uint64 // until is 0 while it lasts
	previous    *tenure
}

// statusLag bounds the time between a pod's first packet and its address being
// known: the kubelet writes it to the pod's status once the sandbox is up.
const statusLag = uint64(30 * time.Second)

// endedBefore is pod.ending of a pod that was deleted at an unknown time before
// the first list.
const endedBefore = ^uint64(0)

func newPodIndex(retention time.Duration, now func() uint64) *podIndex {
	return &podIndex{
		now: now, retention: uint64(retention), pods: map[string]*pod{}, tenures: map[netip.Addr]*tenure{},
		nodes: map[string]*node{}, hosts: map[netip.Addr]string{},
	}
}

// put adds or updates a pod and takes ownership of the record. A pod of the
// first list had its addresses before now.
func (x *podIndex) put(r *podRecord, local, first bool) {
	uid := r.pod.workload.PodUID
	if r.terminated {
		x.remove(uid)
		return
	}
	x.mu.Lock()
	defer x.mu.Unlock()
	now, old := x.now(), x.pods[uid]
	kept := r.pod
	kept.local, kept.ending = local, endingSince(r, old, first, now)
	x.pods[uid] = kept
	if old == nil {
		x.addToNode(kept.workload.Node)
	}
	x.setNode(kept.workload.Node, r.hosts)
	if old == nil || !slices.Equal(old.addresses, kept.addresses) || old.ending != kept.ending || old.workload != kept.workload {
		x.countChange(kept)
	}
	if old != nil {
		for _, addr := range old.addresses {
			if !slices.Contains(kept.addresses, addr) {
				x.release(addr, uid, now)
			}
		}
	}
	from := now
	if first {
		from = 0
	}
	for _, addr := range kept.addresses {
		x.assign(addr, kept, from, now)
	}
}

// endingSince returns when the deletion of a pod was first seen.
func endingSince(r *podRecord, old *pod, first bool, now uint64) uint64 {
	switch {
	case !r.deleted:
		return 0
	case old != nil && old.ending != 0:
		return old.ending
	case first:
		return endedBefore
	default:
		return now
	}
}

// remove removes a pod. Its tenures stay until they are purged.
func (x *podIndex) remove(uid string) {
	x.mu.Lock()
	defer x.mu.Unlock()
	p, ok := x.pods[uid]
	if !ok {
		return
	}
	delete(x.pods, uid)
	x.removeFromNode(p.workload.Node)
	x.countChange(p)
	now := x.now()
	for _, addr := range p.addresses {
		x.release(addr, uid, now)
	}
}

// assign gives an address to a pod and ends the tenure of another owner.
func (x *podIndex) assign(addr netip.Addr, p *pod, from, now uint64) {
	last := x.tenures[addr]
	switch {
	case last == nil:
	case last.until != 0:
	case last.pod.workload.PodUID == p.workload.PodUID:
		last.pod = p // an update
		return
	default:
		last.until = now
	}
	x.tenures[addr] = &tenure{pod: p, from: from, previous: last}
}

// release ends the tenure of an address if the pod has it.
func (x *podIndex) release(addr netip.Addr, uid string, now uint64) {
	if t := x.tenures[addr]; t != nil && t.until == 0 && t.pod.workload.PodUID == uid {
		t.until = now
	}
}

// countChange counts a change of this node's pods.
func (x *podIndex) countChange(p *pod) {
	if p.local {
		x.changes++
	}
}

// purge removes tenures that ended before any exchange still to come.
func (x *podIndex) purge() {
	x.mu.Lock()
	defer x.mu.Unlock()
	now := x.now()
	for addr, last := range x.tenures {
		if last.until != 0 && now-last.until > x.retention {
			delete(x.tenures, addr)
			continue
		}
		for t := last; t.previous != nil; t = t.previous {
			if now-t.previous.until > x.retention {
				t.previous = nil
				break
			}
		}
	}
}

// ownerAt returns the pod that owned an address at a time, else the one that
// was found to own it soon after.
func (x *podIndex) ownerAt(addr netip.Addr, at uint64) *pod {
	x.mu.RLock()
	defer x.mu.RUnlock()
	return x.ownerAtLocked(addr.Unmap(), at)
}

func (x *podIndex) ownerAtLocked(addr netip.Addr, at uint64) *pod {
	var later *tenure
	for t := x.tenures[addr]; t != nil; t = t.previous {
		if t.from <= at {
			if t.until == 0 || at < t.until {
				return t.pod
			}
			break
		}
		later = t
	}
	if later != nil && later.from-at < statusLag {
		return later.pod
	}
	return nil
}

// peer returns the workload that owned an address at a time, else the node
// that has the address.
func (x *podIndex) peer(addr netip.Addr, at uint64) (observe.Workload, bool) {
	addr = addr.Unmap()
	x.mu.RLock()
	defer x.mu.RUnlock()
	if p := x.ownerAtLocked(addr, at); p != nil {
		return p.workload, true
	}
	name, ok := x.hosts[addr]
	return observe.Workload{Node: name}, ok
}

// byUID returns a present pod.
func (x *podIndex) byUID(uid string) *pod {
	x.mu.RLock()
	defer x.mu.RUnlock()
	return x.pods[uid]
}

// version changes with each change of this node's pods.
func (x *podIndex) version() uint64 {
	x.mu.RLock()
	defer x.mu.RUnlock()
	return x.changes
}

// uids returns the pods of this node, or of all others.
func (x *podIndex) uids(local bool) []string {
	x.mu.RLock()
	defer x.mu.RUnlock()
	var uids []string
	for uid, p := range x.pods {
		if p.local == local {
			uids = append(uids, uid)
		}
	}
	return uids
}

// count returns the number of pods here and elsewhere, and of nodes.
func (x *podIndex) count() (local, remote, nodes int) {
	x.mu.RLock()
	defer x.mu.RUnlock()
	for _, p := range x.pods {
		if p.local {
			local++
		}
	}
	return local, len(x.pods) - local, len(x.nodes)
}

// node is a node of the cluster. Its addresses come from the status of its
// pods, which are read anyway: Node objects are large, change every few
// minutes, and would need a further permission. A node is removed with its
// last pod. Callers of the methods below hold the lock.
type node struct {
	addresses []netip.Addr
	pods      int
}

// addToNode counts a new pod.
func (x *podIndex) addToNode(name string) {
	if name == "" {
		return
	}
	n := x.nodes[name]
	if n == nil {
		n = &node{}
		x.nodes[unique.Make(name).Value()] = n
	}
	n.pods++
}

// setNode updates a node's addresses, which a pod's status contains as soon as
// the kubelet has written it once.
func (x *podIndex) setNode(name string, addresses []netip.Addr) {
	n := x.nodes[name]
	if n == nil {
		return
	}
	if len(addresses) == 0 || slices.Equal(addresses, n.addresses) {
		return
	}
	x.forgetHosts(name, n)
	n.addresses = addresses
	for _, addr := range addresses {
		x.hosts[addr] = unique.Make(name).Value()
	}
}

func (x *podIndex) removeFromNode(name string) {
	n := x.nodes[name]
	if n == nil {
		return
	}
	if n.pods--; n.pods == 0 {
		x.forgetHosts(name, n)
		delete(x.nodes, name)
	}
}

func (x *podIndex) forgetHosts(name string, n *node) {
	for _, addr := range n.addresses {
		if x.hosts[addr] == name {
			delete(x.hosts, addr)
		}
	}
}
