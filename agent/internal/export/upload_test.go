// SPDX-License-Identifier: Apache-2.0

package export

import (
	"context"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"testing"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/exporters/otlp/otlptrace"
	"go.opentelemetry.io/otel/sdk/instrumentation"
	"go.opentelemetry.io/otel/sdk/resource"
	"go.opentelemetry.io/otel/sdk/trace/tracetest"
	"go.opentelemetry.io/otel/trace"
	coltracepb "go.opentelemetry.io/proto/otlp/collector/trace/v1"
	tracepb "go.opentelemetry.io/proto/otlp/trace/v1"
	"google.golang.org/protobuf/proto"

	"github.com/layertrace/layertrace/agent/internal/breakdown"
	"github.com/layertrace/layertrace/agent/internal/span"
	"github.com/layertrace/layertrace/internal/observe"
)

// wire is an OTLP client that decodes what it sends, as a receiver would.
type wire struct {
	t        *testing.T
	received map[string]*tracepb.ResourceSpans // by resource and scope, of the last request
}

func (*wire) Start(context.Context) error { return nil }
func (*wire) Stop(context.Context) error  { return nil }

func (w *wire) UploadTraces(_ context.Context, spans []*tracepb.ResourceSpans) error {
	data, err := proto.Marshal(&coltracepb.ExportTraceServiceRequest{ResourceSpans: spans})
	var request coltracepb.ExportTraceServiceRequest
	if err == nil {
		err = proto.Unmarshal(data, &request)
	}
	if err != nil {
		w.t.Fatal(err)
	}
	w.received = map[string]*tracepb.ResourceSpans{}
	for _, r := range request.ResourceSpans {
		for _, s := range r.ScopeSpans {
			key := fmt.Sprint(r.Resource, r.SchemaUrl, s.Scope)
			if w.received[key] != nil {
				w.t.Errorf("two messages for %s", key)
			}
			w.received[key] = &tracepb.ResourceSpans{Resource: r.Resource, SchemaUrl: r.SchemaUrl, ScopeSpans: []*tracepb.ScopeSpans{s}}
		}
	}
	return nil
}

// both passes spans to a queue, and keeps them in the form of OpenTelemetry's SDK.
type both struct {
	queue *Queue
	kept  tracetest.SpanStubs
}

func (b *both) Take(s *span.Finished) {
	context := trace.SpanContextConfig{TraceID: s.TraceID, SpanID: s.ID, TraceFlags: trace.FlagsSampled}
	parent := context
	parent.SpanID, parent.Remote = s.Parent, true
	b.kept = append(b.kept, tracetest.SpanStub{
		Name: s.Name, SpanKind: trace.SpanKindInternal, Resource: s.Origin.Resource, InstrumentationScope: s.Origin.Scope,
		SpanContext: trace.NewSpanContext(context), Parent: trace.NewSpanContext(parent),
		StartTime: time.Unix(0, s.Start), EndTime: time.Unix(0, s.End), Attributes: slices.Clone(s.Attributes),
	})
	b.queue.Take(s)
}

// A receiver gets the same spans, in the same order, from a Queue as from OpenTelemetry's
// exporter: of exchanges at interfaces and sockets, with everything that one can have, of
// layers and of sightings.
func TestUploadIsThatOfOpenTelemetry(t *testing.T) {
	ours, theirs := &wire{t: t}, &wire{t: t}
	sink := &both{queue: NewQueue(ours, 1000, slog.New(slog.DiscardHandler))}
	reference := otlptrace.NewUnstarted(theirs)
	for range 3 { // later batches reuse the memory
		sink.kept = nil
		emitAll(span.NewEmitter(span.Options{Sink: sink, Offset: bootTime, Version: "v1"}))
		for _, s := range handMade() {
			sink.Take(&s)
		}
		if err := sink.queue.ForceFlush(t.Context()); err != nil {
			t.Fatal(err)
		}
		if err := reference.ExportSpans(t.Context(), sink.kept.Snapshots()); err != nil {
			t.Fatal(err)
		}
		if len(ours.received) != len(theirs.received) || len(theirs.received) < 8 {
			t.Fatalf("%d and %d origins, want 8 at least", len(ours.received), len(theirs.received))
		}
		for key, want := range theirs.received {
			for _, s := range want.ScopeSpans[0].Spans {
				s.Status = nil // empty there, not written here: both mean unset
			}
			if got := ours.received[key]; !proto.Equal(got, want) {
				t.Errorf("%s:\ngot  %v\nwant %v", key, got, want)
			}
		}
	}
	if err := sink.queue.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
}

