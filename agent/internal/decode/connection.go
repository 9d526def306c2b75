// SPDX-License-Identifier: Apache-2.0

package decode

import (
	"bytes"
	"net/netip"
	"time"

	"github.com/layertrace/layertrace/internal/observe"
)

// connection is the state of one TCP connection. Its segments go through three steps:
// both streams put them in order; deliver passes them on as both ends saw them, a segment
// after all that it acknowledges; conversation reads the messages.
type connection struct {
	d              *Decoder
	client, server netip.AddrPort
	toServer       stream
	toClient       stream
	// certain: a SYN has shown which end is the client.
	certain  bool
	segments uint64
	last     uint64 // time of the last packet
	// stuck is set while acknowledged bytes are missing.
	stuck  stuck
	closed bool
	talk   conversation
}

// stuck is since when a connection waits for bytes that its peer already has.
type stuck struct {
	waiting  bool
	since    uint64 // time
	segments uint64
}

// Bounds of the wait for missing bytes. Bytes that were acknowledged can only be late in
// the capture's own order, by a few packets; others may come again at any time, within
// the memory for what waits.
const (
	patience        = uint64(200 * time.Millisecond)
	patienceInOrder = 64
	maxHeld         = 4 << 20
)

// maxJump is the distance in bytes beyond which a sequence number belongs to another
// connection, whose beginning was not captured. It is the largest window of TCP (RFC
// 7323, section 2.3).
const maxJump = 1 << 30

// maxReset is the distance in bytes beyond which a RST is not of this connection, but of
// an earlier one or a forged one: its receiver ignores what is outside of its window (RFC
// 9293, section 3.10.7.4), and windows above 64 MiB are not in use.
const maxReset = 64 << 20

// segment passes a TCP segment to its connection. A connection begins with a SYN, or
// with a message, which shows which end is the client.
func (d *Decoder) segment(s segment) {
	key := s.flow()
	c := d.connections[key]
	if c != nil && c.isTurned(&s) {
		c.talk.forget()
		c.end(0)
		delete(d.connections, key)
		c = nil
	}
	if c != nil && c.isOther(&s) {
		c.end(0)
		delete(d.connections, key)
		c = nil
	}
	if c == nil {
		if c = d.open(&s); c == nil {
			d.countUntracked(&s)
			return
		}
		d.connections[key] = c
	}
	c.segment(s)
}

// open returns the connection that a segment begins, nil if it does not show who is the
// client.
func (d *Decoder) open(s *segment) *connection {
	c := &connection{d: d, client: s.source, server: s.destination, last: s.time}
	c.talk.c = c
	switch {
	case s.syn:
		c.certain = true
		if s.isAck {
			c.client, c.server = c.server, c.client
		}
	case s.size > 0 && beginsRequest(skipEmptyLines(s.payload)) == like, s.size >= minSplitHead && beginsRequest(s.payload) == possible:
	case s.size > 0 && beginsResponse(s.payload) == like:
		c.client, c.server = c.server, c.client
	default:
		return nil
	}
	return c
}

// minSplitHead is the payload from which on a segment is probably a full one, and its
// request line may continue in the next.
const minSplitHead = 500

// isOther reports whether a segment belongs to a later connection between the same ends.
func (c *connection) isOther(s *segment) bool {
	stream, _ := c.streams(s.source == c.client)
	if s.syn {
		return stream.known && s.seq != stream.first // else it is a copy
	}
	if s.rst || c.closed && s.size == 0 {
		return false
	}
	return s.size > 0 && stream.known && absolute(distance(s.seq, stream.high)) > maxJump
}

// isTurned reports whether a segment shows that the guess of who is the client was wrong:
// the server begins a request where a response should begin.
func (c *connection) isTurned(s *segment) bool {
	return !c.certain && s.source == c.server && c.talk.atResponse() && beginsRequest(s.payload) == like
}

func absolute(d int32) int64 {
	if d < 0 {
		return -int64(d)
	}
	return int64(d)
}

// streams returns the stream of a sender and the opposite one.
func (c *connection) streams(fromClient bool) (own, opposite *stream) {
	if fromClient {
		return &c.toServer, &c.toClient
	}
	return &c.toClient, &c.toServer
}

func (d *Decoder) countUntracked(s *segment) {
	if s.size > 0 {
		d.counts.untracked++
	}
}

