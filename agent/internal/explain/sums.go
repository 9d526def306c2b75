// SPDX-License-Identifier: Apache-2.0

package explain

import (
	"cmp"
	"fmt"
	"slices"

	"go.opentelemetry.io/otel/trace"

	"github.com/layertrace/layertrace/agent/internal/breakdown"
	"github.com/layertrace/layertrace/agent/internal/tracestore"
	"github.com/layertrace/layertrace/internal/observe"
)

// key is a layer at a place, or several layers that could not be told apart.
type key struct {
	layer  observe.Layer
	place  string
	covers string
}

func keyOf(p breakdown.Segment) key {
	k := key{layer: p.Layer, place: p.Location}
	if len(p.MergedLayers) > 0 {
		k.covers = fmt.Sprint(p.MergedLayers)
	}
	return k
}

func (k key) String() string { return string(k.layer) + " " + k.place + k.covers }

// sums are the times per key of what a trace waited for.
type sums map[key]*total

type total struct {
	time   int64
	parts  map[partKey]amount
	layers []observe.Layer
}

// amount is the time of parts that are alike, and the largest of them.
type amount struct {
	time int64
	leg  *breakdown.Hop
	part breakdown.Segment
}

func (a amount) plus(b amount) amount {
	if a.leg == nil || b.part.Time > a.part.Time {
		a.leg, a.part = b.leg, b.part
	}
	a.time += b.time
	return a
}

// partKey names parts that are alike in several traces.
type partKey struct {
	hop   string
	where string
	way   breakdown.Phase
}

// sum adds up what the root waited for, and what of it no layer was given.
func sum(tree *breakdown.Tree) (s sums, unattributed int64) {
	s = sums{}
	for _, l := range tree.Hops {
		if l.OnCriticalPath {
			unattributed += l.Unattributed
			s.add(l)
		}
	}
	return s, unattributed
}

// sumOf adds up a hop by itself.
func sumOf(l *breakdown.Hop) sums {
	s := sums{}
	s.add(l)
	return s
}

func (s sums) add(l *breakdown.Hop) {
	for _, p := range l.Segments {
		k := keyOf(p)
		t := s[k]
		if t == nil {
			t = &total{parts: map[partKey]amount{}, layers: p.MergedLayers}
			s[k] = t
		}
		t.time += p.Time
		alike := partKeyOf(l, p)
		t.parts[alike] = t.parts[alike].plus(amount{p.Time, l, p})
	}
}

func partKeyOf(l *breakdown.Hop, p breakdown.Segment) partKey {
	return partKey{hopName(l), p.Between, p.Phase}
}

// parents are those of the spans that others made.
func parents(t tracestore.Trace) map[trace.SpanID]trace.SpanID {
	all := map[trace.SpanID]trace.SpanID{}
	for _, s := range t.Spans {
		// Spans that share an ID (client and server of Zipkin) share the parent;
		// one that names itself tells nothing.
		if s.Parent.IsValid() && s.Parent != s.ID {
			all[s.ID] = s.Parent
		}
	}
	return all
}

// shares lists the sums, largest excess first.
func (y *typical) shares(s sums, whole int64) []Share {
	all := []Share{}
	for k, t := range s {
		all = append(all, Share{
			Layer: k.layer, Location: k.place, Time: t.time, Baseline: y.of(k),
			Share: share(t.time, whole), MergedLayers: t.layers,
		})
	}
	excess := func(s Share) int64 { return s.Time - max(s.Baseline, 0) }
	slices.SortFunc(all, func(a, b Share) int {
		return cmp.Or(cmp.Compare(excess(b), excess(a)), cmp.Compare(b.Time, a.Time),
			cmp.Compare(a.Layer, b.Layer), cmp.Compare(a.Location, b.Location))
	})
	return all
}

func share(part, whole int64) float64 {
	if whole <= 0 {
		return 0
	}
	return float64(part) / float64(whole)
}