// One byte that is not UTF-8 does not lose the batch.
func TestUploadOfNamesThatAreNotUTF8(t *testing.T) {
	receiver := &wire{t: t}
	queue := NewQueue(receiver, 10, slog.New(slog.DiscardHandler))
	o := benchExchange(1)
	o.Point = &observe.Point{ID: "node2/9", Kind: observe.KindPNIC, Node: "node2", Interface: "eth\xff"}
	span.NewEmitter(span.Options{Sink: queue, Offset: bootTime}).Emit(&o)
	if err := queue.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	if len(receiver.received) != 1 {
		t.Errorf("%d origins arrived, want 1", len(receiver.received))
	}
	for _, r := range receiver.received {
		if got := r.ScopeSpans[0].Spans[0].Name; got != "node2_eth\uFFFD" {
			t.Errorf("name %q", got)
		}
	}
}

// emitAll makes spans of all kinds, those of points mixed.
func emitAll(e *span.Emitter) {
	points := benchPoints()
	for n := range 40 {
		o := benchExchange(n)
		o.Point = points[n%len(points)]
		switch n % 7 {
		case 1:
			o.Method, o.Path = "POST", "/"+strings.Repeat("x", 3*n)
		case 2:
			o.Flags, o.Drops, o.DropReason, o.Retransmits = observe.FlagReset|observe.FlagPipelined, 1, "qdisc_drop", 2
		case 3:
			o.ConnectionID, o.OptionTime, o.Request.Seq, o.Response.Seq = []byte{1, 2, 3, 4, 5, 6, 7, byte(n)}, 9, 1, 2
		case 4:
			o.Socket = &observe.Socket{Cookie: 1 << 60, Netns: 5, Client: true, SRTT: 70_000, ZeroWindows: 3}
			o.Point = &observe.Point{ID: "node3/netns/5/sidecar", Kind: observe.KindSocket, Node: "node3", Process: observe.Sidecar}
			o.Request.App, o.Request.Acknowledged = observe.Extent{First: o.Request.First - 1, Last: o.Request.First}, o.Request.Last+9
		case 5:
			o.Response, o.Status, o.Flags = observe.Message{}, 0, observe.FlagNoResponse
		}
		e.Emit(&o)
	}
	e.EmitLayer(&span.LayerSpan{
		TraceID: trace.TraceID{1}, SpanID: trace.SpanID{2}, Node: "node3", Workload: points[1].Workload, Flags: observe.FlagEndGuessed,
		Segment: &breakdown.Segment{
			Layer: observe.ProtocolStack, MergedLayers: []observe.Layer{observe.ProtocolStack, observe.Application},
			Location: "details", Phase: breakdown.Both, Between: "a b", At: 5, Time: 6, Node: "node3",
		},
	})
	e.EmitSighting(&observe.Sighting{Point: points[0], Direction: observe.DirectionEgress, ConnectionID: []byte{1, 2, 3, 4}, Start: 1, End: 2, First: 5, Last: 7})
}

// handMade are spans with all kinds and sizes of values.
func handMade() []span.Finished {
	origin := &span.Origin{
		Resource: resource.NewWithAttributes("a", attribute.String("service.name", "details"), attribute.Int("n", 3)),
		Scope:    instrumentation.Scope{Name: "scope", Version: "v1", SchemaURL: "schema"},
	}
	var all []span.Finished
	for i, attributes := range [][]attribute.KeyValue{
		nil,
		{attribute.Bool("yes", true), attribute.Bool("no", false), attribute.Int64("negative", -5), attribute.Int64("ns", 1<<62), attribute.Float64("share", 0.25)},
		{attribute.StringSlice("flags", []string{"reset", ""}), attribute.String("empty", "")},
		{attribute.String("128", strings.Repeat("x", 128)), attribute.String("long", strings.Repeat("x", 1<<15))},
	} {
		all = append(all, span.Finished{
			Origin: origin, TraceID: trace.TraceID{1, 15: byte(i)}, ID: trace.SpanID{2, 7: byte(i)}, Parent: trace.SpanID{3},
			Name: "details_vethdetails", Start: 1_700_000_000_000_000_123, End: 1_700_000_001_000_000_456, Attributes: attributes,
		})
	}
	return all
}
