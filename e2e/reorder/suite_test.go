// SPDX-License-Identifier: Apache-2.0

package reorder

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/layertrace/layertrace/e2e/lab"
	"github.com/layertrace/layertrace/e2e/provision"
	"github.com/layertrace/layertrace/e2e/reorder/golden"
	"github.com/layertrace/layertrace/e2e/reorder/proxy"
	"github.com/layertrace/layertrace/e2e/sandbox"
)

// TestWire holds every placement to the golden files, on a real Envoy.
func TestWire(t *testing.T) {
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
	o.After = func(ctx context.Context, b *Bench) error {
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

func runs(results []Result, tracer lab.Tracer, name string) int {
	n := 0
	for _, r := range results {
		if r.Tracer == tracer && r.Case == name {
			n++
		}
	}
	return n
}

// checkCounters fails unless the filters counted what the golden files say.
func checkCounters(ctx context.Context, t *testing.T, o Options, b *Bench) {
	t.Helper()
	cases, err := golden.Load(o.Golden, string(b.tracer))
	if err != nil {
		t.Fatal(err)
	}
	want := map[string]uint64{"layertrace_host_call_errors": 0, "layertrace_placeholders_left": 0, "lua.errors": 0}
	for _, placement := range b.placements {
		switch placement {
		case WasmUpstream:
			want["layertrace_requests_reordered"] = 0
			want["layertrace_requests_already_in_front"] = 0
			want["layertrace_requests_without_context"] = 0
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

// count adds what a case has to add to the counters of a placement.
func count(want map[string]uint64, c golden.Case, placement Placement) {
	for _, protocol := range []proxy.Protocol{proxy.HTTP1, proxy.HTTP2} {
		stock, heads := c.Want(string(Stock), protocol), c.Want(string(placement), protocol)
		for i, head := range heads {
			filters := uint64(c.Setup.Filters)
			switch {
			case placement == LuaUpstream:
				want["lua.executions"] += filters
				continue
			case placement != WasmUpstream || c.Setup.Refused:
				continue
			}
			moved := !reflect.DeepEqual(head, stock[i])
			if moved { // by the first filter; then it is in front for the second
				want["layertrace_requests_reordered"]++
				filters--
			}
			if moved || c.Name == "in-front" {
				want["layertrace_requests_already_in_front"] += filters
			} else {
				want["layertrace_requests_without_context"] += filters
			}
		}
	}
}

// checkLog fails unless the Wasm filter wrote to the log that it refuses its
// configuration: for each listener once in each VM, of which Envoy starts one to
// try the module and one for each thread (here: main and a single worker), and
// not per request.
func checkLog(ctx context.Context, t *testing.T, b *Bench) {
	t.Helper()
	listeners := 0
	for _, placement := range b.placements {
		if placement == WasmUpstream || placement == WasmConnectionManager {
			listeners += 2 // one for each protocol
		}
	}
	var told int
	err := sandbox.Await(ctx, "the refused configuration in the log", time.Minute, 50*time.Millisecond, func(context.Context) error {
		log, err := b.Proxy.Log()
		told = strings.Count(log, `layertrace: plugin configuration: unknown key "unknown"`)
		if err == nil && told < listeners {
			err = fmt.Errorf("%d times, want %d or more", told, listeners)
		}
		return err
	})
	if err != nil || told > 3*listeners {
		t.Errorf("%v: the refused configuration was told %d times, want %d to %d: %v", b, told, listeners, 3*listeners, err)
	}
}
