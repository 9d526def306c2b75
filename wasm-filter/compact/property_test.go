// SPDX-License-Identifier: Apache-2.0

package compact

import (
	"math/rand/v2"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/layertrace/layertrace/internal/tracecontext/formats"

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

// TestOrderProperties checks the invariants on random header lists: nothing is
// added, lost or changed; the order within a name and of the ordinary headers stays;
// a second run has nothing to do; the groups are in their order.
func TestOrderProperties(t *testing.T) {
	list := newOrderer(t, `{"headers":["x-own"]}`)
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
			"ordinary headers":        func(n string) bool { return !isTraceHeader(n) && n != "tracestate" && !isHead(n) && !isCall(n) },
			"headers of a call":       func(n string) bool { return n == "te" },
			"trace headers":           isTraceHeader,
			"tracestate":              func(n string) bool { return n == "tracestate" },
			"pseudo headers":          func(n string) bool { return strings.HasPrefix(n, ":") },
			"host":                    func(n string) bool { return n == "host" },
			"all of them, as one set": nil,
		} {
			if diff := cmp.Diff(pick(in, keep), pick(out, keep)); diff != "" {
				t.Fatalf("%s of %v (-before +after):\n%s", name, in, diff)
			}
		}
		if slices.ContainsFunc(in, func(h [2]string) bool { return isTraceHeader(h[0]) }) {
			checkGroups(t, out, isGRPCRequest(in))
		}
	}
}

// checkReorder reorders one list: the result is the model's, the outcome
// matches, a second run has nothing to do, and the argument stays unchanged.
func checkReorder(t *testing.T, list *orderer, in [][2]string) [][2]string {
	t.Helper()
	result, outcome := list.reorder(reordertest.Encode(in))
	out := reordertest.Decode(result)
	if diff := cmp.Diff(modelReorder(in), out, cmpopts.EquateEmpty()); diff != "" {
		t.Fatalf("Reorder(%v) (-model +got):\n%s", in, diff)
	}
	want := counterFirst
	switch {
	case !slices.ContainsFunc(in, func(h [2]string) bool { return isTraceHeader(h[0]) }):
		want = counterNoContext
	case !slices.Equal(in, out):
		want = counterReordered
	}
	if outcome != want {
		t.Fatalf("Reorder(%v) = %v says %v, want %v", in, out, outcome, want)
	}
	if again, outcome := list.reorder(reordertest.Encode(out)); outcome == counterReordered {
		t.Fatalf("the order is not idempotent: %v, then %v, then %v", in, out, reordertest.Decode(again))
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
func checkGroups(t *testing.T, out [][2]string, grpc bool) {
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
		case isTraceHeader(h[0]):
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

// modelReorder is the order again, written to be read: on name/value pairs,
// group by group. The module must return the same.
func modelReorder(headers [][2]string) [][2]string {
	if !slices.ContainsFunc(headers, func(h [2]string) bool { return isTraceHeader(h[0]) }) {
		return headers
	}
	lastParent := -1
	leading := 0
	for i, h := range headers {
		if strings.EqualFold(h[0], formats.TraceParent) {
			lastParent = i
		}
		if leading == i && (strings.HasPrefix(h[0], ":") || strings.EqualFold(h[0], "host")) {
			leading++
		}
	}
	grpc := isGRPCRequest(headers)
	group := func(i int) kind {
		switch name := headers[i][0]; {
		case i < leading, strings.HasPrefix(name, ":"):
			return head
		case strings.EqualFold(name, formats.TraceState) && lastParent >= 0:
			return state
		case isTraceHeader(name):
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
	pick := func(c kind) (list [][2]string) {
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

// kind is a group of headers.
type kind int

const (
	head kind = iota
	te
	timeout
	contentType
	trace
	state
	rest
)

// stateMark marks the place of the tracestate headers. No header has this name.
var stateMark = [2]string{"\x00", ""}

// isTraceHeader reports whether a header moves by itself.
func isTraceHeader(name string) bool {
	name = strings.ToLower(name)
	return name == "x-own" || slices.ContainsFunc(formats.Groups(), func(g formats.Group) bool {
		return slices.Contains(g.Headers, name) ||
			slices.ContainsFunc(g.Prefixes, func(p string) bool { return len(name) > len(p) && strings.HasPrefix(name, p) })
	})
}

// FuzzOrder runs the module on any bytes: it must not trap, and a
// result has the size and the bytes of the input.
func FuzzOrder(f *testing.F) {
	for _, text := range []string{
		"", ":path=/ x=1 b3=0", "x=1 traceparent=p tracestate= tracestate=s host=a",
		":authority=a x-request-id=1 x-envoy-decorator-operation=o",
		":path=/ content-type=application/grpc te=trailers b3=0 grpc-timeout=1S",
		":path=/ x=1 content-type=application/grpc+proto te=trailers",
	} {
		f.Add(reordertest.Encode(headers(text)))
	}
	f.Add([]byte{255, 255, 255, 255, 0, 0, 0, 0})
	list := newOrderer(f, `{"headers":["x-own"]}`)
	f.Fuzz(func(t *testing.T, pairs []byte) {
		before := slices.Clone(pairs)
		out, counter := list.reorder(pairs)
		if counter != counterReordered {
			if !slices.Equal(before, out) {
				t.Fatalf("%q became %q, and counted in %s", before, out, counter)
			}
			return
		}
		if !slices.Equal(sorted(before), sorted(out)) {
			t.Fatalf("%q became %q, which has other bytes", before, out)
		}
		if _, again := list.reorder(out); again != counterFirst {
			t.Fatalf("the order is not idempotent: %q, then %v", out, again)
		}
	})
}

func sorted(b []byte) []byte {
	b = slices.Clone(b)
	slices.Sort(b)
	return b
}
