// SPDX-License-Identifier: Apache-2.0

package decode

import (
	"slices"
)

// piece is a run of new bytes of one direction, all from one segment.
type piece struct {
	seq, size uint32
	data      []byte // the captured part, from the first byte on
	fin       bool   // the FIN, which occupies one sequence number and is no byte
	time      uint64 // of its first passage
	ack       uint32
	isAck     bool
	// segment is the number of its segment in the connection; first is set for the
	// piece that begins with the segment's first byte.
	segment uint64
	first   bool
	// disordered: it waits for a gap to be filled, or fills one.
	disordered bool
	carrier    segment // without payload
}

func (p *piece) end() uint32 { return p.seq + p.size }

// from returns the piece without the bytes before a sequence number inside of it.
func (p piece) from(seq uint32) piece {
	skip := seq - p.seq
	p.seq, p.size, p.first = seq, p.size-skip, p.first && skip == 0
	p.data = p.data[min(int(skip), len(p.data)):]
	return p
}

// until returns the piece up to a sequence number inside of it.
func (p piece) until(seq uint32) piece {
	p.size = seq - p.seq
	p.data = p.data[:min(int(p.size), len(p.data))]
	return p
}

// stream puts the segments of one direction in order. Each byte keeps the time at which
// it passed first.
type stream struct {
	known   bool
	first   uint32 // sequence number of the first byte
	next    uint32 // what follows the bytes that were delivered
	high    uint32 // what follows the highest byte seen
	waiting []piece
	held    int    // captured bytes in waiting
	acked   uint32 // the highest acknowledgement of the peer
}

// start sets the first sequence number.
func (s *stream) start(seq uint32) {
	*s = stream{known: true, first: seq, next: seq, high: seq, acked: seq}
}

// order is the position of a segment in its stream.
type order uint8

const (
	inOrder  order = iota // directly after the bytes seen so far
	ahead                 // leaves a gap
	filling               // in a gap
	repeated              // seen before
)

// add adds a segment's bytes to those that wait, without the bytes seen before.
func (s *stream) add(p piece) (o order) {
	if !s.known {
		s.start(p.seq)
	}
	beyond := distance(p.seq, s.high)
	switch {
	case beyond == 0:
		o = inOrder
	case beyond > 0:
		o = ahead
	default:
		o = filling
	}
	end := p.end()
	if distance(p.seq, s.next) < 0 {
		if distance(end, s.next) <= 0 {
			return repeated
		}
		p = p.from(s.next)
	}
	// The bytes between what waits already. p is what is left to place.
	at := 0
	var added []piece
	filled := false
	for ; at < len(s.waiting) && p.size > 0; at++ {
		w := &s.waiting[at]
		if distance(w.end(), p.seq) <= 0 {
			continue
		}
		if distance(w.seq, p.end()) >= 0 {
			break
		}
		if distance(w.seq, p.seq) > 0 {
			added = append(added, p.until(w.seq))
			filled = true
		}
		if distance(p.end(), w.end()) <= 0 {
			p.size = 0
			break
		}
		p = p.from(w.end())
	}
	if p.size > 0 {
		filled = filled || distance(p.seq, s.high) < 0
		added = append(added, p)
	}
	for _, a := range added {
		a.disordered = a.seq != s.high
		s.insert(a)
	}
	if o == filling && !filled {
		o = repeated
	}
	if distance(end, s.high) > 0 {
		s.high = end
	}
	return o
}

func (s *stream) insert(p piece) {
	at := len(s.waiting)
	for at > 0 && distance(s.waiting[at-1].seq, p.seq) > 0 {
		at--
	}
	s.held += len(p.data)
	s.waiting = slices.Insert(s.waiting, at, p)
}

// ready returns the piece that is next, nil if there is none.
func (s *stream) ready() *piece {
	if len(s.waiting) > 0 && s.waiting[0].seq == s.next {
		return &s.waiting[0]
	}
	return nil
}

// take removes the piece that is next.
func (s *stream) take() piece {
	p := s.waiting[0]
	s.waiting[0] = piece{}
	s.waiting = s.waiting[1:]
	if len(s.waiting) == 0 {
		s.waiting = nil
	}
	s.held -= len(p.data)
	s.next = p.end()
	return p
}

// reached reports whether all bytes before a sequence number were delivered.
func (s *stream) reached(seq uint32) bool { return !s.known || distance(seq, s.next) <= 0 }

// hole returns the number of bytes that are missing before the next piece, or, if none
// waits, before what the peer has acknowledged.
func (s *stream) hole() (size uint32, acked bool) {
	if !s.known || s.ready() != nil {
		return 0, false
	}
	lead := distance(s.acked, s.next)
	if len(s.waiting) == 0 {
		return uint32(max(lead, 0)), lead > 0
	}
	return s.waiting[0].seq - s.next, lead > 0
}

// skip leaves out the hole in front, or its beginning: what is acknowledged is skipped
// first, and no more than the other direction waits for. What waited passed in order.
func (s *stream) skip(opposite *stream) (size uint32, acked bool) {
	size, acked = s.hole()
	if lead := distance(s.acked, s.next); acked && uint32(lead) < size {
		size = uint32(lead)
	}
	if p := opposite.ready(); p != nil && p.isAck {
		if wanted := distance(p.ack, s.next); wanted > 0 && uint32(wanted) < size {
			size = uint32(wanted)
		}
	}
	for i := range s.waiting {
		s.waiting[i].disordered = false
	}
	s.next += size
	if distance(s.next, s.high) > 0 {
		s.high = s.next
	}
	return size, acked
}

// distance returns how far sequence number a is after b. Sequence numbers wrap.
func distance(a, b uint32) int32 { return int32(a - b) }
