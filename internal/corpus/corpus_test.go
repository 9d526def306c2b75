// SPDX-License-Identifier: Apache-2.0

package corpus

import (
	"bytes"
	"strings"
	"testing"

	"github.com/layertrace/layertrace/internal/tracecontext"
)

// The IDs that the recorded clients were given.
const (
	trace128 = "4bf92f3577b34da6a3ce929d0e0e4736"
	trace64  = "0000000000000000a3ce929d0e0e4736"
	span     = "00f067aa0ba902b7"
)

var deep = tracecontext.Options{Window: 65536, MaxLine: tracecontext.DeepMaxLine}

// given is what a head has in it by the context that its client was given.
var given = []struct {
	part    string // of the name; the first one that fits counts
	outcome tracecontext.Outcome
	format  tracecontext.Format
	trace   string
}{
	{"-none", tracecontext.None, tracecontext.FormatNone, ""},
	{"-w3c-unsampled", tracecontext.Unsampled, tracecontext.FormatW3C, trace128},
	{"-w3c", tracecontext.Found, tracecontext.FormatW3C, trace128},
	{"-b3-denied", tracecontext.Unsampled, tracecontext.FormatNone, ""},
	{"-b3multi-64", tracecontext.Unsampled, tracecontext.FormatB3Multi, trace64},
	{"-b3multi", tracecontext.Found, tracecontext.FormatB3Multi, trace128},
	{"-b3", tracecontext.Found, tracecontext.FormatB3, trace128},
	{"-jaeger", tracecontext.Found, tracecontext.FormatJaeger, trace128},
	{"-datadog", tracecontext.Found, tracecontext.FormatDatadog, trace64},
	{"-skywalking", tracecontext.Found, tracecontext.FormatSkyWalking, ""},
}

func TestClientsHeads(t *testing.T) {
	seen := map[string]int{}
	for _, head := range Heads() {
		if strings.HasPrefix(head.Name, "envoy-") {
			continue
		}
		r := tracecontext.Parse(head.Bytes, deep)
		for _, g := range given {
			if !strings.Contains(head.Name, g.part) {
				continue
			}
			seen[g.part]++
			if r.Outcome != g.outcome || r.Context.Format != g.format || r.Malformed != 0 {
				t.Errorf("%s: %+v", head.Name, r)
			}
			if g.trace != "" && (r.Context.TraceID.String() != g.trace || r.Context.SpanID.String() != span) {
				t.Errorf("%s: IDs %s, %s", head.Name, r.Context.TraceID, r.Context.SpanID)
			}
			break
		}
	}
	for _, g := range given {
		if seen[g.part] == 0 {
			t.Errorf("no client's head has %q in its name", g.part)
		}
	}
}

// TestEnvoysHeads: what Envoy put in itself. Behind 1,100 bytes of metadata it
// is out of the default window, as in the paper.
func TestEnvoysHeads(t *testing.T) {
	formats := map[string]tracecontext.Format{
		"zipkin": tracecontext.FormatB3Multi, "opentelemetry": tracecontext.FormatW3C,
		"datadog": tracecontext.FormatDatadog, "skywalking": tracecontext.FormatSkyWalking,
	}
	count := 0
	for _, head := range Heads() {
		name, ok := strings.CutPrefix(head.Name, "envoy-")
		if !ok {
			continue
		}
		count++
		tracer, rest, _ := strings.Cut(name, "-")
		r := tracecontext.Parse(head.Bytes, deep)
		if rest == "unsampled-root" && r.Outcome != tracecontext.Found && r.Outcome != tracecontext.None {
			// As each tracer has it: denied, or no header at all.
			if r.Outcome != tracecontext.Unsampled {
				t.Errorf("%s: %+v", head.Name, r)
			}
		} else if !strings.HasPrefix(rest, "unsampled") && (r.Outcome != tracecontext.Found || r.Context.Format != formats[tracer]) {
			t.Errorf("%s: %+v", head.Name, r)
		}
		if r.Malformed != 0 {
			t.Errorf("%s: %d malformed", head.Name, r.Malformed)
		}
		near := tracecontext.Parse(head.Bytes, tracecontext.Options{Window: 1024})
		if strings.HasPrefix(rest, "peer-metadata") != (near.Outcome == tracecontext.Truncated) {
			t.Errorf("%s in 1024 bytes: %+v", head.Name, near)
		}
	}
	if count < 24 {
		t.Errorf("%d heads by Envoy, want 24", count)
	}
}

func TestHeads(t *testing.T) {
	if n := len(Heads()); n < 40 {
		t.Errorf("%d heads, want 40 or more", n)
	}
	for _, head := range Heads() {
		if end := bytes.Index(head.Bytes, []byte("\r\n\r\n")); end != len(head.Bytes)-4 {
			t.Errorf("%s: the head ends at %d of %d bytes", head.Name, end, len(head.Bytes))
		}
	}
}
