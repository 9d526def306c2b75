// SPDX-License-Identifier: Apache-2.0

package span

import (
	"context"
	"net/netip"

	"github.com/layertrace/layertrace/agent/internal/clock"
	"github.com/layertrace/layertrace/agent/internal/identity"
	"github.com/layertrace/layertrace/internal/exchange"
	"go.opentelemetry.io/otel/sdk/resource"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/trace"
)

// scopeName is the instrumentation scope of all our spans.
const scopeName = "github.com/layertrace/layertrace"

// Peers tells who had an address at a time, in ns of CLOCK_MONOTONIC.
type Peers interface {
	Peer(addr netip.Addr, at uint64) (identity.Workload, bool)
}

// Clock gives the offset from monotonic to wall time.
type Clock interface {
	Offset() clock.Offset
}

// Options of an Emitter. All but Peers and Version are needed.
type Options struct {
	// Processor takes the finished spans of all points. It outlives each
	// provider: the emitter never shuts it down.
	Processor sdktrace.SpanProcessor
	Clock     Clock
	// Peers names the other end; nil: nobody.
	Peers Peers
	// Version of layertrace, in the instrumentation scope.
	Version string
}

// Emitter makes a span of each exchange. It is for one goroutine.
type Emitter struct {
	opts    Options
	attach  *attacher
	tracers map[string]pointTracer // by point ID
}

type pointTracer struct {
	point    Point // as of when the tracer was made
	spanName string
	tracer   trace.Tracer
}

// NewEmitter returns an emitter.
func NewEmitter(opts Options) *Emitter {
	return &Emitter{opts: opts, attach: &attacher{SpanProcessor: opts.Processor}, tracers: map[string]pointTracer{}}
}

// Emit makes the span of an exchange and hands it to the processor. The span
// is a child of the one in the request's header. It reports false, and makes
// none, when the exchange has no valid trace context.
func (e *Emitter) Emit(p *Point, x *exchange.Exchange) bool {
	parent := trace.NewSpanContext(trace.SpanContextConfig{
		TraceID:    trace.TraceID(x.Context.TraceID),
		SpanID:     trace.SpanID(x.Context.SpanID),
		TraceFlags: trace.FlagsSampled,
		Remote:     true,
	})
	start, end := extent(x)
	if !parent.IsValid() || start == 0 {
		return false
	}
	ctx := trace.ContextWithRemoteSpanContext(context.Background(), parent)
	offset := e.opts.Clock.Offset() // one for the whole exchange
	point := e.tracer(p, resourceOf)
	_, s := point.tracer.Start(withID(ctx, ID(p.ID, x)), point.spanName,
		trace.WithSpanKind(trace.SpanKindInternal),
		trace.WithTimestamp(offset.Wall(start)))
	e.attach.attributes = attributes(p, x, start, e.opts.Peers)
	s.End(trace.WithTimestamp(offset.Wall(end)))
	return true
}

// Forget drops what is kept for a point.
func (e *Emitter) Forget(pointID string) { delete(e.tracers, pointID) }

// tracer returns the tracer whose resource describes the point as it is now.
func (e *Emitter) tracer(p *Point, describe func(*Point) *resource.Resource) pointTracer {
	if t, ok := e.tracers[p.ID]; ok && t.point == *p {
		return t
	}
	provider := sdktrace.NewTracerProvider(
		sdktrace.WithSampler(sdktrace.AlwaysSample()), // the kernel left out the unsampled
		sdktrace.WithIDGenerator(idGenerator{}),
		sdktrace.WithResource(describe(p)),
		sdktrace.WithSpanProcessor(e.attach),
		sdktrace.WithRawSpanLimits(sdktrace.SpanLimits{
			AttributeValueLengthLimit: -1, AttributeCountLimit: -1, EventCountLimit: -1,
			LinkCountLimit: -1, AttributePerEventCountLimit: -1, AttributePerLinkCountLimit: -1,
		}),
	)
	t := pointTracer{
		point: *p, spanName: p.Name(),
		tracer: provider.Tracer(scopeName, trace.WithInstrumentationVersion(e.opts.Version)),
	}
	e.tracers[p.ID] = t
	return t
}

// extent returns the first and the last time at which anything of the
// exchange was seen: usually the request's first and the response's last byte.
func extent(x *exchange.Exchange) (start, end uint64) {
	for _, t := range [...]uint64{
		x.Request.First, x.Request.Last, x.Response.First, x.Response.Last,
		x.Request.Handover.First, x.Request.Handover.Last, x.Response.Handover.First, x.Response.Handover.Last,
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
