// SPDX-License-Identifier: Apache-2.0

package encrypted

import (
	"cmp"
	"slices"

	"github.com/layertrace/layertrace/agent/internal/accesslog"
	"github.com/layertrace/layertrace/internal/observe"
)

// An exchange is found in two steps. The times of the record say which turns are its own: at
// the sender of the request all bytes passed between the moment before the proxy sent the
// first and the moment after it had the last; at the receiver the first byte had passed when
// the proxy saw it, and the last passed after the proxy had written it. On an HTTP/1.1
// connection exchanges follow one another, so no turn of another one may be there. The sizes
// then have to be those of the record, to the byte.

// clockError is the largest error in ns of a record's time against the capture's: the wall
// clock in µs, the measured offset of the clocks, and what the clock may be off unnoticed.
const clockError = 50_000

// maxTurns is the number of turns that one exchange may have.
const maxTurns = 64

// maxDropped is the number of leading records of a message that may not belong to it:
// Finished and certificates of the client, tickets of the server.
const maxDropped = observe.MaxLeading

// overheads are what TLS adds to the plain text of a record, in bytes: TLS 1.3, TLS 1.2 with
// AES-GCM, TLS 1.2 with ChaCha20-Poly1305.
var overheads = []uint64{17, 24, 16}

// window is a record's times in ns of CLOCK_MONOTONIC, as a proxy on the same node knows
// them. from is the first byte sent upstream, or received from downstream; to the last byte
// of the response, received or written, 0 if there was none; first is when the response
// began, 0 if unknown, at the sender only.
type window struct {
	server          bool
	from, first, to uint64
}

// windowOf translates the times of a record by the offset from monotonic to wall time.
func windowOf(r *accesslog.Record, offset int64) window {
	monotonic := func(wall uint64) uint64 {
		if t := int64(wall) - offset; wall != 0 && t > 0 {
			return uint64(t)
		}
		return 0
	}
	if r.Side == accesslog.SideServer {
		return window{server: true, from: monotonic(r.Start), to: monotonic(r.ResponseLast)}
	}
	return window{from: monotonic(r.RequestFirst), first: monotonic(r.ResponseFirst), to: monotonic(r.ResponseLast)}
}

// sizes are the plain bytes of both messages.
type sizes struct{ request, response uint64 }

// fit is how well an exchange fits a record.
type fit uint8

const (
	// fitNone: no turns at that time, or those there are not only its own.
	fitNone fit = iota
	// fitSizes: the times fit, the sizes do not.
	fitSizes
	// fitTime: the times fit, the sizes cannot be compared.
	fitTime
	// fitExact: times and sizes fit.
	fitExact
)

// exchange is neighbouring turns of one point that a record may be about.
type exchange struct {
	fit fit
	// turns are all turns of the exchange, by number.
	turns []observe.Turn
	// dropped is how many leading records of each message are no part of it; alerts how
	// many trailing ones.
	dropped, alerts [2]int
	overhead        uint64
	// cut: the end of the exchange was not seen, or there is none.
	cut bool
	// open: more may come.
	open bool
}

// request is what a search for an exchange is given.
type request struct {
	window
	want sizes
	// comparable: want are the sizes of this exchange alone.
	comparable bool
	// overhead of the connection, 0 if unknown.
	overhead uint64
}

// begin and end are the first and last time of a turn.
func begin(t *observe.Turn) uint64 {
	if t.Request.First == 0 || t.Response.First != 0 && t.Response.First < t.Request.First {
		return t.Response.First
	}
	return t.Request.First
}

func end(t *observe.Turn) uint64 { return max(t.Request.Last, t.Response.Last) }

// find returns the exchange that a record is about among the turns of one point, which are
// in order. Its fit is fitNone if there is none.
func find(turns []observe.Turn, q *request) exchange {
	if q.from == 0 {
		return exchange{}
	}
	if q.server {
		return findAtServer(turns, q)
	}
	return findAtClient(turns, q)
}

