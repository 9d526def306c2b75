// SPDX-License-Identifier: Apache-2.0

// Package join puts what devices saw into the traces that it belongs to.
//
// A device that reads headers only knows a connection's ID and the sequence numbers of a
// message; the spans of the nodes' agents have both as well, and the trace. Table joins
// the two exactly: a message is the same only if its connection ID, first byte and last
// byte are. What is late, missing, doubled or forged is counted and never guessed.
package join

import (
	"slices"
	"sync"
	"time"

	"github.com/layertrace/layertrace/internal/observe"
)

// Outcome is what became of a sighting.
type Outcome string

// Outcomes. Each sighting has exactly one.
const (
	// Joined: it is part of a span.
	Joined Outcome = "joined"
	// Unmatched: no agent's span has such a message. Its request was not sampled, or the
	// span did not come.
	Unmatched Outcome = "unmatched"
	// Late: the exchange it belongs to was joined before it came.
	Late Outcome = "late"
	// Doubled: the same came before.
	Doubled Outcome = "doubled"
	// Conflicting: another one of the same bytes at the same place says something else.
	Conflicting Outcome = "conflicting"
	// Incomplete: bytes of the message did not pass there.
	Incomplete Outcome = "incomplete"
	// Unpaired: the other message of the exchange passed there too, but its sighting did not
	// come, or cannot be used.
	Unpaired Outcome = "unpaired"
	// Partial: it begins or ends at another byte than the message.
	Partial Outcome = "partial"
	// Contradicting: its times, ends or option cannot be those of the exchange.
	Contradicting Outcome = "contradicting"
	// Ambiguous: two agents' spans claim the message for different requests.
	Ambiguous Outcome = "ambiguous"
	// Evicted: it made room for later ones before a span came.
	Evicted Outcome = "evicted"
)

// Outcomes are all outcomes.
var Outcomes = []Outcome{Joined, Unmatched, Late, Doubled, Conflicting, Incomplete, Unpaired, Partial, Contradicting, Ambiguous, Evicted}

// TableOptions configure a Table. All are required.
type TableOptions struct {
	// Wait is how long an exchange waits for sightings and for the spans of other nodes,
	// SightingWait how long a sighting waits for its exchange.
	Wait, SightingWait time.Duration
	// MaxExchanges and MaxSightings bound the memory, some 1,000 and 400 bytes each.
	MaxExchanges, MaxSightings int
	// Done is called with each span of a device, one after the other. It must not call
	// the table.
	Done func(*observe.Observation)
}

// Table joins sightings with exchanges. Its methods may be called concurrently.
type Table struct {
	opts TableOptions

	mu        sync.Mutex
	exchanges map[messageKey]*exchange // by the request's first byte, until they are forgotten
	responses map[messageKey]*exchange // the same, by the response's first byte
	sightings map[messageKey][]*sighting
	waiting   []*exchange // in the order of their arrival
	done      []*exchange // joined, kept to know late sightings
	seen      []*sighting // in the order of their arrival
	// begun is when a device began to watch an interface for the last time, by the ID of the
	// point and the device's clock. It has at most maxBegun points.
	begun   map[string]uint64
	counts  map[Outcome]uint64
	spans   uint64
	evicted uint64 // exchanges joined early
}

// messageKey is a byte of a connection in one direction. The directions need no part of the
// key: each exchange checks the ends of what it takes.
type messageKey struct {
	connection string
	seq        uint32
}

// exchange is a request and its response as the nodes' agents saw it.
type exchange struct {
	observe.Observation // of the first agent
	requestKey          messageKey
	responseKey         messageKey
	// request and response are the numbers of bytes that all agents saw; 0: unknown or not
	// the same.
	request, response lengths
	// outside is the time in ns from the request leaving the client's node to the response
	// returning, inside that between reaching and leaving the server's node; 0: unknown.
	outside, inside uint64
	ambiguous       bool
	joined          bool
	until           time.Time
}

