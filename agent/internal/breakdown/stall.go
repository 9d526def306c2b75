// SPDX-License-Identifier: Apache-2.0

package breakdown

import (
	"slices"

	"github.com/layertrace/layertrace/internal/observe"
)

// A sender that has more to send while its peer's receive window has no room is not slow
// (observe.Message.Held). The peer does not read, or the network delays what is in flight.
// The reader's socket tells which: for how long its full receive queue was not read
// (observe.Message.Unread). moveStalls gives that time to the receive queue of the reader:
// it takes it out of what the sender seemed to take, so that segments still add up. The
// rest of the hold is no one's: it becomes unattributed, where it counted as the sender's
// application.
//
// A hold passes through proxies, whose own senders are then held at the same time. It
// counts once: for a response where the data comes from, which is the innermost hop, and
// for a request at the outermost. The buffers of a proxy can have room for the rest of the
// message: then its sender is done, and the rest waits in the receive queue of the proxy,
// which reads no more than it can send. That is not the proxy's time either.
func (t *Tree) moveStalls() {
	if !slices.ContainsFunc(t.Hops, (*Hop).isStalled) {
		return
	}
	within := map[*Hop]int64{} // moved in the hops below
	for i := len(t.Hops) - 1; i >= 0; i-- {
		h := t.Hops[i]
		moved := within[h] + h.moveResponseStall(within[h])
		if h.Parent != nil && h.OnCriticalPath {
			within[h.Parent] += moved
		}
	}
	outside := map[*Hop]int64{} // moved in the hop and above
	for _, h := range t.Hops {
		outside[h] = outside[h.Parent]
		outside[h] += h.moveRequestStall(outside[h])
	}
}

// isStalled reports whether a sender of the hop waited.
func (h *Hop) isStalled() bool {
	return h.StallOf(Request) != (Stall{}) || h.StallOf(Response) != (Stall{})
}

// Stall is for how long the sender of a message was held up, in ns.
type Stall struct {
	// ByReader: the reader did not read.
	ByReader int64
	// Unexplained: as far as is known, the network may have delayed data or
	// acknowledgements as well.
	Unexplained int64
	// Waited: for whatever reason; the network is one.
	Waited int64
	// Witnessed: the reader's own socket tells.
	Witnessed bool
}

// StallOf returns the stall of the request or response of a hop, by the sockets at both
// ends. Without the reader's, only a stall with nothing in flight is the reader's.
func (h *Hop) StallOf(phase Phase) Stall {
	from, to, message := h.Sender, h.Receiver, requestOf
	if phase == Response {
		from, to, message = h.Receiver, h.Sender, responseOf
	}
	if from == nil {
		return Stall{}
	}
	m := message(from)
	s := Stall{ByReader: int64(m.Stalled), Waited: int64(m.Waited)}
	// A socket whose reads are not seen cannot tell.
	if to != nil && message(to).App.Last != 0 {
		s.ByReader, s.Witnessed = int64(min(m.Waited, message(to).Unread)), true
	}
	s.Unexplained = max(int64(m.Held)-s.ByReader, 0)
	return s
}

// moveResponseStall moves the time that the server waited for its client to read. The
// send queue holds what was written meanwhile, and the rest of the wait is between writes.
// It returns how much it moved; known was moved elsewhere.
func (h *Hop) moveResponseStall(known int64) int64 {
	s := h.StallOf(Response)
	if max(s.Waited, s.ByReader+s.Unexplained) <= known {
		return 0
	}
	reader := h.responseReader()
	client, _ := reader.ends()
	m := move{
		left: s.ByReader - known, phase: Response, location: client.service,
		between: owner(h.Receiver.Point) + " waits for " + readerName(reader.Sender, client) + " to read",
	}
	m.takeFrom(h, func(s *Segment) bool { return s.Queue == SendQueue && s.Phase == Response })
	m.takeFrom(h, func(s *Segment) bool { return s.handling })
	for _, child := range h.Children {
		if child.OnCriticalPath {
			m.takeLateReads(child, h.Receiver, Response)
		}
	}
	rest := move{left: s.Unexplained - max(known-s.ByReader, 0), unattributed: true}
	rest.takeFrom(h, func(s *Segment) bool { return s.handling && s.before == nil })
	late := move{left: s.Waited - known - m.moved - rest.moved, unattributed: true}
	for _, child := range h.Children {
		if child.OnCriticalPath {
			late.takeLateReads(child, h.Receiver, Response)
		}
	}
	return m.moved + rest.moved + late.moved
}

