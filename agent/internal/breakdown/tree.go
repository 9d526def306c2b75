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
	"iter"
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
	return split(&memory{}, observations, parents)
}

func split(m *memory, observations []observe.Observation, parents map[trace.SpanID]trace.SpanID) *Tree {
	hops := hopsOf(m, observations, parents)
	t := &Tree{}
	handlers := newHandlers(hops, parents)
	for _, h := range hops {
		if p := handlers.parentOf(h); p != nil {
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
	if h.root = h; h.Parent != nil {
		h.root, h.Depth = h.Parent.root, h.Parent.Depth+1
	}
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

// handlers finds the hop whose handling made another one.
type handlers struct {
	parents  map[trace.SpanID]trace.SpanID
	byKey    map[handlerKey]*enclosing[*Hop] // by the time in which the receiver handled them
	ancestor map[*Hop]*Hop                   // a step towards the root, as far as known
}

// handlerKey is what the receiver of a request has in common with the sender of those that
// its handling makes: the same process of a pod, or the same process on a machine without
// pods. of tells the kinds of points apart (placesOf, placesFor). With bySpan, only
// requests with the span are meant.
type handlerKey struct {
	of      string
	place   string
	process observe.Process
	bySpan  bool
	span    trace.SpanID
}

// maxParents is how many hops are tried as the parent of one. Times that contradict each other
// can make more than the first one impossible.
const maxParents = 64

func newHandlers(hops []*Hop, parents map[trace.SpanID]trace.SpanID) *handlers {
	t := &handlers{parents: parents, byKey: map[handlerKey]*enclosing[*Hop]{}, ancestor: map[*Hop]*Hop{}}
	if len(hops) < 2 {
		return t // none is of another one's making
	}
	for _, h := range hops {
		p := h.serverPeriod()
		// Hops of unknown time have no children.
		if p.point == nil || defect(h.requestWaypoints(), h.responseWaypoints()) != "" {
			continue
		}
		for _, k := range placesOf(p.point) {
			related := k
			related.bySpan, related.span = true, h.SpanID
			for _, k := range []handlerKey{k, related} {
				if t.byKey[k] == nil {
					t.byKey[k] = &enclosing[*Hop]{}
				}
				t.byKey[k].add(p.start, p.end, h)
			}
		}
	}
	for _, e := range t.byKey {
		e.prepare()
	}
	return t
}

// placesOf returns the keys under which a receiver's point is found.
func placesOf(o *observe.Observation) []handlerKey {
	pod := podKey(o)
	switch {
	case o.Point.Kind != observe.KindSocket:
		return []handlerKey{{of: "interface", place: pod}}
	case o.Socket != nil && o.Socket.Netns != 0:
		return []handlerKey{
			{of: "point", place: o.Point.ID},
			{of: "socket", place: pod},
			{of: "process", place: pod, process: o.Point.Process},
		}
	default:
		return []handlerKey{
			{of: "socket", place: pod},
			{of: "process", place: pod, process: o.Point.Process},
			{of: "process without point", place: pod, process: o.Point.Process},
		}
	}
}

// placesFor returns the keys of the receivers that are in the same pod and process as a
// sender's point. Where both are sockets whose network namespace is known, that and the
// process, which the point's ID has, decide.
func placesFor(o *observe.Observation) []handlerKey {
	pod := podKey(o)
	switch {
	case o.Point.Kind != observe.KindSocket:
		return []handlerKey{{of: "interface", place: pod}, {of: "socket", place: pod}}
	case o.Socket != nil && o.Socket.Netns != 0:
		return []handlerKey{
			{of: "interface", place: pod},
			{of: "point", place: o.Point.ID},
			{of: "process without point", place: pod, process: o.Point.Process},
		}
	default:
		return []handlerKey{{of: "interface", place: pod}, {of: "process", place: pod, process: o.Point.Process}}
	}
}

// parentOf returns the hop that the sender of h, in the same pod and process, was
// handling when it sent h: of several the one whose span is an ancestor, then
// the one that began last.
func (t *handlers) parentOf(h *Hop) *Hop {
	own := h.clientPeriod()
	if own.point == nil || len(t.byKey) == 0 {
		return nil
	}
	places := placesFor(own.point)
	var best *interval[*Hop]
	for span := range t.ancestors(h.SpanID) {
		for _, k := range places {
			k.bySpan, k.span = true, span
			best = later(best, t.latest(t.byKey[k], h, own))
		}
	}
	if best == nil {
		for _, k := range places {
			best = later(best, t.latest(t.byKey[k], h, own))
		}
	}
	if best == nil {
		return nil
	}
	t.ancestor[h] = best.of
	return best.of
}

// latest returns the period of the hop that began last of those which enclose that of h and
// are not h or below it, nil without one.
func (t *handlers) latest(e *enclosing[*Hop], h *Hop, own period) *interval[*Hop] {
	tried := 0
	for v := range e.of(own.start, own.end) {
		if t.root(v.of) != h { // h has no parent yet
			return v
		}
		if tried++; tried == maxParents {
			break
		}
	}
	return nil
}

func later(a, b *interval[*Hop]) *interval[*Hop] {
	if a == nil || b != nil && b.start > a.start {
		return b
	}
	return a
}

// root returns the topmost hop above h, as far as parents are known. It makes the way shorter
// for the next time.
func (t *handlers) root(h *Hop) *Hop {
	for {
		up, ok := t.ancestor[h]
		if !ok {
			return h
		}
		if further, ok := t.ancestor[up]; ok {
			t.ancestor[h] = further
		}
		h = up
	}
}

// ancestors yields a span, its parent and its grandparent: a proxy makes one or two spans
// between the requests it receives and sends.
func (t *handlers) ancestors(span trace.SpanID) iter.Seq[trace.SpanID] {
	return func(yield func(trace.SpanID) bool) {
		for range 3 {
			next, ok := t.parents[span]
			if !yield(span) || !ok {
				return
			}
			span = next
		}
	}
}
