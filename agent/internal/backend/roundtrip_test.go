// SPDX-License-Identifier: Apache-2.0

package backend_test

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/hex"
	"net/netip"
	"regexp"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"github.com/layertrace/layertrace/agent/internal/backend"
	"github.com/layertrace/layertrace/agent/internal/clock"
	"github.com/layertrace/layertrace/agent/internal/identity"
	"github.com/layertrace/layertrace/agent/internal/iface"
	"github.com/layertrace/layertrace/agent/internal/layer"
	"github.com/layertrace/layertrace/agent/internal/span"
	"github.com/layertrace/layertrace/internal/exchange"
	"github.com/layertrace/layertrace/internal/tracecontext"
	"go.opentelemetry.io/otel/exporters/otlp/otlptrace"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/trace"
	tracepb "go.opentelemetry.io/proto/otlp/trace/v1"
	"google.golang.org/protobuf/encoding/protojson"
)

const bootTime = 1_700_000_000_000_000_000

type fixedClock struct{}

func (fixedClock) Offset() clock.Offset { return bootTime }

// kept is an OTLP client that keeps what it shall send.
type kept struct{ spans []*tracepb.ResourceSpans }

func (*kept) Start(context.Context) error { return nil }
func (*kept) Stop(context.Context) error  { return nil }
func (k *kept) UploadTraces(_ context.Context, spans []*tracepb.ResourceSpans) error {
	k.spans = append(k.spans, spans...)
	return nil
}

var (
	id         = regexp.MustCompile(`"(traceId|spanId|parentSpanId)": *"([^"]*)"`)
	comparable = cmpopts.EquateComparable(netip.AddrPort{})
)

// otlpJSON writes spans as the Collector does: protobuf's JSON, IDs in hex.
func otlpJSON(t *testing.T, spans []*tracepb.ResourceSpans) []byte {
	t.Helper()
	text, err := protojson.Marshal(&tracepb.TracesData{ResourceSpans: spans})
	if err != nil {
		t.Fatal(err)
	}
	return id.ReplaceAllFunc(text, func(field []byte) []byte {
		parts := id.FindSubmatch(field)
		raw, err := base64.StdEncoding.DecodeString(string(parts[2]))
		if err != nil {
			t.Fatal(err)
		}
		return []byte(`"` + string(parts[1]) + `":"` + hex.EncodeToString(raw) + `"`)
	})
}

// What package span writes is read back as it was.
func TestRoundTrip(t *testing.T) {
	vnic := span.Point{
		ID: "node2/7", Node: "node2", Interface: iface.Interface{Index: 7, Name: "vethgw", LinkKind: "veth", Kind: iface.VNIC},
		Workload: identity.Workload{Service: "gateway", Namespace: "default", Pod: "gateway-1", Node: "node2"},
	}
	unknown := vnic
	unknown.Workload = identity.Workload{}
	pnic := span.Point{ID: "node2/2", Node: "node2", Interface: iface.Interface{Index: 2, Name: "eth0", Kind: iface.PNIC}}
	full := exchange.Exchange{
		Interface: 7, Direction: exchange.DirectionIngress,
		Context:     tracecontext.Context{TraceID: tracecontext.TraceID{15: 1}, SpanID: tracecontext.SpanID{7: 2}},
		Client:      netip.MustParseAddrPort("10.244.2.11:40000"),
		Server:      netip.MustParseAddrPort("[fd00::2]:9080"),
		Request:     exchange.Message{First: 5_000_000_001, Last: 5_000_100_000, Bytes: 1500, Packets: 2},
		Response:    exchange.Message{First: 5_004_000_000, Last: 5_006_000_000, Bytes: 4000, Packets: 3},
		Status:      200,
		Retransmits: 1, ConnectionID: []byte{1, 2, 3, 4}, Flags: exchange.FlagInterim | exchange.FlagReset,
	}
	bare := full
	bare.Request = exchange.Message{First: 1<<53 + 1, Last: 1<<53 + 1, Bytes: 1, Packets: 1}
	bare.Response, bare.Status, bare.Retransmits, bare.ConnectionID, bare.Flags = exchange.Message{}, 0, 0, nil, 0
	full.Drops, full.DropReason = 2, "qdisc_drop"
	full.Response.Handover = exchange.Extent{First: 5_004_000_100, Last: 5_006_000_200}
	sockets := span.Point{ID: "node2/netns/5/sidecar", Node: "node2", Socket: true, Process: layer.Sidecar, Workload: vnic.Workload}
	atSocket := full
	atSocket.Interface, atSocket.Direction = 0, exchange.DirectionUnknown
	atSocket.Request.Handover = exchange.Extent{First: 4_999_999_000, Last: 5_000_000_500} // written before it was sent
	atSocket.Request.Acknowledged = 5_000_300_000
	atSocket.Socket = &exchange.Socket{Cookie: 9, Netns: 5, UID: 1337, Client: true, SRTT: 70_000, ZeroWindows: 3}
	for _, c := range []struct {
		point *span.Point
		x     *exchange.Exchange
	}{{&vnic, &full}, {&vnic, &bare}, {&unknown, &full}, {&unknown, &bare}, {&pnic, &full}, {&pnic, &bare}, {&sockets, &atSocket}} {
		point, x := c.point, c.x
		got := readBack(t, point, x)
		want := layer.Sighting{
			TraceID: trace.TraceID(x.Context.TraceID), SpanID: trace.SpanID(x.Context.SpanID),
			Kind: point.Kind(), Process: point.Process, Node: "node2", Service: point.Workload.Service, Pod: point.Workload.Pod,
			Interface: point.Interface.Name, Direction: x.Direction, Client: x.Client, Server: x.Server,
			ConnectionID: x.ConnectionIDHex(), Request: x.Request, Response: x.Response, Status: x.Status,
			Retransmits: x.Retransmits, Drops: x.Drops, DropReason: x.DropReason,
			Flags: x.Flags, Wall: bootTime + int64(x.Request.First),
		}
		if x.Socket != nil {
			want.Sender, want.SRTT, want.ZeroWindows = x.Socket.Client, x.Socket.SRTT, x.Socket.ZeroWindows
			want.Wall = bootTime + int64(x.Request.Handover.First)
		}
		if diff := cmp.Diff(want, got, comparable); diff != "" {
			t.Errorf("%s: %s", point.Name(), diff)
		}
	}
}

// readBack returns the only sighting in what the emitter makes of the exchange.
func readBack(t *testing.T, point *span.Point, x *exchange.Exchange) layer.Sighting {
	t.Helper()
	ctx := context.Background()
	client := &kept{}
	processor := sdktrace.NewSimpleSpanProcessor(otlptrace.NewUnstarted(client))
	emitter := span.NewEmitter(span.Options{Processor: processor, Clock: fixedClock{}, Version: "v1"})
	if !emitter.Emit(point, x) {
		t.Fatal("no span was made")
	}
	if err := processor.Shutdown(ctx); err != nil {
		t.Fatal(err)
	}
	source := backend.NewReader("spans", bytes.NewReader(otlpJSON(t, client.spans)))
	got, err := source.Trace(ctx, trace.TraceID(x.Context.TraceID))
	if err != nil {
		t.Fatal(err)
	}
	if len(got.Sightings) != 1 || len(got.Spans) != 0 || len(got.Unreadable) != 0 {
		t.Fatalf("got %+v", got)
	}
	return got.Sightings[0]
}
