// SPDX-License-Identifier: Apache-2.0

package tracecontext

import (
	"bytes"
	"testing"
)

// FuzzParse checks what holds for every input, whatever is in it.
func FuzzParse(f *testing.F) {
	f.Add([]byte(request(w3c)), uint16(1024), uint16(0))
	f.Add([]byte(request(b3Trace, b3Span, b3Parent, "x-b3-sampled: 0")), uint16(0), uint16(DeepMaxLine))
	f.Add([]byte(request("b3: 0", "uber-trace-id: 1:2:0:1")), uint16(40), uint16(8))
	f.Add([]byte(request("sw8: 1-dHI=-c2U=-3", ddTrace, ddParent, ddPriority+"-1")), uint16(100), uint16(64))
	f.Fuzz(func(t *testing.T, head []byte, window, maxLine uint16) {
		before := bytes.Clone(head)
		opts := Options{Window: int(window), MaxLine: int(maxLine), Headers: []ContextHeader{{"X-Sky", FormatSkyWalking}}}
		r := Parse(head, opts)
		if !bytes.Equal(head, before) {
			t.Fatal("the input was changed")
		}
		checkInvariants(t, head, opts, r)
		if r.Final {
			longer := Parse(append(before, "x-b3-sampled: 0\r\n\r\n"...), opts)
			if longer != r {
				t.Fatalf("final %+v, but with more bytes %+v", r, longer)
			}
		}
	})
}

func checkInvariants(t *testing.T, head []byte, opts Options, r Result) {
	t.Helper()
	if r.BeginsRequest != BeginsRequest(head) {
		t.Fatalf("BeginsRequest: %+v", r)
	}
	if !r.BeginsRequest && r != (Result{}) {
		t.Fatalf("not a request, but %+v", r)
	}
	hasContext := r.Context != Context{}
	if hasContext && (r.Context.TraceID.IsZero() || r.Context.SpanID.IsZero() || r.Context.Format == FormatNone) {
		t.Fatalf("half a context: %+v", r)
	}
	switch r.Outcome {
	case Found:
		if !hasContext || r.Context.Sampling == Denied {
			t.Fatalf("found: %+v", r)
		}
	case Unsampled:
		if hasContext && r.Context.Sampling != Denied {
			t.Fatalf("unsampled: %+v", r)
		}
	default:
		if hasContext {
			t.Fatalf("%v with a context: %+v", r.Outcome, r)
		}
	}
	if !hasContext && r.Offset != 0 {
		t.Fatalf("an offset without a context: %+v", r)
	}
	if hasContext && (head[r.Offset-1] != '\n' || opts.Window > 0 && int(r.Offset) >= opts.Window) {
		t.Fatalf("no line begins at the offset: %+v", r)
	}
}
