// SPDX-License-Identifier: Apache-2.0

package reorder

import (
	"context"
	"math/rand/v2"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/layertrace/layertrace/e2e/reorder/golden"
	"github.com/layertrace/layertrace/e2e/reorder/upstream"
)

// pool are names of random requests: contexts of all formats, repeated ones, one
// that Envoy joins, and some that are nearly contexts.
var pool = []string{
	"traceparent", "tracestate", "b3", "x-b3-traceid", "x-b3-spanid", "x-b3-", "uber-trace-id", "sw8",
	"x-datadog-trace-id", "x-datadog", "X-B3-Sampled", "cookie", "accept", "x-own", "x-other", "user-agent",
}

// checkAlike sends random requests through the Lua script and the Wasm filter,
// with no tracer, and fails unless both send the same.
func checkAlike(ctx context.Context, t *testing.T, b *Bench) {
	t.Helper()
	if !slices.Contains(b.placements, LuaUpstream) || !slices.Contains(b.placements, WasmUpstream) {
		return
	}
	const seed, rounds = 11, 150
	random := rand.New(rand.NewPCG(seed, uint64(len(b.tracer))))
	for range rounds {
		c := golden.Case{Name: "random", Setup: golden.Setup{NoTracer: true, Filters: 1}}
		for i := range random.IntN(30) {
			field := upstream.Field{Name: pool[random.IntN(len(pool))], Value: strconv.Itoa(i)}
			if random.IntN(8) == 0 {
				field.Value = strings.Repeat("v", random.IntN(500)) // also empty
			}
			c.Client = append(c.Client, field)
		}
		protocol := protocols[random.IntN(len(protocols))]
		var sent [2][]upstream.Head
		for i, placement := range []Placement{WasmUpstream, LuaUpstream} {
			heads, err := b.Exchange(ctx, placement, protocol, c)
			if err != nil {
				t.Fatalf("%v, %s, %v: %v", b, placement, c.Client, err)
			}
			for _, head := range heads {
				if at := slices.IndexFunc(head.Fields, isRequestID); at >= 0 {
					head.Fields[at].Value = "" // differs from request to request
				}
			}
			sent[i] = heads
		}
		if diff := cmp.Diff(sent[0], sent[1]); diff != "" {
			t.Fatalf("%v, %s: of %v the Lua script sends something else (-Wasm +Lua):\n%s", b, protocol, c.Client, diff)
		}
	}
}

func isRequestID(f upstream.Field) bool { return f.Name == "x-request-id" }
