// SPDX-License-Identifier: Apache-2.0

package cost

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"

	"github.com/layertrace/layertrace/e2e/lab"
	"github.com/layertrace/layertrace/e2e/reorder/proxy"
)

// Variant is one Envoy to compare.
type Variant struct {
	Name string
	// Downstream is a filter of the connection manager, Upstream one of the
	// router; nil for none.
	Downstream, Upstream *proxy.Filter
	// Inline registers the tracer's headers as inline headers in the bootstrap.
	Inline bool
}

// Variants returns those of the comparison. It builds the empty filter, with the
// exports that the SDK needs and no others, as the real one is built.
func Variants(ctx context.Context, o Options) ([]Variant, error) {
	empty := filepath.Join(o.Dir, "empty.wasm")
	o.Progress("building the empty Wasm filter")
	if err := buildEmpty(ctx, empty); err != nil {
		return nil, err
	}
	filter := filterVariants(o.Module)
	return []Variant{
		{Name: "stock"},
		{Name: "empty-wasm-upstream", Upstream: &proxy.Filter{Wasm: empty}},
		filter[0],
		{Name: "empty-wasm-connection-manager", Downstream: &proxy.Filter{Wasm: empty}, Inline: true},
		filter[1],
		{Name: "lua-upstream", Upstream: &proxy.Filter{Lua: o.Lua}},
	}, nil
}

// filterVariants are the filter in its two placements.
func filterVariants(module string) []Variant {
	manager := &proxy.Filter{
		Wasm: module, Configuration: `{"placement":"connection-manager","placeholders":"zipkin"}`,
	}
	return []Variant{
		{Name: "wasm-upstream", Upstream: &proxy.Filter{Wasm: module}},
		{Name: "wasm-connection-manager", Downstream: manager, Inline: true},
	}
}

const (
	emptyPackage = "github.com/layertrace/layertrace/e2e/reorder/cost/empty"
	emptyExports = "memory,_initialize,proxy_abi_version_0_2_0,proxy_on_memory_allocate," +
		"proxy_on_vm_start,proxy_on_configure,proxy_on_context_create,proxy_on_request_headers,proxy_on_delete"
	builder = "github.com/layertrace/layertrace/wasm-filter/build"
)

func buildEmpty(ctx context.Context, out string) error {
	cmd := exec.CommandContext(ctx, "go", "run", builder, "-package", emptyPackage, "-exports", emptyExports, "-o", out)
	if text, err := cmd.CombinedOutput(); err != nil {
		return errors.Join(ctx.Err(), fmt.Errorf("build the empty filter: %w\n%s", err, text))
	}
	return nil
}

// start starts a variant's Envoy with one listener, of the variant's name.
func start(ctx context.Context, o Options, v Variant, upstream netip.AddrPort) (*run, error) {
	dir := filepath.Join(o.Dir, v.Name)
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, fmt.Errorf("make a directory for Envoy: %w", err)
	}
	listener := proxy.Listener{Name: v.Name}
	if v.Downstream != nil {
		listener.Downstream = []proxy.Filter{*v.Downstream}
	}
	if v.Upstream != nil {
		listener.Upstream = []proxy.Filter{*v.Upstream}
	}
	config := proxy.Config{
		Envoy: o.Envoy, Dir: dir, Tracer: lab.Zipkin, Upstream: upstream,
		Collector: upstream, // nothing is sampled
		Listeners: []proxy.Listener{listener},
	}
	if v.Inline {
		config.InlineHeaders = []string{"x-b3-traceid", "x-b3-spanid", "x-b3-parentspanid", "x-b3-sampled"}
	}
	p, err := proxy.Start(ctx, config)
	if err != nil {
		return nil, err
	}
	return &run{name: v.Name, proxy: p}, nil
}
