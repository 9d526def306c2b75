// SPDX-License-Identifier: Apache-2.0

package join

import (
	"cmp"
	"maps"
	"slices"

	"github.com/layertrace/layertrace/internal/observe"
)

// place is an interface of a device, and the direction of the exchange's request through it.
type place struct {
	point     string
	direction observe.Direction
}

// passage is one message as it passed a place: one sighting, or several if data of the peer
// arrived in the middle of it.
type passage struct {
	observe.Message
	source, destination string
	retransmits         uint32
	outOfOrder          bool
	wall                int64
	parts               []*sighting
}

// joinFirst joins the exchange that has waited for longest.
func (t *Table) joinFirst() {
	e := t.waiting[0]
	t.waiting = t.waiting[1:]
	t.done = append(t.done, e)
	e.joined = true
	requests := t.passages(e, e.requestKey, e.request, true)
	responses := t.passages(e, e.responseKey, e.response, false)
	places := map[place]bool{}
	for p := range requests {
		places[p] = true
	}
	for p := range responses {
		places[p] = true
	}
	for _, p := range slices.SortedFunc(maps.Keys(places), func(a, b place) int {
		return cmp.Or(cmp.Compare(a.point, b.point), cmp.Compare(a.direction, b.direction))
	}) {
		request, response := requests[p], responses[p]
		switch {
		case request.passed() && response.passed():
			t.emit(e, p, request, response)
		case request.passed() && (response != nil || e.responseKey != (messageKey{}) && (request.bothWays() || t.hasBegunAgain(request))):
			t.settle(request.parts, Unpaired)
		case response.passed() && (request != nil || response.bothWays() || e.isOlder(response)):
			t.settle(response.parts, Unpaired)
		case request.passed():
			t.emit(e, p, request, nil)
		case response.passed():
			t.emit(e, p, nil, response)
		}
	}
}

// opposite is the other direction.
func opposite(d observe.Direction) observe.Direction {
	if d == observe.DirectionIngress {
		return observe.DirectionEgress
	}
	return observe.DirectionIngress
}

// passages returns how a message passed each place, and settles the outcome of each sighting
// of it that cannot be used. Where all that is known is that it passed, the passage is empty.
func (t *Table) passages(e *exchange, key messageKey, length lengths, request bool) map[place]*passage {
	all := map[place]*passage{}
	if key == (messageKey{}) {
		return all
	}
	end, known := length.end(key.seq)
	for _, first := range slices.Clone(t.sightings[key]) {
		p := place{first.Point.ID, first.Direction}
		if !request {
			p.direction = opposite(p.direction)
		}
		all[p] = &passage{}
		if first.outcome != "" || first.bad {
			continue
		}
		if e.ambiguous {
			t.settle([]*sighting{first}, Ambiguous)
			continue
		}
		parts, outcome := t.follow(first, end, known)
		if request && first.OptionTime > 1 && e.OptionTime > 1 && first.OptionTime != e.OptionTime {
			outcome = Contradicting
		}
		if outcome != Joined {
			t.settle(parts, outcome)
			continue
		}
		all[p] = newPassage(parts, key.seq, length.bytes)
	}
	return all
}

// maxParts is the largest number of sightings that make one message.
const maxParts = 256

// follow returns the sightings from the first one on that together reach the end of the
// message at one place.
func (t *Table) follow(first *sighting, end uint32, known bool) (parts []*sighting, outcome Outcome) {
	for next := first; ; {
		parts = append(parts, next)
		switch {
		case next.Flags&observe.SightingIncomplete != 0:
			return parts, Incomplete
		case known && next.End == end:
			return parts, Joined
		case !known || int32(end-next.End) < 0 || len(parts) >= maxParts:
			return parts, Partial
		}
		after := slices.IndexFunc(t.sightings[messageKey{first.key.connection, next.End}], func(s *sighting) bool {
			return samePlace(s.Sighting, first.Sighting) && !s.bad && s.outcome == "" && s.Source == first.Source && s.Destination == first.Destination
		})
		if after < 0 {
			return parts, Partial
		}
		next = t.sightings[messageKey{first.key.connection, next.End}][after]
	}
}

// settle decides what became of sightings.
func (t *Table) settle(parts []*sighting, outcome Outcome) {
	for _, s := range parts {
		if s.outcome == "" {
			s.outcome = outcome
			t.counts[outcome]++
		}
	}
}

