// SPDX-License-Identifier: Apache-2.0

// Package faults injects faults into the lab, one request at a time, in every layer
// and at every location, and measures how long each fault held up its request: from
// packets on both sides of a process or a queue, or by the clock of the application.
// It shares nothing with layertrace; package matrix compares the two.
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

// The kinds of faults.
const (
	// AppSleep: the application waits before it responds.
	AppSleep Kind = "application-sleep"
	// AppNotReading: the application leaves the request in its receive queue.
	AppNotReading Kind = "application-not-reading"
	// SidecarStarved: the sidecar gets no CPU time while the request waits for it.
	SidecarStarved Kind = "sidecar-starved"
	// PodQdisc, DriverQdisc and SlowBridge: the queue of the pod's interface, the
	// node's physical interface, or the node's bridge is slow.
	PodQdisc    Kind = "pod-qdisc"
	DriverQdisc Kind = "driver-qdisc"
	SlowBridge  Kind = "slow-bridge"
	// RelayDelay, RelayLoss and RelayReorder: packets between two nodes are delayed,
	// one is lost, or the first of a message arrives last.
	RelayDelay   Kind = "relay-delay"
	RelayLoss    Kind = "relay-loss"
	RelayReorder Kind = "relay-reorder"
	// NoFault: no fault.
	NoFault Kind = "none"
)

// Kinds are all kinds, NoFault last.
var Kinds = []Kind{
	AppSleep, AppNotReading, SidecarStarved, PodQdisc, DriverQdisc, SlowBridge,
	RelayDelay, RelayLoss, RelayReorder, NoFault,
}

// ParseKinds returns the kinds with some names.
func ParseKinds(names []string) (kinds []Kind, err error) {
	for _, name := range names {
		if !slices.Contains(Kinds, Kind(name)) {
			return nil, fmt.Errorf("unknown fault %q: choose from %v", name, Kinds)
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

// Layer returns the layer that a verdict must name.
func (k Kind) Layer() observe.Layer { return layerOf[k] }

// Queue returns the queue of the protocol stack in which the fault delays messages, as
// layertrace names it; "" for none.
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

// magnitudes are the durations of faults. A lost packet takes as long as its sender
// needs to detect the loss.
var magnitudes = []time.Duration{time.Millisecond, 5 * time.Millisecond, 20 * time.Millisecond, 100 * time.Millisecond}

// Case is a request with a fault.
type Case struct {
	Kind Kind
	// Pod is the location of the first four kinds of faults, Node that of a node's
	// queue, FromNode and ToNode that of the relay.
	Pod              string
	Node             int
	FromNode, ToNode int
	// Magnitude is the intended duration of the fault.
	Magnitude time.Duration
	// Transfer is the affected message, for queues, loss and reordering.
	Transfer Transfer
	// Version is the reviews pod that the request uses.
	Version string
	// Load is set when other requests are in flight at the same time.
	Load bool
}

// Location returns the location that a verdict must name with the layer.
func (c Case) Location() string {
	switch c.Kind.Layer() {
	case observe.Application, observe.ProtocolStack:
		pod, _ := lab.PodByName(c.Pod) // exists in a drawn case
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

// String describes the fault and its location.
func (c Case) String() string {
	text := string(c.Kind)
	if location := c.Location(); location != "" {
		text += " at " + location
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
