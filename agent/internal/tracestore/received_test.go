// SPDX-License-Identifier: Apache-2.0

package tracestore_test

import (
	"net/http/httptest"
	"net/netip"
	"testing"

	"github.com/layertrace/layertrace/agent/internal/export"
	"github.com/layertrace/layertrace/agent/internal/span"
	"github.com/layertrace/layertrace/agent/internal/tracestore"
	"github.com/layertrace/layertrace/internal/observe"
	"github.com/layertrace/layertrace/internal/tracecontext"
)

// What agents keep is read back as whole traces, in the order in which they came, and no more
// than the limit.
func TestReceived(t *testing.T) {
	received := tracestore.NewReceived(3)
	for _, node := range []string{"node1", "node2"} {
		k := export.NewKept(10)
		emitter := span.NewEmitter(span.Options{Sink: k, Offset: fixedOffset})
		for id := byte(2); id > 0; id-- {
			o := observe.Observation{
				Key:     observe.Key{Client: netip.MustParseAddrPort("10.0.0.1:1"), Server: netip.MustParseAddrPort("10.0.0.2:2")},
				Point:   &observe.Point{ID: node + "/7", Kind: observe.KindVNIC, Node: node, Interface: "veth7"},
				Request: observe.Message{First: 1000, Last: 2000, Bytes: 10}, Response: observe.Message{First: 3000, Last: 4000, Bytes: 20}, Status: 200,
			}
			o.Context.Context = tracecontext.Context{TraceID: [16]byte{id}, SpanID: [8]byte{1}, Format: tracecontext.FormatW3C, Sampling: tracecontext.Accepted}
			if !emitter.Emit(&o) {
				t.Fatal("no span")
			}
		}
		response := httptest.NewRecorder()
		k.ServeHTTP(response, httptest.NewRequest("GET", "/spans", nil))
		if err := received.Add(response.Body.Bytes()); err != nil {
			t.Fatal(err)
		}
	}
	traces := received.Traces()
	if len(traces) != 2 || traces[0].ID[0] != 2 || traces[1].ID[0] != 1 {
		t.Fatalf("%d traces: %v", len(traces), traces)
	}
	if a, b := traces[0].Observations, traces[1].Observations; len(a) != 2 || len(b) != 1 || a[0].Point.Node != "node1" || a[1].Point.Node != "node2" || a[1].Response.Bytes != 20 {
		t.Errorf("the traces have the observations\n%v\n%v", a, b)
	}
	if n := received.Dropped(); n != 1 {
		t.Errorf("%d spans above the limit, want 1", n)
	}
	if err := received.Add([]byte("<html>")); err == nil {
		t.Error("HTML was taken for spans")
	}
}
