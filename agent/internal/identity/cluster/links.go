// SPDX-License-Identifier: Apache-2.0

package cluster

import (
	"context"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/vishvananda/netlink"

	"github.com/layertrace/layertrace/agent/internal/identity"
	"github.com/layertrace/layertrace/agent/internal/identity/behind"
	"github.com/layertrace/layertrace/internal/observe"
)

const (
	// lookPause is the least time between two looks behind the interfaces.
	lookPause = 100 * time.Millisecond
	// lookInterval is the time between two looks while an interface is young
	// and its pod not found: a route or neighbour can come any time.
	lookInterval = time.Second
	// youth is how long an interface is young, and then the time between two looks.
	youth = time.Minute
)

// links knows which pod each interface belongs to. An interface keeps its pod
// when the pod goes: exchanges that began before are still to come.
type links struct {
	index   *index
	netlink *netlink.Handle // for run's goroutine alone
	finders []behind.Finder
	log     *slog.Logger
	wake    chan struct{}

	mu    sync.RWMutex
	known map[int]*link

	failures, byTraffic atomic.Uint64
}

type link struct {
	since uint64 // when it came
	gone  bool
	pod   *pod   // nil: not found
	by    string // the finder that found it; ambiguous: several pods are behind
}

// ambiguous stands for a finder where there are several pods behind a link.
const ambiguous = "ambiguous"

func newLinks(index *index, nl *netlink.Handle, log *slog.Logger) *links {
	return &links{index: index, netlink: nl, finders: behind.Finders(), log: log, wake: make(chan struct{}, 1), known: map[int]*link{}}
}

func (l *links) track(ifindex int) {
	l.mu.Lock()
	if l.known[ifindex] == nil || l.known[ifindex].gone {
		l.known[ifindex] = &link{since: l.index.now()}
	}
	l.mu.Unlock()
	l.look()
}

func (l *links) leave(ifindex int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if k := l.known[ifindex]; k != nil {
		k.gone = true
	}
}

func (l *links) forget(ifindex int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	delete(l.known, ifindex)
}

func (l *links) unsettled(ifindex int, now uint64) bool {
	l.mu.RLock()
	defer l.mu.RUnlock()
	k := l.known[ifindex]
	return k != nil && !k.gone && k.pod == nil && now-k.since < settling
}

// behind answers for an interface. Where the kernel tells nothing, the packets
// do: at a pod's interface, one end of each connection is the pod.
func (l *links) behind(sight identity.Sight) (observe.Workload, bool) {
	l.mu.RLock()
	k := l.known[sight.Index]
	var found link
	if k != nil {
		found = *k
	}
	l.mu.RUnlock()
	if found.pod != nil {
		return found.pod.workload, true
	}
	if k == nil || !sight.Address.IsValid() {
		return observe.Workload{}, false
	}
	p := l.index.holder(sight.Address, sight.At)
	if p == nil || !p.local {
		return observe.Workload{}, false
	}
	l.byTraffic.Add(1)
	return p.workload, true
}

// look asks run to look behind the interfaces soon.
func (l *links) look() {
	select {
	case l.wake <- struct{}{}:
	default: // it will anyhow
	}
}

// run looks behind the interfaces when they or this node's pods change, and
// from time to time as long as some are without a pod.
func (l *links) run(ctx context.Context) {
	ticker := time.NewTicker(lookInterval)
	defer ticker.Stop()
	var version, last uint64
	for {
		select {
		case <-ctx.Done():
			return
		case <-l.wake:
		case <-ticker.C:
		}
		now, changed := l.index.now(), l.index.version()
		aged := now-last > uint64(youth)
		if wanted := l.wanted(changed != version, aged, now); len(wanted) > 0 {
			l.find(wanted)
			version = changed
		}
		if aged {
			last = now
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(lookPause):
		}
	}
}

// wanted returns the interfaces to look behind: all when pods changed, as an
// address may be another pod's now; else those without a pod.
func (l *links) wanted(all, aged bool, now uint64) []int {
	l.mu.RLock()
	defer l.mu.RUnlock()
	var wanted []int
	for ifindex, k := range l.known {
		if !k.gone && (all || k.pod == nil && (aged || now-k.since < uint64(youth))) {
			wanted = append(wanted, ifindex)
		}
	}
	return wanted
}
