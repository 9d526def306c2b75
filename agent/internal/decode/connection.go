// SPDX-License-Identifier: Apache-2.0

package decode

import (
	"net/netip"

	"github.com/layertrace/layertrace/internal/observe"
)

// connection is the state of one TCP connection.
type connection struct {
	d              *Decoder
	client, server netip.AddrPort
	toServer       stream
	toClient       stream
	synOption      option // of the client's SYN
	current        *open  // nil: the last request had no sampled context
	pipeline       pipeline
}

// segment passes a TCP segment to its connection. A connection starts with a
// SYN, or with a request, which shows which end is the client.
func (d *Decoder) segment(s segment) {
	key := s.flow()
	c := d.connections[key]
	switch {
	case s.syn && !s.isAck:
		if c != nil {
			c.end(0)
		}
		c = &connection{d: d, client: s.source, server: s.destination, synOption: s.option}
		d.connections[key] = c
	case c != nil:
	case s.syn:
		c = &connection{d: d, client: s.destination, server: s.source}
		c.toServer = stream{known: true, next: s.ack}
		d.connections[key] = c
	case s.startsRequest():
		c = &connection{d: d, client: s.source, server: s.destination}
		c.segment(s)
		if c.pipeline.awaiting {
			d.connections[key] = c
		} // else it was data, from either end
		return
	default:
		d.countUntracked(s)
		return
	}
	c.segment(s)
}

func (d *Decoder) countUntracked(s segment) {
	if s.size == 0 {
		return
	}
	if _, ok := parseStatus(s.payload); ok {
		d.counts.responseWithoutRequest++
		return
	}
	d.counts.untracked++
}

func (c *connection) segment(s segment) {
	fromClient := s.source == c.client
	direction := &c.toClient
	if fromClient {
		direction = &c.toServer
	}
	if s.syn && !direction.known {
		*direction = stream{known: true, next: s.seq}
	}
	if s.isAck {
		c.acknowledge(s.ack, fromClient)
	}
	if s.size > 0 {
		order, fresh := direction.add(s.seq, s.size)
		c.countOrder(order)
		if fromClient {
			c.fromClient(s, order, fresh)
		} else {
			c.fromServer(s, order, fresh)
		}
	}
	if end := s.seq + s.size; s.fin && direction.known && end == direction.next {
		direction.next++ // a FIN occupies one sequence number, as a SYN does
	}
	switch {
	case s.rst:
		c.end(observe.FlagReset)
	case s.fin && !fromClient:
		// The client's FIN, before or after this one, changes nothing.
		c.end(0)
	}
}

// acknowledge handles an acknowledgement. Acknowledged bytes have passed this
// point; a gap in them means that the capture lost packets.
func (c *connection) acknowledge(ack uint32, byClient bool) {
	direction := &c.toServer
	if byClient {
		direction = &c.toClient
	}
	if !direction.known || distance(ack, direction.next) <= 0 {
		return
	}
	direction.skipTo(ack)
	c.d.counts.missed++
	if c.current != nil {
		c.current.Flags |= observe.FlagOutOfOrder
		if c.current.head != nil && !byClient {
			c.search(true)
		}
	}
	if byClient {
		c.pipeline = pipeline{} // any response may have started in the gap
	}
}

func (c *connection) countOrder(o order) {
	switch o {
	case repeated:
		c.d.counts.retransmits++
	case ahead, filling:
		c.d.counts.outOfOrder++
	}
}

// end reports the current exchange, if there is one. ifUnanswered is set only
// if nothing of a final response was seen.
func (c *connection) end(ifUnanswered observe.Flags) {
	x := c.current
	if x != nil && x.head != nil {
		c.search(true)
		x = c.current
	}
	if x == nil {
		return
	}
	c.current = nil
	if x.Response.Packets == 0 {
		x.Flags |= observe.FlagNoResponse | ifUnanswered
	}
	c.d.emit(x.Observation)
}

// stream tracks the sequence numbers of one direction of a connection.
type stream struct {
	known bool
	next  uint32 // after the highest byte seen
	gaps  []gap  // below next
}

// gap is a range of unseen sequence numbers, its end excluded.
type gap struct{ start, end uint32 }

// order is the position of a segment in its stream.
type order uint8

const (
	inOrder  order = iota // directly after the bytes seen so far
	ahead                 // leaves a gap
	filling               // in a gap
	repeated              // seen before, at least its first byte
)

// maxGaps bounds the memory for a stream with lost packets. The oldest gap is
// dropped first; a segment that fills it then counts as repeated.
const maxGaps = 64

// add adds a segment and returns the number of bytes not seen before.
func (s *stream) add(seq, size uint32) (o order, fresh uint32) {
	end := seq + size
	if !s.known {
		s.known, s.next = true, end
		return inOrder, size
	}
	switch d := distance(seq, s.next); {
	case d == 0:
		s.next = end
		return inOrder, size
	case d > 0:
		s.skipTo(seq)
		s.next = end
		return ahead, size
	}
	filled := s.fill(seq, end)
	if beyond := distance(end, s.next); beyond > 0 {
		fresh = uint32(beyond)
		s.next = end
	}
	if filled > 0 {
		return filling, fresh + filled
	}
	return repeated, fresh
}

// skipTo leaves a gap up to a sequence number after next.
func (s *stream) skipTo(seq uint32) {
	if len(s.gaps) == maxGaps {
		s.gaps = s.gaps[1:]
	}
	s.gaps = append(s.gaps, gap{s.next, seq})
	s.next = seq
}

// fill removes a range from the gaps and returns the number of bytes removed.
func (s *stream) fill(start, end uint32) (filled uint32) {
	var left []gap
	for _, g := range s.gaps {
		from, to := later(g.start, start), earlier(g.end, end)
		if distance(to, from) <= 0 {
			left = append(left, g)
			continue
		}
		filled += to - from
		if g.start != from {
			left = append(left, gap{g.start, from})
		}
		if to != g.end {
			left = append(left, gap{to, g.end})
		}
	}
	s.gaps = left
	return filled
}

// distance returns how far sequence number a is after b. Sequence numbers wrap.
func distance(a, b uint32) int32 { return int32(a - b) }

func later(a, b uint32) uint32 {
	if distance(a, b) > 0 {
		return a
	}
	return b
}

func earlier(a, b uint32) uint32 {
	if distance(a, b) < 0 {
		return a
	}
	return b
}
