// SPDX-License-Identifier: Apache-2.0

package tap

import "slices"

// cover is a set of bytes, as intervals [from, to) that do not touch.
type cover [][2]int

// add adds the bytes from from to before to.
func (c *cover) add(from, to int) {
	var rest cover
	for _, have := range *c {
		if have[1] < from || have[0] > to {
			rest = append(rest, have)
			continue
		}
		from, to = min(from, have[0]), max(to, have[1])
	}
	*c = append(rest, [2]int{from, to})
}

// has tells whether the first n bytes are all there.
func (c cover) has(n int) bool {
	return slices.ContainsFunc(c, func(have [2]int) bool { return have[0] <= 0 && have[1] >= n })
}
