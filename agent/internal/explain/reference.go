// SPDX-License-Identifier: Apache-2.0

package explain

import (
	"fmt"
	"slices"

	"github.com/layertrace/layertrace/agent/internal/breakdown"
	"github.com/layertrace/layertrace/agent/internal/tracestore"
	"github.com/layertrace/layertrace/internal/observe"
	"github.com/layertrace/layertrace/internal/stats"
)

// baselineTimes is how long layers and segments take in the traces of a baseline.
type baselineTimes struct {
	traces int
	total  int64 // median in ns, -1 without a trace
	whole  reference
	hops   map[hopKey]hopReference
	calls  usualCalls
	ahead  int64 // median of aheadOf in ns, -1 without a trace
}

// hopKey identifies hops that are alike; with an unknown request, all of a name.
type hopKey struct {
	name    string
	request request
}

// hopReference is the reference of some hops.
type hopReference struct {
	reference
	pieces map[pieceKey]distribution
	hops   int
}

// pieceKey is one of the segments of a hop that are alike, as before and after a request
// that it caused, in their order.
type pieceKey struct {
	segmentKey
	n int
}

// piecesOf returns the keys of a hop's segments.
func piecesOf(h *breakdown.Hop) []pieceKey {
	keys, seen := make([]pieceKey, len(h.Segments)), map[segmentKey]int{}
	for i, s := range h.Segments {
		k := segmentKeyOf(h, s)
		keys[i] = pieceKey{k, seen[k]}
		seen[k]++
	}
	return keys
}

// measured is what is compared of a trace.
type measured struct {
	id                  string
	request             request
	total, unattributed int64    // total 0: no hop of known time, and nothing else is set
	unclear             int64    // of sumOfTree
	ahead               int64    // of aheadOf
	contradictions      []string // spans that took longer than what was seen
	cut                 observe.Flags
	inferred            bool
	roots               int // more than one: hops without a known parent
	calls               calls
	sums                sums
}

// measuredTrace also has what hops are compared by.
type measuredTrace struct {
	measured
	hops []measuredHop
}

type measuredHop struct {
	key hopKey
	sums
	pieces   []pieceKey
	segments []breakdown.Segment // as many
}

// measuring measures a trace, or remembers it from before.
type measuring func(tracestore.Trace) *measuredTrace

func newMeasuredTrace(t tracestore.Trace) *measuredTrace {
	tree, _ := split(t)
	m := &measuredTrace{measured: measured{id: t.ID.String(), roots: len(tree.Roots)}}
	if m.roots == 0 {
		return m
	}
	m.request = requestOfHop(tree.Roots[0])
	if tree.Roots[0].Total == 0 {
		return m
	}
	missing, contradictions := unseen(t, tree)
	m.total, m.contradictions = tree.Roots[0].Total+missing, contradictions
	m.sums, m.unattributed, m.unclear = sumOfTree(tree)
	m.unattributed += missing
	m.unclear += missing
	m.ahead, m.cut, m.inferred, m.calls = aheadOf(t, tree), cutOf(tree), inferredOf(tree), callsOf(tree)
	for _, h := range tree.Hops {
		m.hops = append(m.hops, measuredHop{hopKey{hopName(h), requestOfHop(h)}, sumOfHop(h), piecesOf(h), h.Segments})
	}
	return m
}