// findAtClient: the exchange lies within the window, and nothing else does.
func findAtClient(turns []observe.Turn, q *request) exchange {
	first := slices.IndexFunc(turns, func(t observe.Turn) bool {
		return end(&t) > q.from+clockError || begin(&t)+clockError >= q.from
	})
	if first < 0 {
		return exchange{}
	}
	last := len(turns)
	if q.to != 0 {
		for last > first && begin(&turns[last-1])+clockError >= q.to {
			last--
		}
	}
	return q.best(turns, first, last, func(x *exchange, start, stop uint64) bool {
		switch {
		case start+clockError < q.from:
			return false
		case q.to != 0:
			// All turns of the window are one exchange's.
			return len(x.turns) == last-first && stop <= q.to+clockError
		default:
			response := x.first(1)
			return q.first == 0 || response == 0 || response <= q.first+clockError
		}
	})
}

// findAtServer: the exchange is the last one that began before the window, and covers it.
func findAtServer(turns []observe.Turn, q *request) (found exchange) {
	first := lastBegun(turns, q.from+clockError)
	if found = q.atServer(turns, first); found.fit == fitExact {
		return found
	}
	// A further turn of the same exchange may have begun within the error of the clock.
	if before := lastBegun(turns, q.from-min(q.from, clockError)); before != first {
		if x := q.atServer(turns, before); x.fit > found.fit {
			return x
		}
	}
	return found
}

// lastBegun returns the index of the last turn whose request began by a time, -1 without.
func lastBegun(turns []observe.Turn, by uint64) int {
	for i := len(turns) - 1; i >= 0; i-- {
		if start := turns[i].Request.First; start != 0 && start <= by {
			return i
		}
	}
	return -1
}

func (q *request) atServer(turns []observe.Turn, first int) exchange {
	if first < 0 {
		return exchange{}
	}
	return q.best(turns, first, len(turns), func(x *exchange, start, stop uint64) bool {
		next := first + len(x.turns)
		switch {
		case start > q.from+clockError:
			return false
		case q.to != 0 && stop+clockError < q.to:
			return false // more of the response is to come
		case q.to != 0 && begin(&x.turns[len(x.turns)-1]) > q.to+clockError && len(x.turns) > 1:
			return false // the next exchange
		case q.to != 0 && next < len(turns) && begin(&turns[next])+clockError < q.to:
			return false
		}
		response := x.first(1)
		return response == 0 || response+clockError >= q.from
	})
}

// best returns the run of turns from first, at most up to last, that fits best. inTime judges
// the times of a run: of its first byte and its last.
func (q *request) best(turns []observe.Turn, first, last int, inTime func(x *exchange, start, stop uint64) bool) (found exchange) {
	for n := 1; n <= min(last-first, maxTurns); n++ {
		run := turns[first : first+n]
		if n > 1 && run[n-1].Number != run[n-2].Number+1 {
			break // what was between was overwritten
		}
		middle := run[0].Flags&observe.TurnMiddle != 0
		if middle && (!q.comparable || !comparable(run)) {
			break // only sizes show whether its beginning was seen
		}
		if !havePassed(run) {
			continue // the proxy has written it, and the packets are on their way
		}
		x := exchange{turns: run, open: run[n-1].Flags&observe.TurnOpen != 0}
		if q.comparable && comparable(run) {
			if q.matchSizes(&x) && inTime(&x, x.first(0), x.last()) && (!middle || !q.isRepeated(&x)) {
				x.fit = fitExact
				if next := first + n; q.server && next < len(turns) && turns[next].Number == run[n-1].Number+1 && isRest(&turns[next]) {
					x.cut = true
				}
				return x
			}
			if middle {
				continue
			}
			if x = (exchange{turns: run, open: x.open, overhead: q.overhead}); inTime(&x, x.first(0), x.last()) && found.fit < fitSizes {
				x.fit = fitSizes
				if q.cutShort(&x, first+n == len(turns)) {
					x.fit, x.cut = fitTime, true
				}
				found = x
			}
			continue
		}
		if inTime(&x, x.first(0), x.last()) && found.fit < fitTime && q.plausible(&x, first+n == len(turns)) {
			x.fit, x.overhead = fitTime, q.overhead
			found = x
		}
	}
	return found
}

