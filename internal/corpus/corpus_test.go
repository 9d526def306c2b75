// SPDX-License-Identifier: Apache-2.0

package corpus

import (
	"bytes"
	"fmt"
	"hash/fnv"
	"strings"
	"testing"

	"github.com/layertrace/layertrace/internal/tracecontext"
)

// The IDs in the clients' trace headers.
const (
	trace128 = "4bf92f3577b34da6a3ce929d0e0e4736"
	trace64  = "0000000000000000a3ce929d0e0e4736"
	span     = "00f067aa0ba902b7"
)

var deep = tracecontext.Options{Window: 65536, MaxLine: tracecontext.DeepMaxLine}

// given is the expected result by the context that a client was given.
var given = []struct {
	part    string // of the name; the first match counts
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

// TestEnvoysHeads: the contexts that Envoy added. After 1,100 bytes of metadata
// they are beyond the default window, as in the paper.
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
			// Depending on the tracer: denied, or no header at all.
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

// The vectors in the Go parser; package probe runs them in the BPF parser.
func TestVectors(t *testing.T) {
	names := map[string]bool{}
	for _, v := range Vectors() {
		if names[v.Name] {
			t.Errorf("two vectors are named %q", v.Name)
		}
		names[v.Name] = true
		opts := tracecontext.Options{Window: 1024}
		for _, name := range v.Order {
			f, err := tracecontext.ParsePreference(name)
			if err != nil {
				t.Fatalf("%s: %v", v.Name, err)
			}
			opts.Preferred = append(opts.Preferred, f)
		}
		if got := inWords(tracecontext.Parse(v.Bytes, opts)); got != v.Want {
			t.Errorf("%s: got %q, want %q\n%q", v.Name, got, v.Want, v.Bytes)
		}
	}
	if len(names) < 100 {
		t.Errorf("%d vectors, want 100 or more", len(names))
	}
}

// inWords describes a result as in testdata/vectors.txt.
func inWords(r tracecontext.Result) string {
	words := []string{r.Outcome.String()}
	if c := r.Context; !c.TraceID.IsZero() {
		decision := map[tracecontext.Sampling]string{tracecontext.Deferred: "deferred", tracecontext.Denied: "denied", tracecontext.Accepted: "accepted"}
		words = append(words, c.Format.String(), c.TraceID.String(), c.SpanID.String(), decision[c.Sampling])
	}
	if r.Malformed > 0 {
		words = append(words, "malformed")
	}
	if r.Several {
		words = append(words, "several")
	}
	return strings.Join(words, " ")
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

const total = 100_000

func TestMutateIsDeterministic(t *testing.T) {
	for n := range uint64(2000) {
		head := Heads()[n%uint64(len(Heads()))]
		before := bytes.Clone(head.Bytes)
		first, second := Mutate(n, head.Bytes), Mutate(n, head.Bytes)
		if !bytes.Equal(first, second) {
			t.Fatalf("mutation %d of %s differs from itself", n, head.Name)
		}
		if !bytes.Equal(before, head.Bytes) {
			t.Fatalf("mutation %d changed %s itself", n, head.Name)
		}
	}
}

// TestMutationsReachEverything: a comparison of parsers is worth little if the
// mutations are mostly broken or repeat themselves.
func TestMutationsReachEverything(t *testing.T) {
	const window = 1024
	reached := map[string]int{}
	distinct := map[uint64]bool{}
	for n := range uint64(total) {
		m := Mutation(n)
		h := fnv.New64a()
		h.Write(m.Bytes)
		distinct[h.Sum64()] = true
		r := tracecontext.Parse(m.Bytes, tracecontext.Options{Window: window})
		reached["outcome "+r.Outcome.String()]++
		if r.Context != (tracecontext.Context{}) {
			reached[fmt.Sprintf("%s, sampling %d", r.Context.Format, r.Context.Sampling)]++
		} else if r.Outcome == tracecontext.Unsampled {
			reached["lone denial"]++
		}
		if r.Malformed > 0 {
			reached["malformed"]++
		}
		if r.Several {
			reached["several contexts"]++
		}
		if r.BeginsRequest && bytes.HasPrefix(m.Bytes, []byte("\r\n")) {
			reached["empty line first"]++
		}
		if r.Outcome == tracecontext.Found && bytes.HasPrefix(m.Bytes, []byte("QUERY ")) {
			reached["another method"]++
		}
		if !r.BeginsRequest {
			reached["no request"]++
		}
		if tracecontext.Parse(m.Bytes, deep) != r {
			reached["deep mode differs"]++
		}
	}
	t.Logf("%d of %d are distinct: %v", len(distinct), total, reached)
	if len(distinct) < total*4/5 {
		t.Errorf("%d of %d are distinct", len(distinct), total)
	}
	for _, what := range []string{
		"outcome found", "outcome unsampled", "outcome none", "outcome truncated", "outcome unparsable",
		"w3c, sampling 1", "w3c, sampling 2", "b3, sampling 0", "b3, sampling 1", "b3, sampling 2",
		"b3multi, sampling 0", "b3multi, sampling 1", "b3multi, sampling 2", "jaeger, sampling 1", "jaeger, sampling 2",
		"datadog, sampling 0", "datadog, sampling 1", "datadog, sampling 2", "skywalking, sampling 1", "skywalking, sampling 2",
		"xray, sampling 0", "xray, sampling 1", "xray, sampling 2", "gcp, sampling 0", "gcp, sampling 1", "gcp, sampling 2",
		"several contexts", "another method", "empty line first",
		"lone denial", "malformed", "no request", "deep mode differs",
	} {
		if reached[what] < 100 {
			t.Errorf("%s: reached %d times", what, reached[what])
		}
	}
}
