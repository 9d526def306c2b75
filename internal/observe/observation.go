// SPDX-License-Identifier: Apache-2.0

// Package observe has the type that flows through layertrace, from the kernel to the
// verdict: an Observation is an exchange (an HTTP request and its response) as one
// capture point, an interface or a socket, saw it. The package also defines the words
// that all parts share: capture points, layers, flags.
package observe

import (
	"encoding/hex"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"github.com/layertrace/layertrace/internal/tracecontext"
)

// Observation is one exchange at one capture point. Its parts are set at different
// times: the probe sets what the packets show, the agent adds Point and Peers, and
// Context is zero until it is known, which can be after the times. All times are in
// ns: CLOCK_MONOTONIC of the node from a probe or a span, Unix time from a packet
// capture.
type Observation struct {
	// Key is the connection and stream: the exchanges of a Key follow one another.
	Key
	// Context is the request's trace context.
	Context Context
	// Point is the capture point, nil until it is resolved from Interface or Socket.
	// Observations of a point share it: never modify it.
	Point *Point
	// Interface is the index of the network interface in the probe's network
	// namespace, 0 at a socket; from a packet capture, the interface in the file.
	Interface int
	// Direction is the direction of the request through the interface.
	Direction Direction
	// Socket is set when the capture point is a socket. Client and Server are then the
	// endpoints that the socket knows: before address translation of what it sends,
	// after that of what it receives.
	Socket *Socket
	// Request and Response hold the times and sizes of both messages.
	Request, Response Message
	// Method and Path are of the request line: the path without query, both cut after
	// what the capture point keeps of the line. They are "" if unknown or not wanted.
	Method, Path string
	// Status is the HTTP status code of the final response, 0 when unknown.
	Status int
	// ConnectionID is the value of layertrace's TCP option on the request or
	// the connection's SYN: 8 bytes (compact), 4 bytes (paper), or nil.
	ConnectionID []byte
	// OptionTime is the sender's time in the option: ns of its monotonic clock
	// (paper), or that clock's low 32 bits of µs (compact). 0 without option.
	OptionTime uint64
	// Retransmits counts the TCP segments of both messages that were seen again.
	Retransmits uint32
	// Drops counts the packets of the connection that the kernel dropped here while
	// the exchange was open. DropReason is the reason of the last one: a name of enum
	// skb_drop_reason (include/net/dropreason-core.h) without prefix in lower case,
	// or a number that this kernel has no name for.
	Drops      uint32
	DropReason string
	// Flags are remarks about unusual events.
	Flags Flags
	// Join is set for encrypted bytes: how surely they belong to Context.
	Join Join
	// Peers are the names of both endpoints, as far as they are known.
	Peers Peers
	// Wall is the Unix time in ns of the earliest byte, for display only. It is 0
	// until the observation is stored or written.
	Wall int64
}

// Key identifies a connection and stream, on which exchanges follow one another.
type Key struct {
	// Client sent the request and Server the response, as seen at the point.
	Client, Server netip.AddrPort
	// Stream is the HTTP/2 stream; 0 on an HTTP/1 connection.
	Stream uint32
}

// Context is the trace context of a request and the place where it was found.
type Context struct {
	tracecontext.Context
	// HeaderOffset is the offset in bytes from the start of the request to the line in
	// which the context begins.
	HeaderOffset uint32
}

