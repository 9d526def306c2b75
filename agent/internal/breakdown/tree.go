// SPDX-License-Identifier: Apache-2.0

// Package breakdown finds out where the time of a request went. It takes the
// observations of one trace, orders them into hops, one for each request on a TCP
// connection, and splits the time of each hop into segments of one layer each.
//
// Only durations at one point and differences between points of one node are
// used; clocks of different nodes are never subtracted.
package breakdown

import (
	"cmp"
	"slices"

	"go.opentelemetry.io/otel/trace"

	"github.com/layertrace/layertrace/internal/observe"
)

// Tree is the hops of a trace, each below the one that it was made for.
type Tree struct {
	// Roots, the one that took longest first.
	Roots []*Hop
	// Hops are all, each behind its parent and in the order of their starts.
	Hops []*Hop
}

// Split orders the observations of one trace into a tree of hops and splits the
// time of each into segments. parents tells the parent of spans that others made
// (nil: not known); it is needed only between requests of one trace are handled
// by a process at the same time.
func Split(observations []observe.Observation, parents map[trace.SpanID]trace.SpanID) *Tree {
	hops := Hops(observations)
	t := &Tree{}
	for _, l := range hops {
		if p := findParent(l, hops, parents); p != nil {
			l.Parent = p
			p.Children = append(p.Children, l)
		} else {
			t.Roots = append(t.Roots, l)
		}
	}
	for _, l := range hops {
		slices.SortStableFunc(l.Children, func(a, b *Hop) int {
			return cmp.Compare(a.clientPeriod().start, b.clientPeriod().start)
		})
	}
	for i, root := range t.Roots {
		root.split(root.wall() - t.Roots[0].wall())
		root.OnCriticalPath = i == 0
	}
	slices.SortStableFunc(t.Roots, func(a, b *Hop) int { return cmp.Compare(b.Total, a.Total) })
	for i, root := range t.Roots {
		root.OnCriticalPath = i == 0
		if i > 0 {
			root.Notes = append(root.Notes, "the request that it was made for was not seen: its time is segment of another hop's")
		}
		t.add(root)
	}
	return t
}

func (t *Tree) add(l *Hop) {
	t.Hops = append(t.Hops, l)
	for _, child := range l.Children {
		child.OnCriticalPath = child.OnCriticalPath && l.OnCriticalPath
		t.add(child)
	}
}

// period is a time on the clock of a node, at one end of a hop.
type period struct {
	start, end uint64
	point      *observe.Observation // nil: not known
}

// clientPeriod is when the hop's sender critical, as near to it as was seen.
func (l *Hop) clientPeriod() period {
	for _, s := range []*observe.Observation{l.Sender, l.ClientVNIC} {
		if s != nil {
			i := period{notBefore(s.Request.App.Last, 0), max(s.Response.App.Last, s.Response.Tx.Last), s}
			if i.start == 0 {
				i.start = s.Request.Last
			}
			i.end = max(i.end, s.Response.Last, i.start)
			return i
		}
	}
	return period{}
}

// serverPeriod is when the hop's receiver worked for it: from the first byte
// of the request to the last of the response.
func (l *Hop) serverPeriod() period {
	for _, s := range []*observe.Observation{l.Receiver, l.ServerVNIC} {
		if s != nil {
			return period{s.Request.First, max(s.Response.Last, s.Response.App.Last, s.Request.Last), s}
		}
	}
	return period{}
}

// findParent returns the hop whose request was being handled, in the pod and
// process that sent l, when it was sent: the one that began last. What was sent
// for a hop whose time cannot be told stands for itself.
func findParent(l *Hop, hops []*Hop, parents map[trace.SpanID]trace.SpanID) (parent *Hop) {
	own := l.clientPeriod()
	if own.point == nil {
		return nil
	}
	best, bestRelated := period{}, false
	for _, p := range hops {
		i := p.serverPeriod()
		if p == l || i.point == nil || !samePod(own.point, i.point) || own.start < i.start || own.end > i.end || isBelow(p, l) ||
			defect(p.requestWaypoints(), p.responseWaypoints()) != "" {
			continue
		}
		related := isRelated(l.SpanID, p.SpanID, parents)
		if parent == nil || related && !bestRelated || related == bestRelated && i.start > best.start {
			parent, best, bestRelated = p, i, related
		}
	}
	return parent
}

// isBelow reports whether p is l or stands below it.
func isBelow(p, l *Hop) bool {
	for ; p != nil; p = p.Parent {
		if p == l {
			return true
		}
	}
	return false
}

func samePod(a, b *observe.Observation) bool {
	if podKey(a) != podKey(b) {
		return false
	}
	return a.Point.Kind != observe.KindSocket || b.Point.Kind != observe.KindSocket || a.Point.Process == b.Point.Process
}

// isRelated reports whether a span is another's child, grandchild or itself:
// proxies make one or two spans between the requests they receive and send.
func isRelated(span, ancestor trace.SpanID, parents map[trace.SpanID]trace.SpanID) bool {
	for range 3 {
		if span == ancestor {
			return true
		}
		next, ok := parents[span]
		if !ok {
			return false
		}
		span = next
	}
	return false
}
