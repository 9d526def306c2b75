// SPDX-License-Identifier: Apache-2.0

package decode

import (
	"bytes"
	"net/http"

	"github.com/layertrace/layertrace/internal/observe"
	"github.com/layertrace/layertrace/internal/tracecontext"
)

// open is an exchange in progress.
type open struct {
	observe.Observation
	// head is the part of the request read so far in deep mode, nil once the
	// search for a context is over.
	head []byte
	// Start of both messages in their streams. Bytes before that belong to an
	// earlier exchange.
	requestSeq, responseSeq uint32
	responseSeqKnown        bool
}

// fromClient handles payload to the server.
func (c *connection) fromClient(s segment, o order, fresh uint32) {
	if x := c.current; x != nil && x.head != nil {
		switch {
		case o == inOrder:
			c.addToRequest(s, o, fresh)
			x.head = append(x.head, s.payload...)
			c.search(s.size > uint32(len(s.payload)))
			return
		case fresh > 0:
			c.search(true)
		}
	}
	if o != repeated && s.startsRequest() {
		switch {
		case c.current != nil && distance(s.seq, c.current.requestSeq) < 0:
			c.d.counts.lateRequests++
		case c.looksLikeBody(s):
			c.d.counts.outcomes[tracecontext.Unparsable]++
		default:
			c.start(s, o)
			return
		}
	}
	c.addToRequest(s, o, fresh)
}

func (s *segment) startsRequest() bool { return tracecontext.BeginsRequest(s.payload) }

// looksLikeBody distinguishes data that starts with a method from a request: it
// has no request line. While a request awaits its response, data is more likely
// its body, and the request line must be complete within the window.
func (c *connection) looksLikeBody(s segment) bool {
	opts := c.d.searchOptions()
	if c.current != nil && c.pipeline.awaiting && !hasLine(s.payload, opts.Window) {
		return true
	}
	return tracecontext.Parse(s.payload, opts).Outcome == tracecontext.Unparsable
}

func hasLine(head []byte, window int) bool {
	return bytes.IndexByte(head[:min(len(head), window)], '\n') >= 0
}

