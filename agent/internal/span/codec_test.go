// SPDX-License-Identifier: Apache-2.0

package span

import (
	"encoding/json"
	"net/netip"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"github.com/layertrace/layertrace/agent/internal/breakdown"
	"github.com/layertrace/layertrace/internal/doctable"
	"github.com/layertrace/layertrace/internal/observe"
	"github.com/layertrace/layertrace/internal/tracecontext"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/trace"
)

var (
	traceID  = trace.TraceID{15: 1}
	headerID = trace.SpanID{7: 2}
)

// vnicStored is a span at a virtual interface without anything unusual.
func vnicStored() Stored {
	return Stored{
		Span: Span{
			ID: trace.SpanID{7: 9}, Parent: headerID, Name: "reviews_veth1", Service: "reviews",
			Start: time.Unix(100, 0), Duration: time.Millisecond,
		},
		TraceID: traceID, Scope: ScopeName,
		Attributes: Attributes{
			"layertrace.monotonic_ns": int64(5000), "layertrace.direction": "ingress",
			"client.address": "10.0.0.1", "client.port": int64(40000),
			"server.address": "10.0.0.2", "server.port": int64(9080),
		},
		Resource: Attributes{
			"service.name": "reviews", "host.name": "node1", "k8s.pod.name": "reviews-1",
			"layertrace.capture_point.kind": "vnic", "network.interface.name": "veth1",
		},
	}
}

// vnicObservation is the observation of vnicStored.
func vnicObservation() observe.Observation {
	o := observe.Observation{
		Key: observe.Key{Client: netip.MustParseAddrPort("10.0.0.1:40000"), Server: netip.MustParseAddrPort("10.0.0.2:9080")},
		Point: &observe.Point{
			Kind: observe.KindVNIC, Node: "node1", Interface: "veth1",
			Workload: observe.Workload{Service: "reviews", Pod: "reviews-1"},
		},
		Direction: observe.DirectionIngress,
		Request:   observe.Message{First: 5000, Last: 5000, Packets: 1}, Wall: 100_000_000_000,
	}
	o.Context.TraceID, o.Context.SpanID = tracecontext.TraceID(traceID), tracecontext.SpanID(headerID)
	return o
}

// with returns a stored span with other attributes; nil removes one.
func with(change map[string]any) Stored {
	s := vnicStored()
	for key, value := range change {
		set := s.Attributes
		if _, ok := s.Resource[key]; ok || key == string(keyProcess) {
			set = s.Resource
		}
		if value == nil {
			delete(set, key)
		} else {
			set[key] = value
		}
	}
	return s
}

var comparable = cmpopts.EquateComparable(observe.Observation{}.Client)

