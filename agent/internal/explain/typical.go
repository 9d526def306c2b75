// SPDX-License-Identifier: Apache-2.0

package explain

import (
	"slices"

	"github.com/layertrace/layertrace/agent/internal/backend"
	"github.com/layertrace/layertrace/agent/internal/layer"
)

// typical is how long the layers take in the traces of a baseline.
type typical struct {
	traces int
	total  int64 // median in ns, -1 without a trace
	layers map[key]distribution
	parts  map[partKey]distribution
	hops   map[hopKey]distribution
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

// partKey names parts that are alike in several traces.
type partKey struct {
	hop   string
	where string
	way   layer.Way
}

// hopKey names the time of a layer in hops that are alike.
type hopKey struct {
	hop string
	key
}

func hopName(l *layer.Leg) string { return from(l) + " > " + to(l) }

// newTypical reads a baseline. Traces that no hop was seen of do not count.
func newTypical(baseline []backend.Trace) *typical {
	totals := []int64{}
	layers, parts, hops := map[key][]int64{}, map[partKey][]int64{}, map[hopKey][]int64{}
	for _, t := range baseline {
		tree := layer.Split(t.Sightings, parents(t))
		if len(tree.Roots) == 0 || tree.Roots[0].Total == 0 {
			continue
		}
		totals = append(totals, tree.Roots[0].Total)
		s, _ := sum(tree)
		for k, t := range s {
			layers[k] = append(layers[k], t.time)
		}
		for _, l := range tree.Legs {
			ofHop := map[key]int64{}
			for _, p := range l.Parts {
				k := partKey{hopName(l), p.Where, p.Way}
				parts[k] = append(parts[k], p.Time)
				ofHop[keyOf(p)] += p.Time
			}
			for k, time := range ofHop {
				hops[hopKey{hopName(l), k}] = append(hops[hopKey{hopName(l), k}], time)
			}
		}
	}
	return &typical{
		traces: len(totals), total: distributionOf(totals).median,
		layers: distributions(layers), parts: distributions(parts), hops: distributions(hops),
	}
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
func (y *typical) of(k key) int64 { return orUnknown(y.layers, k).median }

// ofPart returns the median of a part of a hop, -1 when it is not known.
func (y *typical) ofPart(l *layer.Leg, p layer.Part) int64 {
	return orUnknown(y.parts, partKey{hopName(l), p.Where, p.Way}).median
}

func orUnknown[K comparable](all map[K]distribution, k K) distribution {
	if d, ok := all[k]; ok {
		return d
	}
	return distribution{median: -1}
}
