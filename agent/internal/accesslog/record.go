// SPDX-License-Identifier: Apache-2.0

// Package accesslog receives the records of Envoy's OpenTelemetry access log: trace
// context, connection, times and sizes of each sampled request. They identify the requests
// whose bytes on the wire are encrypted.
package accesslog

import (
	"net/netip"

	"github.com/layertrace/layertrace/internal/observe"
	"github.com/layertrace/layertrace/internal/tracecontext"
)

// Side is the end of the connection at which the proxy wrote the record.
type Side uint8

// Sides.
const (
	// SideClient: the proxy sent the request. The record is of the last attempt.
	SideClient Side = iota
	// SideAttempt: the proxy sent the request. There is a record for each attempt
	// (upstream_log of Envoy's router).
	SideAttempt
	// SideServer: the proxy received the request.
	SideServer
)

// String returns "client", "attempt" or "server".
func (s Side) String() string {
	switch s {
	case SideClient:
		return "client"
	case SideAttempt:
		return "attempt"
	default:
		return "server"
	}
}

// Record is one request as a proxy logged it. Times are Unix times in ns by the clock of
// the node, 0 if unknown.
type Record struct {
	Side Side
	// Peer is the address of the proxy that sent the record.
	Peer netip.Addr
	// Sender is the workload at that address, as far as it is known.
	Sender observe.Peer
	// Context is that of the header on the wire. OwnContext is set instead at a server
	// whose incoming header is not known: the trace is right, the span is the server's
	// own, a child of the header's.
	Context, OwnContext tracecontext.Context
	RequestID           string
	// Client and Server are the ends of the connection on the wire. They are invalid if no
	// connection was used.
	Client, Server netip.AddrPort
	// Start is when the proxy received the request's first byte. The others are, at a
	// client (SideClient, SideAttempt): the first byte sent upstream, the first and the
	// last received from there; at a server only ResponseLast, the last byte sent.
	Start, RequestFirst, ResponseFirst, ResponseLast uint64
	// RequestBytes and ResponseBytes are the plain bytes on the wire, HTTP head included.
	// At SideClient and SideAttempt they are the sum over the attempts so far.
	RequestBytes, ResponseBytes uint64
	SizesKnown                  bool
	// Attempts is the number of attempts, 0 if unknown.
	Attempts int
	// Protocol is as Envoy writes it: HTTP/1.1, HTTP/2.
	Protocol     string
	Method, Path string
	Status       int
	// ResponseFlags are Envoy's short names, such as UC,URX.
	ResponseFlags string
}
