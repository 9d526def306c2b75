// SPDX-License-Identifier: Apache-2.0

package breakdown

import (
	"fmt"
	"time"

	"github.com/layertrace/layertrace/internal/observe"
)

// minStall is the time in ns from which on a reader that holds up the sender is named:
// a window is closed for less whenever a reader is scheduled late.
const minStall = 1_000_000

// minSpread is the time in ns between the first and the last byte of a message from
// which on it is remarked.
const minSpread = 50_000_000

// addStalls takes the time for which readers held up the senders of this hop's
// messages out of the segments that it was measured in, the sender's, and gives it to
// the readers. Segments still add up to the same.
func (p *path) addStalls() {
	h := p.hop
	for _, child := range h.Children {
		if child.OnCriticalPath {
			h.movedStall += child.movedStall
		}
	}
	if h.Receiver != nil {
		h.moveResponseStall()
	}
	if h.Sender != nil {
		h.moveRequestStall()
	}
	for _, child := range h.Children {
		if child.OnCriticalPath && child.Sender != nil {
			h.moveChildStall(child)
		}
	}
}

// moveResponseStall: the server waited before its last write, as its application, or
// TCP waited after it, in the send queue. What a child on the critical path waited
// behind the same reader is in the child's segments.
func (h *Hop) moveResponseStall() {
	m := &h.Receiver.Response
	left := int64(m.Stalled)
	begin := m.App.First
	if begin == 0 || m.First != 0 && m.First < begin {
		begin = m.First
	}
	for _, child := range h.Children {
		if c := child.clientPeriod(); child.OnCriticalPath && c.end > begin {
			left -= child.movedStall
		}
	}
	reader, chain := h.responseReader(m.Stalled)
	h.moveStall(left, stall{
		node: h.Receiver.Point.Node, begin: begin, end: max(m.Last, m.App.Last), phase: Response, reader: reader, chain: chain, writer: owner(h.Receiver.Point),
	})
}

// moveRequestStall: the client waited while it wrote, which is a segment of a root, or
// in the send queue.
func (h *Hop) moveRequestStall() {
	m := &h.Sender.Request
	reader, chain := h.requestReader(m.Stalled)
	h.moveStall(int64(m.Stalled), stall{
		node: h.Sender.Point.Node, begin: m.App.First, end: max(m.Last, m.App.Last), phase: Request, reader: reader, chain: chain, writer: owner(h.Sender.Point),
	})
}

// moveChildStall: the handling process wrote the child's request before the child
// began.
func (h *Hop) moveChildStall(child *Hop) {
	m := &child.Sender.Request
	reader, chain := child.requestReader(m.Stalled)
	h.moveStall(int64(m.Stalled)-child.movedRequestStall, stall{
		node: child.Sender.Point.Node, begin: m.App.First, end: child.clientPeriod().start, phase: Both, as: Request, reader: reader, chain: chain, writer: owner(child.Sender.Point),
	})
}

// stall is a time for which a reader held up a writer, on the clock of a node.
type stall struct {
	node           string
	begin, end     uint64
	phase          Phase // of the writer's segments besides those of its handling
	as             Phase // of the reader's segment, "": phase
	reader, writer string
	chain          string // text, "" if the reader is the next hop
}

// moveStall moves up to left ns from segments on the writer's side to the reader, the
// latest first. Not measured is how much of it was before the last write: the send queue
// comes first, so that an application that worked between two writes keeps that time.
func (h *Hop) moveStall(left int64, s stall) {
	if left < minStall || s.begin == 0 {
		return
	}
	as := s.as
	if as == "" {
		as = s.phase
	}
	moved := int64(0)
	for _, handling := range []bool{false, true} {
		for i := len(h.Segments) - 1; i >= 0 && left > 0; i-- {
			from := &h.Segments[i]
			if !s.covers(from, handling) {
				continue
			}
			end := min(from.At+uint64(from.Time), s.end)
			start := max(from.At, s.begin)
			if end <= start {
				continue
			}
			time := min(left, int64(end-start))
			from.Time -= time
			left -= time
			moved += time
			h.Segments = append(h.Segments, Segment{
				Layer: observe.ProtocolStack, Location: s.reader, Queue: ReceiveQueue, Phase: as, Stalled: true,
				Between: s.reader + " does not read what " + s.writer + " sends",
				Start:   from.Start + from.Time, Time: time, Node: from.Node, At: from.At + uint64(from.Time),
			})
		}
	}
	if as == Response {
		h.movedStall += moved
	} else if s.as == "" {
		h.movedRequestStall += moved
	}
	if moved > 0 && s.chain != "" {
		h.Notes = append(h.Notes, s.chain)
	}
}

// covers reports whether a segment is time of the writer: in its send queue or of its
// application.
func (s *stall) covers(from *Segment, handling bool) bool {
	if from.Stalled || from.Node != s.node || from.Time == 0 {
		return false
	}
	if handling {
		// A root's writing is of the request; what lies between the messages is the
		// application's that writes the response, or a child's request.
		return from.Layer == observe.Application && from.Phase == s.phase || from.handling && s.phase != Request
	}
	return from.Queue == SendQueue && from.Phase == s.phase
}

// responseReader returns who held up the server's response: the client of this hop,
// or of the first one outwards whose own response was not held up for about as long.
func (h *Hop) responseReader(stalled uint64) (service, chain string) {
	end := h
	for p := h.Parent; p != nil && p.Receiver != nil && p.Receiver.Response.Stalled >= stalled/2; p = p.Parent {
		end = p
	}
	client, _ := end.ends()
	near, _ := h.ends()
	return client.service, chainText(end != h, near.service, client.service, stalled)
}

// requestReader is the same for a request, which goes on to the children.
func (h *Hop) requestReader(stalled uint64) (service, chain string) {
	end := h
	for next := h; next != nil; {
		next = end.stalledChild(stalled / 2)
		if next != nil {
			end = next
		}
	}
	_, server := end.ends()
	_, near := h.ends()
	return server.service, chainText(end != h, near.service, server.service, stalled)
}

// stalledChild returns a child whose request was held up for that long, or nil.
func (h *Hop) stalledChild(atLeast uint64) *Hop {
	for _, child := range h.Children {
		if child.Sender != nil && child.Sender.Request.Stalled >= atLeast {
			return child
		}
	}
	return nil
}

func chainText(longer bool, near, end string, stalled uint64) string {
	if !longer || near == end {
		return ""
	}
	return fmt.Sprintf("%s did not read for %v, as its own peer did not: %s held up all before it", near, time.Duration(stalled).Round(time.Microsecond), end)
}

// noteSpread: without a socket of the sender, slow writing and slow reading of a
// message cannot be told apart.
func (h *Hop) noteSpread() {
	note := func(name string, m *observe.Message) {
		if m.Last < m.First {
			return
		}
		if spread := int64(m.Last - m.First); spread >= minSpread && spread >= h.Total/4 {
			h.Notes = append(h.Notes, fmt.Sprintf("%v lies between the first and the last byte of the %s: slow writing or slow reading, which the socket of its sender would show", time.Duration(spread).Round(time.Microsecond), name))
		}
	}
	if h.Sender == nil && h.ClientVNIC != nil {
		note("request", &h.ClientVNIC.Request)
	}
	if h.Receiver == nil && h.ServerVNIC != nil {
		note("response", &h.ServerVNIC.Response)
	}
}