// moveRequestStall moves the time that the client waited for its server to read: from the
// send queue, from a root's writing, or from the handling in which the request was written.
func (h *Hop) moveRequestStall(known int64) int64 {
	s := h.StallOf(Request)
	if max(s.Waited, s.ByReader+s.Unexplained) <= known {
		return 0
	}
	reader := h.requestReader()
	_, server := reader.ends()
	m := move{
		left: s.ByReader - known, phase: Request, location: server.service,
		between: owner(h.Sender.Point) + " waits for " + readerName(reader.Receiver, server) + " to read",
	}
	rest := move{left: s.Unexplained - max(known-s.ByReader, 0), unattributed: true}
	m.takeFrom(h, func(s *Segment) bool { return s.sending || s.Queue == SendQueue && s.Phase == Request })
	if h.Parent != nil {
		m.takeFrom(h.Parent, func(s *Segment) bool { return s.handling && s.before == h })
		m.takeLateReads(h.Parent, h.Sender, Request)
		rest.takeFrom(h.Parent, func(s *Segment) bool { return s.handling && s.before == h })
	}
	rest.takeFrom(h, func(s *Segment) bool { return s.sending })
	late := move{left: s.Waited - known - m.moved - rest.moved, unattributed: true}
	if h.Parent != nil {
		late.takeLateReads(h.Parent, h.Sender, Request)
	}
	return m.moved + rest.moved + late.moved
}

// responseReader returns the hop whose client does not read. A proxy that cannot send the
// response on does not read it either: then the reader is further out.
func (h *Hop) responseReader() *Hop {
	for range maxHeld {
		p := h.Parent
		if p == nil || !holds(p.StallOf(Response), h.StallOf(Response)) {
			break
		}
		h = p
	}
	return h
}

// requestReader returns the hop whose server does not read the request, likewise.
func (h *Hop) requestReader() *Hop {
	for range maxHeld {
		i := slices.IndexFunc(h.Children, func(c *Hop) bool {
			return holds(c.StallOf(Request), h.StallOf(Request))
		})
		if i < 0 {
			return h
		}
		h = h.Children[i]
	}
	return h
}

// maxHeld is how many proxies in a row are followed that hold each other up.
const maxHeld = 64

// holds reports whether a stall explains another one, on the other side of a proxy: its
// buffers fill before the other begins, so it need not be as long.
func holds(cause, stalled Stall) bool {
	return cause.ByReader > 0 && 2*cause.ByReader >= stalled.ByReader
}

func readerName(o *observe.Observation, e end) string {
	if o != nil {
		return owner(o.Point)
	}
	return e.service.name
}

// move is time that has to move to the receive queue of a reader.
type move struct {
	left         int64 // ns
	moved        int64 // ns
	unattributed bool  // it becomes that instead
	phase        Phase
	location     location
	between      string
}

// takeLateReads moves the time for which a message was in the receive queue of a proxy, a
// hop's reader, while the proxy passed it on at the socket sender.
func (m *move) takeLateReads(h *Hop, sender *observe.Observation, phase Phase) {
	late := func(s *Segment) bool { return s.Queue == ReceiveQueue && s.Phase == phase && s.from != "" }
	i := slices.IndexFunc(h.Segments, func(s Segment) bool { return late(&s) })
	begun := requestOf(sender).First
	if phase == Response {
		begun = responseOf(sender).First
	}
	if i < 0 || begun == 0 || h.Segments[i].Node != sender.Point.Node {
		return
	}
	s := &h.Segments[i]
	part := *m
	part.left, part.moved = min(m.left, int64(s.At)+s.Time-int64(max(s.At, begun))), 0
	part.takeFrom(h, late)
	m.left, m.moved = m.left-part.moved, m.moved+part.moved
}

// takeFrom moves time out of the end of segments that are chosen, latest first.
func (m *move) takeFrom(h *Hop, chosen func(*Segment) bool) {
	var moved []Segment
	for i := len(h.Segments) - 1; i >= 0 && m.left > 0; i-- {
		s := &h.Segments[i]
		if !chosen(s) || s.Time <= 0 {
			continue
		}
		take := min(s.Time, m.left)
		m.left -= take
		m.moved += take
		s.Time -= take
		s.to = "" // no longer up to that waypoint
		if m.unattributed {
			h.Unattributed += take
			continue
		}
		moved = append(moved, Segment{
			Layer: observe.ProtocolStack, Location: m.location.name, Namespace: m.location.namespace, Between: m.between, Queue: ReceiveQueue, Phase: m.phase,
			Start: s.Start + s.Time, Time: take, Node: s.Node, At: s.At + uint64(s.Time),
		})
	}
	h.Segments = append(h.Segments, moved...)
	h.Segments = slices.DeleteFunc(h.Segments, func(s Segment) bool { return s.Time == 0 && s.to == "" && chosen(&s) })
	slices.SortStableFunc(h.Segments, func(a, b Segment) int { return int(min(max(a.Start-b.Start, -1), 1)) })
}
