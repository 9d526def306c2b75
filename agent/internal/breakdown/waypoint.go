// SPDX-License-Identifier: Apache-2.0

package breakdown

import (
	"cmp"

	"github.com/layertrace/layertrace/internal/observe"
)

// position is a location on the path of a message, from who sends it to who
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

// waypoint is when the last byte of a message passed a position, on the clock of a
// node. The last byte is what the other side waits for.
type waypoint struct {
	position position
	at       uint64
	node     string
	name     string // of the point
}

// directionOut is the direction in which a request leaves its sender's pod or
// node through an interface.
func directionOut(kind observe.Kind) observe.Direction {
	if kind == observe.KindVNIC {
		return observe.DirectionIngress
	}
	return observe.DirectionEgress
}

// requestWaypoints and responseWaypoints return the waypoints that there are, in order.
func (l *Hop) requestWaypoints() []waypoint {
	return waypoints(requestOf, l.Sender, l.ClientVNIC, l.ClientPNIC, l.ServerPNIC, l.ServerVNIC, l.Receiver)
}

func (l *Hop) responseWaypoints() []waypoint {
	return waypoints(responseOf, l.Receiver, l.ServerVNIC, l.ServerPNIC, l.ClientPNIC, l.ClientVNIC, l.Sender)
}

func requestOf(s *observe.Observation) *observe.Message  { return &s.Request }
func responseOf(s *observe.Observation) *observe.Message { return &s.Response }

func waypoints(message func(*observe.Observation) *observe.Message, from, fromNIC, out, in, toNIC, to *observe.Observation) (all []waypoint) {
	add := func(p position, s *observe.Observation, at uint64, name string) {
		if at != 0 {
			all = append(all, waypoint{p, at, s.Point.Node, name})
		}
	}
	if from != nil {
		m := message(from)
		add(fromProcess, from, notBefore(m.App.Last, 0), owner(from.Point))
		add(fromStack, from, m.Last, "TCP of "+owner(from.Point))
	}
	if fromNIC != nil {
		add(fromVNIC, fromNIC, message(fromNIC).Last, pointTitle(fromNIC.Point))
	}
	if out != nil {
		m := message(out)
		add(fromPNIC, out, m.Last, pointTitle(out.Point))
		add(fromDriver, out, notBefore(m.Tx.Last, m.Last), "driver of "+pointTitle(out.Point))
	}
	if in != nil {
		add(toPNIC, in, message(in).Last, pointTitle(in.Point))
	}
	if toNIC != nil {
		add(toVNIC, toNIC, message(toNIC).Last, pointTitle(toNIC.Point))
	}
	if to != nil {
		m := message(to)
		add(toStack, to, m.Last, "TCP of "+owner(to.Point))
		add(toProcess, to, notBefore(m.App.Last, m.Last), owner(to.Point))
	}
	return all
}

// notBefore returns a time that is not before another, else 0: a handover that was
// seen of an earlier byte only says nothing of the last.
func notBefore(at, other uint64) uint64 {
	if at < other {
		return 0
	}
	return at
}

// pointTitle is the name of a capture point in texts.
func pointTitle(p *observe.Point) string {
	switch p.Kind {
	case observe.KindSocket:
		return "the socket of " + owner(p)
	case observe.KindPNIC:
		return p.Node + " " + p.Interface
	default:
		return p.Interface
	}
}

// owner is the name of the process that has a socket, in texts.
func owner(p *observe.Point) string {
	name := cmp.Or(p.Workload.Service, p.Workload.Pod, p.Node)
	if p.Process == observe.Sidecar {
		return "the sidecar of " + name
	}
	return name
}

// Interval is a time of a hop between two waypoints of one node, whatever happened
// in between. Segments leave out the hops that were critical for; stretches do not,
// so those of two nodes can be compared.
type Interval string

// Intervals. Outside without Inside is the relay network's time.
const (
	// WholeHop: from the client's writing of the request to its reading of the
	// response, or between the passages of its interface.
	WholeHop Interval = "hop"
	// Outside: from leaving the client's node to coming back to it.
	Outside Interval = "outside"
	// Inside: from reaching the server's node to leaving it.
	Inside Interval = "inside"
)

// Intervals returns those that were seen, in ns.
func (l *Hop) Intervals() map[Interval]int64 {
	request, response := l.requestWaypoints(), l.responseWaypoints()
	all := map[Interval]int64{}
	add := func(s Interval, from, to *waypoint) {
		if from != nil && to != nil && from.node == to.node && from.at <= to.at {
			all[s] = int64(to.at - from.at)
		}
	}
	add(WholeHop, firstWaypoint(request, fromProcess, fromVNIC), lastWaypoint(response, toVNIC, toProcess))
	add(Outside, lastWaypoint(request, fromPNIC, fromDriver), firstWaypoint(response, toPNIC, toPNIC))
	add(Inside, firstWaypoint(request, toPNIC, toPNIC), lastWaypoint(response, fromPNIC, fromDriver))
	return all
}

// firstWaypoint and lastWaypoint return the outermost waypoint at one of the positions from
// low to high, nil when there is none.
func firstWaypoint(waypoints []waypoint, low, high position) *waypoint {
	for i := range waypoints {
		if m := &waypoints[i]; m.position >= low && m.position <= high {
			return m
		}
	}
	return nil
}

func lastWaypoint(waypoints []waypoint, low, high position) *waypoint {
	for i := len(waypoints) - 1; i >= 0; i-- {
		if m := &waypoints[i]; m.position >= low && m.position <= high {
			return m
		}
	}
	return nil
}
