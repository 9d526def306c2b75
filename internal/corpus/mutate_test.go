// SPDX-License-Identifier: Apache-2.0

package corpus

import (
	"bytes"
	"fmt"
	"hash/fnv"
	"testing"

	"github.com/layertrace/layertrace/internal/tracecontext"
)

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

// TestMutationsReachEverything: a mutator that only made broken heads, or the
// same ones again, would make a comparison of parsers worth little.
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
		"lone denial", "malformed", "no request", "deep mode differs",
	} {
		if reached[what] < 100 {
			t.Errorf("%s: reached %d times", what, reached[what])
		}
	}
}
