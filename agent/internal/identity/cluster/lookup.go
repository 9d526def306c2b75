// SPDX-License-Identifier: Apache-2.0

package cluster

import (
	"net/netip"

	"github.com/layertrace/layertrace/internal/observe"
)

// holder returns the pod that had an address at a time: the one known to have
// had it then, else the one that was seen to have it soon after.
func (x *index) holder(addr netip.Addr, at uint64) *pod {
	x.mu.RLock()
	defer x.mu.RUnlock()
	return x.holderLocked(addr.Unmap(), at)
}

func (x *index) holderLocked(addr netip.Addr, at uint64) *pod {
	var later *holding
	for h := x.held[addr]; h != nil; h = h.before {
		if h.from <= at {
			if h.until == 0 || at < h.until {
				return h.pod
			}
			break
		}
		later = h
	}
	if later != nil && later.from-at < statusLag {
		return later.pod
	}
	return nil
}

// peer returns the workload that had an address, or the node that has it.
func (x *index) peer(addr netip.Addr, at uint64) (observe.Workload, bool) {
	addr = addr.Unmap()
	x.mu.RLock()
	defer x.mu.RUnlock()
	if p := x.holderLocked(addr, at); p != nil {
		return p.workload, true
	}
	name, ok := x.hosts[addr]
	return observe.Workload{Node: name}, ok
}

// ofUID returns a pod that is there.
func (x *index) ofUID(uid string) *pod {
	x.mu.RLock()
	defer x.mu.RUnlock()
	return x.pods[uid]
}

// version changes when this node's pods do.
func (x *index) version() uint64 {
	x.mu.RLock()
	defer x.mu.RUnlock()
	return x.changes
}

// uids are the pods on this node, or on all others.
func (x *index) uids(local bool) []string {
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

// count returns how many pods are known here and elsewhere, and nodes.
func (x *index) count() (local, remote, nodes int) {
	x.mu.RLock()
	defer x.mu.RUnlock()
	for _, p := range x.pods {
		if p.local {
			local++
		}
	}
	return local, len(x.pods) - local, len(x.nodes)
}
