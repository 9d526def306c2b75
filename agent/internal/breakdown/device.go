// SPDX-License-Identifier: Apache-2.0

package breakdown

import (
	"cmp"
	"fmt"
	"slices"

	"github.com/layertrace/layertrace/internal/observe"
)

// Devices between two nodes split the relay network. What passes between two interfaces of
// one device is measured by its clock. A link is measured like the whole: by the time
// between request and response at its one end without that at its other end, so that clocks
// of two machines are never subtracted.

// maxDevices is the number of interfaces of devices that a hop is split by.
const maxDevices = 64

// assignDevices gives each hop of a group what devices saw of it: those whose request has
// the same first byte.
func assignDevices(hops []*Hop, devices []*observe.Observation) {
	if len(devices) == 0 {
		return
	}
	type request struct {
		seq        uint32
		connection string
	}
	first := map[request]*Hop{}
	for _, h := range hops {
		for _, o := range h.Observations() {
			if r := (request{o.Request.Seq, string(o.ConnectionID)}); first[r] == nil {
				first[r] = h
			}
		}
	}
	more := map[*Hop]bool{}
	for _, d := range devices {
		if h := first[request{d.Request.Seq, string(d.ConnectionID)}]; h != nil {
			if h.Devices = append(h.Devices, d); len(h.Devices) > maxDevices {
				h.Devices = h.Devices[:maxDevices]
				more[h] = true
			}
		}
	}
	for h := range more {
		h.Notes = append(h.Notes, fmt.Sprintf("more than %d interfaces of devices saw the request: the others are left out", maxDevices))
	}
}

// gate is an interface of a device through which both messages passed: two times on one
// clock.
type gate struct {
	*observe.Observation
	request, response uint64
}

// took is the time between both messages.
func (g *gate) took() int64 { return int64(g.response) - int64(g.request) }

// enters: the request comes into the device here.
func enters(o *observe.Observation) bool { return o.Direction == observe.DirectionIngress }

// left returns when a message left through an interface: when its driver had it, if that is
// known.
func left(m *observe.Message) uint64 {
	return max(m.Last, m.Tx.Last)
}

// gates returns the gates of a hop in the order of the request.
func (h *Hop) gates() (gates []gate) {
	for _, o := range h.Devices {
		if o.Request.Last == 0 || o.Response.Last == 0 {
			continue
		}
		g := gate{o, o.Request.Last, o.Response.Last}
		if enters(o) {
			g.response = left(&o.Response)
		} else {
			g.request = left(&o.Request)
		}
		if g.took() >= 0 {
			gates = append(gates, g)
		}
	}
	slices.SortStableFunc(gates, func(a, b gate) int {
		return cmp.Or(inOrder(a.Observation, b.Observation), cmp.Compare(b.took(), a.took()))
	})
	return gates
}

// inOrder compares two points of devices on the way of the request: by its time to live, of
// which each router takes one; at one device, where it enters and where it leaves. 0: not
// known, as with bridges.
func inOrder(a, b *observe.Observation) int {
	byTTL := cmp.Compare(b.Request.TTL, a.Request.TTL)
	if a.Request.TTL == 0 || b.Request.TTL == 0 {
		byTTL = cmp.Compare(a.Response.TTL, b.Response.TTL)
	}
	if byTTL == 0 && a.Point.Node == b.Point.Node && enters(a) != enters(b) {
		if enters(a) {
			return -1
		}
		return 1
	}
	return byTTL
}

// oneWay is the time that one message spent in a device that saw only this one.
type oneWay struct {
	enter, leave *observe.Observation
	phase        Phase
}

// message is the one that passed.
func (w *oneWay) message(o *observe.Observation) *observe.Message {
	if w.phase == Request {
		return &o.Request
	}
	return &o.Response
}

// oneWays returns the devices of a hop through which one message passed and the other did
// not.
func (h *Hop) oneWays() (ways []oneWay) {
	for _, phase := range []Phase{Request, Response} {
		w := oneWay{phase: phase}
		for _, a := range h.Devices {
			if !w.only(a) || enters(a) != (phase == Request) {
				continue // where the message comes in
			}
			for _, b := range h.Devices {
				if w.only(b) && a.Point.Node == b.Point.Node && enters(a) != enters(b) && left(w.message(b)) >= w.message(a).Last {
					ways = append(ways, oneWay{a, b, phase})
					break
				}
			}
		}
	}
	return ways
}

// only reports whether the point saw this message and not the other.
func (w *oneWay) only(o *observe.Observation) bool {
	other := &o.Response
	if w.phase == Response {
		other = &o.Request
	}
	return w.message(o).Last != 0 && other.Last == 0
}

// side is one end of a link, or the node at an end of the path.
type side struct {
	name, place string // of the capture point, and of its device or node
	took        int64
	at, back    uint64 // when the request and the response passed, on the clock of place
	gate        *gate  // nil: a node
}

// maxClockError is the largest time in ns by which what passes at the inner end of a link
// may exceed what passes at its outer end: two clocks run at slightly different rates.
const maxClockError = 100_000

