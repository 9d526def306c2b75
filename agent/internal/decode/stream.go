// SPDX-License-Identifier: Apache-2.0

package decode

// stream follows the sequence numbers of one direction of a connection.
type stream struct {
	known bool
	next  uint32 // behind the highest byte seen
	holes []hole // below next, not seen
}

// hole is a range of sequence numbers, the end not included.
type hole struct{ start, end uint32 }

// order is where a segment lies in its stream.
type order uint8

const (
	inOrder  order = iota // right behind what was seen
	ahead                 // leaves a hole
	filling               // in a hole: passed later than what follows it
	repeated              // seen already, at least its first byte
)

// maxHoles bounds what a stream with lost packets costs; the oldest hole is
// forgotten first, and a segment that fills it then counts as repeated.
const maxHoles = 64

// place takes the next segment as it was seen. fresh is the number of its
// bytes that were not seen before.
func (s *stream) place(seq, size uint32) (o order, fresh uint32) {
	end := seq + size
	if !s.known {
		s.known, s.next = true, end
		return inOrder, size
	}
	switch distance := after(seq, s.next); {
	case distance == 0:
		s.next = end
		return inOrder, size
	case distance > 0:
		s.skipTo(seq)
		s.next = end
		return ahead, size
	}
	filled := s.fill(seq, end)
	if beyond := after(end, s.next); beyond > 0 {
		fresh = uint32(beyond)
		s.next = end
	}
	if filled > 0 {
		return filling, fresh + filled
	}
	return repeated, fresh
}

// skipTo leaves a hole up to a sequence number behind next.
func (s *stream) skipTo(seq uint32) {
	if len(s.holes) == maxHoles {
		s.holes = s.holes[1:]
	}
	s.holes = append(s.holes, hole{s.next, seq})
	s.next = seq
}

// fill takes a range out of the holes and returns how much of it lay there.
func (s *stream) fill(start, end uint32) (filled uint32) {
	var left []hole
	for _, h := range s.holes {
		from, to := later(h.start, start), earlier(h.end, end)
		if after(to, from) <= 0 {
			left = append(left, h)
			continue
		}
		filled += to - from
		if h.start != from {
			left = append(left, hole{h.start, from})
		}
		if to != h.end {
			left = append(left, hole{to, h.end})
		}
	}
	s.holes = left
	return filled
}

// after returns how far a lies behind b; sequence numbers wrap around.
func after(a, b uint32) int32 { return int32(a - b) }

func later(a, b uint32) uint32 {
	if after(a, b) > 0 {
		return a
	}
	return b
}

func earlier(a, b uint32) uint32 {
	if after(a, b) < 0 {
		return a
	}
	return b
}
