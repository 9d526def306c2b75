// SPDX-License-Identifier: Apache-2.0

package span

import (
	"net/netip"
	"testing"
	"time"

	"github.com/layertrace/layertrace/agent/internal/clock"
	"github.com/layertrace/layertrace/agent/internal/identity"
	"github.com/layertrace/layertrace/agent/internal/iface"
	"github.com/layertrace/layertrace/internal/exchange"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/sdk/trace/tracetest"
	"go.opentelemetry.io/otel/trace"
)

const bootTime = 1_700_000_000_000_000_000

type fixedClock struct{}

func (fixedClock) Offset() clock.Offset { return bootTime }

type peers map[string]identity.Workload

func (p peers) Peer(a netip.Addr, _ uint64) (identity.Workload, bool) {
	w, ok := p[a.String()]
	return w, ok
}

// emit returns the spans of what do emits.
func emit(t *testing.T, do func(*Emitter)) tracetest.SpanStubs {
	t.Helper()
	recorder := tracetest.NewSpanRecorder()
	do(NewEmitter(Options{
		Processor: recorder, Clock: fixedClock{}, Version: "v1",
		Peers: peers{"10.244.4.2": {Service: "productpage", Node: "node4"}},
	}))
	return tracetest.SpanStubsFromReadOnlySpans(recorder.Ended())
}

func vnicPoint() Point {
	return Point{
		ID: "node2/7", Node: "node2",
		Interface: iface.Interface{Index: 7, Name: "vethgw", LinkKind: "veth", Kind: iface.VNIC},
		Workload:  identity.Workload{Service: "gateway", Namespace: "default", Pod: "gateway-1", Node: "node2"},
	}
}

