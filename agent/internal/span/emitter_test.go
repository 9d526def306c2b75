// SPDX-License-Identifier: Apache-2.0

package span

import (
	"slices"
	"testing"
	"time"

	"github.com/layertrace/layertrace/internal/observe"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/sdk/trace/tracetest"
	"go.opentelemetry.io/otel/trace"
)

const bootTime = 1_700_000_000_000_000_000

func fixedOffset() ClockOffset { return bootTime }

// recorder keeps spans in the form of OpenTelemetry's SDK.
type recorder struct{ spans tracetest.SpanStubs }

func (r *recorder) Take(s *Finished) {
	context := trace.SpanContextConfig{TraceID: s.TraceID, SpanID: s.ID, TraceFlags: trace.FlagsSampled}
	parent := context
	parent.SpanID, parent.Remote = s.Parent, true
	r.spans = append(r.spans, tracetest.SpanStub{
		Name: s.Name, SpanKind: trace.SpanKindInternal, Resource: s.Origin.Resource, InstrumentationScope: s.Origin.Scope,
		SpanContext: trace.NewSpanContext(context), Parent: trace.NewSpanContext(parent),
		StartTime: time.Unix(0, s.Start), EndTime: time.Unix(0, s.End), Attributes: slices.Clone(s.Attributes),
	})
}

// last returns the last span.
func (r *recorder) last() tracetest.SpanStub { return r.spans[len(r.spans)-1] }

// emit returns the spans that do emits.
func emit(t *testing.T, do func(*Emitter)) tracetest.SpanStubs {
	t.Helper()
	r := &recorder{}
	do(NewEmitter(Options{Sink: r, Offset: fixedOffset, Version: "v1"}))
	return r.spans
}

// The user's attributes of all resources do not replace those of the capture point.
func TestResourceAttributesOfTheEnvironment(t *testing.T) {
	t.Setenv("OTEL_RESOURCE_ATTRIBUTES", "k8s.cluster.name=prod,host.name=other")
	x := sample()
	spans := emit(t, func(e *Emitter) { e.Emit(&x) })
	set := spans[0].Resource.Set()
	if cluster, _ := set.Value("k8s.cluster.name"); cluster.AsString() != "prod" {
		t.Errorf("resource %v", set)
	}
	if host, _ := set.Value("host.name"); host.AsString() != x.Point.Node {
		t.Errorf("host %v, want %s", host, x.Point.Node)
	}
}

func TestSpanOfAnExchange(t *testing.T) {
	x := sample()
	x.ConnectionID, x.OptionTime, x.Flags = []byte{1, 2, 3, 4, 5, 6, 7, 8}, 9, observe.FlagInterim|observe.FlagOptionLost
	spans := emit(t, func(e *Emitter) {
		if !e.Emit(&x) {
			t.Error("no span was made")
		}
	})
	if len(spans) != 1 {
		t.Fatalf("%d spans", len(spans))
	}
	s := spans[0]
	if s.Name != "gateway_vethgw" || s.SpanKind != trace.SpanKindInternal {
		t.Errorf("name %s, kind %s", s.Name, s.SpanKind)
	}
	if s.SpanContext.TraceID() != trace.TraceID(x.Context.TraceID) || s.Parent.TraceID() != s.SpanContext.TraceID() {
		t.Error("the span is in another trace")
	}
	if s.Parent.SpanID() != trace.SpanID(x.Context.SpanID) || !s.Parent.IsRemote() {
		t.Error("the parent is not the header's span")
	}
	if s.SpanContext.SpanID() != ID(&x) {
		t.Error("the span ID is not the hash")
	}
	if want := time.Unix(0, bootTime+5_000_000_000); !s.StartTime.Equal(want) {
		t.Errorf("start %v, want %v", s.StartTime, want)
	}
	if d := s.EndTime.Sub(s.StartTime); d != 6*time.Millisecond {
		t.Errorf("duration %v, want 6ms", d)
	}
	checkAttributes(t, s.Attributes, map[attribute.Key]any{
		"layertrace.direction": "ingress", "layertrace.context.format": "b3multi", "layertrace.context.offset_bytes": int64(42),
		keyMonotonic: int64(5_000_000_000), "layertrace.request.last_ns": int64(100_000),
		"layertrace.response.first_ns": int64(4_000_000), "layertrace.response.last_ns": int64(6_000_000),
		"layertrace.request.bytes": int64(1500), "layertrace.request.packets": int64(2), "layertrace.response.bytes": int64(4000), "layertrace.response.packets": int64(3),
		"layertrace.retransmits": int64(1), "layertrace.connection_id": "0102030405060708", "layertrace.option_time_ns": int64(9000),
		"layertrace.server.service": "productpage",
		"client.address":            "10.244.2.11", "client.port": int64(40000), "server.address": "10.244.4.2", "server.port": int64(9080),
		"http.response.status_code": int64(200),
	})
	checkAttributes(t, s.Resource.Attributes(), map[attribute.Key]any{
		"service.name": "gateway", "service.namespace": "default", "host.name": "node2",
		"k8s.namespace.name": "default", "k8s.pod.name": "gateway-1", "k8s.node.name": "node2",
		keyKind: "vnic", "layertrace.capture_point": "node2/7", "network.interface.name": "vethgw",
	})
}

