// SPDX-License-Identifier: Apache-2.0

package breakdown

import (
	"math/rand/v2"
	"slices"
	"testing"
)

// The intervals found are those that a search through all of them finds.
func TestEnclosing(t *testing.T) {
	random := rand.New(rand.NewPCG(1, 2))
	for n := range 70 {
		var e enclosing[int]
		var all [][2]uint64
		for i := range n {
			start := random.Uint64N(20)
			all = append(all, [2]uint64{start, start + random.Uint64N(20)})
			e.add(all[i][0], all[i][1], i)
		}
		e.prepare()
		for range 50 {
			start := random.Uint64N(25)
			end := start + random.Uint64N(10)
			var want []int
			for at := range uint64(25) { // those that begin last first, and of these the first added
				for i, v := range all {
					if v[0] == 24-at && v[0] <= start && v[1] >= end {
						want = append(want, i)
					}
				}
			}
			var got []int
			for v := range e.of(start, end) {
				got = append(got, v.of)
			}
			if !slices.Equal(got, want) {
				t.Fatalf("%v around [%d, %d]: %v, want %v", all, start, end, got, want)
			}
		}
	}
}
