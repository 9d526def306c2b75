// SPDX-License-Identifier: Apache-2.0

package tracestore

import (
	"bytes"
	"context"
	"os"
	"testing"

	"go.opentelemetry.io/otel/trace"
)

// FuzzFile: any file is traces or an error. (Run it with -fuzzminimizetime=10x:
// making a found file small takes a minute otherwise.)
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
			if each.ID == (trace.TraceID{}) && len(each.Observations) > 0 {
				t.Error("a trace without an ID")
			}
		}
	})
}
