// SPDX-License-Identifier: Apache-2.0

package tracestore

import (
	"testing"
	"time"

	"github.com/google/go-cmp/cmp/cmpopts"
	"go.opentelemetry.io/otel/trace"

	"github.com/layertrace/layertrace/agent/internal/span"
	"github.com/layertrace/layertrace/internal/observe"
)

var (
	comparable = cmpopts.EquateComparable(observe.Observation{}.Client)
	traceID    = trace.TraceID{15: 1}
	headerID   = trace.SpanID{7: 2}
)

// vnicStored is a span at a virtual interface without anything unusual.
func vnicStored() span.Stored {
	return span.Stored{
		Span: span.Span{
			ID: trace.SpanID{7: 9}, Parent: headerID, Name: "reviews_veth1", Service: "reviews",
			Start: time.Unix(100, 0), Duration: time.Millisecond,
		},
		TraceID: traceID, Scope: span.ScopeName,
		Attributes: span.Attributes{
			"layertrace.monotonic_ns": int64(5000), "layertrace.direction": "ingress",
			"client.address": "10.0.0.1", "client.port": int64(40000),
			"server.address": "10.0.0.2", "server.port": int64(9080),
		},
		Resource: span.Attributes{
			"service.name": "reviews", "host.name": "node1", "k8s.pod.name": "reviews-1",
			"layertrace.capture_point.kind": "vnic", "network.interface.name": "veth1",
		},
	}
}

func TestAssemble(t *testing.T) {
	client := span.Stored{TraceID: traceID, Span: span.Span{
		ID: trace.SpanID{7: 2}, Name: "reviews", Service: "productpage", Kind: "client", Start: time.Unix(100, 0), Duration: 5,
	}}
	server := client // Zipkin's headers: the same ID at both ends
	server.Service, server.Kind = "reviews", "server"
	again, derived, lost := vnicStored(), vnicStored(), vnicStored()
	derived.ID, derived.Attributes["layertrace.layer"] = trace.SpanID{7: 10}, "application"
	lost.ID, lost.Resource = trace.SpanID{7: 11}, nil
	foreign := vnicStored()
	foreign.ID, foreign.Scope = trace.SpanID{7: 12}, "other"
	got := assemble(traceID, []span.Stored{client, server, vnicStored(), again, client, derived, lost, foreign})
	if len(got.Spans) != 3 || len(got.Observations) != 1 || got.Duplicates != 2 {
		t.Errorf("%d spans, %d observations, %d duplicates", len(got.Spans), len(got.Observations), got.Duplicates)
	}
	const want = "span 000000000000000b (reviews_veth1): host.name is missing, so the node is unknown"
	if len(got.Unreadable) != 1 || got.Unreadable[0] != want {
		t.Errorf("unreadable: %q", got.Unreadable)
	}
}

// A preliminary report and the whole have one span ID: the whole wins, in either order.
func TestWholeReplacesStillOpen(t *testing.T) {
	whole, early := vnicStored(), vnicStored()
	early.Attributes["layertrace.flags"] = []string{"still_open"}
	whole.Attributes["http.response.status_code"] = int64(200)
	for _, order := range [][]span.Stored{{early, whole}, {whole, early}, {early, early, whole}} {
		got := assemble(traceID, order)
		if len(got.Observations) != 1 || got.Observations[0].Status != 200 || got.Observations[0].Flags != 0 ||
			got.Replaced != 1 && len(order) == 2 || got.Duplicates+got.Replaced != len(order)-1 {
			t.Errorf("%+v", got)
		}
	}
	alone := assemble(traceID, []span.Stored{early})
	if len(alone.Observations) != 1 || alone.Observations[0].Flags != observe.FlagStillOpen || alone.Replaced != 0 {
		t.Errorf("alone: %+v", alone)
	}
}
