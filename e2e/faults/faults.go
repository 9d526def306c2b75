// SPDX-License-Identifier: Apache-2.0

// Package faults is the fault laboratory: it draws faults, one for each layer
// and place of the testbed, and holds what layertrace says of a request against
// what was done to it. What was done is measured by the laboratory itself, never
// by layertrace.
package faults

import (
	"fmt"
	"slices"
	"time"

	"github.com/layertrace/layertrace/e2e/lab"
	"github.com/layertrace/layertrace/internal/observe"
)

// Kind is a kind of fault.
type Kind string

// The kinds of faults, by what is done.
const (
	// AppSleep: the application waits before it answers.
	AppSleep Kind = "application-sleep"
	// AppNotReading: it leaves the request in its receive queue.
	AppNotReading Kind = "application-not-reading"
	// SidecarStarved: the sidecar gets no CPU while the request waits for it.
	SidecarStarved Kind = "sidecar-starved"
	// PodQdisc, DriverQdisc and SlowBridge: the queue of the pod's interface, of
	// the node's physical one, or of the node's bridge is slow.
	PodQdisc    Kind = "pod-qdisc"
	DriverQdisc Kind = "driver-qdisc"
	SlowBridge  Kind = "slow-bridge"
	// RelayDelay, RelayLoss and RelayReorder: packets between two nodes are
	// late, one is lost, or the first of a message comes last.
	RelayDelay   Kind = "relay-delay"
	RelayLoss    Kind = "relay-loss"
	RelayReorder Kind = "relay-reorder"
	// NoFault: nothing is done.
	NoFault Kind = "none"
)

// Kinds are all kinds, NoFault last.
var Kinds = []Kind{
	AppSleep, AppNotReading, SidecarStarved, PodQdisc, DriverQdisc, SlowBridge,
	RelayDelay, RelayLoss, RelayReorder, NoFault,
}

// ParseKinds reads names of kinds.
func ParseKinds(names []string) (kinds []Kind, err error) {
	for _, name := range names {
		if !slices.Contains(Kinds, Kind(name)) {
			return nil, fmt.Errorf("unknown fault %q: choose of %v", name, Kinds)
		}
		kinds = append(kinds, Kind(name))
	}
	return kinds, nil
}

// Layers are the rows and columns of the confusion matrix, observe.NoLayer last.
var Layers = []observe.Layer{
	observe.Application, observe.ProtocolStack, observe.VirtualNetwork, observe.NodeDriver, observe.RelayNetwork, observe.NoLayer,
}

var layerOf = map[Kind]observe.Layer{
	AppSleep: observe.Application, AppNotReading: observe.ProtocolStack, SidecarStarved: observe.ProtocolStack, PodQdisc: observe.ProtocolStack,
	DriverQdisc: observe.NodeDriver, SlowBridge: observe.VirtualNetwork,
	RelayDelay: observe.RelayNetwork, RelayLoss: observe.RelayNetwork, RelayReorder: observe.RelayNetwork,
	NoFault: observe.NoLayer,
}

// Layer is where the kind of fault is.
func (k Kind) Layer() observe.Layer { return layerOf[k] }

// Queue is the queue of the protocol stack in which the fault lets messages wait,
// as layertrace names it; "" where it is in none.
func (k Kind) Queue() string {
	switch k {
	case AppNotReading, SidecarStarved:
		return "receive"
	case PodQdisc:
		return "pod"
	default:
		return ""
	}
}

// Magnitudes are how long the faults take; a lost packet takes as long as its
// sender needs to notice.
var Magnitudes = []time.Duration{time.Millisecond, 5 * time.Millisecond, 20 * time.Millisecond, 100 * time.Millisecond}

// Case is one request with one fault.
type Case struct {
	Kind Kind
	// Pod is where the first four kinds of faults are, Node where the queues of
	// a node are slow, FromNode and ToNode where the relay is.
	Pod              string
	Node             int
	FromNode, ToNode int
	// Magnitude is how long the fault should take.
	Magnitude time.Duration
	// Leg is the message that is slow, for queues and for loss and reordering.
	Transfer Transfer
	// Version is the reviews that is asked.
	Version string
	// Load is set when other requests are on their way at the same time.
	Load bool
}

// Place is what a verdict has to name beside the layer.
func (c Case) Location() string {
	switch c.Kind.Layer() {
	case observe.Application, observe.ProtocolStack:
		pod, _ := lab.PodByName(c.Pod) // of a case that was drawn it exists
		return pod.Service
	case observe.NodeDriver, observe.VirtualNetwork:
		return lab.NodeName(c.Node)
	case observe.RelayNetwork:
		a, b := min(c.FromNode, c.ToNode), max(c.FromNode, c.ToNode)
		return lab.NodeName(a) + "-" + lab.NodeName(b)
	default:
		return ""
	}
}

// String says what is done, and where.
func (c Case) String() string {
	text := string(c.Kind)
	if place := c.Location(); place != "" {
		text += " at " + place
	}
	if c.Transfer != (Transfer{}) {
		text += fmt.Sprintf(" (%s to %s)", c.Transfer.From(), c.Transfer.To())
	}
	if c.Magnitude > 0 {
		text += " " + c.Magnitude.String()
	}
	if c.Load {
		text += " under load"
	}
	return text
}