func newPassage(parts []*sighting, seq uint32, bytes uint64) *passage {
	first, last := parts[0], parts[len(parts)-1]
	p := &passage{
		Message: observe.Message{First: first.First, Last: first.Last, Seq: seq, TTL: first.TTL, Bytes: bytes, Tx: observe.Extent{First: first.Tx.First, Last: last.Tx.Last}},
		source:  first.Source.String(), destination: first.Destination.String(), wall: first.Wall, parts: parts,
	}
	for _, s := range parts {
		p.Last = max(p.Last, s.Last)
		p.Packets += s.Packets
		p.retransmits += s.Retransmits
		p.outOfOrder = p.outOfOrder || s.Flags&observe.SightingOutOfOrder != 0
		if s.Tx.Last == 0 {
			p.Tx = observe.Extent{}
		}
	}
	if p.Tx.First == 0 || p.Tx.Last == 0 {
		p.Tx = observe.Extent{}
	}
	return p
}

// passed reports whether it is known how the message passed.
func (p *passage) passed() bool { return p != nil && len(p.parts) > 0 }

// bothWays reports whether the other direction of the connection passes the place too.
func (p *passage) bothWays() bool {
	return slices.ContainsFunc(p.parts, func(s *sighting) bool { return s.Flags&observe.SightingBothWays != 0 })
}

// isOlder reports whether the request may have passed the place before anything watched it.
func (e *exchange) isOlder(response *passage) bool {
	watched := response.parts[0].Watched
	return watched != 0 && (e.outside == 0 || watched <= e.outside+e.outside/clockTolerance+lookTolerance)
}

// hasBegunAgain reports whether the device began to watch the place after the message had
// passed: what passed in between is not known.
func (t *Table) hasBegunAgain(p *passage) bool {
	return t.begun[p.parts[0].Point.ID] > p.First
}

// out returns when the last byte left the place.
func (p *passage) out() uint64 { return max(p.Last, p.Tx.Last) }

// emit makes the span of a device's interface, if what was seen there can be of the
// exchange. Either passage may be nil: the device sees one way only.
func (t *Table) emit(e *exchange, p place, request, response *passage) {
	var parts []*sighting
	for _, m := range []*passage{request, response} {
		if m != nil {
			parts = append(parts, m.parts...)
		}
	}
	if request != nil && response != nil && !e.isPossible(p, request, response) {
		t.settle(parts, Contradicting)
		return
	}
	t.settle(parts, Joined)
	o := observe.Observation{
		Key: e.Key, Context: e.Context, Point: parts[0].Point, Direction: p.direction,
		Method: e.Method, Path: e.Path, Status: e.Status,
		ConnectionID: e.ConnectionID, OptionTime: e.OptionTime,
	}
	if request != nil {
		o.Client, o.Server, o.Request, o.Wall = request.parts[0].Source, request.parts[0].Destination, request.Message, request.wall
		o.Retransmits += request.retransmits
	} else {
		o.Request.Seq = e.requestKey.seq
	}
	if response != nil {
		o.Response = response.Message
		o.Retransmits += response.retransmits
		if request == nil {
			o.Client, o.Server, o.Wall = response.parts[0].Destination, response.parts[0].Source, response.wall
		}
	} else {
		o.Flags |= observe.FlagNoResponse
		o.Response.Seq = e.responseKey.seq
	}
	if request != nil && request.outOfOrder || response != nil && response.outOfOrder {
		o.Flags |= observe.FlagOutOfOrder
	}
	t.spans++
	t.opts.Done(&o)
}

// Clocks of two machines do not run at exactly the same rate, and a node and a device look
// at a packet a little after it has passed.
const (
	clockTolerance = 2000 // one in so many
	lookTolerance  = 100_000
)

// isPossible reports whether both messages can be those of the exchange: from opposite
// ends, and at times between which the nodes' agents say that they passed there.
func (e *exchange) isPossible(p place, request, response *passage) bool {
	if request.source != response.destination || request.destination != response.source || response.Last < request.First {
		return false
	}
	// From one side of the device to the same side: into it and back, or out and back.
	took := since(request.Last, response.out())
	if p.direction == observe.DirectionEgress {
		took = since(request.out(), response.Last)
	}
	tolerance := took/clockTolerance + lookTolerance
	return (e.outside == 0 || took <= e.outside+tolerance) && (e.inside == 0 || took+tolerance >= e.inside)
}
