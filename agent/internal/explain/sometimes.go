// SPDX-License-Identifier: Apache-2.0

package explain

import "slices"

// joinSometimes gives layers that could not be told apart in some of the slow
// traces, but not in all, to the first of them at its place, in all traces: else
// what the layer took would be in one place in some traces, and elsewhere in the
// others.
func joinSometimes(usual, slow []measured) {
	in := map[key]int{}
	for _, m := range slow {
		for k := range m.sums {
			if k.covers != "" {
				in[k]++
			}
		}
	}
	for k, n := range in {
		if n == len(slow) {
			continue
		}
		for _, m := range slices.Concat(usual, slow) {
			m.sums.join(k, key{layer: k.layer, place: k.place})
		}
	}
}

// join adds the time at one key to another.
func (s sums) join(from, to key) {
	t := s[from]
	if t == nil {
		return
	}
	delete(s, from)
	sum := *t
	if other := s[to]; other != nil {
		sum.time += other.time
		sum.least = sum.time
		for _, l := range other.layers {
			if !slices.Contains(sum.layers, l) {
				sum.layers = append(slices.Clone(sum.layers), l)
			}
		}
		if other.part.Time > sum.part.Time {
			sum.leg, sum.part = other.leg, other.part
		}
	}
	s[to] = &sum
}
