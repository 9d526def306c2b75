// SPDX-License-Identifier: Apache-2.0

package decode

import (
	"slices"
	"time"

	"github.com/layertrace/layertrace/internal/observe"
	"github.com/layertrace/layertrace/internal/tracecontext"
)

// conversation pairs the messages of a connection. Responses have the order of their
// requests (RFC 9112, section 9.3.2). Where bytes are missing, a response is given to a
// request only if the sequence numbers show that it is its own.
type conversation struct {
	c                    *connection
	requests, responses  parser
	queue                []*exchange // requests that await the end of their response
	request              *exchange   // whose request is being read
	response             *exchange   // whose response is being read; nil: of no known request
	reply                reply       // the response head being read
	settled              []*exchange // complete, and reported when nothing more can follow
	option               option      // of the client's SYN
	clientEnd, serverEnd bool        // FINs
}

// settleTime is how long a complete exchange waits for retransmissions, as in the agent.
const settleTime = 2 * time.Second

// maxQueue bounds the requests of a connection that await a response.
const maxQueue = 1024

// idle reports whether no message is being read or awaited.
func (t *conversation) idle() bool {
	return len(t.queue) == 0 && t.request == nil && t.atResponse()
}

// atResponse reports whether no response is being read.
func (t *conversation) atResponse() bool {
	return t.response == nil && (t.responses.phase == between || t.responses.phase == astray)
}

// forget drops the requests that await a response: they were none.
func (t *conversation) forget() {
	for _, x := range t.queue {
		if x.unseen {
			continue
		}
		t.c.d.counts.requests--
		if x.found {
			t.c.d.counts.outcomes[tracecontext.Found]--
		}
	}
	t.queue, t.request = nil, nil
}

// fromClient reads the bytes of a client.
func (t *conversation) fromClient(p piece) {
	if p.fin {
		t.clientFIN()
		return
	}
	missing := p.size - uint32(len(p.data))
	for len(p.data) > 0 {
		var n int
		switch t.requests.phase {
		case between:
			if n = len(p.data) - len(skipEmptyLines(p.data)); n > 0 {
				break // RFC 9112, section 2.2
			}
			if beginsRequest(p.data) == unlike {
				if looksLikeMethod(p.data) {
					t.c.d.counts.unparsable++
				}
				t.requests.phase = astray
				continue
			}
			t.beginRequest(&p)
			continue
		case astray:
			if p.first && beginsRequest(skipEmptyLines(p.data)) == like {
				t.requests.phase = between
				continue
			}
			t.c.d.counts.untracked++
			t.addUnseen(false) // there may be requests in it
			n = len(p.data)
		case inTunnel:
			t.c.d.counts.tunnel++
			n = len(p.data)
		default:
			n = t.readRequest(&p)
		}
		p = p.from(p.seq + uint32(n))
	}
	if missing > 0 {
		t.missRequestBytes(missing, 0, &p)
	}
}

// readRequest reads bytes of a request up to the next event.
func (t *conversation) readRequest(p *piece) int {
	x := t.request
	n, e := t.requests.feed(p.data)
	x.addRequest(p, n)
	if len(t.requests.head) > 0 && !x.parsed && x.firstSegment == 0 {
		x.firstSegment = min(n, len(t.requests.head))
	}
	switch e {
	case headEnds:
		t.requestHead(x)
	case headTooBig, broken:
		t.requestIsDone(observe.FlagIncomplete)
		t.requests.phase = astray
	case bodyEnds:
		t.requestIsDone(0)
		t.requests.phase = between
	case noEvent:
		if t.requests.phase == inHead && beginsRequest(t.requests.head) == unlike {
			t.notRequest(x)
		}
	}
	return n
}

// notRequest drops a request whose first line is none.
func (t *conversation) notRequest(x *exchange) {
	t.c.d.counts.requests--
	t.c.d.counts.unparsable++
	t.queue = slices.DeleteFunc(t.queue, func(q *exchange) bool { return q == x })
	t.request = nil
	t.requests.phase = astray
}

