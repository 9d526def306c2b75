// SPDX-License-Identifier: Apache-2.0

package breakdown

import (
	"cmp"
	"slices"

	"github.com/layertrace/layertrace/internal/observe"
)

// split fills in the segments of a hop and of those below it. start is the hop's,
// as an offset from the root's.
func (l *Hop) split(start int64) {
	l.Start = start
	request, response := l.requestWaypoints(), l.responseWaypoints()
	if defect := defect(request, response); defect != "" {
		l.Notes = append(l.Notes, defect)
		return
	}
	first, last := request[0], response[len(response)-1]
	client, server := l.ends()
	w := path{
		hop: l, request: request, response: response,
		out: steps(l.shape(), client, server), back: steps(l.shape(), server, client),
	}
	l.Total = int64(last.at - first.at)
	l.shift[first.node] = start - int64(first.at)
	l.addSending(first)
	w.crossing()
	l.splitChildren()
	w.messages()
	w.middle(server)
	slices.SortStableFunc(l.Segments, func(a, b Segment) int { return cmp.Compare(a.Start, b.Start) })
	l.Unattributed = l.Total
	for _, p := range l.Segments {
		l.Unattributed -= p.Time
	}
	for _, child := range l.Children {
		if child.OnCriticalPath {
			l.Unattributed -= child.Total
		}
	}
}

// defect says why the time of a hop with these waypoints cannot be told, "" when it can.
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

// addSending adds the time that a root's sender took to write its request.
func (l *Hop) addSending(first waypoint) {
	if l.Parent != nil || l.Sender == nil || first.position != fromProcess {
		return
	}
	took := int64(first.at - l.Sender.Request.App.First)
	if took <= 0 || l.Sender.Request.App.First == 0 {
		return
	}
	client, _ := l.ends()
	l.Total += took
	l.shift[first.node] += took
	l.add([]step{{layer: observe.Application, location: client.service}}, Request, first.name+" writes the request", waypoint{at: l.Sender.Request.App.First, node: first.node}, took)
}

// splitChildren splits the hops below, between the clock is known.
func (l *Hop) splitChildren() {
	critical := l.criticalChildren()
	for _, child := range l.Children {
		child.OnCriticalPath = critical[child]
		i := child.clientPeriod()
		child.split(l.shift[i.point.Point.Node] + int64(i.start))
	}
}

// criticalChildren returns the hops below that the response critical for: backwards from
// the end, the one that ended last, then the one that ended last before that
// one's start, and so on.
func (l *Hop) criticalChildren() map[*Hop]bool {
	critical := map[*Hop]bool{}
	byEnd := slices.SortedFunc(slices.Values(l.Children), func(a, b *Hop) int {
		return cmp.Compare(b.clientPeriod().end, a.clientPeriod().end)
	})
	for until := ^uint64(0); len(byEnd) > 0; byEnd = byEnd[1:] {
		if i := byEnd[0].clientPeriod(); i.end <= until {
			critical[byEnd[0]] = true
			until = i.start
		}
	}
	return critical
}

// path is the waypoints of a hop and the layers between them.
type path struct {
	hop               *Hop
	request, response []waypoint
	out, back         []step
}

// add adds a segment that begins at a waypoint, and returns it until the next one is
// added; nil without a step.
func (l *Hop) add(some []step, w Phase, between string, from waypoint, time int64) *Segment {
	if len(some) == 0 {
		return nil
	}
	p := newSegment(some, w, between, time)
	p.Start, p.Node, p.At = l.shift[from.node]+int64(from.at), from.node, from.at
	l.Segments = append(l.Segments, p)
	return &l.Segments[len(l.Segments)-1]
}

// messages adds the segments between waypoints of one node.
func (w *path) messages() {
	for _, m := range []struct {
		waypoints []waypoint
		steps     []step
		path      Phase
	}{{w.request, w.out, Request}, {w.response, w.back, Response}} {
		for i := 1; i < len(m.waypoints); i++ {
			a, b := m.waypoints[i-1], m.waypoints[i]
			if a.node == b.node {
				w.between(a, b, covered(m.steps, a.position, b.position), m.path)
			}
		}
	}
}

