// SPDX-License-Identifier: Apache-2.0

package explain

import (
	"cmp"
	"slices"

	"github.com/layertrace/layertrace/internal/observe"
)

// candidate is a layer that may be to blame, in one trace or in several.
type candidate struct {
	key
	// time and typical are medians in ns.
	time, typical     int64
	excess, threshold int64
	compared          bool
	// usual is set when typical traces are as slow often enough for chance.
	usual  bool
	layers []observe.Layer
	// most has the largest piece; of what stands out, where something does.
	most amount
}

// candidates sorts the layers of slow traces by what of their time is to be
// explained. A layer that few of them have does not count; whole is the time in
// ns that all layers are a part of.
func candidates(slow []sums, typically reference, whole int64) []candidate {
	having := map[key][]*total{}
	for _, s := range slow {
		for k, t := range s {
			having[k] = append(having[k], t)
		}
	}
	share := beyond(len(slow))
	var all []candidate
	for k, totals := range having {
		if 2*len(totals) < len(slow) {
			continue
		}
		c := candidate{key: k, threshold: max(leastExcess, int64(leastShare*float64(whole)))}
		for _, t := range totals {
			if len(t.layers) > len(c.layers) {
				c.layers = t.layers
			}
		}
		c.weigh(totals, len(slow), typically, share)
		all = append(all, c)
	}
	slices.SortFunc(all, func(a, b candidate) int {
		switch {
		case a.usual && !b.usual:
			return 1
		case b.usual && !a.usual:
			return -1
		}
		return cmp.Or(cmp.Compare(b.excess, a.excess), cmp.Compare(a.String(), b.String()))
	})
	return all
}

// weigh sets what the layer took in so many slow traces more than in typical ones,
// and whether a share of these is as slow. That is what its parts that stand out
// took; where they are not most of it, the layer is slow as a whole.
func (c *candidate) weigh(totals []*total, slow int, typically reference, share float64) {
	times := make([]int64, len(totals))
	for i, t := range totals {
		times[i] = t.time
	}
	d := distributionOf(times)
	before := orUnknown(typically.layers, c.key)
	c.time, c.typical, c.compared = d.median, max(before.median, 0), before.median >= 0
	c.excess = c.difference()
	if c.usual = c.compared && d.least(slow) <= before.above(share); c.usual {
		// Of all parts of all layers, one is above a share of typical ones by
		// chance more easily than one layer of a few.
		share = min(share, leastBeyond)
	}
	excess, parts := standingOut(totals, slow, typically.parts, share)
	if c.compared && excess > 0 && 2*excess >= c.excess {
		c.excess, c.usual = excess, false
	} else {
		parts = nil
	}
	c.most = largest(totals, parts)
}

// largest returns the largest piece of these parts, or of all where none is given.
func largest(totals []*total, parts map[partKey]bool) (most amount) {
	for _, t := range totals {
		for k, a := range t.parts {
			if len(parts) == 0 || parts[k] {
				most = most.plus(a)
			}
		}
	}
	return most
}

// difference is what the whole layer took more than in typical traces.
func (c candidate) difference() int64 { return c.time - c.typical }

// inParts tells whether the layer as a whole took not as much longer as its parts
// that stand out: others were faster.
func (c candidate) inParts() bool {
	return float64(c.excess-c.difference()) > worthSaying*float64(c.excess)
}

// elsewhere says how much of the difference to typical traces is in parts that do
// not stand out, "" where it is not worth saying.
func (c candidate) elsewhere() string {
	rest := c.difference() - c.excess
	if float64(rest) < worthSaying*float64(c.excess) {
		return ""
	}
	return "another " + short(rest) + " is spread over its other parts"
}
