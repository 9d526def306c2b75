// SPDX-License-Identifier: Apache-2.0

package backend

import (
	"encoding/json"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"github.com/layertrace/layertrace/agent/internal/layer"
	"github.com/layertrace/layertrace/internal/exchange"
)

var comparable = cmpopts.EquateComparable(layer.Sighting{}.Client)

func TestSighting(t *testing.T) {
	for _, test := range []struct {
		name   string
		change map[string]any
		want   func(*layer.Sighting)
	}{
		{"as usual", nil, func(*layer.Sighting) {}},
		{"the older word", map[string]any{"layertrace.capture_point.kind": nil, "layertrace.layer": "vnic"}, func(*layer.Sighting) {}},
		{"a physical interface", map[string]any{"layertrace.capture_point.kind": "pnic", "layertrace.direction": "egress"}, func(s *layer.Sighting) {
			s.Kind, s.Direction, s.Service, s.Pod = layer.PNIC, exchange.DirectionEgress, "", ""
		}},
		{"all times", map[string]any{
			"layertrace.request.first_ns": int64(1), "layertrace.request.last_ns": int64(2),
			"layertrace.response.first_ns": int64(30), "layertrace.response.last_ns": int64(40),
			"layertrace.request.handover_first_ns": int64(-4), "layertrace.request.handover_last_ns": int64(5),
			"layertrace.response.handover_first_ns": int64(29),
		}, func(s *layer.Sighting) {
			s.Request = exchange.Message{First: 5001, Last: 5002, Packets: 1, Handover: exchange.Extent{First: 4996, Last: 5005}}
			s.Response = exchange.Message{First: 5030, Last: 5040, Packets: 1, Handover: exchange.Extent{First: 5029, Last: 5029}}
		}},
		{"all counts", map[string]any{
			"layertrace.request.bytes": int64(100), "layertrace.request.packets": int64(3), "layertrace.response.first_ns": int64(7),
			"layertrace.response.bytes": int64(200), "http.response.status_code": int64(503), "layertrace.retransmits": int64(4),
			"layertrace.drops": int64(5), "layertrace.drop_reason": "QDISC_DROP", "layertrace.zero_windows": int64(6),
			"layertrace.srtt_ns": int64(8), "layertrace.connection_id": "0102", "layertrace.flags": []string{"reset", "later"},
		}, func(s *layer.Sighting) {
			s.Request.Bytes, s.Request.Packets = 100, 3
			s.Response = exchange.Message{First: 5007, Last: 5007, Bytes: 200, Packets: 1}
			s.Status, s.Retransmits, s.Drops, s.DropReason, s.ZeroWindows, s.SRTT = 503, 4, 5, "QDISC_DROP", 6, 8
			s.ConnectionID, s.Flags = "0102", exchange.FlagReset
		}},
		{"a sidecar's socket", map[string]any{
			"layertrace.capture_point.kind": "socket", "layertrace.socket.side": "client", "layertrace.socket.process": "sidecar",
			"service.name": "node1", "layertrace.direction": nil,
		}, func(s *layer.Sighting) {
			s.Kind, s.Sender, s.Process, s.Interface, s.Direction = layer.Socket, true, layer.Sidecar, "", exchange.DirectionUnknown
			s.Service = ""
		}},
		{"what Jaeger makes of types", map[string]any{
			"layertrace.monotonic_ns": "9007199254740993", "client.port": json.Number("40000"), "layertrace.flags": `["idle"]`,
		}, func(s *layer.Sighting) {
			s.Request.First, s.Request.Last, s.Flags = 9007199254740993, 9007199254740993, exchange.FlagIdle
		}},
	} {
		t.Run(test.name, func(t *testing.T) {
			r := with(test.change)
			r.service = r.resource.text(keyService)
			got, err := sighting(traceID, &r)
			if err != nil {
				t.Fatal(err)
			}
			want := vnicSighting()
			test.want(&want)
			if diff := cmp.Diff(want, got, comparable); diff != "" {
				t.Error(diff)
			}
		})
	}
}

func TestUnreadable(t *testing.T) {
	for _, test := range []struct {
		name   string
		change map[string]any
		want   string
	}{
		{"node", map[string]any{"host.name": nil}, "host.name is missing"},
		{"kind", map[string]any{"layertrace.capture_point.kind": "satellite"}, "no kind of capture point"},
		{"time", map[string]any{"layertrace.monotonic_ns": nil}, "monotonic_ns is missing"},
		{"time 0", map[string]any{"layertrace.monotonic_ns": int64(0)}, "which is no time"},
		{"no integer", map[string]any{"layertrace.monotonic_ns": 0.5}, "no integer"},
		{"direction", map[string]any{"layertrace.direction": "up"}, "neither ingress nor egress"},
		{"side", map[string]any{"layertrace.capture_point.kind": "socket"}, "neither client nor server"},
		{"address", map[string]any{"client.address": "reviews"}, "no address"},
		{"port", map[string]any{"server.port": int64(65536)}, "no port"},
		{"request", map[string]any{"layertrace.request.last_ns": int64(-1)}, "request ends before it begins"},
		{"response", map[string]any{"layertrace.response.first_ns": int64(5), "layertrace.response.last_ns": int64(4)}, "response ends before it begins"},
		{"half a response", map[string]any{"layertrace.response.last_ns": int64(4)}, "without a beginning"},
		{"order", map[string]any{"layertrace.request.first_ns": int64(5), "layertrace.response.first_ns": int64(4)}, "before its request"},
		{"handover", map[string]any{"layertrace.request.handover_last_ns": int64(4)}, "handover ends"},
		{"acknowledgement", map[string]any{"layertrace.request.last_ns": int64(5), "layertrace.request.acknowledged_ns": int64(4)}, "acknowledged before"},
		{"before the clock", map[string]any{"layertrace.request.first_ns": int64(-5000)}, "no time"},
		{"behind the clock", map[string]any{"layertrace.request.last_ns": int64(1<<63 - 1)}, "no time"},
		{"count", map[string]any{"layertrace.drops": int64(-1)}, "not from 0"},
	} {
		t.Run(test.name, func(t *testing.T) {
			r := with(test.change)
			if _, err := sighting(traceID, &r); err == nil || !strings.Contains(err.Error(), test.want) {
				t.Errorf("got %v, want %q", err, test.want)
			}
		})
	}
	for name, spoil := range map[string]func(*record){
		"no parent": func(r *record) { r.parent = [8]byte{} }, "it takes": func(r *record) { r.duration = -1 },
	} {
		r := vnicRecord()
		spoil(&r)
		if _, err := sighting(traceID, &r); err == nil || !strings.Contains(err.Error(), name) {
			t.Errorf("got %v, want %q", err, name)
		}
	}
}
