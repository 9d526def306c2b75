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
func (h *Hop) biggest(most int) []Part {
	var sums []Part
	for _, part := range h.Parts {
		i := slices.IndexFunc(sums, func(s Part) bool {
			return s.Layer == part.Layer && s.Place == part.Place && slices.Equal(s.Covers, part.Covers)
		})
		if i < 0 {
			sums = append(sums, part)
			continue
		}
		sums[i].Time += part.Time
		if sums[i].Typical < 0 || part.Typical < 0 {
			sums[i].Typical = -1 // of one of them nobody knows it
		} else {
			sums[i].Typical += part.Typical
		}
	}
	slices.SortStableFunc(sums, func(a, b Part) int { return cmp.Compare(b.Time, a.Time) })
	for i := range sums {
		if i == most || float64(sums[i].Time) < worthSaying*float64(h.Total) {
			return sums[:i]
		}
	}
	return sums
}
