// SPDX-License-Identifier: Apache-2.0

package span

import (
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/sdk/instrumentation"
	"go.opentelemetry.io/otel/sdk/resource"
	"go.opentelemetry.io/otel/trace"

	"github.com/layertrace/layertrace/internal/observe"
)

// Finished is a finished span.
//
// OpenTelemetry's SDK does not make the spans: its tracer, span, attributes and snapshot are
// eleven objects per span, 3 KB, which have to be cleared, filled and collected, and were most
// of what a span cost where few requests are sampled (docs/decisions/012-own-upload.md). The
// resource, the attributes' types and the delivery are the SDK's.
type Finished struct {
	// Origin is what all spans of a capture point share. It is never modified.
	Origin *Origin
	// TraceID and Parent are those of the request's header, except for a sighting's.
	TraceID    trace.TraceID
	ID, Parent trace.SpanID
	Name       string
	// Start and End are Unix times in ns.
	Start, End int64
	// Attributes have no key twice (TestKeysAreComplete).
	Attributes []attribute.KeyValue
}

// Origin is what spans share.
type Origin struct {
	Resource *resource.Resource
	Scope    instrumentation.Scope
}

// Sink receives spans.
type Sink interface {
	// Take takes a span. It and its Attributes are valid during the call only: the next
	// span has the same memory.
	Take(s *Finished)
}

// Options of an Emitter. All but Version are required.
type Options struct {
	// Sink receives the spans of all points.
	Sink Sink
	// Offset returns the present offset from monotonic to wall time: (*Clock).Offset.
	Offset func() ClockOffset
	// Version of layertrace, in the instrumentation scope.
	Version string
}

// maxPoints bounds the points whose resource is kept.
const maxPoints = 8192

// Emitter makes a span of each observation. It must not be used concurrently.
type Emitter struct {
	opts   Options
	span   Finished               // the present one
	points map[string]pointOrigin // by point ID
}

// pointOrigin is what the spans of a point share.
type pointOrigin struct {
	point    *observe.Point // as of when the rest was made
	spanName string
	exchanges,
	sightings *Origin
}

// NewEmitter returns an emitter.
func NewEmitter(opts Options) *Emitter {
	return &Emitter{
		opts: opts, span: Finished{Attributes: make([]attribute.KeyValue, 0, len(fields))}, points: map[string]pointOrigin{},
	}
}

// Emit makes the span of an observation, whose Point must be set, and passes it to the
// sink. The span is a child of the one in the request's header. Without a valid
// trace context or time Emit makes no span and returns false. The span of an exchange
// that is still open ends now.
func (e *Emitter) Emit(o *observe.Observation) bool {
	start, end := o.Extent()
	if !hasContext(o) || start == 0 {
		return false
	}
	if o.Flags&observe.FlagStillOpen != 0 {
		end = max(end, Monotonic()) // it lasted until now at least
	}
	e.emit(o, start, end, e.opts.Offset())
	return true
}

// EmitStored is Emit for an observation of another machine: its clock is that of Wall.
func (e *Emitter) EmitStored(o *observe.Observation) bool {
	start, end := o.Extent()
	if !hasContext(o) || start == 0 || o.Wall == 0 {
		return false
	}
	e.emit(o, start, end, ClockOffset(o.Wall-int64(start)))
	return true
}

func hasContext(o *observe.Observation) bool {
	return trace.TraceID(o.Context.TraceID).IsValid() && trace.SpanID(o.Context.SpanID).IsValid()
}

// emit makes the span of an observation. offset is one for all times of the span.
func (e *Emitter) emit(o *observe.Observation, start, end uint64, offset ClockOffset) {
	point := e.point(o.Point, Resource)
	s := &e.span
	s.Origin, s.Name = point.exchanges, point.spanName
	s.TraceID, s.ID, s.Parent = trace.TraceID(o.Context.TraceID), ID(o), trace.SpanID(o.Context.SpanID)
	s.Start, s.End = offset.unixNano(start), offset.unixNano(end)
	s.Attributes = appendAttributes(s.Attributes[:0], o, start)
	e.opts.Sink.Take(s)
}

// Forget removes the state of a point.
func (e *Emitter) Forget(pointID string) { delete(e.points, pointID) }

// point returns what the spans of a point share, as the point is now.
func (e *Emitter) point(p *observe.Point, describe func(*observe.Point) *resource.Resource) pointOrigin {
	known, ok := e.points[p.ID]
	if ok && (known.point == p || *known.point == *p) {
		return known
	}
	own := *p
	describing := describe(&own) // not p, which would be garbage then
	scope := func(name string) *Origin {
		return &Origin{Resource: describing, Scope: instrumentation.Scope{Name: name, Version: e.opts.Version}}
	}
	if len(e.points) >= maxPoints {
		clear(e.points) // pods come and go; those that are there are made again
	}
	made := pointOrigin{point: &own, spanName: p.SpanName(), exchanges: scope(ScopeName), sightings: scope(SightingScopeName)}
	e.points[p.ID] = made
	return made
}
