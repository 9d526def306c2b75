// SPDX-License-Identifier: Apache-2.0

// Package observe holds the one record that flows through layertrace, from the
// kernel to the verdict: an Observation is an HTTP request and its response (an
// exchange) as one capture point, an interface or a socket, saw it. It also has
// the words that all parts share: capture points, layers, flags.
package observe

import (
	"encoding/hex"
	"net/netip"
	"slices"

	"github.com/layertrace/layertrace/internal/tracecontext"
)

// Observation is one exchange at one capture point. Its parts become known at
// different times: the probe sets what the packets show, the agent adds Point
// and Peers, and the trace context can come from elsewhere than the times. All
// times are in ns: CLOCK_MONOTONIC of the node from a probe or a span, Unix time
// from a packet capture.
type Observation struct {
	// Key is the connection and stream: the exchanges of a Key follow one another.
	Key
	// Context is the request's trace context.
	Context Context
	// Point is where the exchange was seen, nil before it is resolved from
	// Interface or Socket. Observations of a point share it: never change it.
	Point *Point
	// Interface is the index of the network interface in the network namespace
	// of the probe, 0 at a socket; from a packet capture the file's interface.
	Interface int
	// Direction is the direction of the request through the interface.
	Direction Direction
	// Socket is set when the capture point is a socket. Client and Server are
	// then the ends as the socket knows them: before address translation on the
	// way out, after it on the way in.
	Socket *Socket
	// Request and Response hold the times and sizes of both messages.
	Request, Response Message
	// Status is the HTTP status code of the final response, 0 when unknown.
	Status int
	// ConnectionID is the value of layertrace's TCP option on the request or
	// the connection's SYN: 8 bytes (compact), 4 bytes (paper), or nil.
	ConnectionID []byte
	// OptionTime is the sender's time in the option: ns of its monotonic clock
	// (paper), or that clock's low 32 bits of µs (compact). 0 without option.
	OptionTime uint64
	// Retransmits counts the TCP segments, of both messages, that were seen again.
	Retransmits uint32
	// Drops counts the packets of the connection that the kernel dropped here
	// while the exchange was open. DropReason is the reason of the last one: a
	// name of enum skb_drop_reason (include/net/dropreason-core.h) without its
	// prefix, in lower case, or its number in a kernel that names it otherwise.
	Drops      uint32
	DropReason string
	// Flags has remarks about what was unusual.
	Flags Flags
	// Peers are the names of both ends, where they are known.
	Peers Peers
	// Wall is the Unix time in ns of the earliest byte, for display only; 0
	// before the observation was stored.
	Wall int64
}

// Key names the exchanges of a capture point that follow one another.
type Key struct {
	// Client sent the request, Server the response, as seen at the point.
	Client, Server netip.AddrPort
	// Stream is the HTTP/2 stream; 0 on an HTTP/1 connection.
	Stream uint32
}

// Context is the trace context of a request, and where it was found.
type Context struct {
	tracecontext.Context
	// HeaderOffset is the offset of the line in which the context began, in
	// bytes from the start of the request.
	HeaderOffset uint32
}

// Message is the request or the response of an exchange.
type Message struct {
	// First and Last are the times of the first and the last byte at the
	// capture point. Both are 0 when nothing of the message was seen.
	First, Last uint64
	// Bytes is the TCP payload, HTTP head included, without retransmissions.
	Bytes uint64
	// Packets is the number of TCP segments with payload as this point saw
	// them; a segment that offloading merged counts once.
	Packets uint32
	// App is when the application wrote the message (at the sender's socket) or
	// read it (at the receiver's). Only at a socket.
	App Extent
	// Tx is when the driver began to transmit the message. Only at an interface,
	// of the message that leaves through it.
	Tx Extent
	// Acknowledged is when the peer's TCP had acknowledged the last byte; known
	// only at the socket that sent the message. 0: not before the exchange ended.
	Acknowledged uint64
}

// Extent is the time of a message's first and last byte; 0: unknown.
type Extent struct{ First, Last uint64 }

// Socket is what only a socket knows of an exchange.
type Socket struct {
	// Cookie names the socket on its machine (SO_COOKIE, socket(7)).
	Cookie uint64
	// Netns is the inode number of its network namespace, as in
	// /proc/PID/ns/net; 0 when unknown.
	Netns uint32
	// UID is the user that made the socket.
	UID uint32
	// Client is set at the socket that sent the request.
	Client bool
	// SRTT is TCP's smoothed round-trip time in ns when it was last read, 0
	// before the first measurement.
	SRTT uint64
	// ZeroWindows counts the TCP segments that announced a receive window of 0.
	ZeroWindows uint32
}

// Direction is the direction of the request through an interface, as the
// kernel's traffic control layer names it.
type Direction uint8

// Directions. DirectionUnknown is what a packet capture without interface
// information gives.
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

// Extent returns the first and the last time at which anything of the exchange
// was seen: usually the request's first and the response's last byte. Both are 0
// without any time.
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

// What can be unusual about an exchange.
const (
	// FlagNoResponse: nothing of a final response was seen.
	FlagNoResponse Flags = 1 << iota
	// FlagPipelined: a request followed before this one's response, or this
	// one followed so; response times are left out where they are not sure.
	FlagPipelined
	// FlagOutOfOrder: segments passed in another order than they were sent.
	FlagOutOfOrder
	// FlagInterim: an interim (1xx) response came before the final one.
	FlagInterim
	// FlagReset: the connection ended by RST before the exchange was over.
	FlagReset
	// FlagIdle: given up after the request timeout without an end.
	FlagIdle
	// FlagMalformed: a malformed trace context stood before the one used.
	FlagMalformed
	// FlagMultiSegment: the context was found behind the first segment.
	FlagMultiSegment
	// FlagOptionLost: the connection's SYN had the TCP option, the request not.
	FlagOptionLost
	// FlagUpgraded: status 101; what follows is not HTTP/1.
	FlagUpgraded
)

var flagNames = []string{
	"no_response", "pipelined", "out_of_order", "interim", "reset", "idle",
	"malformed_context", "multi_segment", "option_lost", "upgraded",
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

// FlagsOf returns the flags with the names. Names that are not known are left
// out: a later version has more.
func FlagsOf(names []string) Flags {
	var f Flags
	for i, name := range flagNames {
		if slices.Contains(names, name) {
			f |= 1 << i
		}
	}
	return f
}
