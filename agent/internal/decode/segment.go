// SPDX-License-Identifier: Apache-2.0

package decode

import (
	"bytes"
	"net/netip"

	"github.com/layertrace/layertrace/internal/observe"
	"github.com/layertrace/layertrace/internal/tracecontext"
)

// point is where a packet was captured.
type point struct {
	source         int // Packet.Source
	interfaceIndex int // as the packet names it; 0: it does not
}

// segment is one TCP segment as captured.
type segment struct {
	time                uint64 // Unix time, ns
	point               point
	direction           observe.Direction // through the interface
	source, destination netip.AddrPort
	seq                 uint32 // of the payload's first byte
	ack                 uint32
	syn, isAck          bool
	fin, rst            bool
	payload             []byte // as far as it was captured
	size                uint32 // of the payload on the wire
	option              option
}

func (s *segment) beginsRequest() bool { return tracecontext.BeginsRequest(s.payload) }

// status reads the status code at the start of a response: "HTTP/1.", a
// digit, a space and three digits.
func status(payload []byte) (code int, ok bool) {
	rest, ok := bytes.CutPrefix(payload, []byte("HTTP/1."))
	if !ok || len(rest) < len("1 200") || !isDigit(rest[0]) || rest[1] != ' ' {
		return 0, false
	}
	for _, digit := range rest[2:5] {
		if !isDigit(digit) {
			return 0, false
		}
		code = 10*code + int(digit-'0')
	}
	return code, true
}

func isDigit(b byte) bool { return b >= '0' && b <= '9' }

// isInterim reports whether a further response follows this one (RFC 9110,
// section 15.2). 101 is the last response in HTTP.
func isInterim(code int) bool { return code >= 100 && code < 200 && code != 101 }
