// SPDX-License-Identifier: Apache-2.0

package reorder

import (
	"bytes"
	"math/rand/v2"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
)

var pool = []string{
	":authority", ":path", ":method", "host", "x-request-id", "cookie", "accept",
	"traceparent", "tracestate", "b3", "x-b3-traceid", "X-B3-SpanId", "uber-trace-id",
	"x-datadog-trace-id", "sw8", "x-envoy-peer-metadata", "x-own",
}

// TestFrontProperties checks what must hold for every header list, on random
// ones: nothing added, lost or changed; the order within a name and within the
// ordinary headers kept; a second run has nothing to do; groups in their order.
func TestFrontProperties(t *testing.T) {
	names, err := NewNames(nil, []string{"x-own"})
	if err != nil {
		t.Fatal(err)
	}
	lists := NewLists(names)
	const seed = 7
	random := rand.New(rand.NewPCG(seed, seed))
	for range 20_000 {
		in := make([][2]string, random.IntN(12))
		for i := range in {
			in[i] = [2]string{pool[random.IntN(len(pool))], strconv.Itoa(i)}
		}
		out := checkFront(t, lists, in)
		for name, keep := range map[string]func(string) bool{
			"ordinary headers":        func(n string) bool { return !names.Has(n) && n != "tracestate" && !isHead(n) },
			"trace headers":           names.Has,
			"tracestate":              func(n string) bool { return n == "tracestate" },
			"pseudo headers":          func(n string) bool { return strings.HasPrefix(n, ":") },
			"host":                    func(n string) bool { return n == "host" },
			"all of them, as one set": nil,
		} {
			if diff := cmp.Diff(pick(in, keep), pick(out, keep)); diff != "" {
				t.Fatalf("%s of %v (-before +after):\n%s", name, in, diff)
			}
		}
		if slices.ContainsFunc(in, func(h [2]string) bool { return names.Has(h[0]) }) {
			checkGroups(t, names, out)
		}
	}
}

// checkFront runs Front on one list: the result is the model's, the outcome fits,
// a second run has nothing to do, and the argument is not written to.
func checkFront(t *testing.T, lists *Lists, in [][2]string) [][2]string {
	t.Helper()
	pairs := encode(in)
	result, outcome := lists.Front(pairs)
	if !bytes.Equal(pairs, encode(in)) {
		t.Fatalf("Front(%v) wrote to its argument", in)
	}
	out := in
	if outcome == Moved {
		out = decode(result)
	}
	if diff := cmp.Diff(modelFront(lists.names, in), out, cmpopts.EquateEmpty()); diff != "" {
		t.Fatalf("Front(%v) (-model +got):\n%s", in, diff)
	}
	want := InFront
	switch {
	case !slices.ContainsFunc(in, func(h [2]string) bool { return lists.names.Has(h[0]) }):
		want = Absent
	case !slices.Equal(in, out):
		want = Moved
	}
	if outcome != want {
		t.Fatalf("Front(%v) = %v says %v, want %v", in, out, outcome, want)
	}
	if again, outcome := front(lists, out); outcome == Moved {
		t.Fatalf("Front is not idempotent: %v, then %v, then %v", in, out, again)
	}
	return out
}

// pick returns the headers whose name is wanted, in their order; with nil all
// of them, sorted by their (unique) values.
func pick(list [][2]string, want func(string) bool) [][2]string {
	if want == nil {
		list = slices.Clone(list)
		slices.SortFunc(list, func(a, b [2]string) int { return strings.Compare(a[1], b[1]) })
		return list
	}
	return slices.DeleteFunc(slices.Clone(list), func(h [2]string) bool { return !want(h[0]) })
}

// checkGroups fails unless nothing but pseudo headers, host and the trace
// context stands ahead of the last trace header.
func checkGroups(t *testing.T, names *Names, out [][2]string) {
	t.Helper()
	ordinary, traced := false, false
	for _, h := range out {
		switch {
		case isHead(h[0]):
			if strings.HasPrefix(h[0], ":") && (ordinary || traced) {
				t.Fatalf("%s stands behind others: %v", h[0], out)
			}
		case names.Has(h[0]):
			traced = true
			if ordinary {
				t.Fatalf("%s stands behind an ordinary header: %v", h[0], out)
			}
		case h[0] != "tracestate":
			ordinary = true
		}
	}
}

func isHead(name string) bool { return strings.HasPrefix(name, ":") || name == "host" }
