// SPDX-License-Identifier: Apache-2.0

package backend

import (
	"net/netip"
	"testing"
	"time"

	"github.com/layertrace/layertrace/agent/internal/layer"
	"github.com/layertrace/layertrace/internal/exchange"
	"go.opentelemetry.io/otel/trace"
)

var (
	traceID  = trace.TraceID{15: 1}
	headerID = trace.SpanID{7: 2}
)

// vnicRecord is a span at a virtual interface, all that is usual left out.
func vnicRecord() record {
	return record{
		id: trace.SpanID{7: 9}, parent: headerID, name: "reviews_veth1", service: "reviews",
		start: time.Unix(100, 0), duration: time.Millisecond, scope: scopeName,
		attributes: attributes{
			"layertrace.monotonic_ns": int64(5000), "layertrace.direction": "ingress",
			"client.address": "10.0.0.1", "client.port": int64(40000),
			"server.address": "10.0.0.2", "server.port": int64(9080),
		},
		resource: attributes{
			"service.name": "reviews", "host.name": "node1", "k8s.pod.name": "reviews-1",
			"layertrace.capture_point.kind": "vnic", "network.interface.name": "veth1",
		},
	}
}

func vnicSighting() layer.Sighting {
	return layer.Sighting{
		TraceID: traceID, SpanID: headerID, Kind: layer.VNIC, Node: "node1",
		Service: "reviews", Pod: "reviews-1", Interface: "veth1", Direction: exchange.DirectionIngress,
		Client: netip.MustParseAddrPort("10.0.0.1:40000"), Server: netip.MustParseAddrPort("10.0.0.2:9080"),
		Request: exchange.Message{First: 5000, Last: 5000, Packets: 1}, Wall: 100_000_000_000,
	}
}

// with returns a record with other attributes; nil takes one away.
func with(change map[string]any) record {
	r := vnicRecord()
	for key, value := range change {
		set := r.attributes
		if _, ok := r.resource[key]; ok || key == keyOldKind || key == keyProcess {
			set = r.resource
		}
		if value == nil {
			delete(set, key)
		} else {
			set[key] = value
		}
	}
	return r
}

func TestAssemble(t *testing.T) {
	client := record{id: trace.SpanID{7: 2}, name: "reviews", service: "productpage", kind: "client", start: time.Unix(100, 0), duration: 5}
	server := client // Zipkin's headers: the same ID at both ends
	server.service, server.kind = "reviews", "server"
	again, derived, lost := vnicRecord(), vnicRecord(), vnicRecord()
	derived.id, derived.attributes[keyDerived] = trace.SpanID{7: 10}, "application"
	lost.id, lost.resource = trace.SpanID{7: 11}, nil
	foreign := vnicRecord()
	foreign.id, foreign.scope = trace.SpanID{7: 12}, "other"
	got := assemble(traceID, []record{client, server, vnicRecord(), again, client, derived, lost, foreign})
	if len(got.Spans) != 3 || len(got.Sightings) != 1 || got.Duplicates != 2 {
		t.Errorf("%d spans, %d sightings, %d duplicates", len(got.Spans), len(got.Sightings), got.Duplicates)
	}
	const want = "span 000000000000000b (reviews_veth1): host.name is missing, so its node is not known"
	if len(got.Unreadable) != 1 || got.Unreadable[0] != want {
		t.Errorf("unreadable: %q", got.Unreadable)
	}
}
