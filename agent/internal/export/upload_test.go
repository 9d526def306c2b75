// SPDX-License-Identifier: Apache-2.0

package export

import (
	"context"
	"strings"
	"testing"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/exporters/otlp/otlptrace"
	"go.opentelemetry.io/otel/sdk/instrumentation"
	"go.opentelemetry.io/otel/sdk/resource"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/sdk/trace/tracetest"
	"go.opentelemetry.io/otel/trace"
	coltracepb "go.opentelemetry.io/proto/otlp/collector/trace/v1"
	tracepb "go.opentelemetry.io/proto/otlp/trace/v1"
	"google.golang.org/protobuf/proto"
)

// wire is an OTLP client that decodes what it sends, as a receiver would.
type wire struct {
	t        *testing.T
	received map[string]*tracepb.ResourceSpans // by schema URL
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
		w.received[r.SchemaUrl] = r
	}
	return nil
}

// A receiver gets the same spans from the uploader as from OpenTelemetry's exporter.
func TestUploadIsThatOfOpenTelemetry(t *testing.T) {
	ours, theirs := &wire{t: t}, &wire{t: t}
	upload, reference := &uploader{client: ours}, otlptrace.NewUnstarted(theirs)
	for range 2 { // the second batch reuses the buffer
		for _, exporter := range []sdktrace.SpanExporter{upload, reference} {
			if err := exporter.ExportSpans(t.Context(), stubs().Snapshots()); err != nil {
				t.Fatal(err)
			}
		}
		if len(ours.received) != 2 || len(theirs.received) != 2 {
			t.Fatalf("%d and %d resources, want 2", len(ours.received), len(theirs.received))
		}
		for schema, want := range theirs.received {
			for _, s := range want.ScopeSpans[0].Spans {
				s.Status = nil // empty there, not written here: both mean unset
			}
			if got := ours.received[schema]; !proto.Equal(got, want) {
				t.Errorf("resource %s:\ngot  %v\nwant %v", schema, got, want)
			}
		}
	}
}

// stubs are spans of two resources with all kinds of values.
func stubs() tracetest.SpanStubs {
	scope := instrumentation.Scope{Name: "scope", Version: "v1", SchemaURL: "schema"}
	vnic := resource.NewWithAttributes("a", attribute.String("service.name", "details"), attribute.String("host.name", "node3"))
	pnic := resource.NewWithAttributes("b", attribute.String("service.name", "node3"))
	span := func(r *resource.Resource, id byte, attributes ...attribute.KeyValue) tracetest.SpanStub {
		context := trace.SpanContextConfig{TraceID: trace.TraceID{1, 15: id}, SpanID: trace.SpanID{2, 7: id}, TraceFlags: trace.FlagsSampled}
		parent := context
		parent.SpanID, parent.Remote = trace.SpanID{3, 7: id}, true
		return tracetest.SpanStub{
			Name: "details_vethdetails", SpanKind: trace.SpanKindInternal, Resource: r, InstrumentationScope: scope,
			SpanContext: trace.NewSpanContext(context), Parent: trace.NewSpanContext(parent),
			StartTime: time.Unix(1_700_000_000, 123), EndTime: time.Unix(1_700_000_001, 456), Attributes: attributes,
		}
	}
	root := span(pnic, 4)
	root.Parent, root.SpanKind, root.DroppedAttributes = trace.SpanContext{}, trace.SpanKindServer, 3
	return tracetest.SpanStubs{
		span(vnic, 1, attribute.Bool("yes", true), attribute.Bool("no", false), attribute.Int64("negative", -5)),
		span(pnic, 2, attribute.Int64("ns", 1<<62), attribute.Float64("share", 0.25), attribute.StringSlice("flags", []string{"reset", ""})),
		span(vnic, 3, attribute.String("128", strings.Repeat("x", 128)), attribute.String("long", strings.Repeat("x", 1<<15)), attribute.String("empty", "")),
		root,
	}
}

// One byte that is not UTF-8 does not lose the batch.
func TestUploadOfNamesThatAreNotUTF8(t *testing.T) {
	receiver := &wire{t: t}
	upload := &uploader{client: receiver}
	span := stubs()[0]
	span.Name = "node2_eth\xff"
	if err := upload.ExportSpans(t.Context(), tracetest.SpanStubs{span}.Snapshots()); err != nil {
		t.Fatal(err)
	}
	if got := receiver.received["a"].ScopeSpans[0].Spans[0].Name; got != "node2_eth\uFFFD" {
		t.Errorf("name %q", got)
	}
}