// between adds the time between two waypoints of one node. It cannot be negative;
// between it is, the waypoints are not of one message.
func (w *path) between(a, b waypoint, some []step, path Phase) {
	between := fromTo(a.name, b.name)
	if b.at < a.at {
		w.hop.Notes = append(w.hop.Notes, "times contradict each other: "+between)
		return
	}
	if p := w.hop.add(some, path, between, a, int64(b.at-a.at)); p != nil {
		p.from, p.to = a.name, b.name
	}
}

// fromTo says between a segment is that lies between two waypoints.
func fromTo(from, to string) string { return from + " to " + to }

// crossing adds the time between the last waypoint on the client's node and the
// first on the server's, of both ways together: what the client's node critical
// less what the server's node took.
func (w *path) crossing() {
	out, back := changeOfNode(w.request), changeOfNode(w.response)
	if out < 0 && back < 0 {
		return
	}
	if out < 0 || back < 0 {
		w.hop.Notes = append(w.hop.Notes, "only one of request and response was seen on both nodes")
		return
	}
	a, b, c, d := w.request[out], w.request[out+1], w.response[back], w.response[back+1]
	if a.node != d.node || b.node != c.node {
		w.hop.Notes = append(w.hop.Notes, "request and response went between different nodes")
		return
	}
	if c.at < b.at || d.at < a.at {
		w.hop.Notes = append(w.hop.Notes, "the response was on its path before the request was")
		return
	}
	time := int64(d.at-a.at) - int64(c.at-b.at)
	some := covered(w.out, a.position, b.position)
	for _, s := range covered(w.back, c.position, d.position) {
		if !slices.ContainsFunc(some, func(o step) bool { return o.layer == s.layer && o.location == s.location }) {
			some = append(some, s)
		}
	}
	w.hop.shift[b.node] = w.hop.shift[a.node] + int64(a.at) + time/2 - int64(b.at)
	between := fromTo(a.name, b.name) + " and back"
	if time < 0 {
		w.hop.Notes = append(w.hop.Notes, "the server's node took longer than the client's critical: "+between)
		return
	}
	if p := w.hop.add(some, Both, between, a, time); p != nil {
		p.Node, p.At = "", 0
		p.Back = w.hop.shift[b.node] + int64(c.at)
	}
}

// changeOfNode returns the index before which all waypoints are of another node, -1
// when there is no such.
func changeOfNode(waypoints []waypoint) int {
	for i := 1; i < len(waypoints); i++ {
		if waypoints[i-1].node != waypoints[i].node {
			return i - 1
		}
	}
	return -1
}

// middle adds the time between the last waypoint of the request and the first of
// the response, without the hops that it critical for: the application's, and
// that of what stands between it and these waypoints.
func (w *path) middle(server end) {
	r, a := w.request[len(w.request)-1], w.response[0]
	if r.node != a.node {
		w.hop.Notes = append(w.hop.Notes, "the request arrived on another node than the response came from")
		return
	}
	if a.at < r.at {
		w.hop.Notes = append(w.hop.Notes, "the response began before the request was read")
		return
	}
	some := covered(w.out, r.position, positions)
	some = append(some, step{layer: observe.Application, location: server.service})
	some = append(some, covered(w.back, 0, a.position)...)
	name := server.service
	if w.hop.Receiver != nil {
		name = owner(w.hop.Receiver.Point)
	}
	from := r
	for _, child := range w.hop.Children {
		if i := child.clientPeriod(); child.OnCriticalPath {
			w.hop.add(some, Both, name, from, int64(max(i.start, from.at)-from.at))
			from.at = max(from.at, i.end)
		}
	}
	w.hop.add(some, Both, name, from, int64(max(a.at, from.at)-from.at))
}
