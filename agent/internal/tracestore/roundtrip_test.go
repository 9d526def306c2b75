// SPDX-License-Identifier: Apache-2.0

package tracestore_test

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/hex"
	"log/slog"
	"net/netip"
	"regexp"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"go.opentelemetry.io/otel/trace"
	tracepb "go.opentelemetry.io/proto/otlp/trace/v1"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"

	"github.com/layertrace/layertrace/agent/internal/export"
	"github.com/layertrace/layertrace/agent/internal/span"
	"github.com/layertrace/layertrace/agent/internal/tracestore"
	"github.com/layertrace/layertrace/internal/observe"
	"github.com/layertrace/layertrace/internal/tracecontext"
)

const bootTime = 1_700_000_000_000_000_000

func fixedOffset() span.ClockOffset { return bootTime }

// kept is an OTLP client that keeps what a receiver would get.
type kept struct{ spans []*tracepb.ResourceSpans }

func (*kept) Start(context.Context) error { return nil }
func (*kept) Stop(context.Context) error  { return nil }
func (k *kept) UploadTraces(_ context.Context, spans []*tracepb.ResourceSpans) error {
	data, err := proto.Marshal(&tracepb.TracesData{ResourceSpans: spans})
	var received tracepb.TracesData
	if err == nil {
		err = proto.Unmarshal(data, &received)
	}
	k.spans = append(k.spans, received.ResourceSpans...)
	return err
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
	vnic := &observe.Point{
		ID: "node2/7", Kind: observe.KindVNIC, Node: "node2", Interface: "vethgw",
		Workload: observe.Workload{Service: "gateway", Namespace: "default", Pod: "gateway-1", PodUID: "uid", Kind: "Deployment", Name: "gateway"},
	}
	unknown := &observe.Point{ID: "node2/8", Kind: observe.KindVNIC, Node: "node2", Interface: "veth8"}
	pnic := &observe.Point{ID: "node2/2", Kind: observe.KindPNIC, Node: "node2", Interface: "eth0"}
	sockets := &observe.Point{ID: "node2/netns/5/sidecar", Kind: observe.KindSocket, Node: "node2", Process: observe.Sidecar, Workload: vnic.Workload}
	full := observe.Observation{
		Key: observe.Key{
			Client: netip.MustParseAddrPort("10.244.2.11:40000"),
			Server: netip.MustParseAddrPort("[fd00::2]:9080"),
		},
		Direction: observe.DirectionIngress,
		Context: observe.Context{
			Context:      tracecontext.Context{TraceID: tracecontext.TraceID{15: 1}, SpanID: tracecontext.SpanID{7: 2}, Format: tracecontext.FormatW3C},
			HeaderOffset: 42,
		},
		Request:  observe.Message{First: 5_000_000_001, Last: 5_000_100_000, Bytes: 1500, Packets: 2},
		Response: observe.Message{First: 5_004_000_000, Last: 5_006_000_000, Bytes: 4000, Packets: 3},
		Method:   "POST", Path: "/reviews/7",
		Status:      200,
		Retransmits: 1, ConnectionID: []byte{1, 2, 3, 4}, OptionTime: 77, Flags: observe.FlagInterim | observe.FlagReset,
		Peers: observe.Peers{Client: observe.Peer{Service: "front"}, Server: observe.Peer{Node: "node4"}},
	}
	bare := full
	bare.Request = observe.Message{First: 1<<53 + 1, Last: 1<<53 + 1, Bytes: 1, Packets: 1}
	bare.Response, bare.Status, bare.Retransmits, bare.Flags = observe.Message{}, 0, 0, 0
	bare.Method, bare.Path = "", ""
	bare.ConnectionID, bare.OptionTime, bare.Peers = nil, 0, observe.Peers{}
	full.Drops, full.DropReason, full.Join = 2, "qdisc_drop", observe.JoinTime
	atSocket := full
	full.Response.Tx = observe.Extent{First: 5_004_000_100, Last: 5_006_000_200}
	atSocket.Direction, atSocket.Context.Format, atSocket.Context.HeaderOffset = observe.DirectionUnknown, tracecontext.FormatNone, 0
	atSocket.Request.App = observe.Extent{First: 4_999_999_000, Last: 5_000_000_500} // written before it was sent
	atSocket.Request.Acknowledged, atSocket.Request.Stalled = 5_000_300_000, 90_000
	atSocket.Request.Waited, atSocket.Request.Held, atSocket.Response.Unread = 130_000, 110_000, 70_000
	atSocket.ConnectionID, atSocket.OptionTime = []byte{1, 2, 3, 4, 5, 6, 7, 8}, 12 // µs
	atSocket.Socket = &observe.Socket{Cookie: 9, Netns: 5, Client: true, SRTT: 70_000, ZeroWindows: 3}
	for _, c := range []struct {
		point *observe.Point
		x     observe.Observation
	}{{vnic, full}, {vnic, bare}, {unknown, full}, {unknown, bare}, {pnic, full}, {pnic, bare}, {sockets, atSocket}} {
		want := c.x
		want.Point = c.point
		got := readBack(t, &want)
		start, _ := want.Extent()
		want.Wall = bootTime + int64(start)
		if diff := cmp.Diff(want, got, comparable); diff != "" {
			t.Errorf("%s: %s", c.point.SpanName(), diff)
		}
	}
}

// readBack returns the only observation in what the emitter makes of one.
func readBack(t *testing.T, o *observe.Observation) observe.Observation {
	t.Helper()
	ctx := context.Background()
	client := &kept{}
	queue := export.NewQueue(client, 1, slog.New(slog.DiscardHandler))
	emitter := span.NewEmitter(span.Options{Sink: queue, Offset: fixedOffset, Version: "v1"})
	if !emitter.Emit(o) {
		t.Fatal("no span was made")
	}
	if err := queue.Close(ctx); err != nil {
		t.Fatal(err)
	}
	store := tracestore.NewReader("spans", bytes.NewReader(otlpJSON(t, client.spans)))
	got, err := store.Trace(ctx, trace.TraceID(o.Context.TraceID))
	if err != nil {
		t.Fatal(err)
	}
	if len(got.Observations) != 1 || len(got.Spans) != 0 || len(got.Unreadable) != 0 {
		t.Fatalf("got %+v", got)
	}
	return got.Observations[0]
}
