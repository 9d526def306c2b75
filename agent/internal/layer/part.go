// SPDX-License-Identifier: Apache-2.0

package layer

import (
	"cmp"
	"slices"
)

// Way is the message that a part of the time belongs to.
type Way string

// Ways. Both: what can be told of request and response together only, as the
// time between nodes; and between them, as the application's.
const (
	Request  Way = "request"
	Response Way = "response"
	Both     Way = "both"
)

// Queue is where a message waits inside of a layer.
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

// Part is a piece of a leg's time that was spent in one layer, or in several
// that could not be told apart.
type Part struct {
	Layer Layer
	// Place is the service (application, protocol stack), the node (node
	// driver, virtual network), or NODE-NODE in alphabetical order (relay
	// network).
	Place string
	// Where names the points before and behind it.
	Where string
	// Queue is the queue in which the message was, where it is known.
	Queue Queue
	Way   Way
	// Start is the offset from the start of the leg's root, in ns, for display.
	Start int64
	// Time in ns.
	Time int64
	// Back is where the half of it that the response took begins, for display;
	// 0 where it is in one piece.
	Back int64
	// Covers are the layers, in the order of the way, when there are several;
	// Layer and Place are then those of the first.
	Covers []Layer
	// Node has the clock on which the part began, At is the time there in ns;
	// "" and 0 for the relay network, which no clock has seen.
	Node string
	At   uint64

	// from and to are the two points where it is between two of a message.
	from, to string
}

// step is the layer between two positions.
type step struct {
	from, to position
	layer    Layer
	place    string
}

// shape is the way that the messages of a leg go.
type shape int

const (
	remote   shape = iota // between nodes
	local                 // between pods of a node
	loopback              // inside a pod
)

func (l *Leg) shape() shape {
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

func (l *Leg) isInPod() bool {
	if l.Sender != nil && l.Receiver != nil {
		return podKey(l.Sender) == podKey(l.Receiver)
	}
	for _, s := range []*Sighting{l.Sender, l.Receiver} {
		if s != nil && s.Client.Addr().IsLoopback() {
			return true
		}
	}
	return false
}

// end is one of the two sides of a leg.
type end struct{ service, node string }

func (l *Leg) ends() (client, server end) {
	client = end{cmp.Or(l.ClientService(), l.ClientNode(), unknown), cmp.Or(l.ClientNode(), unknown)}
	server = end{cmp.Or(l.ServerService(), l.ServerNode(), unknown), cmp.Or(l.ServerNode(), unknown)}
	return client, server
}

// unknown stands for a node or service that nobody looks at.
const unknown = "?"

// steps returns the layers on a way in order.
func steps(s shape, from, to end) []step {
	first := []step{{fromProcess, fromStack, ProtocolStack, from.service}, {fromStack, fromVNIC, ProtocolStack, from.service}}
	last := []step{{toVNIC, toStack, ProtocolStack, to.service}, {toStack, toProcess, ProtocolStack, to.service}}
	switch s {
	case loopback:
		return []step{first[0], {fromStack, toStack, ProtocolStack, to.service}, last[1]}
	case local:
		return slices.Concat(first, []step{{fromVNIC, toVNIC, VirtualNetwork, from.node}}, last)
	default:
		return slices.Concat(first, []step{
			{fromVNIC, fromPNIC, VirtualNetwork, from.node},
			{fromPNIC, fromDriver, NodeDriver, from.node},
			{fromDriver, toPNIC, RelayNetwork, between(from.node, to.node)},
			{toPNIC, toVNIC, VirtualNetwork, to.node},
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

// newPart makes a part of steps that cannot be told apart.
func newPart(some []step, way Way, where string, time int64) Part {
	p := Part{Way: way, Where: where, Time: time}
	if len(some) == 0 {
		return p
	}
	p.Layer, p.Place = some[0].layer, some[0].place
	if len(some) == 1 && some[0].to == some[0].from+1 {
		p.Queue = queueFrom[some[0].from]
	}
	var layers []Layer
	several := false
	for _, s := range some {
		several = several || s.layer != p.Layer || s.place != p.Place
		if !slices.Contains(layers, s.layer) {
			layers = append(layers, s.layer)
		}
	}
	if several {
		p.Covers = layers
	}
	return p
}
