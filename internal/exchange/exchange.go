// SPDX-License-Identifier: Apache-2.0

// Package exchange holds the one record that flows through layertrace: an HTTP
// request and its response on one TCP connection, as seen at one capture point,
// an interface or a socket.
package exchange

import (
	"encoding/hex"
	"net/netip"

	"github.com/layertrace/layertrace/internal/tracecontext"
)

// Direction is the way in which the request passed the interface, as the
// kernel's traffic control layer names it.
type Direction uint8

// Directions of the request at the capture point. DirectionUnknown is what a
// packet capture without interface information gives.
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

// Message is one way of an exchange: the request or the response.
type Message struct {
	// First and Last are the times of the first and the last byte, in ns:
	// CLOCK_MONOTONIC from a probe, Unix time from a packet capture.
	// Both are 0 when nothing of the message was seen.
	First, Last uint64
	// Bytes is the TCP payload, HTTP head included, without retransmissions.
	Bytes uint64
	// Packets is the number of segments with payload as this point saw them;
	// a segment that offloading merged counts once.
	Packets uint32
	// Handover is when the message passed the other side of the capture point.
	// At a socket: between application and kernel, so when the application
	// wrote (whoever sends the message) or read (whoever receives it). At an
	// interface: when the driver began to transmit, so only of the message that
	// leaves through it.
	Handover Extent
	// Acknowledged is when the peer's TCP had acknowledged the last byte, in ns
	// as the others; known only at the socket that sent the message. 0: not
	// before the exchange was over.
	Acknowledged uint64
}

// Extent is the time of a message's first and last byte, in ns as those of the
// message; 0: not known.
type Extent struct{ First, Last uint64 }

// Socket is what is known of an exchange at a socket.
type Socket struct {
	// Cookie names the socket on its machine (SO_COOKIE, socket(7)).
	Cookie uint64
	// Netns is the inode number of its network namespace, as in
	// /proc/PID/ns/net; 0 when it is not known.
	Netns uint32
	// UID is the user that made the socket.
	UID uint32
	// Client is set at the socket that sent the request.
	Client bool
	// SRTT is TCP's smoothed round-trip time in ns when it was last looked at,
	// 0 when it was not measured yet.
	SRTT uint64
	// ZeroWindows counts the segments that announced a receive window of 0.
	ZeroWindows uint32
}

// Exchange is one HTTP request and its response at one capture point.
type Exchange struct {
	// Interface is the index of the network interface (capture point) in the
	// network namespace of the probe; from a packet capture what the file
	// says, 0 if nothing.
	Interface int
	// Direction is the way of the request through the interface.
	Direction Direction
	// Context is the trace context read from the request head.
	Context tracecontext.Context
	// Client sent the request, Server the response.
	Client, Server netip.AddrPort
	// Request and Response hold the times and sizes of both ways.
	Request, Response Message
	// Status is the HTTP status code of the final response, 0 when unknown.
	Status int
	// ConnectionID is the value of layertrace's TCP option on the request or
	// the connection's SYN: 8 bytes (compact), 4 bytes (paper), or nil.
	ConnectionID []byte
	// OptionTime is the sender's time in the option: ns of its monotonic clock
	// (paper), or that clock's low 32 bits of µs (compact). 0 without option.
	OptionTime uint64
	// HeaderOffset is the place of the line in which the context began, in
	// bytes from the start of the request.
	HeaderOffset uint32
	// Retransmits counts the segments, of both ways, that were seen again.
	Retransmits uint32
	// Drops counts the packets of the connection that the kernel dropped here
	// while the exchange was open, DropReason is why the last one was: a name of
	// enum skb_drop_reason (include/net/dropreason-core.h) without its prefix,
	// in lower case, or its number in a kernel that names it otherwise.
	Drops      uint32
	DropReason string
	// Socket is set when the capture point is a socket, and Interface is 0
	// then. Client and Server are the ends as the socket knows them: before
	// address translation on the way out, behind it on the way in.
	Socket *Socket
	// Flags says what was unusual.
	Flags Flags
}

// ConnectionIDHex returns the connection ID in lower-case hex, "" without one.
func (x *Exchange) ConnectionIDHex() string { return hex.EncodeToString(x.ConnectionID) }
