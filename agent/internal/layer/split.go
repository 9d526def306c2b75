// SPDX-License-Identifier: Apache-2.0

package layer

import (
	"cmp"
	"slices"
)

// split fills in the parts of a leg and of those below it. start is the leg's,
// as an offset from the root's.
func (l *Leg) split(start int64) {
	l.Start = start
	request, response := l.requestMarks(), l.responseMarks()
	if defect := defect(request, response); defect != "" {
		l.Notes = append(l.Notes, defect)
		return
	}
	first, last := request[0], response[len(response)-1]
	client, server := l.ends()
	w := way{
		leg: l, request: request, response: response,
		out: steps(l.shape(), client, server), back: steps(l.shape(), server, client),
	}
	l.Total = int64(last.at - first.at)
	l.shift[first.node] = start - int64(first.at)
	l.addSending(first)
	w.crossing()
	l.splitChildren()
	w.messages()
	w.middle(server)
	slices.SortStableFunc(l.Parts, func(a, b Part) int { return cmp.Compare(a.Start, b.Start) })
	l.Unattributed = l.Total
	for _, p := range l.Parts {
		l.Unattributed -= p.Time
	}
	for _, child := range l.Children {
		if child.Waited {
			l.Unattributed -= child.Total
		}
	}
}

// defect says why the time of a leg with these marks cannot be told, "" when it can.
func defect(request, response []mark) string {
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
func (l *Leg) addSending(first mark) {
	if l.Parent != nil || l.Sender == nil || first.position != fromProcess {
		return
	}
	took := int64(first.at - l.Sender.Request.Handover.First)
	if took <= 0 || l.Sender.Request.Handover.First == 0 {
		return
	}
	client, _ := l.ends()
	l.Total += took
	l.shift[first.node] += took
	l.add([]step{{layer: Application, place: client.service}}, Request, first.name+" writes the request", mark{at: l.Sender.Request.Handover.First, node: first.node}, took)
}

// splitChildren splits the legs below, where the clock is known.
func (l *Leg) splitChildren() {
	waited := l.waitedFor()
	for _, child := range l.Children {
		child.Waited = waited[child]
		i := child.clientInterval()
		child.split(l.shift[i.point.Node] + int64(i.start))
	}
}

// waitedFor returns the legs below that the response waited for: backwards from
// the end, the one that ended last, then the one that ended last before that
// one's start, and so on.
func (l *Leg) waitedFor() map[*Leg]bool {
	waited := map[*Leg]bool{}
	byEnd := slices.SortedFunc(slices.Values(l.Children), func(a, b *Leg) int {
		return cmp.Compare(b.clientInterval().end, a.clientInterval().end)
	})
	for until := ^uint64(0); len(byEnd) > 0; byEnd = byEnd[1:] {
		if i := byEnd[0].clientInterval(); i.end <= until {
			waited[byEnd[0]] = true
			until = i.start
		}
	}
	return waited
}

// way is the marks of a leg and the layers between them.
type way struct {
	leg               *Leg
	request, response []mark
	out, back         []step
}

// add adds a part that begins at a mark, and returns it until the next one is
// added; nil without a step.
func (l *Leg) add(some []step, w Way, where string, from mark, time int64) *Part {
	if len(some) == 0 {
		return nil
	}
	p := newPart(some, w, where, time)
	p.Start, p.Node, p.At = l.shift[from.node]+int64(from.at), from.node, from.at
	l.Parts = append(l.Parts, p)
	return &l.Parts[len(l.Parts)-1]
}

// messages adds the parts between marks of one node.
func (w *way) messages() {
	for _, m := range []struct {
		marks []mark
		steps []step
		way   Way
	}{{w.request, w.out, Request}, {w.response, w.back, Response}} {
		for i := 1; i < len(m.marks); i++ {
			a, b := m.marks[i-1], m.marks[i]
			if a.node == b.node {
				w.between(a, b, covered(m.steps, a.position, b.position), m.way)
			}
		}
	}
}

// between adds the time between two marks of one node. It cannot be negative;
// where it is, the marks are not of one message.
func (w *way) between(a, b mark, some []step, way Way) {
	where := fromTo(a.name, b.name)
	if b.at < a.at {
		w.leg.Notes = append(w.leg.Notes, "times contradict each other: "+where)
		return
	}
	if p := w.leg.add(some, way, where, a, int64(b.at-a.at)); p != nil {
		p.from, p.to = a.name, b.name
	}
}

// fromTo says where a part is that lies between two marks.
func fromTo(from, to string) string { return from + " to " + to }

// crossing adds the time between the last mark on the client's node and the
// first on the server's, of both ways together: what the client's node waited
// less what the server's node took.
func (w *way) crossing() {
	out, back := changeOfNode(w.request), changeOfNode(w.response)
	if out < 0 && back < 0 {
		return
	}
	if out < 0 || back < 0 {
		w.leg.Notes = append(w.leg.Notes, "only one of request and response was seen on both nodes")
		return
	}
	a, b, c, d := w.request[out], w.request[out+1], w.response[back], w.response[back+1]
	if a.node != d.node || b.node != c.node {
		w.leg.Notes = append(w.leg.Notes, "request and response went between different nodes")
		return
	}
	if c.at < b.at || d.at < a.at {
		w.leg.Notes = append(w.leg.Notes, "the response was on its way before the request was")
		return
	}
	time := int64(d.at-a.at) - int64(c.at-b.at)
	some := covered(w.out, a.position, b.position)
	for _, s := range covered(w.back, c.position, d.position) {
		if !slices.ContainsFunc(some, func(o step) bool { return o.layer == s.layer && o.place == s.place }) {
			some = append(some, s)
		}
	}
	w.leg.shift[b.node] = w.leg.shift[a.node] + int64(a.at) + time/2 - int64(b.at)
	where := fromTo(a.name, b.name) + " and back"
	if time < 0 {
		w.leg.Notes = append(w.leg.Notes, "the server's node took longer than the client's waited: "+where)
		return
	}
	if p := w.leg.add(some, Both, where, a, time); p != nil {
		p.Node, p.At = "", 0
		p.Back = w.leg.shift[b.node] + int64(c.at)
	}
}

// changeOfNode returns the index before which all marks are of another node, -1
// when there is no such.
func changeOfNode(marks []mark) int {
	for i := 1; i < len(marks); i++ {
		if marks[i-1].node != marks[i].node {
			return i - 1
		}
	}
	return -1
}

// middle adds the time between the last mark of the request and the first of
// the response, without the legs that it waited for: the application's, and
// that of what stands between it and these marks.
func (w *way) middle(server end) {
	r, a := w.request[len(w.request)-1], w.response[0]
	if r.node != a.node {
		w.leg.Notes = append(w.leg.Notes, "the request arrived on another node than the response came from")
		return
	}
	if a.at < r.at {
		w.leg.Notes = append(w.leg.Notes, "the response began before the request was read")
		return
	}
	some := covered(w.out, r.position, positions)
	some = append(some, step{layer: Application, place: server.service})
	some = append(some, covered(w.back, 0, a.position)...)
	name := server.service
	if w.leg.Receiver != nil {
		name = w.leg.Receiver.process()
	}
	from := r
	for _, child := range w.leg.Children {
		if i := child.clientInterval(); child.Waited {
			w.leg.add(some, Both, name, from, int64(max(i.start, from.at)-from.at))
			from.at = max(from.at, i.end)
		}
	}
	w.leg.add(some, Both, name, from, int64(max(a.at, from.at)-from.at))
}
