// SPDX-License-Identifier: Apache-2.0

package breakdown

import (
	"cmp"
	"strconv"

	"github.com/layertrace/layertrace/internal/observe"
	"github.com/layertrace/layertrace/internal/recent"
)

// position is where on its path a message passes a waypoint, from the sender of
// the message to its receiver. A response has the same positions, counted from
// the server.
type position int

const (
	fromProcess position = iota // the sender wrote the last byte
	fromStack                   // TCP handed it to the pod's interface
	fromVNIC
	fromPNIC
	fromDriver // the driver began to transmit it
	toPNIC
	toVNIC
	toStack   // the pod's TCP received it
	toProcess // the receiver read it
	positions
)

// pointNames are what positions are at.
var pointNames = [positions]string{
	fromProcess: "process", fromStack: "TCP", fromVNIC: "pod", fromPNIC: "node", fromDriver: "node",
	toPNIC: "node", toVNIC: "pod", toStack: "TCP", toProcess: "process",
}

// waypoint is the time at which the last byte of a message passed a position, on
// the clock of a node. The receiver waits for the last byte, so it counts.
type waypoint struct {
	position position
	at       uint64
	node     string
	name     string // of the capture point
}

// requestWaypoints returns the known waypoints of the request, in order.
func (h *Hop) requestWaypoints() []waypoint {
	h.findWaypoints()
	return h.waypoints.request
}

// responseWaypoints returns the known waypoints of the response, in order.
func (h *Hop) responseWaypoints() []waypoint {
	h.findWaypoints()
	return h.waypoints.response
}

// findWaypoints finds the waypoints of both messages, the first time that it is called.
func (h *Hop) findWaypoints() {
	if w := &h.waypoints; !w.known {
		client, server := h.vnics()
		m := cmp.Or(h.memory, &memory{})
		w.request = waypoints(m, requestOf, h.Sender, client, h.ClientPNIC, h.ServerPNIC, server, h.Receiver)
		w.response = waypoints(m, responseOf, h.Receiver, server, h.ServerPNIC, h.ClientPNIC, client, h.Sender)
		w.known = true
	}
}

// vnics returns the virtual interfaces that separate layers. A loopback device between
// two known sockets does not: all there is protocol stack.
func (h *Hop) vnics() (client, server *observe.Observation) {
	if h.Sender != nil && h.Receiver != nil && h.shape() == loopback {
		return nil, nil
	}
	return h.ClientVNIC, h.ServerVNIC
}

func requestOf(o *observe.Observation) *observe.Message  { return &o.Request }
func responseOf(o *observe.Observation) *observe.Message { return &o.Response }

// waypoints returns the waypoints of a message. The observations are in its
// order: the sender's socket, vNIC and pNIC, the receiver's pNIC, vNIC, socket.
func waypoints(memory *memory, message func(*observe.Observation) *observe.Message, from, fromNIC, out, in, toNIC, to *observe.Observation) (all []waypoint) {
	add := func(p position, o *observe.Observation, at uint64, name string) {
		if at != 0 {
			if all == nil {
				all = take(&memory.waypoints, int(positions))
			}
			all = append(all, waypoint{p, at, o.Point.Node, name})
		}
	}
	if from != nil {
		m := message(from)
		add(fromProcess, from, m.App.Last, owner(from.Point))
		add(fromStack, from, m.Last, text("TCP of ", owner(from.Point)))
	}
	if fromNIC != nil {
		add(fromVNIC, fromNIC, message(fromNIC).Last, pointTitle(fromNIC.Point))
	}
	if out != nil {
		m := message(out)
		add(fromPNIC, out, m.Last, pointTitle(out.Point))
		add(fromDriver, out, notBefore(m.Tx.Last, m.Last), text("driver of ", pointTitle(out.Point)))
	}
	if in != nil {
		add(toPNIC, in, message(in).Last, pointTitle(in.Point))
	}
	if toNIC != nil {
		add(toVNIC, toNIC, message(toNIC).Last, pointTitle(toNIC.Point))
	}
	if to != nil {
		m := message(to)
		add(toStack, to, m.Last, text("TCP of ", owner(to.Point)))
		add(toProcess, to, notBefore(m.App.Last, m.Last), owner(to.Point))
	}
	return all
}