// soonSent is how long in ns after a proxy sends a request its first byte passes at the latest.
// It is shorter than TCP waits before it repeats a whole message (TCP_RTO_MIN, 200 ms).
const soonSent = 100_000_000

// isRepeated reports whether the request of an exchange that the agent may have seen from its
// middle on may be a repetition: its sizes are right, and its times are not those of the first
// packets. The receiver's proxy has the request from the first ones, see inTime.
func (q *request) isRepeated(x *exchange) bool { return !q.server && x.first(0) > q.from+soonSent }

// isRest reports whether a turn is not an exchange, but what the client still sent after the
// proxy had stopped reading: the connection ended without a response to it.
func isRest(t *observe.Turn) bool {
	return t.Request.First != 0 && t.Response.First == 0 && ended([]observe.Turn{*t})
}

// havePassed reports whether all bytes of the records in neighbouring turns have passed: the
// length of a record is known from its first bytes on. The bytes of small records may not be
// counted. What is missing when the connection ends never comes.
func havePassed(run []observe.Turn) bool {
	if ended(run) || !comparable(run) {
		return true
	}
	for message := range 2 {
		var passed, announced uint64
		for i := range run {
			m := messageOf(&run[i], message)
			small := uint64(m.Alerts)*(alertLength+recordHeader) + uint64(m.KeyUpdates)*(keyUpdateLength+recordHeader)
			passed, announced = passed+m.Bytes+small, announced+m.RecordBytes+uint64(m.Records)*recordHeader
		}
		if passed < announced {
			return false
		}
	}
	return true
}

// comparable reports whether the sizes of all records of the turns are known.
func comparable(run []observe.Turn) bool {
	for i := range run {
		if run[i].Flags&(observe.TurnDesynchronized|observe.TurnPacketsMissing) != 0 {
			return false
		}
	}
	return true
}

// plausible reports whether an exchange whose sizes cannot be compared may still be the
// record's: it ended, or it is the last of its connection.
func (q *request) plausible(x *exchange, isLast bool) bool {
	if x.turns[0].Flags&observe.TurnHandshake != 0 {
		return false // only sizes show where the messages begin
	}
	return q.to != 0 || isLast && ended(x.turns)
}

// ended reports whether the connection ended in the last of the turns.
func ended(run []observe.Turn) bool {
	return run[len(run)-1].Flags&(observe.TurnReset|observe.TurnClosed) != 0
}

// cutShort reports whether the sizes differ because the exchange was broken off: it is the
// last of its connection, and the bytes that make the difference never left their sender, or
// their receiver had stopped reading. If the proxy saw an end of the response, the response
// has to be whole.
func (q *request) cutShort(x *exchange, isLast bool) bool {
	if !isLast || !ended(x.turns) || x.turns[0].Flags&observe.TurnHandshake != 0 {
		return false
	}
	for _, overhead := range q.overheads(x.turns) {
		x.overhead = overhead
		got, ok := x.plain(overhead)
		sent, received := got.request, q.want.request
		if !q.server {
			sent, received = received, sent
		}
		switch {
		case !ok || sent < received:
		case q.to != 0 && x.matchMessage(1, q.want.response, false, true):
			return true
		case q.to == 0 && (q.server && got.response <= q.want.response || !q.server && got.response >= q.want.response):
			return true
		}
	}
	x.alerts, x.overhead = [2]int{}, q.overhead
	return false
}

