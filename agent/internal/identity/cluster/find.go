// SPDX-License-Identifier: Apache-2.0

package cluster

import "github.com/layertrace/layertrace/agent/internal/identity/behind"

// find looks behind interfaces by one finder after the other, and goes on with
// those where it found no pod or several.
func (l *links) find(wanted []int) {
	for _, finder := range l.finders {
		if len(wanted) == 0 {
			return
		}
		found, err := finder.Find(l.netlink, wanted)
		if err != nil {
			l.failures.Add(1)
			l.log.Debug("cannot tell all pods of interfaces", "error", err)
		}
		var left []int
		for _, ifindex := range wanted {
			if e := found[ifindex]; e == nil || !l.take(ifindex, e, finder.Name) {
				left = append(left, ifindex)
			}
		}
		wanted = left
	}
}

// take binds an interface to the one pod of this node that the evidence names.
// It reports false when there is none, or more than one.
func (l *links) take(ifindex int, e *behind.Evidence, by string) bool {
	now := l.index.now()
	l.mu.Lock()
	defer l.mu.Unlock()
	k := l.known[ifindex]
	if k == nil || k.gone {
		return true
	}
	pods := map[string]*pod{} // by UID
	add := func(p *pod) {
		if p != nil && p.local && !k.youngerThanEnd(p) {
			pods[p.workload.PodUID] = p
		}
	}
	for _, addr := range e.Addresses {
		add(l.index.holder(addr, now))
	}
	for _, uid := range e.PodUIDs {
		add(l.index.ofUID(uid))
	}
	for _, p := range pods {
		if len(pods) == 1 {
			k.pod, k.by = p, by
			return true
		}
	}
	if len(pods) > 1 && k.pod == nil {
		k.by = ambiguous
	}
	return false
}

// youngerThanEnd reports whether the interface came after the pod was deleted.
// It cannot be the pod's then: a new pod has its address already, and the
// cluster does not say so yet.
func (k *link) youngerThanEnd(p *pod) bool {
	return p.ending != 0 && p.ending != always && k.since > p.ending
}