// Message is the request or the response of an exchange.
type Message struct {
	// First and Last are the times of the first and the last byte at the capture
	// point. Both are 0 if nothing of the message was seen.
	First, Last uint64
	// Seq is the TCP sequence number of the first byte, where the exchange has a
	// ConnectionID; 0 if unknown.
	Seq uint32
	// TTL is the time to live, or hop limit, of the first packet. It is set at devices only.
	TTL uint8
	// Bytes is the TCP payload, HTTP head included, without retransmissions: of encrypted
	// bytes that on the wire, with what TLS adds.
	Bytes uint64
	// Packets is the number of TCP segments with payload as seen here: a segment that
	// offloading merged counts once.
	Packets uint32
	// App is when the application wrote the message (at the sender's socket) or read
	// it (at the receiver's). It is set at sockets only.
	App Extent
	// Tx is when the driver began to transmit the message. It is set at interfaces
	// only, for the message that leaves through the interface.
	Tx Extent
	// Acknowledged is when the peer's TCP acknowledged the last byte. It is set at the
	// socket that sent the message only, and 0 if the exchange ended before.
	Acknowledged uint64
	// Waited is the time in ns for which the sender had more of the message to send, but
	// TCP waited: for acknowledgements, or for the peer's receive window. Held is the
	// part of it in which the window had no room, and Stalled that in which nothing was
	// in flight either, so that only the receiver's reading was missing. They are set at
	// the socket that sent the message only.
	Waited, Held, Stalled uint64
	// Unread is the time in ns for which data in the receive queue was neither read nor
	// acknowledged, or left no room for a further segment: the sender could not go on.
	// What is after the last byte's arrival does not count. It is set at the socket that
	// received the message only.
	Unread uint64
}

// Extent is the time of a message's first and last byte, 0 if unknown.
type Extent struct{ First, Last uint64 }

// Socket is what only a socket knows about an exchange.
type Socket struct {
	// Cookie identifies the socket on its node (SO_COOKIE, socket(7)).
	Cookie uint64
	// Netns is the inode number of its network namespace, as in /proc/PID/ns/net, 0 if
	// unknown.
	Netns uint32
	// UID is the user that created the socket.
	UID uint32
	// Cgroup is the ID of the cgroup of the process that uses the socket, else of the
	// one that made it: the inode number of the directory in the cgroup2 mount. 0 if
	// unknown.
	Cgroup uint64
	// PID and ProcessName are of the process that uses the socket, in the agent's PID
	// namespace and as in /proc/PID/comm; 0 and "" until it has read or written there.
	PID         uint32
	ProcessName string
	// Client is set for the socket that sent the request.
	Client bool
	// SRTT is TCP's last smoothed round-trip time in ns, 0 before the first
	// measurement.
	SRTT uint64
	// ZeroWindows counts the TCP segments that announced a receive window of 0.
	ZeroWindows uint32
}

// Direction is the direction of the request through an interface, as the
// kernel's traffic control layer names it.
type Direction uint8

// Directions. A packet capture without interface information has DirectionUnknown.
const (
	DirectionUnknown Direction = iota
	DirectionIngress
	DirectionEgress
)

// String returns "ingress", "egress" or "unknown".
func (d Direction) String() string {
	switch d {
	case DirectionIngress:
		return "ingress"
	case DirectionEgress:
		return "egress"
	default:
		return "unknown"
	}
}

// ConnectionIDHex returns the connection ID in lower-case hex, "" without one.
func (o *Observation) ConnectionIDHex() string { return hex.EncodeToString(o.ConnectionID) }

// Extent returns the first and the last time of the exchange, usually of the request's
// first and the response's last byte. Both are 0 without any time.
func (o *Observation) Extent() (start, end uint64) {
	for _, t := range [...]uint64{
		o.Request.First, o.Request.Last, o.Response.First, o.Response.Last,
		o.Request.App.First, o.Request.App.Last, o.Response.App.First, o.Response.App.Last,
		o.Request.Tx.First, o.Request.Tx.Last, o.Response.Tx.First, o.Response.Tx.Last,
	} {
		if t == 0 {
			continue
		}
		if start == 0 || t < start {
			start = t
		}
		end = max(end, t)
	}
	return start, end
}

// Flags is a set of remarks about an exchange. The values are those of the
// BPF side (bpf/include/exchange.h, enum exchange_flag).
type Flags uint32