// addLinks adds the time between the nodes as that of devices and links. a to d are the
// waypoints around it. It reports whether there are devices that split it; if not, or if
// their times contradict those of the nodes, it adds nothing.
func (p *path) addLinks(a, b, c, d waypoint) bool {
	h := p.hop
	sides := []side{{name: a.name, place: a.node, took: int64(d.at - a.at), at: a.at, back: d.at}}
	for _, g := range h.gates() {
		sides = append(sides, side{pointTitle(g.Point), g.Point.Node, g.took(), g.request, g.response, &g})
	}
	sides = append(sides, side{name: b.name, place: b.node, took: int64(c.at - b.at), at: b.at, back: c.at})
	ways := h.oneWays()
	if len(sides) == 2 && len(ways) == 0 {
		return false
	}
	for i := 1; i < len(sides); i++ {
		if short := sides[i].took - sides[i-1].took; short > maxClockError {
			h.Notes = append(h.Notes, fmt.Sprintf("contradictory times: between request and response %v passed at %s, and %v at %s before it", ms(sides[i].took), sides[i].name, ms(sides[i-1].took), sides[i-1].name))
			return false
		}
	}
	for i := 1; i < len(sides); i++ {
		outer, inner := &sides[i-1], &sides[i]
		time := max(outer.took-inner.took, 0)
		if outer.place == inner.place {
			p.addInside(outer, inner)
			continue
		}
		crossed := slices.DeleteFunc(slices.Clone(ways), func(w oneWay) bool { return !between(&w, outer.gate, inner.gate) })
		without, with := "", unseen(sides, i)
		for _, w := range crossed {
			spent := int64(left(w.message(w.leave)) - w.message(w.enter).Last)
			if spent > time {
				h.Notes = append(h.Notes, fmt.Sprintf("contradictory times: %v in %s, which is on a way of %v", ms(spent), w.enter.Point.Node, ms(time)))
				continue
			}
			time -= spent
			if w.message(w.leave).Tx.Last == 0 {
				with += " with " + w.enter.Point.Node // its queue
			} else {
				without += ", without " + w.enter.Point.Node
			}
			h.shift[w.enter.Point.Node] = h.shift[outer.place] + int64(outer.at) - int64(w.message(w.enter).Last)
			p.addDevice(w.phase, fromTo(pointTitle(w.enter.Point), pointTitle(w.leave.Point)), w.enter.Point.Node, w.message(w.enter).Last, spent)
		}
		h.shift[inner.place] = h.shift[outer.place] + int64(outer.at) + time/2 - int64(inner.at)
		link := location{name: nodePair(outer.place, inner.place) + with}
		some := p.linkSteps(link, i == 1, i == len(sides)-1, [4]waypoint{a, b, c, d})
		if s := h.add(some, Both, fromTo(outer.name, inner.name)+" and back"+without, waypoint{at: outer.at, node: outer.place}, time); s != nil {
			s.Node, s.At = "", 0
			s.ResponseStart = h.shift[inner.place] + int64(inner.back)
		}
	}
	return true
}

// unseen completes the name of the link before side i with the devices whose time, or part of
// it, is in the link's: only one interface saw both messages, and the link is on the other side;
// or it is not known when a message left the queue towards the link.
func unseen(sides []side, i int) (with string) {
	outer, inner := &sides[i-1], &sides[i]
	if g := outer.gate; g != nil && (enters(g.Observation) || g.Request.Tx.Last == 0) {
		with += " with " + outer.place
	}
	if g := inner.gate; g != nil && (!enters(g.Observation) || g.Response.Tx.Last == 0) {
		with += " with " + inner.place
	}
	return with
}

// addInside adds the time of both messages between two interfaces of a device, which its
// clock measured.
func (p *path) addInside(outer, inner *side) {
	p.addDevice(Request, fromTo(outer.name, inner.name), outer.place, outer.at, int64(inner.at-outer.at))
	p.addDevice(Response, fromTo(inner.name, outer.name), outer.place, inner.back, int64(outer.back-inner.back))
}

func (p *path) addDevice(phase Phase, between, device string, at uint64, time int64) {
	if time < 0 {
		p.hop.Notes = append(p.hop.Notes, "contradictory times: "+between)
		return
	}
	p.hop.add([]step{{fromDriver, toPNIC, observe.RelayNetwork, location{name: device}}}, phase, between, waypoint{at: at, node: device}, time)
}

// between reports whether a device that saw one way lies between two gates; nil stands for
// a node.
func between(w *oneWay, outer, inner *gate) bool {
	ttl := func(o *observe.Observation) int {
		if w.phase == Request {
			return int(o.Request.TTL)
		}
		return -int(o.Response.TTL) // the response comes from the other side
	}
	return (outer == nil || ttl(outer.Observation) >= ttl(w.enter)) && (inner == nil || ttl(w.leave) >= ttl(inner.Observation))
}

// linkSteps returns the layers of a link. The first and the last one also have those for
// which a capture point at a node is missing.
func (p *path) linkSteps(link location, first, last bool, nodes [4]waypoint) (some []step) {
	relay := step{fromDriver, toPNIC, observe.RelayNetwork, link}
	add := func(all []step, from, to position, client, server bool) {
		for _, s := range stepsBetween(all, from, to) {
			beforeRelay := s.to <= fromDriver
			if s.layer == observe.RelayNetwork || beforeRelay && !client || !beforeRelay && !server {
				continue
			}
			if !slices.ContainsFunc(some, func(o step) bool { return o.layer == s.layer && o.location == s.location }) {
				some = append(some, s)
			}
		}
	}
	a, b, c, d := nodes[0], nodes[1], nodes[2], nodes[3]
	add(p.out, a.position, b.position, first, false)
	some = append(some, relay)
	add(p.out, a.position, b.position, false, last)
	add(p.back, c.position, d.position, last, first)
	return some
}
