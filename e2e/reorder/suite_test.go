// SPDX-License-Identifier: Apache-2.0

package reorder

import (
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/layertrace/layertrace/e2e/lab"
	"github.com/layertrace/layertrace/e2e/provision"
	"github.com/layertrace/layertrace/e2e/sandbox"
)

// TestWire compares every placement with the golden files, on a real Envoy.
func TestWire(t *testing.T) {
	needsEnvoy(t)
	program, err := provision.Envoy(t.Context(), t.Logf)
	if err != nil {
		t.Fatal(err)
	}
	o := Options{
		Envoy: program, Module: filepath.Join(t.TempDir(), "layertrace.wasm"), Dir: t.TempDir(),
		Golden: os.DirFS("../testdata/wire"), Progress: t.Logf,
	}
	if err := provision.Wasm(t.Context(), o.Module, t.Logf); err != nil {
		t.Fatal(err)
	}
	o.After = func(ctx context.Context, b *Testbed) error {
		checkCounters(ctx, t, o, b)
		checkLog(ctx, t, b)
		checkAlike(ctx, t, b)
		return nil
	}
	results, err := Run(t.Context(), o)
	for _, r := range results {
		name := strings.Join([]string{string(r.Tracer), r.Case, string(r.Placement), string(r.Protocol)}, " ")
		if !r.Pass {
			t.Errorf("%s: %v", name, r.Err)
		}
	}
	if err != nil {
		t.Fatal(err)
	}
	for _, tracer := range Tracers {
		for _, name := range []string{"root", "continued", "retry"} {
			if n := runs(results, tracer, name); n != len(Placements)*len(protocols) {
				t.Errorf("%s %s was sent %d times, want once for each placement and protocol", tracer, name, n)
			}
		}
	}
}

// eachModule runs a test with each module of the Wasm filter: TEST/Go and TEST/compact.
func eachModule(t *testing.T, test func(t *testing.T, envoy, module string)) {
	t.Helper()
	needsEnvoy(t)
	envoy, err := provision.Envoy(t.Context(), t.Logf)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	small, err := WriteCompact(dir)
	if err != nil {
		t.Fatal(err)
	}
	t.Run("compact", func(t *testing.T) { test(t, envoy, small) })
	module := filepath.Join(dir, "layertrace.wasm")
	if err := provision.Wasm(t.Context(), module, t.Logf); err != nil {
		t.Fatal(err)
	}
	t.Run("Go", func(t *testing.T) { test(t, envoy, module) })
}

// needsEnvoy skips a test for which the Wasm filter is built and Envoys compile it.
func needsEnvoy(t *testing.T) {
	t.Helper()
	if testing.Short() {
		t.Skip("building and compiling the Wasm filter takes a minute: not with -short")
	}
}

func runs(results []Result, tracer lab.Tracer, name string) int {
	n := 0
	for _, r := range results {
		if r.Tracer == tracer && r.Case == name {
			n++
		}
	}
	return n
}

// checkCounters fails unless the filters' counters match the golden files.
func checkCounters(ctx context.Context, t *testing.T, o Options, b *Testbed) {
	t.Helper()
	cases, err := LoadCases(o.Golden, string(b.tracer))
	if err != nil {
		t.Fatal(err)
	}
	want := map[string]uint64{"layertrace_host_call_errors": 0, "layertrace_placeholders_left": 0, "lua.errors": 0}
	for _, placement := range b.placements {
		switch placement.reference() {
		case WasmUpstream: // the counters of both modules have the same names
			for _, name := range []string{"reordered", "already_first", "without_context"} {
				want["layertrace_requests_"+name] += 0
			}
		case LuaUpstream:
			want["lua.executions"] = 0
		}
		for _, c := range cases {
			count(want, c, placement)
		}
	}
	for name, n := range want {
		got, err := b.Proxy.Counters(ctx, name)
		if err != nil {
			t.Fatal(err)
		}
		if got != n {
			t.Errorf("%v: Envoy counted %d %s, want %d", b, got, name, n)
		}
	}
}