// beginRequest opens an exchange.
func (t *conversation) beginRequest(p *piece) {
	t.settle()
	t.catchUp(p)
	at := p.ack
	if !p.isAck && t.c.toClient.known {
		at = t.c.toClient.next
	}
	x := &exchange{
		Observation: observe.Observation{
			Interface: p.carrier.point.interfaceIndex,
			Direction: p.carrier.direction,
			Key:       observe.Key{Client: t.c.client, Server: t.c.server},
		},
		requestAt: p.seq, requestEnd: p.seq, responseAt: at, responseEnd: at,
	}
	x.setOption(p.carrier.option, t.option)
	t.c.d.counts.requests++
	for _, q := range t.queue {
		if q.unseen {
			x.doubtful, x.unclear = x.doubtful || q.doubtful, x.unclear || q.unclear
			continue
		}
		q.Flags |= observe.FlagPipelined
		x.Flags |= observe.FlagPipelined
	}
	if x.Flags&observe.FlagPipelined != 0 {
		t.c.d.counts.pipelined++
	}
	if len(t.queue) >= maxQueue {
		t.abandon(observe.FlagEvicted)
	}
	t.queue = append(t.queue, x)
	t.request = x
	t.requests.begin()
}

// catchUp uses what a new request shows: its client has read all responses so far. What
// is still open because bytes are missing is over, unless the client sends requests
// before it has the responses, which is rare.
func (t *conversation) catchUp(p *piece) {
	if t.responses.phase == inTunnel {
		return
	}
	if x := t.response; x != nil && t.responses.phase == untilClose && p.isAck && distance(p.ack, x.responseAt) > 0 {
		// The client has read the head, and takes the response to be over.
		t.queue = t.queue[1:]
		t.responseIsDone(x, false)
		t.response, t.responses.phase = nil, between
	}
	onlyUnseen := !slices.ContainsFunc(t.queue, func(q *exchange) bool { return !q.unseen || !t.answeredSince(q) })
	lost := t.responses.phase == astray || t.responses.phase != between && t.response == nil
	switch {
	case lost:
		open, missing := 0, false
		for _, q := range t.queue {
			switch {
			case !q.unseen:
				open++
				missing = missing || q.Flags&observe.FlagPacketsMissing != 0
			case !t.answeredSince(q):
				open += 2
			}
		}
		if open > 1 { // the bytes that were not read may be the response to any of them
			for _, q := range t.queue {
				q.doubtful, q.unclear = q.doubtful || missing, true
			}
		}
		t.abandon(0)
		t.responses.phase = between
		if open > 1 {
			unseen := t.unseen(t.c.toClient.next)
			unseen.doubtful, unseen.unclear = missing, true
			t.queue = append(t.queue, unseen)
		}
	case onlyUnseen && t.responses.phase == between:
		t.queue = nil
	}
}

// unseen stands for requests that were not seen; at is the position in the server's
// stream when they may have passed.
func (t *conversation) unseen(at uint32) *exchange {
	return &exchange{unseen: true, responseAt: at}
}

// addUnseen notes that there may be requests which were not seen; lost is set if that is
// because packets are missing.
func (t *conversation) addUnseen(lost bool) {
	if last := len(t.queue) - 1; last < 0 || !t.queue[last].unseen {
		t.queue = append(t.queue, t.unseen(t.c.toClient.next))
	}
	last := t.queue[len(t.queue)-1]
	last.responseAt = t.c.toClient.next
	last.doubtful = last.doubtful || lost
}

// answeredSince reports whether bytes of the server passed after unseen requests.
func (t *conversation) answeredSince(x *exchange) bool {
	return distance(t.c.toClient.next, x.responseAt) > 0
}

// abandon ends all exchanges that await a response. A request that is being read goes on.
func (t *conversation) abandon(flags observe.Flags) {
	for _, q := range t.queue {
		if q.unseen {
			continue
		}
		q.Flags |= flags
		t.responseIsDone(q, false)
	}
	t.queue, t.response = nil, nil
}

