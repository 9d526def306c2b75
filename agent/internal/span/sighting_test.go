// SPDX-License-Identifier: Apache-2.0

package span

import (
	"net/netip"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"go.opentelemetry.io/otel/sdk/trace/tracetest"

	"github.com/layertrace/layertrace/internal/observe"
)

func storedOfSpan(s tracetest.SpanStub) Stored {
	stored := Stored{
		Span: Span{
			ID: s.SpanContext.SpanID(), Parent: s.Parent.SpanID(), Name: s.Name,
			Start: s.StartTime, Duration: s.EndTime.Sub(s.StartTime),
		},
		TraceID: s.SpanContext.TraceID(), Scope: s.InstrumentationScope.Name,
		Attributes: Attributes{}, Resource: Attributes{},
	}
	for _, kv := range s.Attributes {
		stored.Attributes[string(kv.Key)] = kv.Value.AsInterface()
	}
	for _, kv := range s.Resource.Attributes() {
		stored.Resource[string(kv.Key)] = kv.Value.AsInterface()
	}
	stored.Service = stored.Resource.Text("service.name")
	return stored
}

func devicePoint() *observe.Point {
	return &observe.Point{ID: "router1/7", Kind: observe.KindDevice, Node: "router1", Interface: "eth0"}
}

// A sighting comes back as it was sent, whatever it has; no store takes it for a span of a
// trace.
func TestSightingRoundTrip(t *testing.T) {
	everything := observe.Sighting{
		Point: devicePoint(), Direction: observe.DirectionEgress,
		Source: netip.MustParseAddrPort("[fd00::1]:40000"), Destination: netip.MustParseAddrPort("[fd00::2]:9080"),
		ConnectionID: []byte{1, 2, 3, 4, 5, 6, 7, 8}, OptionTime: 9, Start: 0xfffffff0, End: 16,
		First: 5000, Last: 6000, Tx: observe.Extent{First: 5500, Last: 7000}, Packets: 3, Retransmits: 2, TTL: 63, Watched: 4,
		Flags: observe.SightingOutOfOrder | observe.SightingFromOpener | observe.SightingBothWays,
	}
	least := observe.Sighting{
		Point: devicePoint(), Direction: observe.DirectionIngress,
		Source: netip.MustParseAddrPort("10.0.0.1:40000"), Destination: netip.MustParseAddrPort("10.0.0.2:9080"),
		ConnectionID: []byte{1, 2, 3, 4}, Start: 0, End: 1, First: 5000, Last: 5000,
	}
	for _, want := range []observe.Sighting{everything, least} {
		var kept recorder
		e := NewEmitter(Options{Sink: &kept, Offset: func() ClockOffset { return 1_000_000 }})
		e.EmitSighting(&want)
		stored := storedOfSpan(kept.last())
		if stored.IsOurs() || !stored.IsSighting() || stored.Name != "sighting" {
			t.Errorf("scope %s, name %s", stored.Scope, stored.Name)
		}
		got, err := DecodeSighting(&stored)
		if err != nil {
			t.Fatal(err)
		}
		want.Wall = 1_005_000
		if diff := cmp.Diff(&want, got, comparable); diff != "" {
			t.Error(diff)
		}
		id := stored.ID
		e.EmitSighting(&want)
		if again := storedOfSpan(kept.last()); again.ID != id || again.TraceID != stored.TraceID {
			t.Error("a sighting that is sent again has another ID")
		}
	}
}

func TestUnreadableSighting(t *testing.T) {
	for _, test := range []struct {
		key  string
		to   any
		want string
	}{
		{"layertrace.connection_id", "0102", "not 8 or 16 hex digits"},
		{"layertrace.connection_id", nil, "not 8 or 16 hex digits"},
		{"layertrace.direction", "up", "neither ingress nor egress"},
		{"layertrace.sighting.seq", int64(1 << 32), "not from 0 to"},
		{"layertrace.sighting.end_seq", int64(100), "no bytes"},
		{"layertrace.sighting.last_ns", int64(-1), "ends before it begins"},
		{"layertrace.sighting.tx_last_ns", int64(3), "transmit time"},
		{"layertrace.monotonic_ns", nil, "is missing"},
		{"source.address", "here", "not an address"},
		{"source.port", int64(65536), "not from 0 to"},
		{"layertrace.capture_point.kind", "pnic", "a sighting is of a device"},
		{"layertrace.capture_point", "", "a sighting is of a device"},
		{"host.name", nil, "host.name is missing"},
	} {
		var kept recorder
		e := NewEmitter(Options{Sink: &kept, Offset: func() ClockOffset { return 1_000_000 }})
		e.EmitSighting(&observe.Sighting{
			Point: devicePoint(), Direction: observe.DirectionIngress,
			Source: netip.MustParseAddrPort("10.0.0.1:40000"), Destination: netip.MustParseAddrPort("10.0.0.2:9080"),
			ConnectionID: []byte{1, 2, 3, 4}, Start: 100, End: 200, First: 5000, Last: 5001,
		})
		stored := storedOfSpan(kept.last())
		set := stored.Attributes
		if _, ok := stored.Resource[test.key]; ok {
			set = stored.Resource
		}
		if set[test.key] = test.to; test.to == nil {
			delete(set, test.key)
		}
		if _, err := DecodeSighting(&stored); err == nil || !strings.Contains(err.Error(), test.want) {
			t.Errorf("%s = %v: error %v, want one about %q", test.key, test.to, err, test.want)
		}
	}
}

// A device that saw one way only has no times of the other.
func TestOneWayRoundTrip(t *testing.T) {
	both := vnicObservation()
	both.Point, both.Direction = devicePoint(), observe.DirectionEgress
	both.ConnectionID = []byte{1, 2, 3, 4}
	both.Request = observe.Message{First: 5000, Last: 5001, Packets: 1, Seq: 7, TTL: 63}
	both.Response = observe.Message{First: 6000, Last: 6001, Packets: 2, Seq: 9, TTL: 62, Bytes: 100}
	request, response := both, both
	request.Response, response.Request = observe.Message{Seq: 9}, observe.Message{Seq: 7}
	request.Flags = observe.FlagNoResponse
	for _, want := range []observe.Observation{both, request, response} {
		var kept recorder
		e := NewEmitter(Options{Sink: &kept})
		if !e.EmitStored(&want) {
			t.Fatal("no span")
		}
		stored := storedOfSpan(kept.last())
		if stored.Name != "router1_eth0" || !stored.Start.Equal(vnicStored().Start) {
			t.Errorf("name %s, start %v", stored.Name, stored.Start)
		}
		got, err := Decode(&stored)
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(want, got, comparable); diff != "" {
			t.Error(diff)
		}
	}
}