func (c *connection) segment(s segment) {
	c.segments++
	if s.time > c.last+uint64(settleTime) {
		c.talk.settle()
	}
	c.last = max(c.last, s.time)
	fromClient := s.source == c.client
	own, opposite := c.streams(fromClient)
	if s.syn && !own.known {
		own.start(s.seq)
	}
	if s.syn && fromClient && c.talk.option.id == nil {
		c.talk.option = s.option
	}
	if s.isAck {
		switch {
		case !opposite.known:
			opposite.start(s.ack)
		case distance(s.ack, opposite.acked) > 0 && absolute(distance(s.ack, opposite.high)) <= maxJump:
			opposite.acked = s.ack
		}
	}
	c.add(own, s, fromClient)
	c.deliver()
	c.beImpatient(s.time)
	if s.rst && own.known && absolute(distance(s.seq, own.high)) > maxReset {
		c.d.counts.resetIgnored++
		return
	}
	if s.rst {
		c.end(observe.FlagReset)
	}
}

// add adds the segment's bytes and its FIN to its stream.
func (c *connection) add(own *stream, s segment, fromClient bool) {
	if s.size == 0 && !s.fin {
		return
	}
	p := piece{seq: s.seq, size: s.size, data: s.payload, time: s.time, ack: s.ack, isAck: s.isAck, segment: c.segments, first: true}
	p.carrier = s
	p.carrier.payload = nil
	if s.size > 0 {
		if p.seq != own.next || len(own.waiting) > 0 || !c.opposite(own).reached(s.ack) {
			p.data = bytes.Clone(p.data) // it may wait for longer than the packet is valid
		}
		switch own.add(p) {
		case repeated:
			c.d.counts.retransmits++
			c.talk.retransmitted(fromClient, s.seq)
		case ahead, filling:
			c.d.counts.outOfOrder++
		}
	}
	if s.fin {
		p.seq, p.size, p.data, p.fin, p.first = s.seq+s.size, 1, nil, true, false
		own.add(p)
	}
}

func (c *connection) opposite(s *stream) *stream {
	if s == &c.toServer {
		return &c.toClient
	}
	return &c.toServer
}

// deliver passes on all pieces that are next. Each waits for what its sender had already
// received: requests and responses are then read in the order of their causes, even if
// the capture has them in another.
func (c *connection) deliver() {
	for {
		request, response := c.toServer.ready(), c.toClient.ready()
		early := request != nil && request.isAck && !c.toClient.reached(request.ack)
		if response != nil && response.isAck && !c.toServer.reached(response.ack) {
			if early {
				early = false // each waits for the other: one was sent again
			}
			response = nil
		}
		if early {
			request = nil
		}
		switch {
		case request != nil && (response == nil || request.time <= response.time):
			c.talk.fromClient(c.toServer.take())
		case response != nil:
			c.talk.fromServer(c.toClient.take())
		default:
			return
		}
	}
}

// beImpatient gives up on bytes that were acknowledged and still did not pass, and on the
// oldest hole if too much waits for it.
func (c *connection) beImpatient(now uint64) {
	for {
		_, lostRequest := c.toServer.hole()
		_, lostResponse := c.toClient.hole()
		full := c.toServer.held+c.toClient.held > maxHeld
		if !lostRequest && !lostResponse && !full {
			c.stuck = stuck{}
			return
		}
		if !c.stuck.waiting {
			c.stuck = stuck{true, now, c.segments}
		}
		if !full && now < c.stuck.since+patience && c.segments < c.stuck.segments+patienceInOrder {
			return
		}
		if full {
			c.d.counts.reassemblyFull++
		}
		c.force(full)
	}
}

// force skips one hole, an acknowledged one unless any is set, and reports whether there
// was one.
func (c *connection) force(any bool) bool {
	for _, s := range []*stream{&c.toServer, &c.toClient} {
		if size, acked := s.hole(); size > 0 && (acked || any && s.ready() == nil && len(s.waiting) > 0) {
			size, acked = s.skip(c.opposite(s))
			if acked {
				c.d.counts.missed++
			}
			if s == &c.toServer {
				c.talk.lostRequestBytes(size, acked)
			} else {
				c.talk.lostResponseBytes(size, acked)
			}
			c.deliver()
			return true
		}
	}
	return false
}

// end reads what still waits and reports all exchanges. flags are of those that are not
// complete.
func (c *connection) end(flags observe.Flags) {
	for c.force(true) {
	}
	c.talk.end(flags)
	c.closed = true
}

func skipEmptyLines(b []byte) []byte { return bytes.TrimLeft(b, "\r\n") }
