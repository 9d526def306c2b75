// SPDX-License-Identifier: Apache-2.0

// Package breakdown computes where the time of a request went. It groups the
// observations of one trace into hops, one per request on a TCP connection, and
// splits the time of each hop into segments of one layer each.
//
// It uses durations at one capture point and differences between points of one
// node only, and never subtracts clocks of different nodes.
//
// Start at Split; the order of the story is hop.go (observations to hops), tree.go
// (hops to a tree), waypoint.go (times on a message's path), segment.go (the
// layers between them), split.go (the time of each) and stall.go (time that belongs to
// a slow reader). TraceBuffer collects
// the observations of a trace first, where they come one by one.
package breakdown

import (
	"cmp"
	"slices"

	"go.opentelemetry.io/otel/trace"

	"github.com/layertrace/layertrace/internal/observe"
)

// Tree is the hops of a trace, each below the hop whose handling made it.
type Tree struct {
	// Roots, longest first.
	Roots []*Hop
	// Hops are all hops, each after its parent, in the order of their starts.
	Hops []*Hop
}

// Split arranges the observations of one trace as a tree of hops and splits the
// time of each into segments. parents has the parent of spans that proxies and
// applications reported, or is nil; it is only needed if a process handles
// several requests of one trace at the same time.
func Split(observations []observe.Observation, parents map[trace.SpanID]trace.SpanID) *Tree {
	hops := Hops(observations)
	t := &Tree{}
	for _, h := range hops {
		if p := findParent(h, hops, parents); p != nil {
			h.Parent = p
			p.Children = append(p.Children, h)
		} else {
			t.Roots = append(t.Roots, h)
		}
	}
	for _, h := range hops {
		slices.SortStableFunc(h.Children, func(a, b *Hop) int {
			return cmp.Compare(a.clientPeriod().start, b.clientPeriod().start)
		})
	}
	for _, root := range t.Roots {
		root.split(root.wall() - t.Roots[0].wall())
	}
	slices.SortStableFunc(t.Roots, func(a, b *Hop) int { return cmp.Compare(b.Total, a.Total) })
	for i, root := range t.Roots {
		root.OnCriticalPath = i == 0
		if i > 0 {
			root.Notes = append(root.Notes, "the request that this hop belongs to was not seen: its time is part of another hop")
		}
		t.add(root)
	}
	t.moveStalls()
	return t
}

func (t *Tree) add(h *Hop) {
	t.Hops = append(t.Hops, h)
	for _, child := range h.Children {
		child.OnCriticalPath = child.OnCriticalPath && h.OnCriticalPath
		t.add(child)
	}
}

// period is a time at one end of a hop, on the clock of its node.
type period struct {
	start, end uint64
	point      *observe.Observation // nil: unknown
}

// clientPeriod is the time that the hop's sender waited, as close to it as seen.
func (h *Hop) clientPeriod() period {
	for _, o := range []*observe.Observation{h.Sender, h.ClientVNIC} {
		if o != nil {
			p := period{o.Request.App.Last, max(o.Response.App.Last, o.Response.Tx.Last), o}
			if p.start == 0 {
				p.start = o.Request.Last
			}
			p.end = max(p.end, o.Response.Last, p.start)
			return p
		}
	}
	return period{}
}

// serverPeriod is the time that the hop's receiver handled it: from the first byte
// of the request to the last byte of the response.
func (h *Hop) serverPeriod() period {
	for _, o := range []*observe.Observation{h.Receiver, h.ServerVNIC} {
		if o != nil {
			return period{o.Request.First, max(o.Response.Last, o.Response.App.Last, o.Request.Last), o}
		}
	}
	return period{}
}

// findParent returns the hop that the sender of h, in the same pod and process, was
// handling when it sent h: of several the one whose span is an ancestor, then
// the one that began last. Hops of unknown time have no children.
func findParent(h *Hop, hops []*Hop, parents map[trace.SpanID]trace.SpanID) (parent *Hop) {
	own := h.clientPeriod()
	if own.point == nil {
		return nil
	}
	best, bestRelated := period{}, false
	for _, candidate := range hops {
		p := candidate.serverPeriod()
		// The cheap conditions first: a trace may have a thousand hops.
		if candidate == h || p.point == nil || own.start < p.start || own.end > p.end {
			continue
		}
		related := isRelated(h.SpanID, candidate.SpanID, parents)
		if parent != nil && (!related && bestRelated || related == bestRelated && p.start <= best.start) {
			continue
		}
		if samePod(own.point, p.point) && !isBelow(candidate, h) && defect(candidate.requestWaypoints(), candidate.responseWaypoints()) == "" {
			parent, best, bestRelated = candidate, p, related
		}
	}
	return parent
}

// isBelow reports whether h is root or one of its descendants.
func isBelow(h, root *Hop) bool {
	for ; h != nil; h = h.Parent {
		if h == root {
			return true
		}
	}
	return false
}

// samePod reports whether two observations are of the same process of a pod, or of the
// same process on a machine without pods.
func samePod(a, b *observe.Observation) bool {
	if a.Socket != nil && b.Socket != nil && a.Socket.Netns != 0 && b.Socket.Netns != 0 {
		return a.Point.ID == b.Point.ID
	}
	if podKey(a) != podKey(b) {
		return false
	}
	return a.Point.Kind != observe.KindSocket || b.Point.Kind != observe.KindSocket || a.Point.Process == b.Point.Process
}

// isRelated reports whether span is ancestor, its child or its grandchild: a proxy
// makes one or two spans between the requests it receives and sends.
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
