// SPDX-License-Identifier: Apache-2.0

package decode

import (
	"bytes"
	"cmp"

	"github.com/layertrace/layertrace/internal/observe"
	"github.com/layertrace/layertrace/internal/tracecontext"
)

// exchange is one exchange of a conversation.
type exchange struct {
	observe.Observation
	// unseen stands for requests that did not pass here, of any number. unclear: it is not
	// known which response is that of this request, or of the one after the unseen ones.
	unseen, unclear bool
	// doubtful: requests before it were not seen because packets are missing, so that
	// its response may not be known as its own.
	doubtful bool
	// found: it has a sampled context; parsed: its head was searched.
	found, parsed bool
	// requestAt and requestEnd, responseAt and responseEnd are the sequence numbers of
	// what was read so far. responseAt is at first where the client had read to when it
	// sent the request: there the response begins, unless others come before.
	requestAt, requestEnd   uint32
	responseAt, responseEnd uint32
	// firstSegment is the number of bytes of the head in its first segment.
	firstSegment                int
	requestDone, responseDone   bool
	responseBegun               bool
	requestPacket, responsePart uint64 // the last segments counted
}

// reply is the part of a response that was read before it is known whether it is interim.
type reply struct {
	observe.Message
	at, end    uint32
	segment    uint64
	disordered bool
}

// addRequest adds the first n bytes of a piece to the request.
func (x *exchange) addRequest(p *piece, n int) {
	if n == 0 {
		return
	}
	add(&x.Request, &x.requestPacket, p, n)
	x.requestEnd = p.seq + uint32(n)
	if p.disordered {
		x.Flags |= observe.FlagOutOfOrder
	}
}

// addResponse adds the first n bytes of a piece to the response.
func (x *exchange) addResponse(p *piece, n int) {
	if n == 0 {
		return
	}
	if !x.responseBegun {
		x.responseBegun, x.responseAt = true, p.seq
	}
	add(&x.Response, &x.responsePart, p, n)
	x.responseEnd = p.seq + uint32(n)
	if p.disordered {
		x.Flags |= observe.FlagOutOfOrder
	}
}

func (r *reply) add(p *piece, n int) {
	if n == 0 {
		return
	}
	add(&r.Message, &r.segment, p, n)
	r.end = p.seq + uint32(n)
	r.disordered = r.disordered || p.disordered
}

// add adds n bytes of a segment to a message. Pieces come in the order of the stream, so
// their times may not be in order.
func add(m *observe.Message, last *uint64, p *piece, n int) {
	if m.Packets == 0 {
		m.First, m.Last = p.time, p.time
	}
	m.First, m.Last = min(m.First, p.time), max(m.Last, p.time)
	m.Bytes += uint64(n)
	if m.Packets == 0 || *last != p.segment {
		m.Packets++
	}
	*last = p.segment
}

// setOption takes the TCP option of the request's first segment, or of the SYN.
func (x *exchange) setOption(o, ofSYN option) {
	if o.id == nil && ofSYN.id != nil {
		o = ofSYN
		x.Flags |= observe.FlagOptionLost
	}
	x.ConnectionID, x.OptionTime = o.id, o.time
}

// search searches a head, or the beginning of one, for a context.
func (t *conversation) search(x *exchange, head []byte) {
	d := t.c.d
	x.parsed = true
	x.Method, x.Path = requestLine(head)
	r := d.parse(head, x.firstSegment)
	d.counts.outcomes[r.Outcome]++
	d.counts.malformed += uint64(r.Malformed)
	x.Context = observe.Context{Context: r.Context, HeaderOffset: r.Offset}
	if x.found = r.Outcome == tracecontext.Found; !x.found {
		return
	}
	if r.Malformed > 0 {
		x.Flags |= observe.FlagMalformed
	}
	if r.Several {
		d.counts.several++
		x.Flags |= observe.FlagSeveralContexts
	}
	first := head[:min(x.firstSegment, len(head))]
	if in := tracecontext.Parse(first, d.search(0)); in.Outcome != r.Outcome || in.Context != r.Context {
		d.counts.multiSegment++
		x.Flags |= observe.FlagMultiSegment
	}
	if in := tracecontext.Parse(first, d.search(tracecontext.DefaultPrefixWindow)); in.Outcome != r.Outcome || in.Context != r.Context {
		d.counts.outsideWindow++
		x.Flags |= observe.FlagOutsideWindow
	}
	if x.Flags&observe.FlagOptionLost != 0 {
		d.counts.optionLost++
	}
}

// search returns the options of a search within a window, 0 for none.
func (d *Decoder) search(window int) tracecontext.Options {
	return tracecontext.Options{Window: window, Headers: d.opts.Headers, Preferred: d.opts.Formats}
}

// parse searches a head as far as the options say; first is the length of its part in the
// first segment.
func (d *Decoder) parse(head []byte, first int) tracecontext.Result {
	switch {
	case d.opts.Deep:
		opts := d.search(d.opts.DeepWindow)
		opts.MaxLine = tracecontext.DeepMaxLine
		return tracecontext.Parse(head, opts)
	case d.opts.DeepAuto:
		window := min(first, len(head), cmp.Or(d.opts.PrefixWindow, tracecontext.DefaultPrefixWindow))
		r := tracecontext.Parse(head[:window], d.search(0))
		if !r.BeginsRequest || r.Outcome != tracecontext.Truncated {
			return r
		}
		opts := d.search(d.opts.DeepWindow)
		opts.MaxLine, opts.MaxLineBehind = tracecontext.DeepMaxLine, window
		return tracecontext.Parse(head, opts)
	case d.opts.PrefixWindow > 0:
		return tracecontext.Parse(head[:min(first, len(head))], d.search(d.opts.PrefixWindow))
	}
	r := tracecontext.Parse(head, d.search(0))
	if !r.BeginsRequest && beginsRequest(head) == like {
		// A method that agents do not know, in lower case or longer.
		method := bytes.IndexByte(head, ' ')
		const known = "GET"
		r = tracecontext.Parse(append([]byte(known), head[method:]...), d.search(0))
		r.Offset += uint32(method - len(known))
	}
	return r
}

// report reports a complete exchange.
func (d *Decoder) report(x *exchange) {
	if !x.found && !d.opts.All {
		return
	}
	if d.opts.NoPaths {
		x.Path = ""
	}
	x.keepOrder()
	if x.ConnectionID != nil {
		x.Request.Seq = x.requestAt
		if x.responseBegun {
			x.Response.Seq = x.responseAt
		}
	}
	if start, _ := x.Extent(); start != 0 {
		x.Wall = int64(start) // a capture has no other clock
	}
	d.counts.exchanges++
	d.emit(x.Observation)
}

// keepOrder corrects times that contradict each other: the clock of the capture went
// back, or packets are in another order in the file than on the wire.
func (x *exchange) keepOrder() {
	if x.Response.Packets > 0 && x.Response.First < x.Request.First {
		x.Response.First = x.Request.First
		x.Response.Last = max(x.Response.Last, x.Response.First)
		x.Flags |= observe.FlagOutOfOrder
	}
}