// overheads returns the possible overheads of a connection.
func (q *request) overheads(run []observe.Turn) []uint64 {
	possible := overheads
	switch {
	case run[0].Flags&observe.TurnTLS12 != 0:
		possible = overheads[1:]
	case run[0].Flags&observe.TurnHandshake != 0:
		possible = overheads[:1]
	}
	// What was learned may be of a connection before, with the same ends.
	if i := slices.Index(possible, q.overhead); i >= 0 {
		return possible[i : i+1]
	}
	return possible
}

// matchSizes sets which records of the turns are not the exchange's own, so that the rest has
// the wanted sizes, and reports whether it can.
func (q *request) matchSizes(x *exchange) bool {
	handshake := x.turns[0].Flags&observe.TurnHandshake != 0
	closing := ended(x.turns) || x.open
	for _, overhead := range q.overheads(x.turns) {
		x.overhead = overhead
		// A connection that was open when it was first seen may have had no request yet: the
		// server sends tickets with its first response.
		tickets := handshake || x.turns[0].Flags&observe.TurnMiddle != 0
		if x.matchMessage(0, q.want.request, handshake, closing) && x.matchMessage(1, q.want.response, tickets, closing) {
			return true
		}
	}
	return false
}

// matchMessage is matchSizes for the request (0) or the response (1).
func (x *exchange) matchMessage(message int, want uint64, handshake, closing bool) bool {
	var bytes, records, alerts uint64
	for i := range x.turns {
		m := messageOf(&x.turns[i], message)
		bytes, records, alerts = bytes+m.RecordBytes, records+uint64(m.Records), alerts+uint64(m.Alerts)
	}
	if want == 0 && records > alerts {
		return false // a broken-off exchange: these may be more than tickets
	}
	mostDropped, mostAlerts := 0, 0
	leading := messageOf(&x.turns[0], message).Leading
	if handshake {
		mostDropped = min(len(leading), maxDropped)
	}
	if closing {
		mostAlerts = int(min(alerts, maxAlerts))
	}
	for alert := 0; alert <= mostAlerts; alert++ {
		b, n := bytes-uint64(alert)*alertLength, records-uint64(alert)
		for dropped := 0; ; dropped++ {
			// The time of the first record that stays has to be known.
			if n <= records && b == want+n*x.overhead && (n == 0 || dropped < maxDropped) {
				x.dropped[message], x.alerts[message] = dropped, alert
				return true
			}
			if dropped == mostDropped || n == 0 {
				break
			}
			b, n = b-uint64(leading[dropped].Length), n-1
		}
	}
	return false
}

// maxAlerts is the number of alerts that a connection ends with.
const maxAlerts = 2

// alertLength is the length of an encrypted alert in TLS 1.3 (RFC 8446, section 6).
const alertLength = 19

// keyUpdateLength is the length of a KeyUpdate (RFC 8446, section 4.6.3).
const keyUpdateLength = 22

func messageOf(t *observe.Turn, message int) *observe.TurnMessage {
	if message == 0 {
		return &t.Request
	}
	return &t.Response
}

// plain returns the plain sizes of the turns with an overhead, and whether it is possible.
func (x *exchange) plain(overhead uint64) (s sizes, ok bool) {
	for message, to := range []*uint64{&s.request, &s.response} {
		for i := range x.turns {
			m := messageOf(&x.turns[i], message)
			if m.RecordBytes < uint64(m.Records)*overhead {
				return s, false
			}
			*to += m.RecordBytes - uint64(m.Records)*overhead
		}
	}
	return s, true
}

// first returns the time of the first byte of a message, without what was dropped, 0 if
// there is none.
func (x *exchange) first(message int) uint64 {
	for i := range x.turns {
		m := messageOf(&x.turns[i], message)
		if m.First == 0 || x.isDropped(i, message) {
			continue
		}
		if dropped := x.dropped[message]; i == 0 && dropped > 0 && dropped < len(m.Leading) {
			return m.Leading[dropped].First
		}
		return m.First
	}
	return 0
}

