// SPDX-License-Identifier: Apache-2.0

package span

import (
	"context"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/sdk/resource"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/trace"

	"github.com/layertrace/layertrace/internal/observe"
)

// Options of an Emitter. All but Version are required.
type Options struct {
	// Processor receives the finished spans of all points. The emitter never shuts it
	// down.
	Processor sdktrace.SpanProcessor
	// Offset returns the present offset from monotonic to wall time: (*Clock).Offset.
	Offset func() ClockOffset
	// Version of layertrace, in the instrumentation scope.
	Version string
}

// Emitter makes a span of each observation. It must not be used concurrently.
type Emitter struct {
	opts    Options
	encoder *encoder
	attach  *attributeProcessor
	tracers map[string]pointTracer // by point ID
}

type pointTracer struct {
	point    observe.Point // as of when the tracer was made
	spanName string
	tracer   trace.Tracer
	// sightings has the scope of sightings.
	sightings trace.Tracer
}

// NewEmitter returns an emitter.
func NewEmitter(opts Options) *Emitter {
	return &Emitter{opts: opts, encoder: newEncoder(), attach: &attributeProcessor{SpanProcessor: opts.Processor}, tracers: map[string]pointTracer{}}
}

// Emit makes the span of an observation, whose Point must be set, and passes it to the
// processor. The span is a child of the one in the request's header. Without a valid
// trace context or time Emit makes no span and returns false. The span of an exchange
// that is still open ends now.
func (e *Emitter) Emit(o *observe.Observation) bool {
	start, end := o.Extent()
	ctx, ok := withParent(trace.TraceID(o.Context.TraceID), trace.SpanID(o.Context.SpanID))
	if !ok || start == 0 {
		return false
	}
	if o.Flags&observe.FlagStillOpen != 0 {
		end = max(end, Monotonic()) // it lasted until now at least
	}
	e.emit(ctx, o, start, end, e.opts.Offset())
	return true
}

// EmitStored is Emit for an observation of another machine: its clock is that of Wall.
func (e *Emitter) EmitStored(o *observe.Observation) bool {
	start, end := o.Extent()
	ctx, ok := withParent(trace.TraceID(o.Context.TraceID), trace.SpanID(o.Context.SpanID))
	if !ok || start == 0 || o.Wall == 0 {
		return false
	}
	e.emit(ctx, o, start, end, ClockOffset(o.Wall-int64(start)))
	return true
}

// emit makes the span of an observation. offset is one for all times of the span.
func (e *Emitter) emit(ctx context.Context, o *observe.Observation, start, end uint64, offset ClockOffset) {
	point := e.tracer(o.Point, Resource)
	_, s := point.tracer.Start(withID(ctx, ID(o)), point.spanName,
		trace.WithSpanKind(trace.SpanKindInternal),
		trace.WithTimestamp(offset.Wall(start)))
	e.attach.attributes = e.encoder.encode(o, start)
	s.End(trace.WithTimestamp(offset.Wall(end)))
}

// withParent returns a context in which spans are children of a remote span, and
// whether its IDs are valid.
func withParent(traceID trace.TraceID, spanID trace.SpanID) (context.Context, bool) {
	parent := trace.NewSpanContext(trace.SpanContextConfig{
		TraceID: traceID, SpanID: spanID, TraceFlags: trace.FlagsSampled, Remote: true,
	})
	return trace.ContextWithRemoteSpanContext(context.Background(), parent), parent.IsValid()
}

// Forget removes the state of a point.
func (e *Emitter) Forget(pointID string) { delete(e.tracers, pointID) }

// tracer returns the tracer whose resource describes the point as it is now.
func (e *Emitter) tracer(p *observe.Point, describe func(*observe.Point) *resource.Resource) pointTracer {
	if t, ok := e.tracers[p.ID]; ok && t.point == *p {
		return t
	}
	provider := sdktrace.NewTracerProvider(
		sdktrace.WithSampler(sdktrace.AlwaysSample()), // the kernel skipped the unsampled
		sdktrace.WithIDGenerator(idGenerator{}),
		sdktrace.WithResource(describe(p)),
		sdktrace.WithSpanProcessor(e.attach),
		sdktrace.WithRawSpanLimits(sdktrace.SpanLimits{
			AttributeValueLengthLimit: -1, AttributeCountLimit: -1, EventCountLimit: -1,
			LinkCountLimit: -1, AttributePerEventCountLimit: -1, AttributePerLinkCountLimit: -1,
		}),
	)
	t := pointTracer{
		point: *p, spanName: p.SpanName(),
		tracer:    provider.Tracer(ScopeName, trace.WithInstrumentationVersion(e.opts.Version)),
		sightings: provider.Tracer(SightingScopeName, trace.WithInstrumentationVersion(e.opts.Version)),
	}
	e.tracers[p.ID] = t
	return t
}

// attributeProcessor is the span processor of an emitter's providers. It adds the
// attributes to a span when it ends, and passes it on. The SDK would copy attributes
// set on a span and search them for duplicates, which takes half of the time of making
// a span; ours have no duplicates (TestKeysAreComplete).
type attributeProcessor struct {
	sdktrace.SpanProcessor                      // the next one
	attributes             []attribute.KeyValue // of the span that ends next
}

// OnEnd passes a span on.
func (a *attributeProcessor) OnEnd(s sdktrace.ReadOnlySpan) {
	a.SpanProcessor.OnEnd(finished{s, a.attributes})
}

// finished is a span with attributes; the SDK's span has everything else.
type finished struct {
	sdktrace.ReadOnlySpan
	attributes []attribute.KeyValue
}

// Attributes returns the encoded attributes.
func (f finished) Attributes() []attribute.KeyValue { return f.attributes }
