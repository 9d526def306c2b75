// SPDX-License-Identifier: Apache-2.0

package backend

import (
	"bytes"
	"context"
	"os"
	"testing"

	"go.opentelemetry.io/otel/trace"
)

// FuzzSighting: whatever stands in a span, it is a sighting whose times are in
// order or an error, and no panic.
func FuzzSighting(f *testing.F) {
	f.Add("vnic", "ingress", "10.0.0.1", int64(40000), int64(5000), int64(1), int64(2), int64(3), int64(4), int64(0))
	f.Add("socket", "", "fd00::1", int64(-1), int64(1<<62), int64(1<<62), int64(-9), int64(-1<<63), int64(1<<63-1), int64(5))
	f.Fuzz(func(t *testing.T, kind, direction, address string, port, start, first, last, answer, end, handover int64) {
		r := with(map[string]any{
			keyPointKind: kind, keyDirection: direction, keyClientAddress: address, keyClientPort: port, keyMonotonic: start, keySide: "server",
			keyRequest + keyFirst: first, keyRequest + keyLast: last, keyResponse + keyFirst: answer, keyResponse + keyLast: end,
			keyRequest + keyHandoverFirst: handover, keyResponse + keyBytes: first,
		})
		s, err := sighting(traceID, &r)
		if err != nil {
			return
		}
		if s.Request.First == 0 || s.Request.Last < s.Request.First || s.Response.Last < s.Response.First ||
			s.Response.First != 0 && s.Response.First < s.Request.First || int64(s.Request.First) < 0 {
			t.Errorf("times out of order: %+v", s)
		}
	})
}

// FuzzFile: any file is traces or an error.
func FuzzFile(f *testing.F) {
	for _, name := range []string{"testdata/otlp.jsonl", "testdata/jaeger.json"} {
		text, err := os.ReadFile(name)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		traces, err := NewReader("-", bytes.NewReader(text)).Search(context.Background(), Query{})
		if err != nil {
			return
		}
		for _, each := range traces {
			if each.ID == (trace.TraceID{}) && len(each.Sightings) > 0 {
				t.Error("a trace without an ID")
			}
		}
	})
}
