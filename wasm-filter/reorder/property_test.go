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

	"github.com/layertrace/layertrace/wasm-filter/reorder/reordertest"
)

var pool = []string{
	":authority", ":path", ":method", "host", "x-request-id", "cookie", "accept",
	"traceparent", "tracestate", "b3", "x-b3-traceid", "X-B3-SpanId", "uber-trace-id",
	"x-datadog-trace-id", "sw8", "x-envoy-peer-metadata", "x-own",
	"te", "grpc-timeout", "content-type", "Content-Type",
}

// values of content-type: half of the random requests are gRPC's.
var contentTypes = []string{"application/grpc", "application/grpc+proto", "application/grpc-web", "text/plain"}

// TestFrontProperties checks the invariants on random header lists: nothing is
// added, lost or changed; the order within a name and of the ordinary headers stays;
// a second run has nothing to do; the groups are in their order.
func TestFrontProperties(t *testing.T) {
	names, err := NewNames(nil, []string{"x-own"})
	if err != nil {
		t.Fatal(err)
	}
	list := NewList(names)
	const seed = 7
	random := rand.New(rand.NewPCG(seed, seed))
	for range 20_000 {
		in := make([][2]string, random.IntN(12))
		for i := range in {
			in[i] = [2]string{pool[random.IntN(len(pool))], strconv.Itoa(i)}
			if strings.EqualFold(in[i][0], "content-type") && random.IntN(2) == 0 {
				in[i][1] = contentTypes[random.IntN(len(contentTypes))]
			}
		}
		out := checkReorder(t, list, in)
		for name, keep := range map[string]func(string) bool{
			"ordinary headers":        func(n string) bool { return !names.Has(n) && n != "tracestate" && !isHead(n) && !isCall(n) },
			"headers of a call":       func(n string) bool { return n == "te" },
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
			checkGroups(t, names, out, isGRPCRequest(in))
		}
	}
}

// checkReorder runs Reorder on one list: the result is the model's, the outcome
// matches, a second run has nothing to do, and the argument stays unchanged.
func checkReorder(t *testing.T, list *List, in [][2]string) [][2]string {
	t.Helper()
	pairs := reordertest.Encode(in)
	result, outcome := list.Reorder(pairs)
	if !bytes.Equal(pairs, reordertest.Encode(in)) {
		t.Fatalf("Reorder(%v) wrote to its argument", in)
	}
	out := in
	if outcome == Reordered {
		out = reordertest.Decode(result)
	}
	if diff := cmp.Diff(modelReorder(list.names, in), out, cmpopts.EquateEmpty()); diff != "" {
		t.Fatalf("Reorder(%v) (-model +got):\n%s", in, diff)
	}
	want := AlreadyFirst
	switch {
	case !slices.ContainsFunc(in, func(h [2]string) bool { return list.names.Has(h[0]) }):
		want = NoContext
	case !slices.Equal(in, out):
		want = Reordered
	}
	if outcome != want {
		t.Fatalf("Reorder(%v) = %v says %v, want %v", in, out, outcome, want)
	}
	if again, outcome := reordered(list, out); outcome == Reordered {
		t.Fatalf("Reorder is not idempotent: %v, then %v, then %v", in, out, again)
	}
	return out
}

// pick returns the headers with a wanted name, in their order; for nil all of them,
// sorted by their (unique) values.
func pick(list [][2]string, want func(string) bool) [][2]string {
	if want == nil {
		list = slices.Clone(list)
		slices.SortFunc(list, func(a, b [2]string) int { return strings.Compare(a[1], b[1]) })
		return list
	}
	return slices.DeleteFunc(slices.Clone(list), func(h [2]string) bool { return !want(h[0]) })
}

// checkGroups fails unless only pseudo headers, host and the trace context precede
// the last trace header, in a gRPC request also the headers of its call: they precede
// the context.
func checkGroups(t *testing.T, names *Names, out [][2]string, grpc bool) {
	t.Helper()
	ordinary, traced := false, false
	for _, h := range out {
		if grpc && isCall(h[0]) {
			if ordinary || traced {
				t.Fatalf("%s follows others: %v", h[0], out)
			}
			continue
		}
		switch {
		case isHead(h[0]):
			if strings.HasPrefix(h[0], ":") && (ordinary || traced) {
				t.Fatalf("%s follows others: %v", h[0], out)
			}
		case names.Has(h[0]):
			traced = true
			if ordinary {
				t.Fatalf("%s follows an ordinary header: %v", h[0], out)
			}
		case h[0] != "tracestate":
			ordinary = true
		}
	}
}