// count adds the expected counts of a case and placement.
func count(want map[string]uint64, c Case, placement Placement) {
	for _, protocol := range []Protocol{HTTP1, HTTP2} {
		stock, heads := c.Want(string(Stock), protocol), c.Want(placement.Golden(), protocol)
		for i, head := range heads {
			filters := uint64(c.Setup.Filters)
			switch {
			case placement == LuaUpstream:
				want["lua.executions"] += filters
				continue
			case placement.reference() != WasmUpstream || c.Setup.Refused:
				continue
			}
			moved := !reflect.DeepEqual(head, stock[i])
			if moved { // by the first filter; for the second it is then already leading
				want["layertrace_requests_reordered"]++
				filters--
			}
			if moved || c.Name == "in-front" {
				want["layertrace_requests_already_first"] += filters
			} else {
				want["layertrace_requests_without_context"] += filters
			}
		}
	}
}

// checkLog fails unless the Wasm filter logged the rejected configuration once per
// listener and VM, and not per request. Envoy starts a VM to try the module and one
// per thread (here main and a single worker).
func checkLog(ctx context.Context, t *testing.T, b *Testbed) {
	t.Helper()
	listeners := 0
	for _, placement := range b.placements {
		if p := placement.reference(); p == WasmUpstream || p == WasmConnectionManager {
			listeners += 2 // one for each protocol
		}
	}
	var logged int
	err := sandbox.Await(ctx, "the rejected configuration in the log", time.Minute, 50*time.Millisecond, func(context.Context) error {
		log, err := b.Proxy.Log()
		logged = strings.Count(log, `layertrace: read plugin configuration: unknown key "unknown"`)
		if err == nil && logged < listeners {
			err = fmt.Errorf("%d times, want %d or more", logged, listeners)
		}
		return err
	})
	if err != nil || logged > 3*listeners {
		t.Errorf("%v: the rejected configuration was logged %d times, want %d to %d: %v", b, logged, listeners, 3*listeners, err)
	}
}

// pool has the header names of random requests: contexts of all formats, repeated
// ones, one that Envoy joins, and some similar to contexts.
var pool = []string{
	"traceparent", "tracestate", "b3", "x-b3-traceid", "x-b3-spanid", "x-b3-", "uber-trace-id", "sw8",
	"x-datadog-trace-id", "x-datadog", "X-B3-Sampled", "cookie", "accept", "x-own", "x-other", "user-agent",
	"te", "grpc-timeout", "content-type",
}

// checkAlike sends random requests through the Lua script and both modules of the Wasm
// filter, without a tracer, and fails unless all send the same.
func checkAlike(ctx context.Context, t *testing.T, b *Testbed) {
	t.Helper()
	if !slices.Contains(b.placements, LuaUpstream) || !slices.Contains(b.placements, WasmUpstream) {
		return
	}
	const seed, rounds = 11, 150
	random := rand.New(rand.NewPCG(seed, uint64(len(b.tracer))))
	for range rounds {
		c := Case{Name: "random", Setup: Setup{NoTracer: true, Filters: 1}}
		for i := range random.IntN(30) {
			field := Field{Name: pool[random.IntN(len(pool))], Value: strconv.Itoa(i)}
			if random.IntN(8) == 0 {
				field.Value = strings.Repeat("v", random.IntN(500)) // also empty
			}
			if field.Name == "content-type" && random.IntN(2) == 0 {
				field.Value = []string{"application/grpc", "application/grpc+proto", "application/grpc-web"}[random.IntN(3)]
			}
			c.Client = append(c.Client, field)
		}
		protocol := protocols[random.IntN(len(protocols))]
		var reference []Head
		for _, placement := range []Placement{WasmUpstream, CompactUpstream, LuaUpstream} {
			heads, err := b.Exchange(ctx, placement, protocol, c)
			if err != nil {
				t.Fatalf("%v, %s, %v: %v", b, placement, c.Client, err)
			}
			for _, head := range heads {
				if at := slices.IndexFunc(head.Fields, isRequestID); at >= 0 {
					head.Fields[at].Value = "" // differs from request to request
				}
			}
			if placement == WasmUpstream {
				reference = heads
			} else if diff := cmp.Diff(reference, heads); diff != "" {
				t.Fatalf("%v, %s, %v: %s sends something else (-%s):\n%s", b, protocol, c.Client, placement, WasmUpstream, diff)
			}
		}
	}
}

func isRequestID(f Field) bool { return f.Name == "x-request-id" }
