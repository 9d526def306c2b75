// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"sync"
	"time"

	"github.com/layertrace/layertrace/agent/internal/iface"
	"github.com/layertrace/layertrace/agent/internal/span"
	"github.com/layertrace/layertrace/internal/exchange"
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
	gone  time.Time // zero: still there
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

// point returns the capture point of an exchange with its workload then. known
// is false for an interface that was never selected.
func (t *table) point(x *exchange.Exchange) (p span.Point, known bool) {
	if x.Socket != nil {
		return t.sockets.point(x), true
	}
	index := x.Interface
	t.mu.Lock()
	e, ok := t.entries[index]
	var i iface.Interface
	if ok {
		i = e.iface
	}
	t.mu.Unlock()
	if !ok {
		return span.Point{}, false
	}
	p = span.Point{ID: span.PointID(t.names.node, index), Node: t.names.node, Interface: i}
	if i.Kind == iface.VNIC {
		p.Workload = t.names.behind(i, x)
	}
	return p, true
}

// unsettled reports whether the names of an exchange may be known soon.
func (t *table) unsettled(x *exchange.Exchange) bool {
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
			ids = append(ids, span.PointID(t.names.node, index))
		}
	}
	return ids
}
