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
}

// hopKey identifies hops that are alike; with an unknown request, all of a name.
type hopKey struct {
	name    string
	request request
}

// hopReference is the reference of some hops.
type hopReference struct {
	reference
	hops int
}

// baselineTrace is a trace of a baseline, with its sums.
type baselineTrace struct {
	request request
	total   int64 // 0: no hop of known time
	whole   sums
	hops    []baselineHop
}

type baselineHop struct {
	key hopKey
	sums
}

func newBaselineTrace(t tracestore.Trace) *baselineTrace {
	tree := breakdown.Split(t.Observations, parents(t))
	b := &baselineTrace{}
	if len(tree.Roots) == 0 {
		return b
	}
	b.request, b.total = requestOfHop(tree.Roots[0]), tree.Roots[0].Total
	b.whole, _ = sumOfTree(tree)
	for _, h := range tree.Hops {
		b.hops = append(b.hops, baselineHop{hopKey{hopName(h), requestOfHop(h)}, sumOfHop(h)})
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
	var totals []int64
	var whole []sums
	hops := map[hopKey][]sums{}
	for _, t := range baseline {
		if t.total == 0 {
			continue
		}
		totals = append(totals, t.total)
		whole = append(whole, t.whole)
		for _, h := range t.hops {
			any := hopKey{name: h.key.name}
			hops[any] = append(hops[any], h.sums)
			if h.key.request.known() {
				hops[h.key] = append(hops[h.key], h.sums)
			}
		}
	}
	b := &baselineTimes{
		traces: len(totals), total: distributionOf(totals).median,
		whole: referenceOf(whole), hops: make(map[hopKey]hopReference, len(hops)),
	}
	for k, all := range hops {
		b.hops[k] = hopReference{referenceOf(all), len(all)}
	}
	return b
}

// of returns the median of a layer at a location, -1 if unknown.
func (b *baselineTimes) of(k key) int64 { return orUnknown(b.whole.layers, k).median }

// ofSegment returns the median of a segment of a hop, -1 if unknown.
func (b *baselineTimes) ofSegment(h *breakdown.Hop, s breakdown.Segment) int64 {
	r, _ := b.ofHop(h)
	return orUnknown(r.segments, segmentKeyOf(h, s)).median
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
