// SPDX-License-Identifier: Apache-2.0

package explain

import (
	"cmp"
	"slices"
)

// worthSaying is the share of a hop's time from which on a layer is named.
const worthSaying = 0.02

// biggest are the layers that took most of the hop's time, largest first, at
// most so many.
func (h *Hop) biggest(most int) []Segment {
	var sums []Segment
	for _, part := range h.Segments {
		i := slices.IndexFunc(sums, func(s Segment) bool {
			return s.Layer == part.Layer && s.Location == part.Location && slices.Equal(s.MergedLayers, part.MergedLayers)
		})
		if i < 0 {
			sums = append(sums, part)
			continue
		}
		sums[i].Time += part.Time
		if sums[i].Baseline < 0 || part.Baseline < 0 {
			sums[i].Baseline = -1 // of one of them nobody knows it
		} else {
			sums[i].Baseline += part.Baseline
		}
	}
	slices.SortStableFunc(sums, func(a, b Segment) int { return cmp.Compare(b.Time, a.Time) })
	for i := range sums {
		if i == most || float64(sums[i].Time) < worthSaying*float64(h.Total) {
			return sums[:i]
		}
	}
	return sums
}
