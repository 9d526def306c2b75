// SPDX-License-Identifier: Apache-2.0

package pictures

import (
	"reflect"
	"testing"
	"time"

	"github.com/layertrace/layertrace/e2e/lab"
)

func TestZipkinSpans(t *testing.T) {
	start := time.UnixMicro(1_700_000_000_000_000)
	got := zipkinSpans(lab.Trace{ID: "0af7651916cd43dd8448eb211c80319c", Spans: []lab.Span{
		{
			ID: "b7ad6b7169203331", Name: "details:9080", Service: "productpage",
			Start: start, Duration: 3 * time.Millisecond,
			Tags: map[string]any{"span.kind": "client", "http.status_code": "200"},
		},
		{
			ID: "00f067aa0ba902b7", Parent: "b7ad6b7169203331", Name: "node4_eth0", Service: "node4",
			Start: start.Add(time.Millisecond), Duration: time.Millisecond,
			Tags:     map[string]any{"span.kind": "internal", "layertrace.monotonic_ns": float64(1920377545857)},
			Resource: map[string]any{"host.name": "node4"},
		},
	}})
	want := []zipkinSpan{
		{
			TraceID: "0af7651916cd43dd8448eb211c80319c", ID: "b7ad6b7169203331", Name: "details:9080", Kind: "CLIENT",
			Timestamp: 1_700_000_000_000_000, Duration: 3000, Local: zipkinEndpoint{"productpage"},
			Tags: map[string]string{"span.kind": "client", "http.status_code": "200"},
		},
		{
			TraceID: "0af7651916cd43dd8448eb211c80319c", ID: "00f067aa0ba902b7", ParentID: "b7ad6b7169203331", Name: "node4_eth0",
			Timestamp: 1_700_000_000_001_000, Duration: 1000, Local: zipkinEndpoint{"node4"},
			Tags: map[string]string{"span.kind": "internal", "layertrace.monotonic_ns": "1920377545857", "host.name": "node4"},
		},
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("got  %+v\nwant %+v", got, want)
	}
}
