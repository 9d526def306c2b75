// SPDX-License-Identifier: Apache-2.0

package breakdown

import (
	"cmp"
	"slices"

	"github.com/layertrace/layertrace/internal/observe"
)

// Segment is a piece of a hop's time that was spent in one layer, or in several
// layers that no capture point separates.
type Segment struct {
	Layer observe.Layer `json:"layer"`
	// Location is the service (application, protocol stack), the node (node
	// driver, virtual network), or NODE-NODE in alphabetical order (relay
	// network).
	Location string `json:"location"`
	// Namespace of the service in Location, "" without one.
	Namespace string `json:"namespace,omitempty"`
	// Between names the waypoints before and after it.
	Between string `json:"between"`
	// Queue of the protocol stack that the message waited in, "" if unknown.
	Queue Queue `json:"queue,omitempty"`
	Phase Phase `json:"phase"`
	// Start is the offset from the start of the hop's root in ns, for display.
	Start int64 `json:"start_ns"`
	// Time in ns.
	Time int64 `json:"time_ns"`
	// ResponseStart is set if the segment is drawn in two pieces: one half of
	// Time at Start for the request, the other here for the response. No clock
	// measures how the relay network's time is divided between them.
	ResponseStart int64 `json:"response_start_ns,omitempty"`
	// Way is the message that had most of the time of Phase Both, by the
	// acknowledgement of the other one; "" if unknown. AtLeast is the least time in
	// ns that it had.
	Way     Phase `json:"way,omitempty"`
	AtLeast int64 `json:"way_at_least_ns,omitempty"`
	// MergedLayers are the layers of a segment of several, in the order of the
	// path. Layer and Location are those of the first.
	MergedLayers []observe.Layer `json:"merged_layers,omitempty"`
	// Node has the clock on which the segment began, At is the time there in ns;
	// "" and 0 for the relay network, which no clock observes.
	Node string `json:"-"`
	At   uint64 `json:"-"`

	from, to string // names of the waypoints, if the segment is between two of one message

	handling bool // between request and response, in the server
	before   *Hop // handling: the request to a child that it ends with
	sending  bool // a root's client writes the request
}

// Phase is the message that a time belongs to.
type Phase string

// Phases. Both: only the sum of request and response is known, as between nodes;
// or the time lies between them, as the application's.
const (
	Request  Phase = "request"
	Response Phase = "response"
	Both     Phase = "both"
)

// Queue is a queue of the protocol stack.
type Queue string

// Queues.
const (
	// SendQueue: written, but not yet sent by TCP.
	SendQueue Queue = "send"
	// PodQueue: sent by TCP, but not yet at the host end of the pod's interface.
	PodQueue Queue = "pod"
	// ReceiveQueue: received by TCP, but not yet read.
	ReceiveQueue Queue = "receive"
)

// queueFrom is the queue between a position and the next one.
var queueFrom = map[position]Queue{fromProcess: SendQueue, fromStack: PodQueue, toStack: ReceiveQueue}

// step is the layer between two positions of a path.
type step struct {
	from, to position
	layer    observe.Layer
	location
}

// location is a service with its namespace, a node, or two nodes.
type location struct{ name, namespace string }

// shape is the kind of path between the two ends of a hop.
type shape int

const (
	remote   shape = iota // between nodes
	local                 // between pods of a node
	loopback              // inside a pod
)

func (h *Hop) shape() shape {
	client, server := h.ClientNode(), h.ServerNode()
	switch {
	case h.ClientPNIC != nil || h.ServerPNIC != nil:
		return remote
	case h.hasNoVNIC() && h.isInPod():
		return loopback
	case client != "" && client == server:
		return local
	default:
		return remote
	}
}

// hasNoVNIC reports whether the request was seen at no virtual interface but loopback.
func (h *Hop) hasNoVNIC() bool {
	for _, o := range []*observe.Observation{h.ClientVNIC, h.ServerVNIC} {
		if o != nil && !o.Point.IsLoopback() {
			return false
		}
	}
	return true
}

// isInPod reports whether both ends are in one network namespace.
func (h *Hop) isInPod() bool {
	if h.Sender != nil && h.Receiver != nil {
		return netnsKey(h.Sender) == netnsKey(h.Receiver)
	}
	for _, o := range []*observe.Observation{h.Sender, h.Receiver} {
		if o != nil && o.Client.Addr().IsLoopback() {
			return true
		}
	}
	return false
}

// end is one side of a hop. service is the node if no service is known.
type end struct {
	service location
	node    string
}