// start starts an exchange with the request's first segment. It ends the
// previous exchange even if the request has no context.
func (c *connection) start(s segment, o order) {
	c.d.counts.requests++
	if c.pipeline.awaiting && c.current != nil {
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
	if c.pipeline.request() {
		c.d.counts.pipelined++
		x.Flags |= observe.FlagPipelined
	}
	c.setOption(s.option)
	c.addToRequest(s, o, s.size)
	x.head = bytes.Clone(s.payload)
	c.search(!c.d.opts.Deep || s.size > uint32(len(s.payload)))
}

func (c *connection) setOption(o option) {
	x := c.current
	if o.id == nil && c.synOption.id != nil {
		o = c.synOption
		x.Flags |= observe.FlagOptionLost
	}
	x.ConnectionID, x.OptionTime = o.id, o.time
}

// search searches the head read so far for a context. Unless the window ends
// here, only a result counts that settles the search or that further bytes cannot
// change.
func (c *connection) search(windowEnds bool) {
	x := c.current
	opts := c.d.searchOptions()
	r := tracecontext.Parse(x.head, opts)
	if !r.Final && !r.Settled && !windowEnds {
		return
	}
	c.d.counts.outcomes[r.Outcome]++
	c.d.counts.malformed += uint64(r.Malformed)
	if r.Outcome == tracecontext.Unparsable || r.Outcome == tracecontext.Truncated && !hasLine(x.head, opts.Window) {
		c.pipeline.notRequest()
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
	if r.Several {
		x.Flags |= observe.FlagSeveralContexts
		c.d.counts.several++
	}
	if x.Request.Packets > 1 {
		c.d.counts.multiSegment++
		x.Flags |= observe.FlagMultiSegment
	}
	if x.Flags&observe.FlagOptionLost != 0 {
		c.d.counts.optionLost++
	}
}

// addToRequest adds payload to the current exchange if it belongs to it.
func (c *connection) addToRequest(s segment, o order, fresh uint32) {
	x := c.current
	if x == nil || distance(s.seq, x.requestSeq) < 0 {
		return
	}
	if x.Response.Packets > 0 && (o != inOrder || len(c.toServer.gaps) > 0) {
		// After the response has started, a segment that leaves or follows a
		// gap may belong to a request whose head is late or was missed.
		fresh = 0
		if o != repeated {
			return
		}
	}
	x.add(&x.Request, s, o, fresh)
}

// add adds a segment to either message.
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

// fromServer handles payload to the client.
func (c *connection) fromServer(s segment, o order, fresh uint32) {
	if o != repeated && s.startsRequest() {
		c.d.counts.requestInResponse++
	}
	if o == repeated && fresh == 0 {
		c.addToResponse(s, o, 0)
		return
	}
	if c.current != nil && c.current.head != nil {
		c.search(true) // the response came before the head was complete
	}
	code, starts := parseStatus(s.payload)
	for starts && isInterim(code) && o != repeated && !c.hasStatus() {
		c.markInterim()
		rest, ok := afterHead(s.payload)
		if !ok {
			return
		}
		// The next response follows in the same segment.
		skipped := uint32(len(s.payload) - len(rest))
		s.payload, s.seq, s.size, fresh = rest, s.seq+skipped, s.size-skipped, fresh-min(fresh, skipped)
		code, starts = parseStatus(rest)
	}
	starts = starts && o != repeated
	other, startOfOther := c.pipeline.response(starts)
	if startOfOther {
		c.d.counts.responseOfOther++
	}
	if other {
		return
	}
	c.pipeline.awaiting = false
	if c.current == nil {
		return
	}
	if starts {
		c.current.startResponse(code, o)
	}
	c.addToResponse(s, o, fresh)
}

// parseStatus parses the status code at the start of a response: "HTTP/1.", a
// digit, a space and three digits.
func parseStatus(payload []byte) (code int, ok bool) {
	rest, ok := bytes.CutPrefix(payload, []byte("HTTP/1."))
	if !ok || len(rest) < len("1 200") || !isDigit(rest[0]) || rest[1] != ' ' {
		return 0, false
	}
	for _, digit := range rest[2:5] {
		if !isDigit(digit) {
			return 0, false
		}
		code = 10*code + int(digit-'0')
	}
	return code, true
}

func isDigit(b byte) bool { return b >= '0' && b <= '9' }

// isInterim reports whether another response follows this one (RFC 9110,
// section 15.2). 101 is the last response in HTTP.
func isInterim(code int) bool { return code >= 100 && code < 200 && code != 101 }

// afterHead returns the bytes after an interim response in its segment.
func afterHead(payload []byte) ([]byte, bool) {
	_, rest, ok := bytes.Cut(payload, []byte("\r\n\r\n"))
	return rest, ok && len(rest) > 0
}

// hasStatus reports whether the final response of the current exchange has
// started. Everything after that is its body.
func (c *connection) hasStatus() bool { return c.current != nil && c.current.Status != 0 }

func (c *connection) markInterim() {
	if c.current != nil && c.pipeline.earlier == 0 && c.current.Response.Packets == 0 {
		c.current.Flags |= observe.FlagInterim
	}
}

// startResponse sets the status of the final response.
func (x *open) startResponse(code int, o order) {
	if x.Status != 0 {
		return // a body that looks like a response
	}
	if x.Response.Packets > 0 && o == inOrder {
		// The bytes before the status line were the end of an earlier response.
		x.Response = observe.Message{}
		x.Flags |= observe.FlagPipelined
	}
	x.Status = code
	if code == http.StatusSwitchingProtocols {
		x.Flags |= observe.FlagUpgraded
	}
}

// addToResponse adds payload to the current exchange if it belongs to it.
func (c *connection) addToResponse(s segment, o order, fresh uint32) {
	x := c.current
	if x == nil || x.responseSeqKnown && distance(s.seq, x.responseSeq) < 0 {
		return
	}
	x.add(&x.Response, s, o, fresh)
}

// pipeline separates the responses to pipelined requests. Responses have the
// order of their requests (RFC 9112, section 9.3.2), so those to earlier
// requests precede the response to the last one.
type pipeline struct {
	// awaiting: nothing of the final response to the last request was seen.
	awaiting bool
	// earlier is the number of responses to expect before that one.
	earlier int
	// passing: the payload belongs to an earlier response, up to the start of
	// the next one.
	passing bool
}

// request records a further request and reports whether it was pipelined.
func (p *pipeline) request() bool {
	if p.awaiting {
		p.earlier++
	}
	p.awaiting = true
	return p.earlier > 0
}

// notRequest reverts the last request, which was data that looked like one.
func (p *pipeline) notRequest() { p.awaiting = false }

// response reports whether payload of the server responds to an earlier request
// than the last one, and whether such a response starts here.
func (p *pipeline) response(startsFinal bool) (other, start bool) {
	switch {
	case p.earlier > 0:
		if startsFinal {
			p.earlier--
			p.passing = true
		}
		return true, startsFinal
	case p.passing && !startsFinal:
		return true, false
	}
	p.passing = false
	return false, false
}
