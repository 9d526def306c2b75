// SPDX-License-Identifier: Apache-2.0

// Package layer tells where the time of a request went. It takes sightings,
// what the capture points saw of the requests of one trace, orders them into
// legs, one for each TCP connection on the way, and splits each leg into parts
// of one layer each.
//
// Only durations at one point and differences between points of one node are
// used; clocks of different nodes are never subtracted.
package layer

import (
	"net/netip"

	"github.com/layertrace/layertrace/internal/exchange"
	"go.opentelemetry.io/otel/trace"
)

// Layer is what a part of the time is given to; the words are the paper's.
type Layer string

// The layers, from the process outwards.
const (
	// Application: between reading a request and writing its response, in the
	// application or its sidecar.
	Application Layer = "application"
	// ProtocolStack: between a process and the host end of its pod's interface:
	// queues of sockets, TCP, the pod's own interface; and loopback in a pod.
	ProtocolStack Layer = "protocol-stack"
	// VirtualNetwork: between the pods' interfaces and the node's physical one.
	VirtualNetwork Layer = "virtual-network"
	// NodeDriver: the queue of the node's physical interface up to its driver.
	NodeDriver Layer = "node-driver"
	// RelayNetwork: between the physical interfaces of two nodes.
	RelayNetwork Layer = "relay-network"
	// None is the verdict when nothing stands out.
	None Layer = "none"
)

// Kind is the kind of a capture point.
type Kind string

// Kinds of capture points.
const (
	Socket Kind = "socket"
	VNIC   Kind = "vnic"
	PNIC   Kind = "pnic"
)

// Process is who has a socket in a pod.
type Process string

// Processes. UnknownProcess is a socket's in a pod whose sidecar is not known,
// and every interface's.
const (
	UnknownProcess Process = ""
	Sidecar        Process = "sidecar"
	AppProcess     Process = "application"
)

// Sighting is one request and its response at one capture point. Times are in
// ns of the node's CLOCK_MONOTONIC; 0: not known.
type Sighting struct {
	TraceID trace.TraceID
	// SpanID is the one in the request's header.
	SpanID trace.SpanID
	Kind   Kind
	// Node is the name of the node.
	Node string
	// Service and Pod are behind a socket or virtual interface; "" at a
	// physical one and where nobody knows.
	Service, Pod string
	// ClientName and ServerName are the services that have the addresses, where
	// they are known and not Service.
	ClientName, ServerName string
	// Process has the socket.
	Process Process
	// Sender is set at the socket that sent the request.
	Sender bool
	// Interface is the name of the interface, "" at a socket.
	Interface string
	// Direction of the request through the interface: at a virtual one,
	// ingress comes from the pod; at a physical one, egress leaves the node.
	Direction exchange.Direction
	// Client and Server are the ends as seen here.
	Client, Server netip.AddrPort
	// ConnectionID is that of the TCP option, "" without one.
	ConnectionID string
	// Request and Response have First, Last and Handover as in an Exchange.
	Request, Response exchange.Message
	// Status is the HTTP status, 0 when there was no response.
	Status int
	// Retransmits, Drops, DropReason, ZeroWindows and SRTT (ns) are evidence.
	Retransmits, Drops, ZeroWindows uint32
	DropReason                      string
	SRTT                            uint64
	Flags                           exchange.Flags
	// Wall is the Unix time, in ns, of what is earliest of Request: for
	// display only.
	Wall int64
}