// checkAttributes compares all attributes but the flags, which are a slice.
func checkAttributes(t *testing.T, got []attribute.KeyValue, want map[attribute.Key]any) {
	t.Helper()
	for _, kv := range got {
		if kv.Key == keyFlags {
			if f := kv.Value.AsStringSlice(); len(f) != 2 || f[0] != "interim" || f[1] != "option_lost" {
				t.Errorf("flags %v", f)
			}
			continue
		}
		w, ok := want[kv.Key]
		if !ok {
			t.Errorf("attribute %s is not expected", kv.Key)
		} else if kv.Value.AsInterface() != w {
			t.Errorf("%s is %v, want %v", kv.Key, kv.Value.AsInterface(), w)
		}
		delete(want, kv.Key)
	}
	for key := range want {
		t.Errorf("attribute %s is missing", key)
	}
}

func TestSpanNames(t *testing.T) {
	pnic := &observe.Point{Node: "node2", Interface: "eth0", Kind: observe.KindPNIC}
	unknown := &observe.Point{Node: "node2", Interface: "veth9", Kind: observe.KindVNIC}
	vnic := sample().Point
	for want, p := range map[string]*observe.Point{"node2_eth0": pnic, "node2_veth9": unknown, "gateway_vethgw": vnic} {
		if got := p.SpanName(); got != want {
			t.Errorf("name %s, want %s", got, want)
		}
	}
}

func TestOnlySeenValuesAreReported(t *testing.T) {
	x := sample()
	x.Request.Last, x.Request.Packets, x.Retransmits = x.Request.First, 1, 0
	x.Response, x.Status = observe.Message{}, 0
	spans := emit(t, func(e *Emitter) { e.Emit(&x) })
	if d := spans[0].EndTime.Sub(spans[0].StartTime); d != 0 {
		t.Errorf("duration %v of a single packet", d)
	}
	checkAttributes(t, spans[0].Attributes, map[attribute.Key]any{
		"layertrace.direction": "ingress", "layertrace.context.format": "b3multi", "layertrace.context.offset_bytes": int64(42),
		keyMonotonic: int64(5_000_000_000), "layertrace.request.bytes": int64(1500),
		"layertrace.server.service": "productpage",
		"client.address":            "10.244.2.11", "client.port": int64(40000), "server.address": "10.244.4.2", "server.port": int64(9080),
	})
}

// A span can begin before its request's first byte: a response that overtook.
func TestTimesAreOffsetsFromTheSpansStart(t *testing.T) {
	x := sample()
	x.Response.First, x.Response.Last = x.Request.First-1000, x.Request.First-1000
	spans := emit(t, func(e *Emitter) { e.Emit(&x) })
	want := map[attribute.Key]int64{keyMonotonic: 4_999_999_000, "layertrace.request.first_ns": 1000, "layertrace.request.last_ns": 101_000, "layertrace.response.first_ns": 0}
	for _, kv := range spans[0].Attributes {
		if w, ok := want[kv.Key]; ok && w != kv.Value.AsInt64() {
			t.Errorf("%s is %d, want %d", kv.Key, kv.Value.AsInt64(), w)
		} else if kv.Key == "layertrace.response.last_ns" {
			t.Errorf("%s of a response of one segment", kv.Key)
		}
		delete(want, kv.Key)
	}
	if len(want) != 0 {
		t.Errorf("missing: %v", want)
	}
}

// The span of an exchange between the point's own workload and one with an unknown
// peer names neither.
func TestPeersOfThePoint(t *testing.T) {
	x := sample()
	x.Point.Node, x.Point.Workload = "node4", observe.Workload{Service: "productpage", Node: "node4"}
	x.Peers = observe.Peers{Server: observe.Peer{Service: "productpage"}}
	spans := emit(t, func(e *Emitter) { e.Emit(&x) })
	for _, kv := range spans[0].Attributes {
		switch kv.Key {
		case "layertrace.client.service", "layertrace.client.node", "layertrace.server.service", "layertrace.server.node":
			t.Errorf("%s is %s", kv.Key, kv.Value.AsString())
		}
	}
}

func TestNoSpanWithoutContextOrTime(t *testing.T) {
	noContext, noTime := sample(), sample()
	noContext.Context.SpanID = [8]byte{}
	noTime.Request, noTime.Response = observe.Message{}, observe.Message{}
	spans := emit(t, func(e *Emitter) {
		if e.Emit(&noContext) || e.Emit(&noTime) {
			t.Error("made a span of nothing")
		}
	})
	if len(spans) != 0 {
		t.Errorf("%d spans", len(spans))
	}
}

// A point that gets another workload gets another resource.
func TestResourceFollowsTheWorkload(t *testing.T) {
	x := sample()
	spans := emit(t, func(e *Emitter) {
		e.Emit(&x)
		other := *x.Point
		other.Workload.Service = "other"
		x.Point = &other
		e.Emit(&x)
		e.Forget(x.Point.ID)
		if len(e.points) != 0 {
			t.Error("Forget kept something")
		}
	})
	if got := spans[1].Name; got != "other_vethgw" {
		t.Errorf("name %s", got)
	}
	if v, _ := spans[1].Resource.Set().Value("service.name"); v.AsString() != "other" {
		t.Errorf("service.name %s", v.AsString())
	}
}

type discard struct{}

func (discard) Take(*Finished) {}

// BenchmarkEmit is the agent's work for one exchange, without the delivery.
func BenchmarkEmit(b *testing.B) {
	e := NewEmitter(Options{Sink: discard{}, Offset: fixedOffset})
	x := sample()
	b.ReportAllocs()
	for b.Loop() {
		e.Emit(&x)
	}
}
