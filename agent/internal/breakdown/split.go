// SPDX-License-Identifier: Apache-2.0

package breakdown

import (
	"cmp"
	"fmt"
	"slices"
	"time"

	"github.com/layertrace/layertrace/internal/observe"
)

// split fills in the segments of a hop and of its children. start is the hop's
// offset from the start of the root.
func (h *Hop) split(start int64) {
	h.Start = start
	request, response := h.requestWaypoints(), h.responseWaypoints()
	if defect := defect(request, response); defect != "" {
		h.Notes = append(h.Notes, defect)
		return
	}
	first, last := request[0], response[len(response)-1]
	client, server := h.ends()
	p := path{
		hop: h, request: request, response: response,
		out: steps(h.memory, h.shape(), client, server), back: steps(h.memory, h.shape(), server, client),
	}
	h.Total = int64(last.at - first.at)
	h.shift[first.node] = start - int64(first.at)
	h.Segments = take(&h.memory.segments, len(request)+len(response)+len(h.Children)+1)
	h.addSending(first)
	p.addCrossing()
	p.splitChildren()
	p.addMessages()
	p.trimRequest()
	p.addHandling(server)
	h.noteSpread()
	if len(h.Segments) == 0 {
		h.Segments = nil
	}
	slices.SortStableFunc(h.Segments, func(a, b Segment) int { return cmp.Compare(a.Start, b.Start) })
	h.Unattributed = h.Total
	for i := range h.Segments {
		h.Unattributed -= h.Segments[i].Time
	}
	for _, child := range h.Children {
		if child.OnCriticalPath {
			h.Unattributed -= child.Total
		}
	}
}

// defect returns why the time of a hop with these waypoints is unknown, "" if it
// is known.
func defect(request, response []waypoint) string {
	if len(request) == 0 || len(response) == 0 {
		return "no response was seen"
	}
	switch first, last := request[0], response[len(response)-1]; {
	case first.node != last.node:
		return "request and response were seen on different nodes"
	case last.at < first.at:
		return "the response ended before the request was sent: the times are not of one request"
	default:
		return ""
	}
}

// path is the waypoints of a hop's messages and the layers between them.
type path struct {
	hop               *Hop
	request, response []waypoint
	out, back         []step
}

// add adds a segment that begins at a waypoint, and returns it until the next one
// is added; nil without steps, or if it would be longer than the hop.
func (h *Hop) add(some []step, phase Phase, between string, from waypoint, time int64) *Segment {
	if len(some) == 0 {
		return nil
	}
	if time > h.Total {
		h.Notes = append(h.Notes, fmt.Sprintf("contradictory times: %s, %v of a hop of %v", between, ms(time), ms(h.Total)))
		return nil
	}
	s := newSegment(some, phase, between, time)
	s.Start, s.Node, s.At = h.shift[from.node]+int64(from.at), from.node, from.at
	h.Segments = append(h.Segments, s)
	return &h.Segments[len(h.Segments)-1]
}

// addSending adds the time that the sender of a root took to write its request.
func (h *Hop) addSending(first waypoint) {
	if h.Parent != nil || h.Sender == nil || first.position != fromProcess {
		return
	}
	written := h.Sender.Request.App.First
	took := int64(first.at - written)
	if took <= 0 || written == 0 {
		return
	}
	client, _ := h.ends()
	h.Total += took
	h.shift[first.node] += took
	if s := h.add([]step{{layer: observe.Application, location: client.service}}, Request, first.name+" writes the request", waypoint{at: written, node: first.node}, took); s != nil {
		s.sending = true
	}
}

// addCrossing adds the time between the nodes, of request and response together:
// what passed on the client's node without what passed on the server's node. It
// also relates the server node's clock to the client node's.
func (p *path) addCrossing() {
	h := p.hop
	out, back := changeOfNode(p.request), changeOfNode(p.response)
	if out < 0 && back < 0 {
		return
	}
	if out < 0 || back < 0 {
		h.Notes = append(h.Notes, "only one of request and response was seen on both nodes")
		return
	}
	a, b, c, d := p.request[out], p.request[out+1], p.response[back], p.response[back+1]
	if a.node != d.node || b.node != c.node {
		h.Notes = append(h.Notes, "request and response passed between different nodes")
		return
	}
	if c.at < b.at || d.at < a.at {
		h.Notes = append(h.Notes, "the response was sent before the request")
		return
	}
	time := int64(d.at-a.at) - int64(c.at-b.at)
	some := stepsBetween(p.out, a.position, b.position)
	for _, s := range stepsBetween(p.back, c.position, d.position) {
		if !slices.ContainsFunc(some, func(o step) bool { return o.layer == s.layer && o.location == s.location }) {
			some = append(some, s)
		}
	}
	way, atLeast := h.wayOf(time, a, b, c, d)
	there := map[Phase]int64{Request: time, "": time / 2}[way]
	h.shift[b.node] = h.shift[a.node] + int64(a.at) + there - int64(b.at)
	between := fromTo(a.name, b.name) + " and back"
	if time < 0 {
		h.Notes = append(h.Notes, "the request took longer on the server's node than the client's node waited: "+between)
		return
	}
	if p.addLinks(a, b, c, d) {
		return
	}
	if s := h.add(some, Both, between, a, time); s != nil {
		s.Node, s.At = "", 0
		s.Way, s.AtLeast = way, atLeast
		switch way {
		case Request: // drawn in one piece, from Start
		case Response:
			s.Start = h.shift[b.node] + int64(c.at)
		default:
			s.ResponseStart = h.shift[b.node] + int64(c.at)
		}
	}
}

