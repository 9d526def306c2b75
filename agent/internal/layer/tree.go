// SPDX-License-Identifier: Apache-2.0

package layer

import (
	"cmp"
	"slices"

	"go.opentelemetry.io/otel/trace"
)

// Tree is the legs of a trace, each below the one that it was made for.
type Tree struct {
	// Roots, the one that took longest first.
	Roots []*Leg
	// Legs are all, each behind its parent and in the order of their starts.
	Legs []*Leg
}

// Split orders the sightings of one trace into a tree of legs and splits the
// time of each into parts. parents tells the parent of spans that others made
// (nil: not known); it is needed only where requests of one trace are handled
// by a process at the same time.
func Split(sightings []Sighting, parents map[trace.SpanID]trace.SpanID) *Tree {
	legs := Legs(sightings)
	t := &Tree{}
	for _, l := range legs {
		if p := findParent(l, legs, parents); p != nil {
			l.Parent = p
			p.Children = append(p.Children, l)
		} else {
			t.Roots = append(t.Roots, l)
		}
	}
	for _, l := range legs {
		slices.SortStableFunc(l.Children, func(a, b *Leg) int {
			return cmp.Compare(a.clientInterval().start, b.clientInterval().start)
		})
	}
	for i, root := range t.Roots {
		root.split(root.wall() - t.Roots[0].wall())
		root.Waited = i == 0
	}
	slices.SortStableFunc(t.Roots, func(a, b *Leg) int { return cmp.Compare(b.Total, a.Total) })
	for i, root := range t.Roots {
		root.Waited = i == 0
		if i > 0 {
			root.Notes = append(root.Notes, "the request that it was made for was not seen: its time is part of another hop's")
		}
		t.add(root)
	}
	return t
}

func (t *Tree) add(l *Leg) {
	t.Legs = append(t.Legs, l)
	for _, child := range l.Children {
		child.Waited = child.Waited && l.Waited
		t.add(child)
	}
}

// interval is a time on the clock of a node, at one end of a leg.
type interval struct {
	start, end uint64
	point      *Sighting // nil: not known
}

// clientInterval is when the leg's sender waited, as near to it as was seen.
func (l *Leg) clientInterval() interval {
	for _, s := range []*Sighting{l.Sender, l.ClientVNIC} {
		if s != nil {
			i := interval{behind(s.Request.Handover.Last, 0), s.Response.Handover.Last, s}
			if i.start == 0 {
				i.start = s.Request.Last
			}
			i.end = max(i.end, s.Response.Last, i.start)
			return i
		}
	}
	return interval{}
}

// serverInterval is when the leg's receiver worked for it: from the first byte
// of the request to the last of the response.
func (l *Leg) serverInterval() interval {
	for _, s := range []*Sighting{l.Receiver, l.ServerVNIC} {
		if s != nil {
			return interval{s.Request.First, max(s.Response.Last, s.Response.Handover.Last, s.Request.Last), s}
		}
	}
	return interval{}
}

// findParent returns the leg whose request was being handled, in the pod and
// process that sent l, when it was sent: the one that began last. What was sent
// for a leg whose time cannot be told stands for itself.
func findParent(l *Leg, legs []*Leg, parents map[trace.SpanID]trace.SpanID) (parent *Leg) {
	own := l.clientInterval()
	if own.point == nil {
		return nil
	}
	best, bestRelated := interval{}, false
	for _, p := range legs {
		i := p.serverInterval()
		if p == l || i.point == nil || !samePod(own.point, i.point) || own.start < i.start || own.end > i.end || isBelow(p, l) ||
			defect(p.requestMarks(), p.responseMarks()) != "" {
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
func isBelow(p, l *Leg) bool {
	for ; p != nil; p = p.Parent {
		if p == l {
			return true
		}
	}
	return false
}

func samePod(a, b *Sighting) bool {
	if podKey(a) != podKey(b) {
		return false
	}
	return a.Kind != Socket || b.Kind != Socket || a.Process == b.Process
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
