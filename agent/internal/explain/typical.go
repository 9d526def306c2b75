// SPDX-License-Identifier: Apache-2.0

package explain

import (
	"slices"

	"github.com/layertrace/layertrace/agent/internal/breakdown"
	"github.com/layertrace/layertrace/agent/internal/tracestore"
)

// typical is how long the layers take in the traces of a baseline.
type typical struct {
	traces int
	total  int64 // median in ns, -1 without a trace
	whole  reference
	hops   map[string]reference
}

// reference is how long layers, and their parts, take in traces or hops that are
// alike.
type reference struct {
	layers map[key]distribution
	parts  map[partKey]distribution
}

func referenceOf(all []sums) reference {
	layers, parts := map[key][]int64{}, map[partKey][]int64{}
	for _, s := range all {
		for k, t := range s {
			layers[k] = append(layers[k], t.time)
			for part, a := range t.parts {
				parts[part] = append(parts[part], a.time)
			}
		}
	}
	return reference{distributions(layers), distributions(parts)}
}

// distribution is of times in ns.
type distribution struct {
	sorted []int64
	median int64 // -1: nothing is known
}

// above returns the time that a share (0 to 1) of the distribution is above; the
// largest where it has too few for the share.
func (d distribution) above(share float64) int64 {
	n := len(d.sorted)
	return d.sorted[max(n-1-int(share*float64(n)), 0)]
}

// least returns what most of so many slow traces took at least: all but the
// exceptions.
func (d distribution) least(slow int) int64 {
	return d.sorted[min(exceptions(slow), len(d.sorted)-1)]
}

func hopName(l *breakdown.Hop) string { return from(l) + " > " + to(l) }

// newTypical reads a baseline. Traces that no hop was seen of do not count.
func newTypical(baseline []tracestore.Trace) *typical {
	var totals []int64
	var whole []sums
	hops := map[string][]sums{}
	for _, t := range baseline {
		tree := breakdown.Split(t.Observations, parents(t))
		if len(tree.Roots) == 0 || tree.Roots[0].Total == 0 {
			continue
		}
		totals = append(totals, tree.Roots[0].Total)
		s, _ := sum(tree)
		whole = append(whole, s)
		for _, l := range tree.Hops {
			hops[hopName(l)] = append(hops[hopName(l)], sumOf(l))
		}
	}
	y := &typical{
		traces: len(totals), total: distributionOf(totals).median,
		whole: referenceOf(whole), hops: make(map[string]reference, len(hops)),
	}
	for name, all := range hops {
		y.hops[name] = referenceOf(all)
	}
	return y
}

func distributions[K comparable](values map[K][]int64) map[K]distribution {
	all := make(map[K]distribution, len(values))
	for k, v := range values {
		all[k] = distributionOf(v)
	}
	return all
}

func distributionOf(values []int64) distribution {
	if len(values) == 0 {
		return distribution{median: -1}
	}
	sorted := slices.Sorted(slices.Values(values))
	return distribution{sorted: sorted, median: sorted[len(sorted)/2]}
}

// of returns the median of a layer at a place, -1 when it is not known.
func (y *typical) of(k key) int64 { return orUnknown(y.whole.layers, k).median }

// ofPart returns the median of a part of a hop, -1 when it is not known.
func (y *typical) ofPart(l *breakdown.Hop, p breakdown.Segment) int64 {
	return orUnknown(y.hops[hopName(l)].parts, partKeyOf(l, p)).median
}

func orUnknown[K comparable](all map[K]distribution, k K) distribution {
	if d, ok := all[k]; ok {
		return d
	}
	return distribution{median: -1}
}
