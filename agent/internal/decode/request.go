// SPDX-License-Identifier: Apache-2.0

package decode

import (
	"bytes"

	"github.com/layertrace/layertrace/internal/observe"
	"github.com/layertrace/layertrace/internal/tracecontext"
)

// fromClient takes payload on its way to the server.
func (c *connection) fromClient(s segment, o order, fresh uint32) {
	if x := c.current; x != nil && x.head != nil {
		switch {
		case o == inOrder:
			c.addToRequest(s, o, fresh)
			x.head = append(x.head, s.payload...)
			c.settle(s.size > uint32(len(s.payload)))
			return
		case fresh > 0:
			c.settle(true)
		}
	}
	if o != repeated && s.beginsRequest() {
		switch {
		case c.current != nil && after(s.seq, c.current.requestSeq) < 0:
			c.d.counts.lateRequests++
		case c.looksLikeBody(s):
			c.d.counts.outcomes[tracecontext.Unparsable]++
		default:
			c.begin(s, o)
			return
		}
	}
	c.addToRequest(s, o, fresh)
}

// looksLikeBody tells data that begins with a method from requests: it has no
// request line. While a request waits for its response, the line must be whole
// in the window: else it is more likely the body.
func (c *connection) looksLikeBody(s segment) bool {
	opts := c.d.walkOptions()
	if c.current != nil && c.owed.waiting && !hasLine(s.payload, opts.Window) {
		return true
	}
	return tracecontext.Parse(s.payload, opts).Outcome == tracecontext.Unparsable
}

func hasLine(head []byte, window int) bool {
	return bytes.IndexByte(head[:min(len(head), window)], '\n') >= 0
}

// begin starts an exchange with the request's first segment; that ends the
// one before, whatever is in the request.
func (c *connection) begin(s segment, o order) {
	c.d.counts.requests++
	if c.owed.waiting && c.current != nil {
		c.current.Flags |= observe.FlagPipelined
	}
	c.end(0)
	x := &open{
		Observation: observe.Observation{
			Interface: s.point.interfaceIndex,
			Direction: s.direction,
			Key:       observe.Key{Client: c.client, Server: c.server},
		},
		requestSeq:       s.seq,
		responseSeq:      c.toClient.next,
		responseSeqKnown: c.toClient.known,
	}
	c.current = x
	if c.owed.request() {
		c.d.counts.pipelined++
		x.Flags |= observe.FlagPipelined
	}
	c.takeOption(s.option)
	c.addToRequest(s, o, s.size)
	x.head = bytes.Clone(s.payload)
	c.settle(!c.d.opts.Deep || s.size > uint32(len(s.payload)))
}

func (c *connection) takeOption(o option) {
	x := c.current
	if o.id == nil && c.synOption.id != nil {
		o = c.synOption
		x.Flags |= observe.FlagOptionLost
	}
	x.ConnectionID, x.OptionTime = o.id, o.time
}

// settle looks for a context in the head as far as it was seen. Unless the
// window ends here, an answer that more bytes could change is not taken.
func (c *connection) settle(windowEnds bool) {
	x := c.current
	opts := c.d.walkOptions()
	r := tracecontext.Parse(x.head, opts)
	if !r.Final && !windowEnds {
		return
	}
	c.d.counts.outcomes[r.Outcome]++
	c.d.counts.malformed += uint64(r.Malformed)
	if r.Outcome == tracecontext.Unparsable || r.Outcome == tracecontext.Truncated && !hasLine(x.head, opts.Window) {
		c.owed.notRequest()
	}
	x.head = nil
	if r.Outcome != tracecontext.Found {
		c.current = nil
		return
	}
	x.Context = observe.Context{Context: r.Context, HeaderOffset: r.Offset}
	if r.Malformed > 0 {
		x.Flags |= observe.FlagMalformed
	}
	if x.Request.Packets > 1 {
		c.d.counts.multiSegment++
		x.Flags |= observe.FlagMultiSegment
	}
	if x.Flags&observe.FlagOptionLost != 0 {
		c.d.counts.optionLost++
	}
}

// addToRequest adds payload to the current exchange, if it belongs there.
func (c *connection) addToRequest(s segment, o order, fresh uint32) {
	x := c.current
	if x == nil || after(s.seq, x.requestSeq) < 0 {
		return
	}
	if x.Response.Packets > 0 && (o != inOrder || len(c.toServer.holes) > 0) {
		// Once there is a response, what leaves a hole, or comes behind one, may
		// be, or belong to, a request whose head is late or was missed.
		fresh = 0
		if o != repeated {
			return
		}
	}
	x.add(&x.Request, s, o, fresh)
}

// add counts a segment of either message.
func (x *open) add(m *observe.Message, s segment, o order, fresh uint32) {
	switch o {
	case repeated:
		x.Retransmits++
	case ahead, filling:
		x.Flags |= observe.FlagOutOfOrder
	}
	if fresh == 0 {
		return
	}
	if m.Packets == 0 {
		m.First = s.time
	}
	m.Last = s.time
	m.Bytes += uint64(fresh)
	m.Packets++
}
