// SPDX-License-Identifier: Apache-2.0

package breakdown

import (
	"cmp"
	"slices"

	"github.com/layertrace/layertrace/internal/observe"
)

// Phase is the message that a segment of the time belongs to.
type Phase string

// Ways. Both: what can be told of request and response together only, as the
// time between nodes; and between them, as the application's.
const (
	Request  Phase = "request"
	Response Phase = "response"
	Both     Phase = "both"
)

// Queue is between a message waits inside of a layer.
type Queue string

// Queues of the protocol stack.
const (
	// SendQueue: written, and TCP did not send it yet.
	SendQueue Queue = "send"
	// PodQueue: sent by TCP, and not at the host end of the pod's interface yet.
	PodQueue Queue = "pod"
	// ReceiveQueue: received by TCP, and not read yet.
	ReceiveQueue Queue = "receive"
)

// queueFrom tells the queue that begins at a position, if it ends at the next.
var queueFrom = map[position]Queue{fromProcess: SendQueue, fromStack: PodQueue, toStack: ReceiveQueue}

// Segment is a piece of a hop's time that was spent in one layer, or in several
// that could not be told apart.
type Segment struct {
	Layer observe.Layer
	// Location is the service (application, protocol stack), the node (node
	// driver, virtual network), or NODE-NODE in alphabetical order (relay
	// network).
	Location string
	// Between names the points before and behind it.
	Between string
	// Queue is the queue in which the message was, between it is known.
	Queue Queue
	Phase Phase
	// Start is the offset from the start of the hop's root, in ns, for display.
	Start int64
	// Time in ns.
	Time int64
	// Back is between the half of it that the response took begins, for display;
	// 0 between it is in one piece.
	Back int64
	// MergedLayers are the layers, in the order of the path, when there are several;
	// Layer and Location are then those of the first.
	MergedLayers []observe.Layer
	// Node has the clock on which the segment began, At is the time there in ns;
	// "" and 0 for the relay network, which no clock has seen.
	Node string
	At   uint64

	// from and to are the two points between it is between two of a message.
	from, to string
}

// step is the layer between two positions.
type step struct {
	from, to position
	layer    observe.Layer
	location string
}

// shape is the path that the messages of a hop go.
type shape int

const (
	remote   shape = iota // between nodes
	local                 // between pods of a node
	loopback              // inside a pod
)

func (l *Hop) shape() shape {
	client, server := l.ClientNode(), l.ServerNode()
	switch {
	case l.ClientPNIC != nil || l.ServerPNIC != nil:
		return remote
	case l.ClientVNIC == nil && l.ServerVNIC == nil && l.isInPod():
		return loopback
	case client != "" && client == server:
		return local
	default:
		return remote
	}
}

func (l *Hop) isInPod() bool {
	if l.Sender != nil && l.Receiver != nil {
		return podKey(l.Sender) == podKey(l.Receiver)
	}
	for _, s := range []*observe.Observation{l.Sender, l.Receiver} {
		if s != nil && s.Client.Addr().IsLoopback() {
			return true
		}
	}
	return false
}

// end is one of the two sides of a hop.
type end struct{ service, node string }

func (l *Hop) ends() (client, server end) {
	client = end{cmp.Or(l.ClientService(), l.ClientNode(), unknown), cmp.Or(l.ClientNode(), unknown)}
	server = end{cmp.Or(l.ServerService(), l.ServerNode(), unknown), cmp.Or(l.ServerNode(), unknown)}
	return client, server
}

// unknown stands for a node or service that nobody looks at.
const unknown = "?"

// steps returns the layers on a path in order.
func steps(s shape, from, to end) []step {
	first := []step{{fromProcess, fromStack, observe.ProtocolStack, from.service}, {fromStack, fromVNIC, observe.ProtocolStack, from.service}}
	last := []step{{toVNIC, toStack, observe.ProtocolStack, to.service}, {toStack, toProcess, observe.ProtocolStack, to.service}}
	switch s {
	case loopback:
		return []step{first[0], {fromStack, toStack, observe.ProtocolStack, to.service}, last[1]}
	case local:
		return slices.Concat(first, []step{{fromVNIC, toVNIC, observe.VirtualNetwork, from.node}}, last)
	default:
		return slices.Concat(first, []step{
			{fromVNIC, fromPNIC, observe.VirtualNetwork, from.node},
			{fromPNIC, fromDriver, observe.NodeDriver, from.node},
			{fromDriver, toPNIC, observe.RelayNetwork, between(from.node, to.node)},
			{toPNIC, toVNIC, observe.VirtualNetwork, to.node},
		}, last)
	}
}

// between names the network between two nodes.
func between(a, b string) string { return min(a, b) + "-" + max(a, b) }

// covered is the steps from one position to another.
func covered(all []step, from, to position) (some []step) {
	for _, s := range all {
		if s.from >= from && s.to <= to {
			some = append(some, s)
		}
	}
	return some
}

// newSegment makes a segment of steps that cannot be told apart.
func newSegment(some []step, path Phase, between string, time int64) Segment {
	p := Segment{Phase: path, Between: between, Time: time}
	if len(some) == 0 {
		return p
	}
	p.Layer, p.Location = some[0].layer, some[0].location
	if len(some) == 1 && some[0].to == some[0].from+1 {
		p.Queue = queueFrom[some[0].from]
	}
	var layers []observe.Layer
	several := false
	for _, s := range some {
		several = several || s.layer != p.Layer || s.location != p.Location
		if !slices.Contains(layers, s.layer) {
			layers = append(layers, s.layer)
		}
	}
	if several {
		p.MergedLayers = layers
	}
	return p
}

// brief is how long, in ns, a segment takes at least that is looked at by itself.
const brief = 10_000

// Coalesced returns the segments for who looks at each: one under 10 µs is coalesced with
// the next of the same layer, location and path, between they follow each other
// directly. What they take in sum stays.
func (l *Hop) Coalesced() (coalesced []Segment) {
	for _, p := range l.Segments {
		if last := len(coalesced) - 1; last >= 0 && coalesced[last].continuesIn(&p) && min(coalesced[last].Time, p.Time) < brief {
			coalesced[last].to = p.to
			coalesced[last].Between = fromTo(coalesced[last].from, p.to)
			coalesced[last].Time += p.Time
			coalesced[last].Queue = ""
			continue
		}
		coalesced = append(coalesced, p)
	}
	return coalesced
}

// continuesIn tells whether q begins between p ends.
func (p *Segment) continuesIn(q *Segment) bool {
	return p.to != "" && p.to == q.from && p.Node == q.Node && p.At+uint64(p.Time) == q.At &&
		p.Layer == q.Layer && p.Location == q.Location && p.Phase == q.Phase && len(p.MergedLayers)+len(q.MergedLayers) == 0
}