func isCall(name string) bool {
	return slices.Contains([]string{"te", "grpc-timeout", "content-type"}, strings.ToLower(name))
}

// isGRPCRequest is Envoy's definition (Grpc::Common::hasGrpcContentType).
func isGRPCRequest(headers [][2]string) bool {
	return slices.ContainsFunc(headers, func(h [2]string) bool {
		return strings.EqualFold(h[0], "content-type") &&
			(h[1] == "application/grpc" || strings.HasPrefix(h[1], "application/grpc+"))
	})
}

func isHead(name string) bool { return strings.HasPrefix(name, ":") || name == "host" }

// modelReorder is Reorder again, written to be read: on name/value pairs,
// group by group. Reorder must return the same.
func modelReorder(n *Names, headers [][2]string) [][2]string {
	if !slices.ContainsFunc(headers, func(h [2]string) bool { return n.Has(h[0]) }) {
		return headers
	}
	lastParent := -1
	leading := 0
	for i, h := range headers {
		if strings.EqualFold(h[0], traceparent) && n.Has(traceparent) {
			lastParent = i
		}
		if leading == i && (strings.HasPrefix(h[0], ":") || strings.EqualFold(h[0], "host")) {
			leading++
		}
	}
	grpc := isGRPCRequest(headers)
	group := func(i int) class {
		switch name := headers[i][0]; {
		case i < leading, strings.HasPrefix(name, ":"):
			return head
		case strings.EqualFold(name, tracestate) && lastParent >= 0:
			return state
		case n.Has(name):
			return trace
		case grpc && strings.EqualFold(name, "te"):
			return te
		case grpc && strings.EqualFold(name, "grpc-timeout"):
			return timeout
		case grpc && strings.EqualFold(name, "content-type"):
			return contentType
		}
		return rest
	}
	pick := func(c class) (list [][2]string) {
		for i, h := range headers {
			if group(i) == c {
				list = append(list, h)
			}
			if i == lastParent && c == trace {
				list = append(list, stateMark)
			}
		}
		return list
	}
	out := slices.Concat(pick(head), pick(te), pick(timeout), pick(contentType), pick(trace), pick(rest))
	if at := slices.Index(out, stateMark); at >= 0 {
		out = slices.Replace(out, at, at+1, pick(state)...)
	}
	return out
}

// stateMark marks the place of the tracestate headers. No header has this name.
var stateMark = [2]string{"\x00", ""}

// reordered runs l on headers and returns the result in the same form; headers
// themselves if nothing moved.
func reordered(l *List, headers [][2]string) ([][2]string, Outcome) {
	out, outcome := l.Reorder(reordertest.Encode(headers))
	if outcome != Reordered {
		return headers, outcome
	}
	return reordertest.Decode(out), Reordered
}

// FuzzFront runs the code inside the proxy on any bytes: it must not panic, and a
// result has the size and the bytes of the input.
func FuzzFront(f *testing.F) {
	for _, text := range []string{
		"", ":path=/ x=1 b3=0", "x=1 traceparent=p tracestate= tracestate=s host=a",
		":authority=a x-request-id=1 x-envoy-decorator-operation=o",
		":path=/ content-type=application/grpc te=trailers b3=0 grpc-timeout=1S",
		":path=/ x=1 content-type=application/grpc+proto te=trailers",
	} {
		f.Add(reordertest.Encode(headers(text)))
	}
	f.Add([]byte{255, 255, 255, 255, 0, 0, 0, 0})
	names, err := NewNames(nil, []string{"x-own"})
	if err != nil {
		f.Fatal(err)
	}
	list := NewList(names)
	f.Fuzz(func(t *testing.T, pairs []byte) {
		before := slices.Clone(pairs)
		out, outcome := list.Reorder(pairs)
		if !bytes.Equal(pairs, before) {
			t.Fatalf("Reorder wrote to its argument %q", before)
		}
		switch outcome {
		case Reordered:
			if !slices.Equal(sorted(pairs), sorted(out)) {
				t.Fatalf("Reorder(%q) = %q, which has other bytes", pairs, out)
			}
			if _, again := list.Reorder(out); again != AlreadyFirst {
				t.Fatalf("Reorder is not idempotent: %q, then %v", out, again)
			}
		case NoContext:
			with := slices.Clone(list.Insert(pairs, [][2]string{{"b3", "0"}}))
			if _, outcome := list.Reorder(with); outcome != AlreadyFirst && outcome != Reordered {
				t.Fatalf("Insert into %q gives %q, of which Reorder says %v", pairs, with, outcome)
			}
		}
	})
}

func sorted(b []byte) []byte {
	b = slices.Clone(b)
	slices.Sort(b)
	return b
}