// lengths collects the length of a message from several agents.
type lengths struct {
	bytes     uint64
	unsettled bool // two agents disagree
}

type sighting struct {
	*observe.Sighting
	key     messageKey
	outcome Outcome // "" until it is known
	bad     bool    // conflicting
	until   time.Time
}

// NewTable returns an empty table.
func NewTable(opts TableOptions) *Table {
	return &Table{
		opts: opts, exchanges: map[messageKey]*exchange{}, responses: map[messageKey]*exchange{},
		sightings: map[messageKey][]*sighting{}, begun: map[string]uint64{}, counts: map[Outcome]uint64{},
	}
}

// AddExchange takes what an agent saw at a node. It reports whether the observation can be
// joined: whether its connection has an ID, and its request a sequence number.
func (t *Table) AddExchange(o *observe.Observation, now time.Time) bool {
	if len(o.ConnectionID) == 0 || o.Request.Seq == 0 || o.Flags&observe.FlagStillOpen != 0 || o.Point.Kind == observe.KindDevice {
		return false
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	key := messageKey{string(o.ConnectionID), o.Request.Seq}
	e := t.exchanges[key]
	if e == nil {
		for len(t.waiting)+len(t.done) >= t.opts.MaxExchanges {
			t.makeRoom()
		}
		e = &exchange{Observation: *o, requestKey: key, until: now.Add(t.opts.Wait)}
		t.exchanges[key] = e
		t.waiting = append(t.waiting, e)
	}
	if e.Context.TraceID != o.Context.TraceID || e.Context.SpanID != o.Context.SpanID {
		e.ambiguous = true
		return true
	}
	e.add(o)
	if o.Response.Seq != 0 && e.responseKey == (messageKey{}) {
		key := messageKey{string(o.ConnectionID), o.Response.Seq}
		if t.responses[key] == nil {
			e.responseKey = key
			t.responses[key] = e
		} else {
			e.ambiguous, t.responses[key].ambiguous = true, true
		}
	} else if o.Response.Seq != 0 && e.responseKey.seq != o.Response.Seq {
		e.ambiguous = true
	}
	return true
}

// add adds what another agent saw of the exchange.
func (e *exchange) add(o *observe.Observation) {
	// A point that missed packets, or reported before the end, does not know the length.
	if o.Flags&(observe.Cut&^observe.FlagEndGuessed) == 0 {
		e.request.add(o.Request.Bytes)
		if o.Response.First != 0 {
			e.response.add(o.Response.Bytes)
		}
	}
	if o.Point.Kind != observe.KindPNIC || o.Response.Last == 0 {
		return
	}
	// A node in between has both: the bounds are those of the ends.
	if o.Direction == observe.DirectionEgress {
		e.outside = max(e.outside, since(max(o.Request.Last, o.Request.Tx.Last), o.Response.Last))
	} else if inside := since(o.Request.Last, max(o.Response.Last, o.Response.Tx.Last)); e.inside == 0 || inside < e.inside {
		e.inside = inside
	}
}

func (l *lengths) add(bytes uint64) {
	switch {
	case bytes == 0:
	case l.bytes == 0:
		l.bytes = bytes
	case l.bytes != bytes:
		l.unsettled = true
	}
}

// end returns the sequence number after the last byte, and whether it is known.
func (l lengths) end(start uint32) (uint32, bool) {
	return start + uint32(l.bytes), l.bytes != 0 && !l.unsettled && l.bytes < 1<<31
}

func since(from, to uint64) uint64 {
	if from == 0 || to < from {
		return 0
	}
	return to - from
}

// maxPlaces is the largest number of interfaces that report one message.
const maxPlaces = 256

// maxBegun bounds the interfaces of which it is known when their watch began.
const maxBegun = 4096

// AddSighting takes what a device saw. Its Point must be set.
func (t *Table) AddSighting(s *observe.Sighting, now time.Time) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if s.Watched != 0 && s.Watched < s.First {
		if len(t.begun) >= maxBegun {
			clear(t.begun) // old beginnings have no effect
		}
		t.begun[s.Point.ID] = max(t.begun[s.Point.ID], s.First-s.Watched)
	}
	key := messageKey{string(s.ConnectionID), s.Start}
	for _, other := range t.sightings[key] {
		if !samePlace(other.Sighting, s) {
			continue
		}
		if other.End == s.End && other.First == s.First && other.Last == s.Last && other.Tx == s.Tx {
			t.counts[Doubled]++
			return
		}
		other.bad = true
		t.counts[Conflicting]++
		return
	}
	if len(t.sightings[key]) >= maxPlaces {
		t.counts[Evicted]++
		return
	}
	for len(t.seen) >= t.opts.MaxSightings {
		t.forget(t.seen[0], Evicted)
		t.seen = t.seen[1:]
	}
	one := &sighting{Sighting: s, key: key, until: now.Add(t.opts.SightingWait)}
	t.sightings[key] = append(t.sightings[key], one)
	t.seen = append(t.seen, one)
}