// maxOtherWay is the largest share of a time between nodes that the acknowledgement of one
// message may leave to it, so that the time is that of the other message.
const maxOtherWay = 0.25

// wayOf returns the message that had most of the time between nodes, and the least time
// that it had: the other one had arrived when its acknowledgement had come back. The
// request passes a and b, the response c and d.
func (h *Hop) wayOf(time int64, a, b, c, d waypoint) (way Phase, atLeast int64) {
	limit := int64(maxOtherWay * float64(time))
	if most, known := untilAcknowledged(h.Sender, requestOf, a, b); known && most <= limit {
		return Response, time - most
	}
	if most, known := untilAcknowledged(h.Receiver, responseOf, c, d); known && most <= limit {
		return Request, time - most
	}
	return "", 0
}

// untilAcknowledged returns the most time in ns that a message took between two waypoints
// of different nodes: its sender's TCP had the acknowledgement that much later. A reader
// may read later than TCP acknowledges, so this says nothing on a read.
func untilAcknowledged(sender *observe.Observation, message func(*observe.Observation) *observe.Message, from, to waypoint) (most int64, known bool) {
	if sender == nil || sender.Point.Node != from.node || to.position > toStack {
		return 0, false
	}
	acknowledged := message(sender).Acknowledged
	return int64(acknowledged - from.at), acknowledged > from.at
}

// changeOfNode returns the index of the last waypoint before the node changes, -1
// if it does not change.
func changeOfNode(waypoints []waypoint) int {
	for i := 1; i < len(waypoints); i++ {
		if waypoints[i-1].node != waypoints[i].node {
			return i - 1
		}
	}
	return -1
}

// splitChildren splits the child hops, whose clocks are known now.
func (p *path) splitChildren() {
	h := p.hop
	critical := p.criticalChildren()
	for _, child := range h.Children {
		child.Awaited, child.OnCriticalPath = critical[child], critical[child]
		c := child.clientPeriod()
		child.split(h.shift[c.point.Point.Node] + int64(c.start))
	}
}

// criticalChildren returns the children that the response waited for: the one that
// ended last, then the one that ended last before that one started, and so on. Those
// that ended before the request was read, or after the response was written, are not.
func (p *path) criticalChildren() map[*Hop]bool {
	if len(p.hop.Children) == 0 {
		return nil
	}
	critical := map[*Hop]bool{}
	r, a := p.request[len(p.request)-1], p.response[0]
	byEnd := slices.SortedFunc(slices.Values(p.hop.Children), func(a, b *Hop) int {
		return cmp.Compare(b.clientPeriod().end, a.clientPeriod().end)
	})
	for until := ^uint64(0); len(byEnd) > 0; byEnd = byEnd[1:] {
		c := byEnd[0].clientPeriod()
		if c.point.Point.Node == r.node && r.node == a.node && (c.end <= r.at || c.end > a.at) {
			continue
		}
		if c.end <= until {
			critical[byEnd[0]] = true
			until = c.start
		}
	}
	return critical
}

// addMessages adds the segments between adjacent waypoints of a message on one
// node.
func (p *path) addMessages() {
	for _, m := range []struct {
		waypoints []waypoint
		steps     []step
		phase     Phase
	}{{p.request, p.out, Request}, {p.response, p.back, Response}} {
		for i := 1; i < len(m.waypoints); i++ {
			a, b := m.waypoints[i-1], m.waypoints[i]
			if a.node == b.node {
				p.addBetween(a, b, stepsBetween(m.steps, a.position, b.position), m.phase)
			}
		}
	}
}

// addBetween adds the time between two waypoints of one node. If it were negative,
// the waypoints would not be of one message.
func (p *path) addBetween(a, b waypoint, some []step, phase Phase) {
	between := fromTo(a.name, b.name)
	if b.at < a.at {
		p.hop.Notes = append(p.hop.Notes, "contradictory times: "+between)
		return
	}
	if s := p.hop.add(some, phase, between, a, int64(b.at-a.at)); s != nil {
		s.from, s.to = a.name, b.name
	}
}