func TestSpanOfAnExchange(t *testing.T) {
	x, p := sample(), vnicPoint()
	x.ConnectionID, x.OptionTime, x.Flags = []byte{1, 2, 3, 4, 5, 6, 7, 8}, 9, exchange.FlagInterim|exchange.FlagOptionLost
	spans := emit(t, func(e *Emitter) {
		if !e.Emit(&p, &x) {
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
	if s.SpanContext.SpanID() != ID(p.ID, &x) {
		t.Error("the span ID is not the hash")
	}
	if want := time.Unix(0, bootTime+5_000_000_000); !s.StartTime.Equal(want) {
		t.Errorf("start %v, want %v", s.StartTime, want)
	}
	if d := s.EndTime.Sub(s.StartTime); d != 6*time.Millisecond {
		t.Errorf("duration %v, want 6ms", d)
	}
	checkAttributes(t, s.Attributes, map[attribute.Key]any{
		keyDirection: "ingress", keyFormat: "b3multi", keyHeaderOffset: int64(42),
		keyMonotonic: int64(5_000_000_000), keyRequestLast: int64(100_000),
		keyResponseFirst: int64(4_000_000), keyResponseLast: int64(6_000_000),
		keyRequestBytes: int64(1500), keyRequestPackets: int64(2), keyResponseBytes: int64(4000), keyResponsePackets: int64(3),
		keyRetransmits: int64(1), keyConnectionID: "0102030405060708", keyOptionTime: int64(9000), keyOptionLost: true,
		keyServerService: "productpage",
		"client.address": "10.244.2.11", "client.port": int64(40000), "server.address": "10.244.4.2", "server.port": int64(9080),
		"http.response.status_code": int64(200),
	})
	checkAttributes(t, s.Resource.Attributes(), map[attribute.Key]any{
		"service.name": "gateway", "service.namespace": "default", "host.name": "node2",
		"k8s.namespace.name": "default", "k8s.pod.name": "gateway-1", "k8s.node.name": "node2",
		keyKind: "vnic", keyPoint: "node2/7", "network.interface.name": "vethgw",
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
	pnic := Point{Node: "node2", Interface: iface.Interface{Name: "eth0", Kind: iface.PNIC}}
	unknown := Point{Node: "node2", Interface: iface.Interface{Name: "veth9", Kind: iface.VNIC}}
	vnic := vnicPoint()
	for want, p := range map[string]*Point{"node2_eth0": &pnic, "node2_veth9": &unknown, "gateway_vethgw": &vnic} {
		if got := p.Name(); got != want {
			t.Errorf("name %s, want %s", got, want)
		}
	}
}

func TestOnlyWhatWasSeenIsTold(t *testing.T) {
	x, p := sample(), vnicPoint()
	x.Request.Last, x.Request.Packets, x.Retransmits = x.Request.First, 1, 0
	x.Response, x.Status = exchange.Message{}, 0
	spans := emit(t, func(e *Emitter) { e.Emit(&p, &x) })
	if d := spans[0].EndTime.Sub(spans[0].StartTime); d != 0 {
		t.Errorf("duration %v of a single packet", d)
	}
	checkAttributes(t, spans[0].Attributes, map[attribute.Key]any{
		keyDirection: "ingress", keyFormat: "b3multi", keyHeaderOffset: int64(42),
		keyMonotonic: int64(5_000_000_000), keyRequestBytes: int64(1500),
		keyServerService: "productpage",
		"client.address": "10.244.2.11", "client.port": int64(40000), "server.address": "10.244.4.2", "server.port": int64(9080),
	})
}

// A span can begin before its request's first byte: a response that overtook.
func TestTimesAreOffsetsFromTheSpansStart(t *testing.T) {
	x, p := sample(), vnicPoint()
	x.Response.First, x.Response.Last = x.Request.First-1000, x.Request.First-1000
	spans := emit(t, func(e *Emitter) { e.Emit(&p, &x) })
	want := map[attribute.Key]int64{keyMonotonic: 4_999_999_000, keyRequestFirst: 1000, keyRequestLast: 101_000, keyResponseFirst: 0}
	for _, kv := range spans[0].Attributes {
		if w, ok := want[kv.Key]; ok && w != kv.Value.AsInt64() {
			t.Errorf("%s is %d, want %d", kv.Key, kv.Value.AsInt64(), w)
		} else if kv.Key == keyResponseLast {
			t.Errorf("%s of a response of one segment", kv.Key)
		}
		delete(want, kv.Key)
	}
	if len(want) != 0 {
		t.Errorf("missing: %v", want)
	}
}

// The span of an exchange between the point's own workload and one that
// nobody knows names neither.
func TestPeersOfThePoint(t *testing.T) {
	x, p := sample(), vnicPoint()
	p.Node, p.Workload = "node4", identity.Workload{Service: "productpage", Node: "node4"}
	spans := emit(t, func(e *Emitter) { e.Emit(&p, &x) })
	for _, kv := range spans[0].Attributes {
		switch kv.Key {
		case keyClientService, keyClientNode, keyServerService, keyServerNode:
			t.Errorf("%s is %s", kv.Key, kv.Value.AsString())
		}
	}
}

func TestNoSpanWithoutContextOrTime(t *testing.T) {
	noContext, noTime, p := sample(), sample(), vnicPoint()
	noContext.Context.SpanID = [8]byte{}
	noTime.Request, noTime.Response = exchange.Message{}, exchange.Message{}
	spans := emit(t, func(e *Emitter) {
		if e.Emit(&p, &noContext) || e.Emit(&p, &noTime) {
			t.Error("made a span of nothing")
		}
	})
	if len(spans) != 0 {
		t.Errorf("%d spans", len(spans))
	}
}

// A point that gets another workload gets another resource.
func TestResourceFollowsTheWorkload(t *testing.T) {
	x, p := sample(), vnicPoint()
	spans := emit(t, func(e *Emitter) {
		e.Emit(&p, &x)
		p.Workload.Service = "other"
		e.Emit(&p, &x)
		e.Forget(p.ID)
		if len(e.tracers) != 0 {
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
