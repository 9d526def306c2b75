// SPDX-License-Identifier: Apache-2.0

package decode

import (
	"net/netip"

	"github.com/layertrace/layertrace/internal/observe"
)

// connection is what is known of one TCP connection.
type connection struct {
	d              *Decoder
	client, server netip.AddrPort
	toServer       stream
	toClient       stream
	synOption      option // of the client's SYN
	current        *open  // nil: none was found in the last request
	owed           owed
}

// open is an exchange that goes on.
type open struct {
	observe.Observation
	// head is what was read of a request in deep mode, nil once it is known
	// whether there is a context in it.
	head []byte
	// Where both messages begin in their streams: what lies before belongs to
	// an exchange that has ended.
	requestSeq, responseSeq uint32
	responseSeqKnown        bool
}

// segment takes one TCP segment on to its connection.
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
	case s.beginsRequest():
		c = &connection{d: d, client: s.source, server: s.destination}
		c.segment(s)
		if c.owed.waiting {
			d.connections[key] = c
		} // else it was data, which does not tell who the client is
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
	if _, ok := status(s.payload); ok {
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
		c.acknowledged(s.ack, fromClient)
	}
	if s.size > 0 {
		order, fresh := direction.place(s.seq, s.size)
		c.countOrder(order)
		if fromClient {
			c.fromClient(s, order, fresh)
		} else {
			c.fromServer(s, order, fresh)
		}
	}
	if end := s.seq + s.size; s.fin && direction.known && end == direction.next {
		direction.next++ // a FIN takes one number itself, as a SYN does
	}
	switch {
	case s.rst:
		c.end(observe.FlagReset)
	case s.fin && !fromClient:
		// The client's FIN, before or after this one, can change nothing.
		c.end(0)
	}
}

// acknowledged takes an acknowledgement. What it covers has passed here; what
// was not seen of that was lost by the capture.
func (c *connection) acknowledged(ack uint32, byClient bool) {
	direction := &c.toServer
	if byClient {
		direction = &c.toClient
	}
	if !direction.known || after(ack, direction.next) <= 0 {
		return
	}
	direction.skipTo(ack)
	c.d.counts.missed++
	if c.current != nil {
		c.current.Flags |= observe.FlagOutOfOrder
		if c.current.head != nil && !byClient {
			c.settle(true)
		}
	}
	if byClient {
		c.owed = owed{} // any response may have begun there
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

// end emits the current exchange, if there is one. ifUnanswered is set only
// when nothing of a final response was seen.
func (c *connection) end(ifUnanswered observe.Flags) {
	x := c.current
	if x != nil && x.head != nil {
		c.settle(true)
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