// last returns the time of the last byte of the exchange.
func (x *exchange) last() (t uint64) {
	for i := range x.turns {
		for message := range 2 {
			if !x.isDropped(i, message) {
				t = max(t, x.lastOf(i, message))
			}
		}
	}
	return t
}

// isDropped reports whether no record of a turn's message belongs to the exchange.
func (x *exchange) isDropped(turn, message int) bool {
	return turn == 0 && x.dropped[message] > 0 && x.dropped[message] >= int(messageOf(&x.turns[0], message).Records)
}

// lastOf returns the time of the last byte of a turn's message, without alerts.
func (x *exchange) lastOf(turn, message int) uint64 {
	m := messageOf(&x.turns[turn], message)
	if turn != len(x.turns)-1 || m.LastLarge == 0 {
		return m.Last
	}
	// What the client sends after the response is no part of the request.
	late := message == 0 && x.turns[turn].Response.Last != 0 && m.Last > x.turns[turn].Response.Last
	if x.alerts[message] > 0 || late {
		return m.LastLarge
	}
	return m.Last
}

// observation returns the exchange as an observation without context. Sizes are TCP payload
// as everywhere, of the records that belong to the exchange.
func (x *exchange) observation(w *window) observe.Observation {
	t := &x.turns[0]
	o := observe.Observation{Key: t.Key, Interface: t.Interface, Direction: t.Direction, Socket: x.turns[len(x.turns)-1].Socket}
	for message, m := range []*observe.Message{&o.Request, &o.Response} {
		x.message(message, m)
		for _, e := range []*observe.Extent{&m.App, &m.Tx} {
			if e.First == 0 || e.Last < e.First {
				*e = observe.Extent{} // one end is unknown, or is not this message's
			}
		}
		if m.Acknowledged < m.Last {
			m.Acknowledged = 0
		}
		// App times are exact to appGrain: no application reads a byte before it arrives.
		if m.App.Last != 0 && m.App.Last < m.Last && m.Last-m.App.Last < appGrain && o.Socket != nil && o.Socket.Client == (message == 1) {
			m.App.Last = m.Last
		}
	}
	x.guessEnds(&o, w)
	if o.Socket != nil {
		socket := *o.Socket
		for i := range x.turns {
			socket.ZeroWindows += x.turns[i].ZeroWindows
		}
		o.Socket = &socket
	}
	for i := range x.turns {
		t := &x.turns[i]
		o.Retransmits += t.Retransmits
		o.Drops += t.Drops
		o.DropReason = cmp.Or(t.DropReason, o.DropReason)
		for _, f := range turnFlags {
			if t.Flags&f.turn != 0 {
				o.Flags |= f.exchange
			}
		}
	}
	if o.Response.Packets == 0 {
		o.Flags |= observe.FlagNoResponse
	}
	if x.cut && x.fit == fitExact {
		o.Flags |= observe.FlagEndGuessed
	}
	if x.cut || x.turns[len(x.turns)-1].Flags&observe.TurnReset != 0 && x.fit != fitExact {
		o.Flags |= observe.FlagIncomplete
	}
	return o
}

