// SPDX-License-Identifier: Apache-2.0

package mtls

import (
	"math/rand/v2"
	"slices"
	"testing"
)

// Records are found whatever the segments are: cut anywhere, repeated, and out of order.
func TestRecordsAreFoundInAnySegments(t *testing.T) {
	random := rand.New(rand.NewPCG(1, 1))
	for range 200 {
		var stream []byte
		var want []record
		for range 1 + random.IntN(20) {
			length := random.IntN(300)
			begin := uint32(len(stream))
			stream = append(stream, 23, 3, 3, byte(length>>8), byte(length))
			stream = append(stream, make([]byte, length)...)
			want = append(want, record{begin: begin, end: uint32(len(stream)), kind: 23})
		}
		type piece struct{ begin, end int }
		var pieces []piece
		for at := 0; at < len(stream); {
			end := min(len(stream), at+1+random.IntN(200))
			pieces = append(pieces, piece{at, end})
			if random.IntN(5) == 0 {
				pieces = append(pieces, piece{max(0, at-random.IntN(50)), end}) // repeated
			}
			at = end
		}
		for i := range pieces[1:] {
			if random.IntN(4) == 0 {
				pieces[i], pieces[i+1] = pieces[i+1], pieces[i]
			}
		}
		var reader recordReader
		var got []record
		for _, p := range pieces {
			got = append(got, reader.add(uint32(p.begin), stream[p.begin:p.end])...)
		}
		if !slices.Equal(got, want) {
			t.Fatalf("found %v, want %v, in pieces %v", got, want, pieces)
		}
	}
}

// The first passing of a byte counts, also of one in a repeated segment.
func TestPassagesAt(t *testing.T) {
	var c connection
	p := passages{}
	for _, s := range []struct {
		begin, end uint32
		at         int64
	}{{0, 100, 1}, {100, 200, 2}, {50, 250, 3}, {250, 300, 5}, {240, 260, 4}} {
		p.add(packet{connection: c, begin: s.begin, end: s.end, at: s.at})
	}
	p.sort()
	for offset, want := range map[uint32]int64{0: 1, 99: 1, 100: 2, 199: 2, 200: 3, 249: 3, 250: 4, 260: 5, 299: 5, 300: 0} {
		if got := p.at(c, client, offset); got != want {
			t.Errorf("byte %d passed at %d, want %d", offset, got, want)
		}
	}
}