// requestHead reads a complete request head.
func (t *conversation) requestHead(x *exchange) {
	head := t.requests.head
	if beginsRequest(head) != like {
		t.notRequest(x)
		return
	}
	t.search(x, head)
	f, ok := requestFraming(head)
	switch {
	case !ok:
		x.Flags |= observe.FlagIncomplete
		t.requestIsDone(0)
		t.requests.phase = astray
	case t.requests.body(f):
		t.requestIsDone(0)
	}
}

// requestIsDone ends the request being read.
func (t *conversation) requestIsDone(flags observe.Flags) {
	x := t.request
	if x == nil {
		return
	}
	if !x.parsed {
		if !hasTarget(t.requests.head) {
			t.notRequest(x)
			return
		}
		t.search(x, t.requests.head)
	}
	x.Flags |= flags
	x.requestDone = true
	t.request = nil
	t.finish(x)
}

// clientFIN: the client sends no more. It still reads.
func (t *conversation) clientFIN() {
	if t.request != nil {
		t.requestIsDone(observe.FlagIncomplete)
	}
	t.requests.phase = astray
	t.clientEnd = true
	t.closeIfOver()
}

// lostRequestBytes handles bytes of the client that did not pass here; acked: the server
// has them.
func (t *conversation) lostRequestBytes(n uint32, acked bool) {
	flag := observe.FlagIncomplete
	if acked {
		flag = observe.FlagPacketsMissing
	}
	t.missRequestBytes(n, flag, nil)
}

// missRequestBytes skips bytes whose content is not known. p is the piece that they are
// of if they passed here, cut by the snapshot length.
func (t *conversation) missRequestBytes(n uint32, flag observe.Flags, p *piece) {
	x := t.request
	if x != nil {
		x.Flags |= flag
		if p != nil { // it passed
			x.addRequest(&piece{seq: p.end() - n, size: n, time: p.time, segment: p.segment}, int(n))
		}
	}
	ok, over := t.requests.skip(uint64(n))
	switch {
	case ok && over:
		t.requestIsDone(0)
		t.requests.phase = between
	case ok:
	default:
		if x != nil {
			t.requestIsDone(0)
		}
		if p == nil || x == nil { // there may be requests in them
			t.addUnseen(p == nil)
		}
		t.requests.phase = astray
	}
}

// retransmitted counts a segment that was seen again.
func (t *conversation) retransmitted(fromClient bool, seq uint32) {
	within := func(x *exchange) bool {
		if x.unseen {
			return false
		}
		if fromClient {
			return distance(seq, x.requestAt) >= 0 && distance(seq, x.requestEnd) < 0
		}
		return x.responseBegun && distance(seq, x.responseAt) >= 0 && distance(seq, x.responseEnd) < 0
	}
	for _, list := range [][]*exchange{t.queue, t.settled, {t.request}} {
		for _, x := range slices.Backward(list) {
			if x != nil && within(x) {
				x.Retransmits++
				return
			}
		}
	}
}

// finish puts an exchange aside if both messages are over.
func (t *conversation) finish(x *exchange) {
	if !x.requestDone || !x.responseDone || slices.Contains(t.settled, x) {
		return
	}
	t.settled = append(t.settled, x)
	if len(t.settled) > maxQueue {
		t.settle()
	}
}

// settle reports the exchanges that are complete.
func (t *conversation) settle() {
	for _, x := range t.settled {
		t.c.d.report(x)
	}
	t.settled = nil
}

// closeIfOver reports everything once both ends are closed.
func (t *conversation) closeIfOver() {
	if t.clientEnd && t.serverEnd {
		t.end(0)
		t.c.closed = true
	}
}

// end ends all exchanges, at the end of the connection or of the capture.
func (t *conversation) end(flags observe.Flags) {
	request := t.request
	if request != nil {
		t.requestIsDone(observe.FlagIncomplete | flags)
	}
	for _, x := range t.queue {
		if !x.unseen && !x.responseDone {
			t.breakOff(x, flags)
		}
	}
	t.queue, t.response, t.request = nil, nil, nil
	t.requests.phase, t.responses.phase = astray, astray
	t.settle()
}