// trimRequest leaves to a child on the critical path what it shares with the request:
// a proxy may pass a request on before it has read all of it. Each moment belongs to
// one hop. The request's segments give it from their end backwards.
func (p *path) trimRequest() {
	r, h := p.request[len(p.request)-1], p.hop
	begin := r.at
	for _, child := range h.Children {
		if c := child.clientPeriod(); child.OnCriticalPath && c.point.Point.Node == r.node {
			begin = min(begin, c.start)
		}
	}
	left := int64(r.at - begin)
	for _, phase := range []Phase{Request, Both} {
		for i := len(h.Segments) - 1; i >= 0 && left > 0; i-- {
			if s := &h.Segments[i]; s.Phase == phase {
				cut := min(left, s.Time)
				s.Time -= cut
				left -= cut
			}
		}
	}
}

// minSpread is the time in ns between the first and the last byte of a message from
// which on it is remarked.
const minSpread = 50_000_000

// noteSpread remarks messages that took long to pass the first capture point after
// their sender, if nothing tells slow writing from slow reading: its socket does.
func (h *Hop) noteSpread() {
	note := func(name string, m *observe.Message) {
		if m.Last < m.First {
			return
		}
		if spread := int64(m.Last - m.First); spread >= minSpread && spread >= h.Total/4 {
			h.Notes = append(h.Notes, fmt.Sprintf("between the first and the last byte of the %s: %v, by slow writing or slow reading; sockets would show which", name, ms(spread)))
		}
	}
	if h.Sender == nil && h.ClientVNIC != nil {
		note("request", &h.ClientVNIC.Request)
	}
	if h.Receiver == nil && h.ServerVNIC != nil {
		note("response", &h.ServerVNIC.Response)
	}
}

// addHandling adds the time between the last waypoint of the request and the first
// of the response, except for the children on the critical path: the
// application's, with the layers that miss a capture point next to it.
func (p *path) addHandling(server end) {
	r, a := p.request[len(p.request)-1], p.response[0]
	if r.node != a.node {
		p.hop.Notes = append(p.hop.Notes, "the request arrived on one node, the response came from another")
		return
	}
	if a.at < r.at {
		p.hop.Notes = append(p.hop.Notes, "the response began before the request was read")
		return
	}
	some := stepsBetween(p.out, r.position, positions)
	some = append(some, step{layer: observe.Application, location: server.service})
	some = append(some, stepsBetween(p.back, 0, a.position)...)
	name := server.service.name
	if p.hop.Receiver != nil {
		name = owner(p.hop.Receiver.Point)
	}
	from, after := r, (*Hop)(nil)
	for _, child := range p.hop.Children {
		if c := child.clientPeriod(); child.OnCriticalPath {
			p.addHandled(some, name, from, int64(max(c.start, from.at)-from.at), after, child)
			from.at, after = max(from.at, c.end), child
		}
	}
	p.addHandled(some, name, from, int64(max(a.at, from.at)-from.at), after, nil)
}

// minAfterCut is the time in ns after a child hop that was cut from which on it is
// remarked.
const minAfterCut = 700_000

// addHandled adds a segment of the handling. after is the child that ended before it, nil
// for the request; before is the child whose request it ends with, nil for the response.
// What follows a child that was cut, or whose response was not seen, may have been the
// child's time: it stays unattributed.
func (p *path) addHandled(some []step, name string, from waypoint, time int64, after, before *Hop) {
	if after != nil && (after.Cut() != 0 || after.Total == 0) {
		if time >= minAfterCut {
			p.hop.Notes = append(p.hop.Notes, fmt.Sprintf("%v after the exchange with %s, whose end was not seen, may be its time or that of %s", ms(time), cmp.Or(after.ServerService(), "?"), name))
		}
		return
	}
	if s := p.hop.add(handled(some, after, before), Both, name, from, time); s != nil {
		s.handling, s.before = true, before
	}
}

// handled returns the layers of the handling between two child hops, either nil: with those
// of the child before the first point that saw it, and after the last one.
func handled(some []step, after, before *Hop) []step {
	extend := func(more []step) {
		for _, s := range more {
			if !slices.ContainsFunc(some, func(o step) bool { return o.layer == s.layer && o.location == s.location }) {
				some = append(slices.Clone(some), s)
			}
		}
	}
	if after != nil {
		client, server := after.ends()
		if w := after.responseWaypoints(); len(w) > 0 {
			extend(stepsBetween(steps(after.memory, after.shape(), server, client), w[len(w)-1].position, toProcess))
		}
	}
	if before != nil {
		client, server := before.ends()
		if w := before.requestWaypoints(); len(w) > 0 {
			extend(stepsBetween(steps(before.memory, before.shape(), client, server), fromProcess, w[0].position))
		}
	}
	return some
}

func ms(ns int64) time.Duration { return time.Duration(ns).Round(time.Microsecond) }
