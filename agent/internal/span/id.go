// SPDX-License-Identifier: Apache-2.0

package span

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"net/netip"

	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/trace"

	"github.com/layertrace/layertrace/internal/observe"
)

// attemptGrain is the resolution, in ns, in which the first byte's time enters
// a span ID. Two requests whose first bytes are so far apart have two IDs, and
// no exchange through a proxy is shorter.
const attemptGrain = 100_000

// ID returns the ID of the span of an exchange at a capture point: a hash of
// the trace ID, the header's span ID, the point and the attempt.
//
// One request usually passes a point once, so trace, header span and point
// would do. They do not when a proxy tries again under the same span ID
// (Envoy does, often on the same connection) or when a request passes the
// interface twice (hairpin). The attempt tells these apart: way, endpoints, and
// the first byte's monotonic time in steps of 0.1 ms. All of it is a property
// of the packets and the kernel's clock, nothing is counted by the agent: an
// exchange that is sent again, or reported again by a restarted agent, has the
// same ID. Only two agents that watch one interface at the same time read the
// clock twice, about 1 µs apart, and get two IDs for one exchange in a hundred.
func ID(o *observe.Observation) trace.SpanID {
	b := make([]byte, 0, 128)
	b = append(b, o.Context.TraceID[:]...)
	b = append(b, o.Context.SpanID[:]...)
	b = append(b, side(o))
	b = binary.BigEndian.AppendUint64(b, o.Request.First/attemptGrain)
	b = appendEndpoint(b, o.Client)
	b = appendEndpoint(b, o.Server)
	b = append(b, o.Point.ID...) // last, as its length varies
	return spanIDOf(sha256.Sum256(b))
}

// spanIDOf is the first 8 bytes of a hash, never the invalid ID.
func spanIDOf(sum [sha256.Size]byte) (id trace.SpanID) {
	copy(id[:], sum[:])
	if !id.IsValid() {
		id[len(id)-1] = 1
	}
	return id
}

// side is the direction through an interface, or the side of a socket.
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

// idGenerator gives the SDK the ID that stands in the context.
type idGenerator struct{}

type idKey struct{}

func withID(ctx context.Context, id trace.SpanID) context.Context {
	return context.WithValue(ctx, idKey{}, id)
}

// NewSpanID returns the ID of withID.
func (idGenerator) NewSpanID(ctx context.Context, _ trace.TraceID) trace.SpanID {
	id, _ := ctx.Value(idKey{}).(trace.SpanID)
	return id
}

// NewIDs is what the SDK asks for when a span has no valid parent. Emit never
// starts such a span, so this is a defect: it is reported, and the zero trace
// ID makes the SDK leave the span out.
func (g idGenerator) NewIDs(ctx context.Context) (trace.TraceID, trace.SpanID) {
	otel.Handle(errors.New("span without a parent"))
	return trace.TraceID{}, g.NewSpanID(ctx, trace.TraceID{})
}