// guessEnds sets and marks the end of a message if it is unknown which of its small records
// were data: only some of them were, or the client's came after the response had begun. At
// w.to a proxy has the end of the response, or has written it.
func (x *exchange) guessEnds(o *observe.Observation, w *window) {
	last := &x.turns[len(x.turns)-1]
	for i := range x.turns {
		// Small records that are all that the server sent in a turn have no time.
		m := &x.turns[i].Response
		if small := int(m.Alerts + m.KeyUpdates); m.First == 0 && small > 0 && (&x.turns[i] != last || small > x.alerts[1]) {
			o.Flags |= observe.FlagEndGuessed
		}
	}
	if x.fit == fitTime {
		// Sizes do not show what the small records of the end are. Most are alerts.
		for message, m := range []*observe.Message{&o.Request, &o.Response} {
			if of := messageOf(last, message); of.Last != of.LastLarge {
				if o.Flags |= observe.FlagEndGuessed; m.Last == of.Last {
					m.Last = max(of.LastLarge, m.First)
				}
			}
		}
		return
	}
	if m := &last.Response; x.alerts[1] > 0 && int(m.Alerts+m.KeyUpdates) > x.alerts[1] && m.LastLarge != m.Last {
		o.Flags |= observe.FlagEndGuessed
		if w.to != 0 {
			o.Response.Last = max(m.LastLarge, min(m.Last, w.to))
		}
	}
	// The client's small records after the response has begun are an alert, or the end of an
	// upload: their times are known if all of them are one or the other.
	m := &last.Request
	small := int(m.Alerts + m.KeyUpdates)
	if small > x.alerts[0] && last.Response.First != 0 && (x.alerts[0] > 0 || m.Last == m.LastLarge) {
		o.Flags |= observe.FlagEndGuessed
	}
}

// turnFlags are the flags of an exchange that those of its turns mean.
var turnFlags = []struct {
	turn     observe.TurnFlags
	exchange observe.Flags
}{
	{observe.TurnDesynchronized, observe.FlagPacketsMissing},
	{observe.TurnPacketsMissing, observe.FlagPacketsMissing},
	{observe.TurnOutOfOrder, observe.FlagOutOfOrder},
	{observe.TurnReset, observe.FlagReset},
}

// appGrain is the resolution of app times in ns (bpf/include/turn.h).
const appGrain = 16

// recordHeader is the length of a TLS record's header in bytes.
const recordHeader = 5

// message adds up one message of all turns.
func (x *exchange) message(message int, to *observe.Message) {
	for i := range x.turns {
		m := messageOf(&x.turns[i], message)
		if m.Packets == 0 && m.First == 0 || x.isDropped(i, message) {
			continue
		}
		part := m.Message
		if part.Last = x.lastOf(i, message); part.Last != m.Last {
			part.App, part.Tx, part.Acknowledged = observe.Extent{}, observe.Extent{}, 0 // of other bytes
		}
		if dropped := x.dropped[message]; i == 0 && dropped > 0 {
			part.First = x.first(message)
			for _, l := range m.Leading[:dropped] {
				part.Bytes -= min(part.Bytes, uint64(l.Length)+recordHeader)
			}
			// The other times of the first byte are those of what was dropped. An
			// application writes before, all else is later.
			if part.App.First != 0 && part.App.First <= m.First {
				part.App.First = min(part.App.Last, part.First)
			} else if part.App.First != 0 {
				part.App.First = min(max(part.App.First, part.First), part.App.Last)
			}
			if part.Tx.First != 0 {
				part.Tx.First = min(max(part.Tx.First, part.First), part.Tx.Last)
			}
		}
		if i == len(x.turns)-1 && x.alerts[message] > 0 {
			part.Bytes -= min(part.Bytes, uint64(x.alerts[message])*(alertLength+recordHeader))
		}
		if to.First == 0 {
			*to = part
			continue
		}
		to.Last, to.Bytes, to.Packets = max(to.Last, part.Last), to.Bytes+part.Bytes, to.Packets+part.Packets
		for _, e := range []struct{ to, part *observe.Extent }{{&to.App, &part.App}, {&to.Tx, &part.Tx}} {
			if e.to.First == 0 || e.part.First == 0 {
				*e.to = observe.Extent{} // a part is unknown
				continue
			}
			e.to.Last = max(e.to.Last, e.part.Last)
		}
		to.Acknowledged = part.Acknowledged
		to.Waited, to.Held, to.Stalled, to.Unread = to.Waited+part.Waited, to.Held+part.Held, to.Stalled+part.Stalled, to.Unread+part.Unread
	}
}
