// SPDX-License-Identifier: Apache-2.0

package identity

import (
	"context"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/vishvananda/netlink"

	"github.com/layertrace/layertrace/internal/observe"
)

const (
	// searchPause is the minimum time between two searches.
	searchPause = 100 * time.Millisecond
	// searchInterval is the time between two searches while an interface is
	// young and has no pod: its route or neighbour entry can appear any time.
	searchInterval = time.Second
	// youth is how long an interface is young. After that, it is the time
	// between two searches.
	youth = time.Minute
)

// ifaceOwners finds and keeps the pod of each tracked interface. An interface
// keeps its pod after the pod is gone: earlier exchanges are still to come.
type ifaceOwners struct {
	index   *podIndex
	netlink *netlink.Handle // used by run's goroutine only
	finders []peerFinder
	log     *slog.Logger
	wake    chan struct{}

	mu     sync.RWMutex
	ifaces map[int]*iface

	failures, byTraffic atomic.Uint64
}

// iface is a tracked interface.
type iface struct {
	since uint64 // when it appeared
	gone  bool
	pod   *pod   // nil: not found
	by    string // the finder that found it, or ambiguous
}

// ambiguous takes the place of the finder's name when several pods match.
const ambiguous = "ambiguous"

func newIfaceOwners(index *podIndex, nl *netlink.Handle, log *slog.Logger) *ifaceOwners {
	return &ifaceOwners{index: index, netlink: nl, finders: peerFinders(), log: log, wake: make(chan struct{}, 1), ifaces: map[int]*iface{}}
}

func (o *ifaceOwners) track(ifindex int) {
	o.mu.Lock()
	if o.ifaces[ifindex] == nil || o.ifaces[ifindex].gone {
		o.ifaces[ifindex] = &iface{since: o.index.now()}
	}
	o.mu.Unlock()
	o.search()
}

func (o *ifaceOwners) leave(ifindex int) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if i := o.ifaces[ifindex]; i != nil {
		i.gone = true
	}
}

func (o *ifaceOwners) forget(ifindex int) {
	o.mu.Lock()
	defer o.mu.Unlock()
	delete(o.ifaces, ifindex)
}

// owner returns the pod of an interface. Without evidence from the kernel,
// traffic decides: at a pod's interface, one end of each connection is the pod.
func (o *ifaceOwners) owner(l Lookup) (observe.Workload, bool) {
	o.mu.RLock()
	i := o.ifaces[l.Index]
	var found iface
	if i != nil {
		found = *i
	}
	o.mu.RUnlock()
	if found.pod != nil {
		return found.pod.workload, true
	}
	if i == nil || !l.Address.IsValid() {
		return observe.Workload{}, false
	}
	p := o.index.ownerAt(l.Address, l.At)
	if p == nil || !p.local {
		return observe.Workload{}, false
	}
	o.byTraffic.Add(1)
	return p.workload, true
}

// mayChange reports whether a young interface has no pod yet.
func (o *ifaceOwners) mayChange(ifindex int, now uint64) bool {
	o.mu.RLock()
	defer o.mu.RUnlock()
	i := o.ifaces[ifindex]
	return i != nil && !i.gone && i.pod == nil && now-i.since < settleTime
}

// search makes run search soon.
func (o *ifaceOwners) search() {
	select {
	case o.wake <- struct{}{}:
	default: // requested already
	}
}

// run searches when interfaces or this node's pods change, and periodically
// while interfaces without a pod remain.
func (o *ifaceOwners) run(ctx context.Context) {
	ticker := time.NewTicker(searchInterval)
	defer ticker.Stop()
	var version, last uint64
	for {
		select {
		case <-ctx.Done():
			return
		case <-o.wake:
		case <-ticker.C:
		}
		now, changed := o.index.now(), o.index.version()
		aged := now-last > uint64(youth)
		if wanted := o.wanted(changed != version, aged, now); len(wanted) > 0 {
			o.find(wanted)
			version = changed
		}
		if aged {
			last = now
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(searchPause):
		}
	}
}

// wanted returns the interfaces to search: all after pods changed, as an
// address may have a new owner, else those without a pod.
func (o *ifaceOwners) wanted(all, aged bool, now uint64) []int {
	o.mu.RLock()
	defer o.mu.RUnlock()
	var wanted []int
	for ifindex, i := range o.ifaces {
		if !i.gone && (all || i.pod == nil && (aged || now-i.since < uint64(youth))) {
			wanted = append(wanted, ifindex)
		}
	}
	return wanted
}

// find runs one finder after the other on the interfaces for which the ones
// before it found no pod, or several.
func (o *ifaceOwners) find(wanted []int) {
	for _, finder := range o.finders {
		if len(wanted) == 0 {
			return
		}
		found, err := finder.peers(o.netlink, wanted)
		if err != nil {
			o.failures.Add(1)
			o.log.Debug("cannot find the pods of all interfaces", "error", err)
		}
		var left []int
		for _, ifindex := range wanted {
			if e := found[ifindex]; e == nil || !o.bind(ifindex, e, finder.name) {
				left = append(left, ifindex)
			}
		}
		wanted = left
	}
}

// bind binds an interface to the one local pod that the evidence identifies. It
// returns false if there is none, or more than one.
func (o *ifaceOwners) bind(ifindex int, e *peerEvidence, by string) bool {
	now := o.index.now()
	o.mu.Lock()
	defer o.mu.Unlock()
	i := o.ifaces[ifindex]
	if i == nil || i.gone {
		return true
	}
	pods := map[string]*pod{} // by UID
	add := func(p *pod) {
		if p != nil && p.local && !i.youngerThanEnd(p) {
			pods[p.workload.PodUID] = p
		}
	}
	for _, addr := range e.addresses {
		add(o.index.ownerAt(addr, now))
	}
	for _, uid := range e.podUIDs {
		add(o.index.byUID(uid))
	}
	for _, p := range pods {
		if len(pods) == 1 {
			i.pod, i.by = p, by
			return true
		}
	}
	if len(pods) > 1 && i.pod == nil {
		i.by = ambiguous
	}
	return false
}

// youngerThanEnd reports whether the interface appeared after the pod's
// deletion. It then belongs to a new pod that has reused the address, before
// the cluster reports that.
func (i *iface) youngerThanEnd(p *pod) bool {
	return p.ending != 0 && p.ending != endedBefore && i.since > p.ending
}

// count returns the number of interfaces by finder; unknown: no pod was found.
func (o *ifaceOwners) count() map[string]int {
	counts := map[string]int{"unknown": 0, ambiguous: 0}
	for _, f := range o.finders {
		counts[f.name] = 0
	}
	o.mu.RLock()
	defer o.mu.RUnlock()
	for _, i := range o.ifaces {
		switch {
		case i.gone:
		case i.by == "":
			counts["unknown"]++
		default:
			counts[i.by]++
		}
	}
	return counts
}
