// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"sync"
	"time"

	"github.com/layertrace/layertrace/agent/internal/iface"
	"github.com/layertrace/layertrace/internal/observe"
)

// table knows the capture points by interface index. An interface that went
// stays for a while: exchanges that were open then are still to come.
type table struct {
	names   naming
	linger  time.Duration
	sockets *socketNames

	mu      sync.Mutex
	entries map[int]*entry
}

type entry struct {
	iface iface.Interface
	point *observe.Point // of the last observation, shared by those that follow
	gone  time.Time      // zero: still there
}

func newTable(names naming, linger time.Duration, sidecarUID uint32) *table {
	return &table{names: names, linger: linger, sockets: newSocketNames(names, sidecarUID), entries: map[int]*entry{}}
}

// put adds an interface or replaces what is known of it.
func (t *table) put(i iface.Interface) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.entries[i.Index] = &entry{iface: i}
	t.names.came(i)
}

// leave marks an interface as gone.
func (t *table) leave(index int) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if e, ok := t.entries[index]; ok {
		e.gone = time.Now()
		t.names.went(index)
	}
}

// resolve sets the capture point of an observation, with its workload at that
// time. It returns false for an interface that was never selected.
func (t *table) resolve(o *observe.Observation) bool {
	if o.Socket != nil {
		o.Point = t.sockets.point(o)
		return true
	}
	t.mu.Lock()
	e, ok := t.entries[o.Interface]
	var i iface.Interface
	if ok {
		i = e.iface
	}
	t.mu.Unlock()
	if !ok {
		return false
	}
	p := observe.Point{
		ID: observe.InterfacePointID(t.names.node, o.Interface), Kind: observe.Kind(i.Role),
		Node: t.names.node, Interface: i.Name,
	}
	if i.Role == iface.VNIC {
		p.Workload = t.names.behind(i, o)
	}
	e.point = shared(e.point, p)
	o.Point = e.point
	return true
}

// shared returns the point that is there if it is the same, so that observations
// of a point share one.
func shared(old *observe.Point, p observe.Point) *observe.Point {
	if old != nil && *old == p {
		return old
	}
	return &p
}

// unsettled reports whether the names of an exchange may be known soon.
func (t *table) unsettled(x *observe.Observation) bool {
	if x.Socket != nil {
		return t.sockets.unsettled(x)
	}
	return t.names.unsettled(x.Interface)
}

// purge forgets interfaces that went, and pods whose sockets were seen, longer
// ago than linger and returns the IDs of their points.
func (t *table) purge(now time.Time) (ids []string) {
	ids = t.sockets.purge(now.Add(-t.linger))
	t.mu.Lock()
	defer t.mu.Unlock()
	for index, e := range t.entries {
		if !e.gone.IsZero() && now.Sub(e.gone) > t.linger {
			delete(t.entries, index)
			t.names.forgotten(index)
			ids = append(ids, observe.InterfacePointID(t.names.node, index))
		}
	}
	return ids
}