// timesOf ignores traces without a hop of known time.
func timesOf(baseline []tracestore.Trace, measure measuring) *baselineTimes {
	var totals, ahead []int64
	var whole []sums
	var made []calls
	hops, pieces := map[hopKey][]sums{}, map[hopKey]map[pieceKey][]int64{}
	add := func(k hopKey, h *measuredHop) {
		hops[k] = append(hops[k], h.sums)
		if pieces[k] == nil {
			pieces[k] = map[pieceKey][]int64{}
		}
		for i, piece := range h.pieces {
			pieces[k][piece] = append(pieces[k][piece], h.segments[i].Time)
		}
	}
	for _, one := range baseline {
		t := measure(one)
		if t.total == 0 {
			continue
		}
		totals, ahead, made, whole = append(totals, t.total), append(ahead, t.ahead), append(made, t.calls), append(whole, t.sums)
		for i := range t.hops {
			h := &t.hops[i]
			add(hopKey{name: h.key.name}, h)
			if h.key.request.known() {
				add(h.key, h)
			}
		}
	}
	b := &baselineTimes{
		traces: len(totals), total: distributionOf(totals).median,
		whole: referenceOf(whole), hops: make(map[hopKey]hopReference, len(hops)),
		calls: usualCallsOf(made), ahead: distributionOf(ahead).median,
	}
	for k, all := range hops {
		b.hops[k] = hopReference{referenceOf(all), distributions(pieces[k]), len(all)}
	}
	return b
}

// of returns the median of a layer at a location, -1 if unknown.
func (b *baselineTimes) of(k key) int64 { return orUnknown(b.whole.layers, k).median }

// ofSegments returns the medians of the segments of a hop, -1 if unknown.
func (b *baselineTimes) ofSegments(h *breakdown.Hop) []int64 {
	r, _ := b.ofHop(h)
	medians := make([]int64, len(h.Segments))
	for i, k := range piecesOf(h) {
		medians[i] = orUnknown(r.pieces, k).median
	}
	return medians
}

// ofHop returns the reference of the hops that asked for the same, if there are enough;
// else that of all hops between the same ends, and why others are among them ("" if it is
// not known that there are any).
func (b *baselineTimes) ofHop(h *breakdown.Hop) (r hopReference, mixed string) {
	q := requestOfHop(h)
	all, same := b.hops[hopKey{name: hopName(h)}], b.hops[hopKey{hopName(h), q}]
	switch {
	case !q.known() || same.hops == all.hops:
		return all, ""
	case same.hops >= minAlike:
		return same, ""
	}
	return all, fmt.Sprintf("on the hop %s, %s of the baseline asked for %s: the baseline has others", hopName(h), counted(same.hops, "request", "requests"), q)
}

// reference is the distribution of the time of each layer and segment, in traces
// or hops that are alike.
type reference struct {
	layers   map[key]distribution
	segments map[segmentKey]distribution
}

func referenceOf(all []sums) reference {
	layers, segments := map[key][]int64{}, map[segmentKey][]int64{}
	for _, s := range all {
		for k, t := range s {
			layers[k] = append(layers[k], t.time)
			for segment, a := range t.segments {
				segments[segment] = append(segments[segment], a.time)
			}
		}
	}
	return reference{distributions(layers), distributions(segments)}
}

// distribution of times in ns.
type distribution struct {
	sorted []int64
	median int64 // -1: unknown
}

func distributionOf(values []int64) distribution {
	if len(values) == 0 {
		return distribution{median: -1}
	}
	sorted := slices.Sorted(slices.Values(values))
	return distribution{sorted: sorted, median: stats.Quantile(sorted, 0.5)}
}

func distributions[K comparable](values map[K][]int64) map[K]distribution {
	all := make(map[K]distribution, len(values))
	for k, v := range values {
		all[k] = distributionOf(v)
	}
	return all
}

func orUnknown[K comparable](all map[K]distribution, k K) distribution {
	if d, ok := all[k]; ok {
		return d
	}
	return distribution{median: -1}
}

// exceededBy returns the time that a share (0 to 1) of the distribution exceeds;
// the largest time if the share is less than one value.
func (d distribution) exceededBy(share float64) int64 {
	n := len(d.sorted)
	return d.sorted[max(n-1-int(share*float64(n)), 0)]
}

// fastest returns the time that a share (0 to 1) of the distribution is below, -1 if unknown.
func (d distribution) fastest(share float64) int64 {
	if len(d.sorted) == 0 {
		return -1
	}
	return d.sorted[int(share*float64(len(d.sorted)))]
}

// lowest returns the time that all but the exceptions of so many slow traces took
// at least.
func (d distribution) lowest(slow int) int64 {
	return d.sorted[min(exceptions(slow), len(d.sorted)-1)]
}
