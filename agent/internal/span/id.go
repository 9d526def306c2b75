// SPDX-License-Identifier: Apache-2.0

package span

import (
	"crypto/sha256"
	"encoding/binary"
	"net/netip"

	"go.opentelemetry.io/otel/trace"

	"github.com/layertrace/layertrace/internal/observe"
)

// attemptGrain is the resolution in ns of the first byte's time in a span ID. Two
// requests whose first bytes are this far apart have different IDs, and no exchange
// through a proxy is shorter.
const attemptGrain = 100_000

// ID returns the ID of an observation's span: a hash of the trace ID, the header's
// span ID, the capture point and the attempt.
//
// A request usually passes a point once, so trace, header span and point would be
// enough. They are not when a proxy retries under the same span ID (as Envoy does,
// often on the same connection) or when a request passes the interface twice
// (hairpin). The attempt distinguishes these: direction, endpoints, stream, and the
// first byte's monotonic time in steps of 0.1 ms. All of it comes from the packets
// and the kernel's clock, not from counters of the agent, so an exchange that is
// exported again, or reported again by a restarted agent, has the same ID. Only two
// agents that capture at one interface at the same time read the clock twice, about
// 1 µs apart, and get two IDs for one exchange in a hundred.
func ID(o *observe.Observation) trace.SpanID {
	b := make([]byte, 0, 128)
	b = append(b, o.Context.TraceID[:]...)
	b = append(b, o.Context.SpanID[:]...)
	b = append(b, side(o))
	b = binary.BigEndian.AppendUint64(b, o.Request.First/attemptGrain)
	b = appendEndpoint(b, o.Client)
	b = appendEndpoint(b, o.Server)
	if o.Stream != 0 { // HTTP/2
		b = binary.BigEndian.AppendUint32(b, o.Stream)
	}
	b = append(b, o.Point.ID...) // last, because its length varies
	return spanIDOf(sha256.Sum256(b))
}

// spanIDOf returns the first 8 bytes of a hash, but never the invalid ID.
func spanIDOf(sum [sha256.Size]byte) (id trace.SpanID) {
	copy(id[:], sum[:])
	if !id.IsValid() {
		id[len(id)-1] = 1
	}
	return id
}

// side returns the direction through an interface, or the side of a socket.
func side(o *observe.Observation) byte {
	switch {
	case o.Socket == nil:
		return byte(o.Direction)
	case o.Socket.Client:
		return 'c'
	default:
		return 's'
	}
}

func appendEndpoint(b []byte, e netip.AddrPort) []byte {
	addr := e.Addr().Unmap().As16()
	return binary.BigEndian.AppendUint16(append(b, addr[:]...), e.Port())
}