// Flags of an exchange.
const (
	// FlagNoResponse: no final response was seen.
	FlagNoResponse Flags = 1 << iota
	// FlagPipelined: this request or the next was sent before the response to the one
	// before. Uncertain response times are not set.
	FlagPipelined
	// FlagOutOfOrder: segments passed in a different order than they were sent.
	FlagOutOfOrder
	// FlagInterim: an interim (1xx) response came before the final one.
	FlagInterim
	// FlagReset: RST ended the connection before the exchange was complete.
	FlagReset
	// FlagIdle: no packet passed for the timeout; reported before its end.
	FlagIdle
	// FlagMalformed: a malformed trace context came before the one used.
	FlagMalformed
	// FlagMultiSegment: the context was found after the first segment.
	FlagMultiSegment
	// FlagOptionLost: the connection's SYN had the TCP option, but the request had not.
	FlagOptionLost
	// FlagUpgraded: status 101, or 2xx to CONNECT. The connection is a tunnel from
	// there on, and not HTTP/1 any more; the exchange ends at the switch.
	FlagUpgraded
	// FlagIncomplete: by its framing (Content-Length, chunks) more of a message was to
	// come when the connection ended.
	FlagIncomplete
	// FlagEvicted: reported before its end to make room for others.
	FlagEvicted
	// FlagStillOpen: a preliminary report of an exchange that goes on. A later report
	// with the same key and request time replaces it.
	FlagStillOpen
	// FlagEndGuessed: the end of the response is not known from its framing.
	FlagEndGuessed
	// FlagPacketsMissing: a peer acknowledged bytes that did not pass the capture point.
	FlagPacketsMissing
	// FlagSeveralContexts: the request has trace contexts with different IDs.
	FlagSeveralContexts
	// FlagOutsideWindow: the context is outside of the window in which an agent's
	// programs search by default (packet captures only).
	FlagOutsideWindow
	// FlagTraceLimited: the last span that the agent makes of the trace for some time, because
	// it would have too many; or the agent left requests out meanwhile, to keep within its
	// share of the CPUs. The agent sets it, not the BPF side.
	FlagTraceLimited
)

// Cut is the set of flags of exchanges whose times are not those of the whole: no
// verdict on them has high confidence.
const Cut = FlagIdle | FlagEvicted | FlagStillOpen | FlagIncomplete | FlagEndGuessed | FlagPacketsMissing

var flagNames = []string{
	"no_response", "pipelined", "out_of_order", "interim", "reset", "idle",
	"malformed_context", "multi_segment", "option_lost", "upgraded",
	"incomplete", "evicted", "still_open", "end_guessed", "packets_missing",
	"several_contexts", "outside_window", "trace_limited",
}

// Names returns the names of the set flags, never nil.
func (f Flags) Names() []string {
	names := []string{}
	for i, name := range flagNames {
		if f&(1<<i) != 0 {
			names = append(names, name)
		}
	}
	return names
}

// FlagNames returns the names of all flags.
func FlagNames() []string { return flagNames }

// FlagsOf returns the flags with the names. It ignores unknown names, which are of
// later versions.
func FlagsOf(names []string) Flags {
	var f Flags
	for i, name := range flagNames {
		if slices.Contains(names, name) {
			f |= 1 << i
		}
	}
	return f
}

// Point is a capture point: an interface, or the sockets of a process in a pod.
type Point struct {
	// ID stays the same while the interface exists, across renames and restarts of the
	// agent; see InterfacePointID and SocketPointID.
	ID   string
	Kind Kind
	// Node is the name of the node or device that the agent runs on.
	Node string
	// Interface is the present name of the interface, "" at a socket.
	Interface string
	// Process owns the sockets; UnknownProcess at an interface.
	Process Process
	// Workload is at the other end of the interface, or owns the socket. It is empty at
	// a physical interface and if it is unknown: Service then returns the node.
	Workload Workload
}

// IsLoopback reports whether the point is a loopback device: all processes of its
// network namespace use it, and none owns it.
func (p *Point) IsLoopback() bool { return p.Interface == "lo" }

// Kind is the kind of a capture point.
type Kind string

// Kinds of capture points.
const (
	// KindSocket: the sockets of a process in a pod.
	KindSocket Kind = "socket"
	// KindVNIC: the host end of a pod's interface.
	KindVNIC Kind = "vnic"
	// KindPNIC: a physical interface of a node.
	KindPNIC Kind = "pnic"
	// KindDevice: an interface of a device between the nodes, which reads headers only.
	KindDevice Kind = "device"
)

// Process is the owner of a socket in a pod.
type Process string