// notBefore returns an app or tx time, or 0 if it is before the last byte passed
// the capture point: then it is the time of an earlier byte.
func notBefore(at, passed uint64) uint64 {
	if at < passed {
		return 0
	}
	return at
}

// pointTitle names a capture point in texts.
func pointTitle(p *observe.Point) string {
	switch p.Kind {
	case observe.KindSocket:
		return text("the socket of ", owner(p))
	case observe.KindPNIC, observe.KindDevice:
		return text(p.Node, " ", p.Interface)
	default:
		return p.Interface
	}
}

// owner names the process of a socket in texts.
func owner(p *observe.Point) string {
	name := cmp.Or(p.Workload.Service, p.Workload.Pod, p.Node)
	if p.Process == observe.Sidecar {
		return text("the sidecar of ", name)
	}
	return name
}

// Names of waypoints, pods and what lies between are put together from the same few parts for
// each request, so their texts are kept.

// maxTexts is the number of texts of a kind that are kept, twice, some 200 bytes each.
const maxTexts = 2048

var (
	joined  = recent.New(maxTexts, func(p [5]string) string { return p[0] + p[1] + p[2] + p[3] + p[4] })
	ofNetns = recent.New(maxTexts, func(n netns) string {
		return n.node + "/netns/" + strconv.FormatUint(uint64(n.inode), 10)
	})
)

// text returns up to five parts as one text.
func text(parts ...string) string {
	var p [5]string
	copy(p[:], parts)
	return joined.Get(p)
}

// netns is a network namespace of a node.
type netns struct {
	node  string
	inode uint32
}

// Interval is the time of a hop between two waypoints of one node, whatever
// happened meanwhile. Segments exclude the child hops on the critical path,
// intervals include them: so intervals of two nodes can be subtracted.
type Interval string

// Intervals. Outside minus Inside is the time of the relay network.
const (
	// WholeHop: from the client writing the request to it reading the response,
	// or between both passing the client's vNIC.
	WholeHop Interval = "hop"
	// Outside: from leaving the client's node to returning to it.
	Outside Interval = "outside"
	// Inside: from reaching the server's node to leaving it.
	Inside Interval = "inside"
)

// Intervals returns the intervals whose waypoints are known, in ns.
func (h *Hop) Intervals() map[Interval]int64 {
	request, response := h.requestWaypoints(), h.responseWaypoints()
	all := map[Interval]int64{}
	add := func(i Interval, from, to *waypoint) {
		if from != nil && to != nil && from.node == to.node && from.at <= to.at {
			all[i] = int64(to.at - from.at)
		}
	}
	add(WholeHop, firstWaypoint(request, fromProcess, fromVNIC), lastWaypoint(response, toVNIC, toProcess))
	add(Outside, lastWaypoint(request, fromPNIC, fromDriver), firstWaypoint(response, toPNIC, toPNIC))
	add(Inside, firstWaypoint(request, toPNIC, toPNIC), lastWaypoint(response, fromPNIC, fromDriver))
	return all
}

// firstWaypoint returns the first waypoint with a position from low to high, nil
// if there is none.
func firstWaypoint(waypoints []waypoint, low, high position) *waypoint {
	for i := range waypoints {
		if w := &waypoints[i]; w.position >= low && w.position <= high {
			return w
		}
	}
	return nil
}

// lastWaypoint returns the last waypoint with a position from low to high, nil if
// there is none.
func lastWaypoint(waypoints []waypoint, low, high position) *waypoint {
	for i := len(waypoints) - 1; i >= 0; i-- {
		if w := &waypoints[i]; w.position >= low && w.position <= high {
			return w
		}
	}
	return nil
}
