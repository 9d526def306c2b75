// SPDX-License-Identifier: Apache-2.0

package decode

import (
	"net/http"
	"slices"

	"github.com/layertrace/layertrace/internal/observe"
)

// fromServer reads the bytes of a server.
func (t *conversation) fromServer(p piece) {
	if p.fin {
		t.serverFIN()
		return
	}
	missing := p.size - uint32(len(p.data))
	for len(p.data) > 0 {
		var n int
		switch t.responses.phase {
		case between:
			if beginsResponse(p.data) == unlike {
				t.beginGarbage(&p)
				continue
			}
			t.beginResponse(&p)
			continue
		case astray:
			if p.first && beginsResponse(p.data) == like {
				t.findAgain(p.seq)
				continue
			}
			if t.response != nil {
				t.response.addResponse(&p, len(p.data))
			} else {
				t.c.d.counts.untracked++
			}
			n = len(p.data)
		case inTunnel:
			t.c.d.counts.tunnel++
			n = len(p.data)
		default:
			n = t.readResponse(&p)
		}
		p = p.from(p.seq + uint32(n))
	}
	if missing > 0 {
		t.missResponseBytes(missing, 0, &p)
	}
}

// beginResponse chooses the request of the response that begins.
func (t *conversation) beginResponse(p *piece) {
	t.responses.begin()
	t.reply = reply{at: p.seq, end: p.seq}
	t.response = nil
	if len(t.queue) == 0 {
		t.c.d.counts.responseWithoutRequest++
		return
	}
	if t.queue[0].unseen && !t.queue[0].unclear {
		// Is this the response to a request after the unseen ones?
		since := t.queue[0].responseAt
		at := slices.IndexFunc(t.queue, func(q *exchange) bool {
			return !q.unseen && q.responseAt == p.seq && distance(p.seq, since) > 0
		})
		if at > 0 && !slices.ContainsFunc(t.queue[:at], func(q *exchange) bool { return !q.unseen }) {
			t.queue = t.queue[at:]
		}
	}
	if t.queue[0].unseen {
		t.c.d.counts.responseWithoutRequest++
		return
	}
	t.response = t.queue[0]
}

// beginGarbage handles bytes that are no response where one should begin.
func (t *conversation) beginGarbage(p *piece) {
	t.response = nil
	if beginsRequest(p.data) == like {
		t.c.d.counts.requestInResponse++
	}
	if len(t.queue) > 0 && !t.queue[0].unseen && t.queue[0].responseAt == p.seq && t.queue[0].Flags&observe.FlagPacketsMissing == 0 {
		t.response = t.queue[0] // what a server sends that does not know HTTP/1
	}
	t.responses.phase = astray
}

// findAgain handles the start of a response after the parser was lost. It may be a body
// that looks like it.
func (t *conversation) findAgain(at uint32) {
	if x := t.response; x != nil {
		if len(t.queue) == 1 {
			// No request after it was seen: this responds to an unseen one, or is data.
			t.responseIsDone(x, false)
			t.queue, t.response = []*exchange{t.unseen(at)}, nil
		} else {
			t.responseIsDone(x, false)
			t.queue, t.response = t.queue[1:], nil
			t.queue[0].Flags |= x.Flags & observe.FlagPacketsMissing
		}
	}
	if open := slices.DeleteFunc(slices.Clone(t.queue), func(q *exchange) bool { return q.unseen }); len(open) > 1 || len(open) != len(t.queue) {
		// Which of them this responds to is not known.
		for _, q := range open {
			q.Flags |= observe.FlagPacketsMissing
		}
		t.abandon(0)
		t.queue = []*exchange{t.unseen(at)}
	}
	t.responses.phase = between
}

// readResponse reads bytes of a response up to the next event.
func (t *conversation) readResponse(p *piece) int {
	before := t.responses.phase
	n, e := t.responses.feed(p.data)
	if before == inHead {
		t.reply.add(p, n)
	} else if t.response != nil {
		t.response.addResponse(p, n)
	}
	switch e {
	case headEnds:
		t.responseHead()
	case headTooBig, broken:
		t.loseResponse()
	case bodyEnds:
		t.responseEnds()
	case noEvent:
		if before == inHead && beginsResponse(t.responses.head) == unlike {
			t.loseResponse()
		}
	}
	return n
}

// loseResponse: where the response ends is not known.
func (t *conversation) loseResponse() {
	if t.responses.phase == inHead {
		t.commit(statusOf(t.responses.head))
	}
	t.responses.phase = astray
}

// commit makes the bytes of the head those of the response.
func (t *conversation) commit(status int) {
	x := t.response
	r := t.reply
	t.reply = reply{}
	if x == nil || r.Packets == 0 {
		return
	}
	if isInterim(status) { // and where it ends is not known
		x.Flags |= observe.FlagInterim
		t.response = nil
		return
	}
	if !x.responseBegun {
		x.responseAt = r.at
	}
	x.responseBegun, x.Status, x.responseEnd = true, status, r.end
	x.Response = r.Message
	x.responsePart = r.segment
	if r.disordered {
		x.Flags |= observe.FlagOutOfOrder
	}
}

