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
	// DeviceQueue and LinkQueue: in a lab with devices, the queue of a device, or a link
	// between a node and a device or between two devices, is slow.
	DeviceQueue Kind = "device-queue"
	LinkQueue   Kind = "link-queue"
	// ResponsePause: the application sends the head of its response at once and the
	// body after the magnitude. EventStream: it sends a chunked response in four
	// parts, spread over the magnitude.
	ResponsePause Kind = "response-pause"
	EventStream   Kind = "event-stream"
	// SlowReader: the calling application leaves a long response unread.
	// SlowUploadReader: the called application leaves a long request unread.
	SlowReader       Kind = "slow-reader"
	SlowUploadReader Kind = "slow-upload-reader"
	// LinkDown: all packets between two nodes are lost for some time, which begins
	// while a message is on its way. RetransmissionStorm: most packets of a message
	// are lost, and most of their retransmissions.
	LinkDown            Kind = "link-down"
	RetransmissionStorm Kind = "retransmission-storm"
	// ResponseReset: the application resets the connection in the middle of its
	// response, after a pause.
	ResponseReset Kind = "response-reset"
	// SeveralContexts and ConnectionChurn: the application sleeps, in a request that
	// has a trace context of another format and trace beside the mesh's, or that
	// needs new connections.
	SeveralContexts Kind = "several-contexts"
	ConnectionChurn Kind = "connection-churn"
	// MixedTraffic: no fault, but a service with fast and slow endpoints.
	MixedTraffic Kind = "mixed-traffic"
	// NoFault: no fault.
	NoFault Kind = "none"
)

// kindInfo is what a verdict on a kind of fault must name.
type kindInfo struct {
	kind  Kind
	layer observe.Layer
	// queue is that of the protocol stack in which the fault delays messages, as
	// layertrace names it; "" for none.
	queue string
	// where is the location in words, and truth what measures the fault.
	where, truth string
}

// kinds has all kinds, NoFault last.
var kinds = []kindInfo{
	{AppSleep, observe.Application, "", "the service that sleeps", "packets at the application, minus those of requests just before"},
	{AppNotReading, observe.ProtocolStack, "receive", "the service that does not read", "the application's clock"},
	{SidecarStarved, observe.ProtocolStack, "receive", "the service of the sidecar", "packets, and the kernel's count of unread bytes"},
	{PodQdisc, observe.ProtocolStack, "pod", "the service whose pod sends", "packets after the queue"},
	{DriverQdisc, observe.NodeDriver, "", "the node", "packets before and after the queue"},
	{SlowBridge, observe.VirtualNetwork, "", "the node", "packets before and after the bridge"},
	{RelayDelay, observe.RelayNetwork, "", "the two nodes", "packets at both ends of the relay"},
	{RelayLoss, observe.RelayNetwork, "", "the two nodes", "packets at both ends of the relay"},
	{RelayReorder, observe.RelayNetwork, "", "the two nodes", "packets at both ends of the relay"},
	{DeviceQueue, observe.RelayNetwork, "", "the device", "packets before and after its queue"},
	{LinkQueue, observe.RelayNetwork, "", "both ends of the link", "packets before and after it"},
	{ResponsePause, observe.Application, "", "the service that pauses", "the application's clock"},
	{EventStream, observe.Application, "", "the service that sends the events", "the application's clock"},
	{SlowReader, observe.ProtocolStack, "receive", "the service that does not read", "the reader's clock"},
	{SlowUploadReader, observe.ProtocolStack, "receive", "the service that does not read", "the reader's clock"},
	{LinkDown, observe.RelayNetwork, "", "the two nodes", "packets at both ends of the relay"},
	{RetransmissionStorm, observe.RelayNetwork, "", "the two nodes", "packets at both ends of the relay"},
	{ResponseReset, observe.Application, "", "the service that pauses before the reset, or any verdict that is not of high confidence", "the application's clock"},
	{SeveralContexts, observe.Application, "", "the service that sleeps, in the trace of the mesh", "packets at the application, minus those of requests just before"},
	{ConnectionChurn, observe.Application, "", "the service that sleeps", "packets at the application, minus those of requests just before"},
	{MixedTraffic, observe.NoLayer, "", "", "nothing is injected"},
	{NoFault, observe.NoLayer, "", "", "nothing is injected"},
}

// Kinds are all kinds, NoFault last.
var Kinds = func() (all []Kind) {
	for _, k := range kinds {
		all = append(all, k.kind)
	}
	return all
}()

func (k Kind) info() kindInfo {
	if i := slices.Index(Kinds, k); i >= 0 {
		return kinds[i]
	}
	return kindInfo{kind: k, layer: observe.NoLayer}
}

