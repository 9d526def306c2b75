// SPDX-License-Identifier: Apache-2.0

package explain

import (
	"fmt"
	"slices"

	"github.com/layertrace/layertrace/agent/internal/breakdown"
	"github.com/layertrace/layertrace/agent/internal/tracestore"
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

// baselineTrace is a trace of a baseline, with its sums.
type baselineTrace struct {
	request request
	total   int64 // 0: no hop of known time
	ahead   int64 // see aheadOf
	made    calls
	whole   sums
	hops    []baselineHop
}

type baselineHop struct {
	key hopKey
	sums
	pieces   []pieceKey
	segments []breakdown.Segment // as many
}

func newBaselineTrace(t tracestore.Trace) *baselineTrace {
	tree := breakdown.Split(t.Observations, parents(t))
	b := &baselineTrace{}
	if len(tree.Roots) == 0 {
		return b
	}
	b.request = requestOfHop(tree.Roots[0])
	if tree.Roots[0].Total == 0 {
		return b
	}
	missing, _ := unseen(t, tree)
	b.total, b.ahead, b.made = tree.Roots[0].Total+missing, aheadOf(t, tree), callsOf(tree)
	b.whole, _, _ = sumOfTree(tree)
	for _, h := range tree.Hops {
		b.hops = append(b.hops, baselineHop{hopKey{hopName(h), requestOfHop(h)}, sumOfHop(h), piecesOf(h), h.Segments})
	}
	return b
}

// newBaselineTimes ignores traces without a hop of known time.
func newBaselineTimes(baseline []tracestore.Trace) *baselineTimes {
	all := make([]*baselineTrace, len(baseline))
	for i, t := range baseline {
		all[i] = newBaselineTrace(t)
	}
	return timesOf(all)
}

func timesOf(baseline []*baselineTrace) *baselineTimes {
	var totals, ahead []int64
	var whole []sums
	var made []calls
	hops, pieces := map[hopKey][]sums{}, map[hopKey]map[pieceKey][]int64{}
	add := func(k hopKey, h *baselineHop) {
		hops[k] = append(hops[k], h.sums)
		if pieces[k] == nil {
			pieces[k] = map[pieceKey][]int64{}
		}
		for i, piece := range h.pieces {
			pieces[k][piece] = append(pieces[k][piece], h.segments[i].Time)
		}
	}
	for _, t := range baseline {
		if t.total == 0 {
			continue
		}
		totals, ahead, made, whole = append(totals, t.total), append(ahead, t.ahead), append(made, t.made), append(whole, t.whole)
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

// lowest returns the time that all but the exceptions of so many slow traces took
// at least.
func (d distribution) lowest(slow int) int64 {
	return d.sorted[min(exceptions(slow), len(d.sorted)-1)]
}