// Processes. Every interface has UnknownProcess, and so has a socket in a pod whose
// sidecar is unknown.
const (
	UnknownProcess Process = ""
	Sidecar        Process = "sidecar"
	AppProcess     Process = "application"
)

// Workload is what users call the service.
type Workload struct {
	// Service is the workload's name, such as reviews.
	Service string `json:"service"`
	// Namespace and Pod are the names in Kubernetes, "" elsewhere. Services of one name
	// in two namespaces are two.
	Namespace string `json:"namespace,omitempty"`
	Pod       string `json:"pod,omitempty"`
	// Node is the node that the workload runs on.
	Node string `json:"node,omitempty"`
	// PodUID, and the Kind and Name of the pod's controller (Deployment reviews-v2),
	// come from a cluster only.
	PodUID string `json:"-"`
	Kind   string `json:"-"`
	Name   string `json:"-"`
}

// Peer is the owner of one endpoint's address. Node is set only if the address belongs
// to a node and not to a workload, Namespace only for a workload.
type Peer struct{ Service, Namespace, Node string }

// Peers are the owners of both endpoints' addresses, as seen at the capture point.
type Peers struct{ Client, Server Peer }

// InterfacePointID identifies the interface with an index on a node. The index survives
// renames and is not reused while the node is up.
func InterfacePointID(node string, index int) string { return node + "/" + strconv.Itoa(index) }

// SocketPointID identifies the sockets of a process in a network namespace on a node,
// by the namespace's inode number. process is the Process in a pod, elsewhere the name
// of the container, service or program.
func SocketPointID(node string, netns uint32, process string) string {
	return node + netnsPart + strconv.FormatUint(uint64(netns), 10) + "/" + process
}

const netnsPart = "/netns/"

// NetnsOfPoint returns the network namespace in the ID of a point at sockets, 0 if it
// has none.
func NetnsOfPoint(id string) uint32 {
	_, rest, _ := strings.Cut(id, netnsPart)
	number, _, _ := strings.Cut(rest, "/")
	netns, err := strconv.ParseUint(number, 10, 32)
	if err != nil {
		return 0
	}
	return uint32(netns)
}

// Service returns the service name of the point's spans: the workload's or the node's.
func (p *Point) Service() string {
	if p.Workload.Service != "" {
		return p.Workload.Service
	}
	return p.Node
}

// SpanName returns the name of the point's spans (the paper, section 6): a vNIC's is
// <service>_<interface>, a pNIC's <node>_<interface>, a device's <device>_<interface>, a
// socket's <service>_<process>.
func (p *Point) SpanName() string {
	if p.Kind == KindSocket {
		return p.Service() + "_" + string(p.Process)
	}
	return p.Service() + "_" + p.Interface
}

// Layer is what a segment of a request's time is attributed to. The terms are those of
// the paper.
type Layer string

// The layers, from the process outward.
const (
	// Application: between reading a request and writing its response, in the
	// application or its sidecar.
	Application Layer = "application"
	// ProtocolStack: between a process and the host end of its pod's interface:
	// queues of sockets, TCP, the pod's own interface; and loopback in a pod.
	ProtocolStack Layer = "protocol-stack"
	// VirtualNetwork: between the pods' interfaces and the node's physical one.
	VirtualNetwork Layer = "virtual-network"
	// NodeDriver: the queue of the node's physical interface, up to its driver.
	NodeDriver Layer = "node-driver"
	// RelayNetwork: between the physical interfaces of two nodes.
	RelayNetwork Layer = "relay-network"
	// NoLayer is the verdict when no layer is slower than the baseline.
	NoLayer Layer = "none"
)

// layerTitles are the names of the layers in text.
var layerTitles = map[Layer]string{
	Application: "application", ProtocolStack: "protocol stack", VirtualNetwork: "virtual network",
	NodeDriver: "node driver", RelayNetwork: "relay network", NoLayer: "none",
}

// Title returns the name of the layer in text, such as "protocol stack".
func (l Layer) Title() string {
	if title, ok := layerTitles[l]; ok {
		return title
	}
	return string(l)
}