// Layer returns the layer that a verdict must name.
func (k Kind) Layer() observe.Layer { return k.info().layer }

// Queue returns the queue of the protocol stack in which the fault delays messages, as
// layertrace names it; "" for none.
func (k Kind) Queue() string { return k.info().queue }

// RightVerdict describes the verdict that is right, and what measures the fault.
func (k Kind) RightVerdict() (verdict, truth string) {
	info := k.info()
	verdict = string(info.layer)
	if info.queue != "" {
		verdict += ", queue " + info.queue
	}
	if info.where != "" {
		verdict += ": " + info.where
	}
	return verdict, info.truth
}

// Concurrent returns how many requests with such faults may be in flight at the same
// time: those that only wait do not disturb each other. 1 for all others.
func (k Kind) Concurrent() int {
	switch k {
	case ResponsePause, EventStream, ResponseReset:
		return 100
	case SlowReader, SlowUploadReader:
		return 6 // their messages are long
	default:
		return 1
	}
}

// Requests returns how many requests a case has, of at most n: fewer of faults that
// take seconds, which chance does not hide.
func (k Kind) Requests(n int) int {
	switch k {
	case LinkDown:
		return 1
	case ResponsePause, EventStream, ResponseReset, SlowReader, SlowUploadReader, RetransmissionStorm:
		return min(n, 3)
	default:
		return n
	}
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

// magnitudes are the durations of faults. A lost packet takes as long as its sender
// needs to detect the loss.
var magnitudes = []time.Duration{time.Millisecond, 5 * time.Millisecond, 20 * time.Millisecond, 100 * time.Millisecond}

// magnitudesOf returns the durations of faults of a kind, nil if they vary.
func magnitudesOf(k Kind) []time.Duration {
	switch k {
	case RelayLoss, RetransmissionStorm, NoFault, MixedTraffic:
		return nil
	case ResponsePause, EventStream:
		return []time.Duration{2500 * time.Millisecond, 5 * time.Second}
	case SlowReader, SlowUploadReader:
		return []time.Duration{300 * time.Millisecond, time.Second, 5 * time.Second}
	case LinkDown:
		return []time.Duration{6 * time.Second}
	case ResponseReset:
		// Longer than the two seconds by which two Envoys delay the end of their
		// connections (delayed_close_timeout).
		return []time.Duration{3 * time.Second}
	case SeveralContexts:
		return []time.Duration{20 * time.Millisecond, 100 * time.Millisecond}
	default:
		return magnitudes
	}
}

// longPause is the magnitude of the few pauses that outlast usual timeouts.
const longPause = 30 * time.Second

// Case is a request with a fault.
type Case struct {
	Kind Kind
	// Pod is the location of the first four kinds of faults, Node that of a node's
	// queue, FromNode and ToNode that of the relay.
	Pod              string
	Node             int
	FromNode, ToNode int
	// Device is the location of DeviceQueue, Link that of LinkQueue.
	Device string
	Link   lab.Link
	// Magnitude is the intended duration of the fault.
	Magnitude time.Duration
	// Transfer is the affected message, for queues, loss and reordering.
	Transfer Transfer
	// Version is the reviews pod that the request uses, or PlainVersion.
	Version string
	// Report is set when the request is for the slow endpoint, in mixed traffic.
	Report bool
	// Load is set when other requests are in flight at the same time.
	Load bool
}

// Location returns the location that a verdict must name with the layer.
func (c Case) Location() string {
	switch c.Kind {
	case DeviceQueue:
		return c.Device
	case LinkQueue:
		return min(c.Link.From, c.Link.To) + "-" + max(c.Link.From, c.Link.To)
	}
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

// PlainVersion is the version of requests between the pods without sidecars.
const PlainVersion = "plain"

// Traffic is the kind of requests around a case, which its baseline comes from.
type Traffic struct {
	// Load is set when other requests are in flight at the same time.
	Load bool
	// Plain requests go to the pods without sidecars.
	Plain bool
	// Mixed requests are for fast and slow endpoints. Churn requests need new
	// connections.
	Mixed, Churn bool
}

// Traffic returns the traffic around the case.
func (c Case) Traffic() Traffic {
	return Traffic{Load: c.Load, Plain: c.Version == PlainVersion, Mixed: c.Kind == MixedTraffic, Churn: c.Kind == ConnectionChurn}
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
	if c.Version == PlainVersion {
		text += " without sidecars"
	}
	if c.Magnitude > 0 {
		text += " " + c.Magnitude.String()
	}
	if c.Load {
		text += " under load"
	}
	return text
}
