// SPDX-License-Identifier: Apache-2.0

package breakdown

import (
	"slices"

	"github.com/layertrace/layertrace/internal/observe"
)

// A sender that has more to send while its peer's receive window is closed is not slow:
// the peer does not read. moveStalls gives that time (observe.Message.Stalled) to the
// receive queue of the reader: it takes it out of what the sender seemed to take, so that
// segments still add up.
//
// A stall passes through proxies, whose own senders are then stalled at the same time. It
// counts once: for a response where the data comes from, which is the innermost hop, and
// for a request at the outermost.
func (t *Tree) moveStalls() {
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

// moveResponseStall moves the time that the server waited for its client to read. The
// send queue holds what was written meanwhile, and the rest of the wait is between writes.
// It returns how much it moved; known was moved elsewhere.
func (h *Hop) moveResponseStall(known int64) int64 {
	if h.Receiver == nil || int64(h.Receiver.Response.Stalled) <= known {
		return 0
	}
	reader := h.responseReader()
	client, _ := reader.ends()
	m := stall{
		left: int64(h.Receiver.Response.Stalled) - known, phase: Response, location: client.service,
		between: owner(h.Receiver.Point) + " waits for " + readerName(reader.Sender, client) + " to read",
	}
	m.takeFrom(h, func(s *Segment) bool { return s.Queue == SendQueue && s.Phase == Response })
	m.takeFrom(h, func(s *Segment) bool { return s.handling })
	return m.moved
}

// moveRequestStall moves the time that the client waited for its server to read: from the
// send queue, from a root's writing, or from the handling in which the request was written.
func (h *Hop) moveRequestStall(known int64) int64 {
	if h.Sender == nil || int64(h.Sender.Request.Stalled) <= known {
		return 0
	}
	reader := h.requestReader()
	_, server := reader.ends()
	m := stall{
		left: int64(h.Sender.Request.Stalled) - known, phase: Request, location: server.service,
		between: owner(h.Sender.Point) + " waits for " + readerName(reader.Receiver, server) + " to read",
	}
	m.takeFrom(h, func(s *Segment) bool { return s.sending || s.Queue == SendQueue && s.Phase == Request })
	if h.Parent != nil {
		m.takeFrom(h.Parent, func(s *Segment) bool { return s.handling && s.before == h })
	}
	return m.moved
}

// responseReader returns the hop whose client does not read. A proxy that cannot send the
// response on does not read it either: then the reader is further out.
func (h *Hop) responseReader() *Hop {
	for p := h.Parent; p != nil && p.Receiver != nil && holds(p.Receiver.Response.Stalled, h.Receiver.Response.Stalled); p = p.Parent {
		h = p
	}
	return h
}

// requestReader returns the hop whose server does not read the request, likewise.
func (h *Hop) requestReader() *Hop {
	for {
		i := slices.IndexFunc(h.Children, func(c *Hop) bool {
			return c.Sender != nil && holds(c.Sender.Request.Stalled, h.Sender.Request.Stalled)
		})
		if i < 0 {
			return h
		}
		h = h.Children[i]
	}
}

// holds reports whether a stall explains another one, on the other side of a proxy: its
// buffers fill before the other begins, so it need not be as long.
func holds(cause, stalled uint64) bool { return 2*cause >= stalled }

func readerName(o *observe.Observation, e end) string {
	if o != nil {
		return owner(o.Point)
	}
	return e.service.name
}

// stall is time that has to move to the receive queue of a reader.
type stall struct {
	left     int64 // ns
	moved    int64 // ns
	phase    Phase
	location location
	between  string
}

// takeFrom moves time out of the end of segments that are chosen, latest first.
func (m *stall) takeFrom(h *Hop, chosen func(*Segment) bool) {
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
		moved = append(moved, Segment{
			Layer: observe.ProtocolStack, Location: m.location.name, Namespace: m.location.namespace, Between: m.between, Queue: ReceiveQueue, Phase: m.phase,
			Start: s.Start + s.Time, Time: take, Node: s.Node, At: s.At + uint64(s.Time),
		})
	}
	h.Segments = append(h.Segments, moved...)
	h.Segments = slices.DeleteFunc(h.Segments, func(s Segment) bool { return s.Time == 0 && s.to == "" && chosen(&s) })
	slices.SortStableFunc(h.Segments, func(a, b Segment) int { return int(min(max(a.Start-b.Start, -1), 1)) })
}