// samePlace reports whether two sightings are of one interface and direction.
func samePlace(a, b *observe.Sighting) bool {
	return a.Point.ID == b.Point.ID && a.Direction == b.Direction
}

// Tick joins the exchanges that have waited, and forgets what is older.
func (t *Table) Tick(now time.Time) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.tick(now)
}

// Flush joins all exchanges, at the end.
func (t *Table) Flush() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.tick(time.Unix(1<<40, 0))
}

func (t *Table) tick(now time.Time) {
	for len(t.waiting) > 0 && !t.waiting[0].until.After(now) {
		t.joinFirst()
	}
	for len(t.seen) > 0 && !t.seen[0].until.After(now) {
		t.forget(t.seen[0], Unmatched)
		t.seen = t.seen[1:]
	}
	for len(t.done) > 0 && !t.done[0].until.Add(t.opts.SightingWait).After(now) {
		t.forgetDone()
	}
	if len(t.waiting) == 0 {
		t.waiting = nil // frees the memory of a burst
	}
	if len(t.seen) == 0 {
		t.seen = nil
	}
	if len(t.done) == 0 {
		t.done = nil
	}
}

// makeRoom forgets the oldest exchange that was joined; if there is none, it joins the
// oldest one early.
func (t *Table) makeRoom() {
	if len(t.done) == 0 {
		t.joinFirst()
		t.evicted++
	}
	t.forgetDone()
}

func (t *Table) forgetDone() {
	e := t.done[0]
	t.done = t.done[1:]
	delete(t.exchanges, e.requestKey)
	if t.responses[e.responseKey] == e {
		delete(t.responses, e.responseKey)
	}
}

// forget removes a sighting and settles its outcome, if it has none.
func (t *Table) forget(s *sighting, otherwise Outcome) {
	rest := slices.DeleteFunc(t.sightings[s.key], func(o *sighting) bool { return o == s })
	if len(rest) == 0 {
		delete(t.sightings, s.key)
	} else {
		t.sightings[s.key] = rest
	}
	e := t.exchanges[s.key]
	if e == nil {
		e = t.responses[s.key]
	}
	switch {
	case s.bad:
		otherwise = Conflicting
	case e != nil && e.joined:
		otherwise = Late
	}
	t.settle([]*sighting{s}, otherwise)
}

// Counts returns how many sightings had each outcome so far, how many spans were made, how
// many exchanges were joined early to make room, and what waits.
func (t *Table) Counts() (sightings map[Outcome]uint64, spans, evicted uint64, exchangesWaiting, sightingsWaiting int) {
	t.mu.Lock()
	defer t.mu.Unlock()
	all := make(map[Outcome]uint64, len(Outcomes))
	for _, o := range Outcomes {
		all[o] = t.counts[o]
	}
	return all, t.spans, t.evicted, len(t.waiting), len(t.seen)
}
