// SPDX-License-Identifier: Apache-2.0

package faults

import (
	"fmt"
	"time"

	"github.com/layertrace/layertrace/e2e/lab"
)

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
	Leg Leg
	// Version is the reviews that is asked.
	Version string
	// Load is set when other requests are on their way at the same time.
	Load bool
}

// Place is what a verdict has to name beside the layer.
func (c Case) Place() string {
	switch c.Kind.Layer() {
	case Application, ProtocolStack:
		pod, _ := lab.PodByName(c.Pod) // of a case that was drawn it exists
		return pod.Service
	case NodeDriver, VirtualNetwork:
		return lab.NodeName(c.Node)
	case RelayNetwork:
		a, b := min(c.FromNode, c.ToNode), max(c.FromNode, c.ToNode)
		return lab.NodeName(a) + "-" + lab.NodeName(b)
	default:
		return ""
	}
}

// String says what is done, and where.
func (c Case) String() string {
	text := string(c.Kind)
	if place := c.Place(); place != "" {
		text += " at " + place
	}
	if c.Leg != (Leg{}) {
		text += fmt.Sprintf(" (%s to %s)", c.Leg.From(), c.Leg.To())
	}
	if c.Magnitude > 0 {
		text += " " + c.Magnitude.String()
	}
	if c.Load {
		text += " under load"
	}
	return text
}
