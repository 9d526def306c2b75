// SPDX-License-Identifier: Apache-2.0

package layer

import (
	"cmp"

	"github.com/layertrace/layertrace/internal/exchange"
)

// position is a place on the way of a message, from who sends it to who
// receives it; the response goes the same positions from the other end.
type position int

const (
	fromProcess position = iota // the sender wrote the last byte
	fromStack                   // TCP gave it to the pod's interface
	fromVNIC
	fromPNIC
	fromDriver // the driver began to transmit it
	toPNIC
	toVNIC
	toStack   // the pod's stack received it
	toProcess // the receiver read it
	positions
)

// mark is when the last byte of a message passed a position, on the clock of a
// node. The last byte is what the other side waits for.
type mark struct {
	position position
	at       uint64
	node     string
	name     string // of the point
}

// directionOut is the direction in which a request leaves its sender's pod or
// node through an interface.
func directionOut(kind Kind) exchange.Direction {
	if kind == VNIC {
		return exchange.DirectionIngress
	}
	return exchange.DirectionEgress
}

// requestMarks and responseMarks return the marks that there are, in order.
func (l *Leg) requestMarks() []mark {
	return marks(requestOf, l.Sender, l.ClientVNIC, l.ClientPNIC, l.ServerPNIC, l.ServerVNIC, l.Receiver)
}

func (l *Leg) responseMarks() []mark {
	return marks(responseOf, l.Receiver, l.ServerVNIC, l.ServerPNIC, l.ClientPNIC, l.ClientVNIC, l.Sender)
}

func requestOf(s *Sighting) *exchange.Message  { return &s.Request }
func responseOf(s *Sighting) *exchange.Message { return &s.Response }

func marks(message func(*Sighting) *exchange.Message, from, fromNIC, out, in, toNIC, to *Sighting) (all []mark) {
	add := func(p position, s *Sighting, at uint64, name string) {
		if at != 0 {
			all = append(all, mark{p, at, s.Node, name})
		}
	}
	if from != nil {
		m := message(from)
		add(fromProcess, from, behind(m.Handover.Last, 0), from.process())
		add(fromStack, from, m.Last, "TCP of "+from.process())
	}
	if fromNIC != nil {
		add(fromVNIC, fromNIC, message(fromNIC).Last, fromNIC.name())
	}
	if out != nil {
		m := message(out)
		add(fromPNIC, out, m.Last, out.name())
		add(fromDriver, out, behind(m.Handover.Last, m.Last), "driver of "+out.name())
	}
	if in != nil {
		add(toPNIC, in, message(in).Last, in.name())
	}
	if toNIC != nil {
		add(toVNIC, toNIC, message(toNIC).Last, toNIC.name())
	}
	if to != nil {
		m := message(to)
		add(toStack, to, m.Last, "TCP of "+to.process())
		add(toProcess, to, behind(m.Handover.Last, m.Last), to.process())
	}
	return all
}

// behind returns a time that is not before another, else 0: a handover that was
// seen of an earlier byte only says nothing of the last.
func behind(at, other uint64) uint64 {
	if at < other {
		return 0
	}
	return at
}

// name is how a capture point is called in texts.
func (s *Sighting) name() string {
	switch s.Kind {
	case Socket:
		return "the socket of " + s.process()
	case PNIC:
		return s.Node + " " + s.Interface
	default:
		return s.Interface
	}
}

// process is how the owner of a socket is called in texts.
func (s *Sighting) process() string {
	owner := cmp.Or(s.Service, s.Pod, s.Node)
	if s.Process == Sidecar {
		return "the sidecar of " + owner
	}
	return owner
}