// responseHead reads a complete response head.
func (t *conversation) responseHead() {
	head, x := t.responses.head, t.response
	status := statusOf(head)
	if isInterim(status) {
		if x != nil {
			x.Flags |= observe.FlagInterim
			x.responseAt = t.reply.end
		}
		t.responses.phase = between
		t.reply = reply{}
		return
	}
	t.commit(status)
	method := ""
	if x != nil {
		method = x.Method
	}
	if status == http.StatusSwitchingProtocols || method == http.MethodConnect && status/100 == 2 {
		t.upgrade()
		return
	}
	f, ok := responseFraming(head, method, status)
	if !ok {
		t.responses.phase = astray
		return
	}
	if t.responses.body(f) {
		t.responseEnds()
	}
}

// upgrade: from here on the connection is a tunnel.
func (t *conversation) upgrade() {
	if x := t.response; x != nil {
		x.Flags |= observe.FlagUpgraded
		switch t.request {
		case nil:
		case x:
			t.requestIsDone(0)
		default:
			t.requestIsDone(observe.FlagIncomplete)
		}
		t.queue = t.queue[1:]
		t.responseIsDone(x, true)
		t.abandon(0)
	}
	t.requests.phase, t.responses.phase, t.response = inTunnel, inTunnel, nil
}

// responseEnds ends the response being read, which is complete.
func (t *conversation) responseEnds() {
	t.responses.phase = between
	if x := t.response; x != nil {
		t.queue, t.response = t.queue[1:], nil
		t.responseIsDone(x, true)
	}
}

// responseIsDone ends a response. whole is set if it is complete.
func (t *conversation) responseIsDone(x *exchange, whole bool) {
	x.responseDone = true
	if x == t.response && t.responses.phase == inHead {
		t.commit(statusOf(t.responses.head))
	}
	switch {
	case whole:
	case x.responseBegun:
		x.Flags |= observe.FlagEndGuessed
	default:
		x.hasNoResponse()
	}
	t.finish(x)
}

func (x *exchange) hasNoResponse() {
	x.Flags |= observe.FlagNoResponse
	switch {
	case x.doubtful:
		x.Flags |= observe.FlagPacketsMissing
	case x.unclear:
		x.Flags |= observe.FlagEndGuessed
	}
}

// serverFIN: the server sends no more, so all responses are over.
func (t *conversation) serverFIN() {
	t.serverEnd = true
	if x := t.response; x != nil {
		t.queue = t.queue[1:]
		switch t.responses.phase {
		case untilClose:
			t.responseIsDone(x, true)
		case astray:
			// Whatever it was, it ended here.
			t.responseIsDone(x, false)
		default:
			t.breakOff(x, 0)
		}
		t.response = nil
	}
	t.abandon(0)
	t.responses.phase = astray
	t.closeIfOver()
}

// breakOff ends an exchange whose response is not complete by its framing.
func (t *conversation) breakOff(x *exchange, flags observe.Flags) {
	if x == t.response && t.responses.phase == inHead {
		t.commit(statusOf(t.responses.head))
	}
	x.responseDone = true
	x.Flags |= flags
	switch {
	case !x.responseBegun:
		x.hasNoResponse()
	case x == t.response && (t.responses.phase == untilClose || t.responses.phase == astray):
		x.Flags |= observe.FlagEndGuessed
	default:
		x.Flags |= observe.FlagIncomplete
	}
	t.finish(x)
}

// lostResponseBytes handles bytes of the server that did not pass here; acked: the client
// has them.
func (t *conversation) lostResponseBytes(n uint32, acked bool) {
	flag := observe.FlagIncomplete
	if acked {
		flag = observe.FlagPacketsMissing
	}
	t.missResponseBytes(n, flag, nil)
}

// missResponseBytes is missRequestBytes of the server.
func (t *conversation) missResponseBytes(n uint32, flag observe.Flags, p *piece) {
	x := t.response
	if x == nil && t.responses.phase == between && len(t.queue) > 0 && !t.queue[0].unseen && p == nil {
		t.queue[0].Flags |= flag // the beginning of its response, or all of it
	}
	if x != nil {
		x.Flags |= flag
		if p != nil && t.responses.phase != inHead {
			x.addResponse(&piece{seq: p.end() - n, size: n, time: p.time, segment: p.segment}, int(n))
		}
	}
	if p != nil && t.responses.phase == inHead {
		t.reply.add(&piece{seq: p.end() - n, size: n, time: p.time, segment: p.segment}, int(n))
	}
	ok, over := t.responses.skip(uint64(n))
	switch {
	case ok && over:
		t.responseEnds()
	case ok:
	default:
		t.loseResponse()
	}
}
