// SPDX-License-Identifier: Apache-2.0

package explain

import (
	"cmp"
	"maps"
	"slices"
)

// joinSometimes gives layers that could not be told apart in some of the slow
// traces, but not in all, to the first of them at its place, in all traces: else
// what the layer took would be in one place in some traces, and elsewhere in the
// others. So few of the slow traces as may be exceptions do not matter.
func joinSometimes(usual, slow []measured) {
	for first, groups := range sometimes(slow) {
		with := 0
		for _, m := range slow {
			if slices.ContainsFunc(groups, func(k key) bool { return m.sums[k] != nil }) {
				with++
			}
		}
		if with <= exceptions(len(slow)) {
			continue
		}
		for _, m := range slices.Concat(usual, slow) {
			for _, k := range groups {
				m.sums.join(k, first)
			}
		}
	}
}

// sometimes returns the groups of layers that are in some of the traces and not
// in all, by the first layer.
func sometimes(traces []measured) map[key][]key {
	in := map[key]int{}
	for _, m := range traces {
		for k := range m.sums {
			if k.covers != "" {
				in[k]++
			}
		}
	}
	groups := map[key][]key{}
	for k, n := range in {
		if n < len(traces) {
			first := key{layer: k.layer, place: k.place}
			groups[first] = append(groups[first], k)
		}
	}
	for _, some := range groups {
		slices.SortFunc(some, func(a, b key) int { return cmp.Compare(a.covers, b.covers) })
	}
	return groups
}

// join adds the time at one key to another.
func (s sums) join(from, to key) {
	t := s[from]
	if t == nil {
		return
	}
	delete(s, from)
	both := *t
	both.parts = maps.Clone(t.parts)
	if other := s[to]; other != nil {
		both.time += other.time
		for k, a := range other.parts {
			both.parts[k] = both.parts[k].plus(a)
		}
		for _, l := range other.layers {
			if !slices.Contains(both.layers, l) {
				both.layers = append(slices.Clone(both.layers), l)
			}
		}
	}
	s[to] = &both
}