func TestDecode(t *testing.T) {
	for _, test := range []struct {
		name   string
		change map[string]any
		want   func(*observe.Observation)
	}{
		{"nothing unusual", nil, func(*observe.Observation) {}},
		{"a physical interface", map[string]any{"layertrace.capture_point.kind": "pnic", "layertrace.direction": "egress"}, func(s *observe.Observation) {
			s.Point.Kind, s.Direction, s.Point.Workload = observe.KindPNIC, observe.DirectionEgress, observe.Workload{}
		}},
		{"all times", map[string]any{
			"layertrace.request.first_ns": int64(1), "layertrace.request.last_ns": int64(2),
			"layertrace.response.first_ns": int64(30), "layertrace.response.last_ns": int64(40),
			"layertrace.request.app_first_ns": int64(-4), "layertrace.request.app_last_ns": int64(5),
			"layertrace.response.app_first_ns": int64(29),
		}, func(s *observe.Observation) {
			s.Request = observe.Message{First: 5001, Last: 5002, Packets: 1, App: observe.Extent{First: 4996, Last: 5005}}
			s.Response = observe.Message{First: 5030, Last: 5040, Packets: 1, App: observe.Extent{First: 5029, Last: 5029}}
		}},
		{"all counts", map[string]any{
			"layertrace.request.bytes": int64(100), "layertrace.request.packets": int64(3), "layertrace.response.first_ns": int64(7),
			"layertrace.response.bytes": int64(200), "http.response.status_code": int64(503), "layertrace.retransmits": int64(4),
			"layertrace.drops": int64(5), "layertrace.drop_reason": "QDISC_DROP",
			"layertrace.connection_id": "0102", "layertrace.flags": []string{"reset", "later"},
		}, func(s *observe.Observation) {
			s.Request.Bytes, s.Request.Packets = 100, 3
			s.Response = observe.Message{First: 5007, Last: 5007, Bytes: 200, Packets: 1}
			s.Status, s.Retransmits, s.Drops, s.DropReason = 503, 4, 5, "QDISC_DROP"
			s.ConnectionID, s.Flags = []byte{1, 2}, observe.FlagReset
		}},
		{"a sidecar's socket", map[string]any{
			"layertrace.capture_point.kind": "socket", "layertrace.socket.side": "client", "layertrace.socket.process": "sidecar",
			"service.name": "node1", "layertrace.direction": nil, "layertrace.socket.cookie": int64(9),
			"layertrace.zero_windows": int64(6), "layertrace.srtt_ns": int64(8),
		}, func(s *observe.Observation) {
			s.Point.Kind, s.Point.Process, s.Point.Interface, s.Direction = observe.KindSocket, observe.Sidecar, "", observe.DirectionUnknown
			s.Socket = &observe.Socket{Client: true, Cookie: 9, ZeroWindows: 6, SRTT: 8}
			s.Point.Workload.Service = ""
		}},
		{"what Jaeger makes of types", map[string]any{
			"layertrace.monotonic_ns": "9007199254740993", "client.port": json.Number("40000"), "layertrace.flags": `["idle"]`,
		}, func(s *observe.Observation) {
			s.Request.First, s.Request.Last, s.Flags = 9007199254740993, 9007199254740993, observe.FlagIdle
		}},
	} {
		t.Run(test.name, func(t *testing.T) {
			r := with(test.change)
			r.Service = r.Resource.Text("service.name")
			got, err := Decode(&r)
			if err != nil {
				t.Fatal(err)
			}
			want := vnicObservation()
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
		{"kind", map[string]any{"layertrace.capture_point.kind": "satellite"}, "not a kind of capture point"},
		{"time", map[string]any{"layertrace.monotonic_ns": nil}, "monotonic_ns is missing"},
		{"time 0", map[string]any{"layertrace.monotonic_ns": int64(0)}, "not a time"},
		{"no integer", map[string]any{"layertrace.monotonic_ns": 0.5}, "not an integer"},
		{"direction", map[string]any{"layertrace.direction": "up"}, "neither ingress nor egress"},
		{"side", map[string]any{"layertrace.capture_point.kind": "socket"}, "neither client nor server"},
		{"address", map[string]any{"client.address": "reviews"}, "not an address"},
		{"port", map[string]any{"server.port": int64(65536)}, "not a port"},
		{"request", map[string]any{"layertrace.request.last_ns": int64(-1)}, "request ends before it begins"},
		{"response", map[string]any{"layertrace.response.first_ns": int64(5), "layertrace.response.last_ns": int64(4)}, "response ends before it begins"},
		{"half a response", map[string]any{"layertrace.response.last_ns": int64(4)}, "no beginning"},
		{"order", map[string]any{"layertrace.request.first_ns": int64(5), "layertrace.response.first_ns": int64(4)}, "before the request"},
		{"app time", map[string]any{"layertrace.request.app_last_ns": int64(4)}, "ends before it begins"},
		{"acknowledgement", map[string]any{"layertrace.request.last_ns": int64(5), "layertrace.request.acknowledged_ns": int64(4)}, "acknowledged before"},
		{"before the clock", map[string]any{"layertrace.request.first_ns": int64(-5000)}, "not a time"},
		{"after the clock", map[string]any{"layertrace.request.last_ns": int64(1<<63 - 1)}, "not a time"},
		{"count", map[string]any{"layertrace.drops": int64(-1)}, "not from 0"},
	} {
		t.Run(test.name, func(t *testing.T) {
			r := with(test.change)
			if _, err := Decode(&r); err == nil || !strings.Contains(err.Error(), test.want) {
				t.Errorf("got %v, want %q", err, test.want)
			}
		})
	}
	for name, spoil := range map[string]func(*Stored){
		"no parent": func(r *Stored) { r.Parent = [8]byte{} }, "the duration": func(r *Stored) { r.Duration = -1 },
	} {
		r := vnicStored()
		spoil(&r)
		if _, err := Decode(&r); err == nil || !strings.Contains(err.Error(), name) {
			t.Errorf("got %v, want %q", err, name)
		}
	}
}

// FuzzDecode: any span is decoded to an observation whose times are in order, or to an
// error.
func FuzzDecode(f *testing.F) {
	f.Add("vnic", "ingress", "10.0.0.1", int64(40000), int64(5000), int64(1), int64(2), int64(3), int64(4), int64(0))
	f.Add("socket", "", "fd00::1", int64(-1), int64(1<<62), int64(1<<62), int64(-9), int64(-1<<63), int64(1<<63-1), int64(5))
	f.Fuzz(func(t *testing.T, kind, direction, address string, port, start, first, last, responseFirst, responseLast, app int64) {
		r := with(map[string]any{
			string(keyKind): kind, "layertrace.direction": direction, "client.address": address, "client.port": port, string(keyMonotonic): start, string(keySide): "server",
			"layertrace.request.first_ns": first, "layertrace.request.last_ns": last, "layertrace.response.first_ns": responseFirst, "layertrace.response.last_ns": responseLast,
			"layertrace.request.app_first_ns": app, "layertrace.response.bytes": first,
		})
		s, err := Decode(&r)
		if err != nil {
			return
		}
		if s.Request.First == 0 || s.Request.Last < s.Request.First || s.Response.Last < s.Response.First ||
			s.Response.First != 0 && s.Response.First < s.Request.First || int64(s.Request.First) < 0 {
			t.Errorf("times out of order: %+v", s)
		}
	})
}

// The tables of docs/attributes.md are generated from the codec.
func TestDocumentationListsAllAttributes(t *testing.T) {
	tables := map[string]*doctable.Table{
		"resource": doctable.New("attribute", "type", "meaning"),
		"layers":   doctable.New("attribute", "type", "meaning"),
		"sighting": doctable.New("attribute", "type", "unit", "meaning"),
	}
	code := func(key attribute.Key) string { return "`" + string(key) + "`" }
	for _, f := range resourceFields {
		tables["resource"].Row(code(f.key), f.typ, f.meaning)
	}
	for _, f := range fields {
		if tables[f.section] == nil {
			tables[f.section] = doctable.New("attribute", "type", "unit", "meaning")
		}
		tables[f.section].Row(code(f.key), f.typ, f.unit, f.meaning)
	}
	for _, f := range layerFields {
		tables["layers"].Row(code(f.key), f.typ, f.meaning)
	}
	for _, f := range sightingFields {
		tables["sighting"].Row(code(f.key), f.typ, f.unit, f.meaning)
	}
	doctable.Check(t, "../../../docs/attributes.md", tables)
}

// No attribute is written twice, and an observation that has everything has all
// attributes of the tables.
func TestKeysAreComplete(t *testing.T) {
	known := map[attribute.Key]bool{}
	for i := range fields {
		known[fields[i].key] = true
	}
	for i := range resourceFields {
		known[resourceFields[i].key] = true
	}
	for i := range layerFields {
		known[layerFields[i].key] = true
	}
	x := sample()
	x.Client, x.Server = netip.MustParseAddrPort("[fd00::1]:40000"), netip.MustParseAddrPort("[fd00::2]:9080")
	x.ConnectionID, x.OptionTime, x.Flags = []byte{1, 2, 3, 4}, 1, 1<<10-1
	x.Method, x.Path = "GET", "/"
	x.Request.Seq, x.Response.Seq, x.Request.TTL, x.Response.TTL = 1, 2, 63, 62
	for _, m := range []*observe.Message{&x.Request, &x.Response} {
		m.Waited, m.Held, m.Stalled, m.Unread = 4, 3, 2, 1
	}
	start := x.Request.First - 1
	for i, e := range []*observe.Extent{&x.Request.App, &x.Response.App, &x.Request.Tx, &x.Response.Tx} {
		*e = observe.Extent{First: x.Request.First + uint64(2*i), Last: x.Request.First + uint64(2*i) + 1}
	}
	x.Request.Acknowledged, x.Response.Acknowledged = x.Request.First+5, x.Request.First+6
	x.Drops, x.DropReason = 1, "qdisc_drop"
	x.Join = observe.JoinExact
	x.Peers = observe.Peers{Client: observe.Peer{Service: "reviews", Namespace: "a", Node: "node3"}, Server: observe.Peer{Service: "productpage", Namespace: "b", Node: "node4"}}
	sets := [][]attribute.KeyValue{appendAttributes(nil, &x, start)}
	oneWay := x
	oneWay.Point, oneWay.Request = &observe.Point{ID: "router1/2", Kind: observe.KindDevice, Node: "router1", Interface: "eth0"}, observe.Message{}
	sets = append(sets, appendAttributes(nil, &oneWay, start))
	socket := observe.Point{ID: "node4/netns/2/sidecar", Kind: observe.KindSocket, Node: "node4", Process: observe.Sidecar}
	p := *x.Point
	x.Socket, x.Point = &observe.Socket{}, &socket
	for i := range reflect.TypeFor[observe.Socket]().NumField() {
		if f := reflect.ValueOf(x.Socket).Elem().Field(i); f.CanUint() {
			f.SetUint(uint64(i) + 1)
		}
	}
	sets = append(sets, appendAttributes(nil, &x, start), Resource(&socket).Attributes(),
		appendLayer(nil, &LayerSpan{Flags: observe.FlagIdle, Segment: &breakdown.Segment{Layer: observe.ProtocolStack, Queue: breakdown.SendQueue, MergedLayers: []observe.Layer{observe.ProtocolStack, observe.Application}}}))
	p.Workload.PodUID, p.Workload.Name = "11111111-2222-3333-4444-555555555555", "gateway"
	for p.Workload.Kind = range controllerKeys {
		sets = append(sets, Resource(&p).Attributes())
	}
	given := map[attribute.Key]bool{}
	for _, set := range sets {
		once := map[attribute.Key]bool{}
		for _, kv := range set {
			if once[kv.Key] {
				t.Errorf("%s is written twice", kv.Key)
			}
			if !known[kv.Key] {
				t.Errorf("%s is in no table", kv.Key)
			}
			once[kv.Key], given[kv.Key] = true, true
		}
	}
	for key := range known {
		if !given[key] {
			t.Errorf("%s is in a table, but not written for an observation that has everything", key)
		}
	}
}

// Services of one name in two namespaces stay apart: the resource has the point's
// namespace, and the peers' are written where they differ from it.
func TestNamespaces(t *testing.T) {
	for name, test := range map[string]struct {
		own     observe.Workload
		peers   observe.Peers
		written map[string]string
	}{
		"all the same": {
			observe.Workload{Service: "web", Namespace: "prod"},
			observe.Peers{Client: observe.Peer{Service: "web", Namespace: "prod"}, Server: observe.Peer{Service: "db", Namespace: "prod"}},
			map[string]string{"layertrace.server.service": "db"},
		},
		"one name, two namespaces": {
			observe.Workload{Service: "web", Namespace: "prod"},
			observe.Peers{Client: observe.Peer{Service: "web", Namespace: "staging"}, Server: observe.Peer{Service: "db", Namespace: ""}},
			map[string]string{
				"layertrace.client.service": "web", "layertrace.client.namespace": "staging",
				"layertrace.server.service": "db", "layertrace.server.namespace": "",
			},
		},
		"unknown point": {
			observe.Workload{},
			observe.Peers{Client: observe.Peer{Service: "web", Namespace: "prod"}, Server: observe.Peer{Node: "node3"}},
			map[string]string{"layertrace.client.service": "web", "layertrace.client.namespace": "prod", "layertrace.server.node": "node3"},
		},
	} {
		x := vnicObservation()
		x.Point = &observe.Point{ID: "node1/7", Kind: observe.KindVNIC, Node: "node1", Interface: "veth1", Workload: test.own}
		x.Peers = test.peers
		stored := vnicStored()
		stored.Service = x.Point.Service()
		stored.Attributes, stored.Resource = Attributes{}, Attributes{}
		got := map[string]string{}
		for _, kv := range appendAttributes(nil, &x, x.Request.First) {
			stored.Attributes[string(kv.Key)] = kv.Value.AsInterface()
			if strings.Contains(string(kv.Key), ".service") || strings.Contains(string(kv.Key), ".namespace") || strings.HasSuffix(string(kv.Key), ".node") {
				got[string(kv.Key)] = kv.Value.AsString()
			}
		}
		for _, kv := range Resource(x.Point).Attributes() {
			stored.Resource[string(kv.Key)] = kv.Value.AsInterface()
		}
		if !reflect.DeepEqual(got, test.written) {
			t.Errorf("%s: written %q, want %q", name, got, test.written)
		}
		if ns := stored.Resource.Text("service.namespace"); ns != test.own.Namespace {
			t.Errorf("%s: service.namespace is %q, want %q", name, ns, test.own.Namespace)
		}
		for _, dropped := range []string{"", "service.namespace", "k8s.namespace.name"} { // by the store
			kept := stored
			kept.Resource = Attributes{}
			for key, value := range stored.Resource {
				if key != dropped {
					kept.Resource[key] = value
				}
			}
			back, err := Decode(&kept)
			if err != nil {
				t.Fatal(err)
			}
			want := test.peers
			if want.Client == (observe.Peer{Service: test.own.Service, Namespace: test.own.Namespace}) {
				want.Client = observe.Peer{} // the resource has it
			}
			if back.Peers != want || back.Point.Workload != test.own {
				t.Errorf("%s without %q: %+v of %+v, want %+v of %+v", name, dropped, back.Peers, back.Point.Workload, want, test.own)
			}
		}
	}
}