// unknown is the name of a service or node that no capture point knows.
const unknown = "?"

func (h *Hop) ends() (client, server end) {
	client = end{location{cmp.Or(h.ClientService(), h.ClientNode(), unknown), h.ClientNamespace()}, cmp.Or(h.ClientNode(), unknown)}
	server = end{location{cmp.Or(h.ServerService(), h.ServerNode(), unknown), h.ServerNamespace()}, cmp.Or(h.ServerNode(), unknown)}
	return client, server
}

// steps returns the layers on the path of a message, in order.
func steps(m *memory, s shape, from, to end) []step {
	send := step{fromProcess, fromStack, observe.ProtocolStack, from.service}
	pod := step{fromStack, fromVNIC, observe.ProtocolStack, from.service}
	arrive := step{toVNIC, toStack, observe.ProtocolStack, to.service}
	read := step{toStack, toProcess, observe.ProtocolStack, to.service}
	all := take(&m.steps, 8)
	switch s {
	case loopback:
		return append(all,
			send,
			// A loopback device can lie between both stacks, as either vNIC.
			step{fromStack, fromVNIC, observe.ProtocolStack, to.service},
			step{fromVNIC, toVNIC, observe.ProtocolStack, to.service},
			arrive, read,
		)
	case local:
		return append(all, send, pod, step{fromVNIC, toVNIC, observe.VirtualNetwork, location{name: from.node}}, arrive, read)
	default:
		return append(all,
			send, pod,
			step{fromVNIC, fromPNIC, observe.VirtualNetwork, location{name: from.node}},
			step{fromPNIC, fromDriver, observe.NodeDriver, location{name: from.node}},
			step{fromDriver, toPNIC, observe.RelayNetwork, location{name: nodePair(from.node, to.node)}},
			step{toPNIC, toVNIC, observe.VirtualNetwork, location{name: to.node}},
			arrive, read,
		)
	}
}

// nodePair is the location of the relay network between two nodes.
func nodePair(a, b string) string { return text(min(a, b), "-", max(a, b)) }

// stepsBetween returns the steps from one position to another, a part of all.
func stepsBetween(all []step, from, to position) []step {
	first := 0
	for first < len(all) && all[first].from < from {
		first++
	}
	last := len(all)
	for last > first && all[last-1].to > to {
		last--
	}
	return all[first:last:last] // an append copies it
}

// newSegment makes one segment of steps that no waypoint separates.
func newSegment(some []step, phase Phase, between string, time int64) Segment {
	s := Segment{Phase: phase, Between: between, Time: time}
	if len(some) == 0 {
		return s
	}
	s.Layer, s.Location, s.Namespace = some[0].layer, some[0].name, some[0].namespace
	if len(some) == 1 && some[0].to == some[0].from+1 {
		s.Queue = queueFrom[some[0].from]
	}
	if slices.ContainsFunc(some, func(o step) bool { return o.layer != s.Layer || o.location != some[0].location }) {
		for _, step := range some {
			if !slices.Contains(s.MergedLayers, step.layer) {
				s.MergedLayers = append(s.MergedLayers, step.layer)
			}
		}
	}
	return s
}

// minCoalesced is the time in ns from which on two segments are not merged.
const minCoalesced = 10_000

// Coalesced appends fewer segments of the same total time to coalesced, which is empty: a
// segment shorter than 10 µs is merged with an adjacent one of the same layer, location and
// phase.
func (h *Hop) Coalesced(coalesced []Segment) []Segment {
	for i := range h.Segments {
		s := &h.Segments[i]
		if last := len(coalesced) - 1; last >= 0 && coalesced[last].continuesIn(s) && min(coalesced[last].Time, s.Time) < minCoalesced {
			c := &coalesced[last]
			c.to = s.to
			c.Between = fromTo(c.from, s.to)
			c.Time += s.Time
			c.Queue = ""
			continue
		}
		coalesced = append(coalesced, *s)
	}
	return coalesced
}

// continuesIn reports whether t is of the same layer and begins where s ends.
func (s *Segment) continuesIn(t *Segment) bool {
	return s.to != "" && s.to == t.from && s.Node == t.Node && s.At+uint64(s.Time) == t.At &&
		s.Layer == t.Layer && s.Location == t.Location && s.Namespace == t.Namespace && s.Phase == t.Phase && len(s.MergedLayers)+len(t.MergedLayers) == 0
}

// fromTo is the Between of a segment between two waypoints.
func fromTo(from, to string) string { return text(from, " to ", to) }
