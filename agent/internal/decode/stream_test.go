// SPDX-License-Identifier: Apache-2.0

package decode

import (
	"math/rand/v2"
	"testing"
)

// TestStreamAgainstModel places random segments and compares with a map of the
// bytes that were seen.
func TestStreamAgainstModel(t *testing.T) {
	random := rand.New(rand.NewPCG(1, 2))
	for range 200 {
		const start = uint32(0xfffffff0)
		s := stream{known: true, next: start}
		var seen [256]bool
		next := 0
		for range 40 {
			at, size := random.IntN(200), 1+random.IntN(40)
			o, fresh := s.place(start+uint32(at), uint32(size))
			unseen, filled := 0, 0
			for i := at; i < at+size; i++ {
				if !seen[i] {
					unseen++
					if i < next && at < next {
						filled++
					}
				}
				seen[i] = true
			}
			want := repeated
			switch {
			case at == next:
				want = inOrder
			case at > next:
				want = ahead
			case filled > 0:
				want = filling
			}
			if o != want || fresh != uint32(unseen) {
				t.Fatalf("place(%d, %d) with next %d = %v, %d; want %v, %d", at, size, next, o, fresh, want, unseen)
			}
			next = max(next, at+size)
		}
	}
}

func TestHolesAreBounded(t *testing.T) {
	s := stream{known: true}
	for i := range uint32(3 * maxHoles) {
		s.place(2*i+1, 1)
	}
	if len(s.holes) > maxHoles {
		t.Fatalf("%d holes are kept", len(s.holes))
	}
	if o, _ := s.place(0, 1); o != repeated {
		t.Errorf("a forgotten hole was filled: %v", o)
	}
}
