// SPDX-License-Identifier: Apache-2.0

package reorder

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/layertrace/layertrace/e2e/lab"
	"github.com/layertrace/layertrace/e2e/sandbox"
	"github.com/layertrace/layertrace/internal/stats"
)

// CostOptions configure a measurement.
type CostOptions struct {
	// Envoy and Module are the paths of Envoy and the Wasm filter in Go, Lua is the
	// source of the Lua filter.
	Envoy, Module, Lua string
	// Dir is an existing directory for modules, configurations and logs.
	Dir      string
	Progress func(format string, args ...any)
	// Workers is the number of Envoy's worker threads; 0 means 1.
	Workers int
	// Variants are the variants to measure, Variants() if nil.
	Variants []Variant
	// Rounds is how often each variant gets Requests requests, one variant after
	// the other; 0 for 150 rounds of 400. Rounds are short, so that other load on
	// the machine affects all variants of a round alike.
	Rounds, Requests int
}

// Cost is the cost of a request with one variant: medians over the rounds.
type Cost struct {
	Variant string `json:"variant"`
	// CPUMicros is the CPU time of the Envoy process per request, in µs.
	CPUMicros float64 `json:"cpu_us_per_request"`
	// P50Micros and P99Micros are quantiles of the time from sending a request to
	// the end of its response, in µs, with 4 requests in flight.
	P50Micros float64 `json:"p50_us"`
	P99Micros float64 `json:"p99_us"`
	// RSSBytes is the resident memory of the Envoy process at the end.
	RSSBytes uint64 `json:"rss_bytes"`
}

// costConnections is how many requests are in flight: enough to keep one worker
// thread busy.
const costConnections = 4

// MeasureCost starts an Envoy per variant and sends them requests in turns, so that
// other load on the machine affects all of them alike.
func MeasureCost(ctx context.Context, o CostOptions) (results []Cost, err error) {
	if o.Rounds == 0 {
		o.Rounds, o.Requests = 150, 400
	}
	if o.Variants == nil {
		if o.Variants, err = Variants(ctx, o); err != nil {
			return nil, err
		}
	}
	upstream, err := StartCostUpstream(costResponse)
	if err != nil {
		return nil, err
	}
	defer upstream.Close()
	runs := make([]*variantRun, 0, len(o.Variants))
	defer func() {
		for _, r := range runs {
			err = errors.Join(err, r.proxy.Stop())
		}
	}()
	for _, v := range o.Variants {
		o.Progress("starting Envoy for %s", v.Name)
		r, err := startVariant(ctx, o, v, upstream.Address())
		if err != nil {
			return nil, fmt.Errorf("%s: %w", v.Name, err)
		}
		runs = append(runs, r)
	}
	if err := takeTurns(ctx, o, runs); err != nil {
		return nil, err
	}
	for _, r := range runs {
		result, err := r.result()
		if err != nil {
			return nil, fmt.Errorf("%s: %w", r.name, err)
		}
		results = append(results, result)
	}
	return results, nil
}

// warmUpRequests is how many requests a module handles before V8 has recompiled its
// hot code with optimization.
const warmUpRequests = 5000

// takeTurns runs the rounds, each of which starts with another variant.
func takeTurns(ctx context.Context, o CostOptions, runs []*variantRun) error {
	o.Progress("cost: warming up")
	for _, r := range runs {
		if err := r.round(ctx, min(warmUpRequests, o.Rounds*o.Requests), false); err != nil {
			return fmt.Errorf("%s: %w", r.name, err)
		}
	}
	for round := range o.Rounds {
		if round%50 == 0 {
			o.Progress("cost: round %d of %d", round+1, o.Rounds)
		}
		for i := range runs {
			r := runs[(round+i)%len(runs)]
			if err := r.round(ctx, o.Requests, true); err != nil {
				return fmt.Errorf("%s: %w", r.name, err)
			}
		}
	}
	return nil
}

// variantRun is a variant with its Envoy and measurements.
type variantRun struct {
	name          string
	proxy         *Envoy
	cpu, p50, p99 []float64 // µs, one per round
}

func (r *variantRun) round(ctx context.Context, requests int, keep bool) error {
	address, err := r.proxy.Address(r.name)
	if err != nil {
		return err
	}
	before, err := sandbox.ProcessCPU(r.proxy.PID())
	if err != nil {
		return err
	}
	latencies, err := sendAll(ctx, address, requests, costConnections)
	if err != nil {
		return err
	}
	after, err := sandbox.ProcessCPU(r.proxy.PID())
	if err != nil {
		return err
	}
	if !keep {
		return nil
	}
	slices.Sort(latencies)
	r.cpu = append(r.cpu, micros(after-before)/float64(len(latencies)))
	r.p50 = append(r.p50, micros(stats.Quantile(latencies, 0.5)))
	r.p99 = append(r.p99, micros(stats.Quantile(latencies, 0.99)))
	return nil
}

func (r *variantRun) result() (Cost, error) {
	memory, err := sandbox.ReadMemory(r.proxy.PID())
	return Cost{
		Variant: r.name, CPUMicros: stats.Median(r.cpu), P50Micros: stats.Median(r.p50), P99Micros: stats.Median(r.p99),
		RSSBytes: memory.Resident,
	}, err
}

func micros(d time.Duration) float64 { return float64(d) / float64(time.Microsecond) }

// Variant is an Envoy to compare.
type Variant struct {
	Name string
	// Downstream is a filter of the connection manager, Upstream one of the
	// router; nil for none.
	Downstream, Upstream *Filter
	// Inline registers the tracer's headers as inline headers in the bootstrap.
	Inline bool
}

// Variants returns the variants of the comparison. It builds the empty filter as the
// real one is built, with only the exports that the SDK needs.
func Variants(ctx context.Context, o CostOptions) ([]Variant, error) {
	empty := filepath.Join(o.Dir, "empty.wasm")
	o.Progress("building the empty Wasm filter")
	if err := buildEmpty(ctx, empty); err != nil {
		return nil, err
	}
	small, err := WriteCompact(o.Dir)
	if err != nil {
		return nil, err
	}
	filter := filterVariants("wasm", o.Module)
	return slices.Concat([]Variant{
		{Name: "stock"},
		{Name: "empty-wasm-upstream", Upstream: &Filter{Wasm: empty}},
		filter[0],
		{Name: "empty-wasm-connection-manager", Downstream: &Filter{Wasm: empty}, Inline: true},
		filter[1],
		{Name: "lua-upstream", Upstream: &Filter{Lua: o.Lua}},
	}, filterVariants("compact", small)), nil
}

// filterVariants returns a module of the filter in its two placements.
func filterVariants(name, module string) []Variant {
	manager := &Filter{
		Wasm: module, Configuration: `{"placement":"connection-manager","placeholders":"zipkin"}`,
	}
	return []Variant{
		{Name: name + "-upstream", Upstream: &Filter{Wasm: module}},
		{Name: name + "-connection-manager", Downstream: manager, Inline: true},
	}
}

const (
	emptyPackage = "github.com/layertrace/layertrace/e2e/reorder/empty"
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

// startVariant starts a variant's Envoy with one listener of the variant's name.
func startVariant(ctx context.Context, o CostOptions, v Variant, upstream netip.AddrPort) (*variantRun, error) {
	dir := filepath.Join(o.Dir, v.Name)
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, fmt.Errorf("create a directory for Envoy: %w", err)
	}
	listener := envoyListener{Name: v.Name}
	if v.Downstream != nil {
		listener.Downstream = []Filter{*v.Downstream}
	}
	if v.Upstream != nil {
		listener.Upstream = []Filter{*v.Upstream}
	}
	config := envoyConfig{
		Envoy: o.Envoy, Dir: dir, Tracer: lab.Zipkin, Upstream: upstream,
		Collector:   upstream, // nothing is sampled
		Concurrency: o.Workers,
		Listeners:   []envoyListener{listener},
	}
	if v.Inline {
		config.InlineHeaders = []string{"x-b3-traceid", "x-b3-spanid", "x-b3-parentspanid", "x-b3-sampled"}
	}
	p, err := startEnvoy(ctx, config)
	if err != nil {
		return nil, err
	}
	return &variantRun{name: v.Name, proxy: p}, nil
}

// costRequest is the head of a request in the middle of a mesh: the trace context
// that an application propagates, and what HTTP clients and proxies add. Envoy adds
// the rest, including 1,100 bytes of x-envoy-peer-metadata. The trace is not sampled,
// like most traces of a mesh, so Envoy sends no spans.
const costRequest = "GET /reviews/0 HTTP/1.1\r\n" +
	"host: reviews.default.svc.cluster.local:9080\r\n" +
	"user-agent: python-requests/2.32.3\r\n" +
	"accept-encoding: gzip, deflate\r\n" +
	"accept: */*\r\n" +
	"accept-language: en-US,en;q=0.9\r\n" +
	"cookie: session=eyJ1c2VyIjoiamFzb24ifQ.Z0Fh1g.q8m1yq0zQe4bq3o1rY8pUuXhKkE; locale=en\r\n" +
	"end-user: jason\r\n" +
	"x-request-id: 3f0c3b1e-5f0e-4b7a-8a0e-6f2d1c9b7a55\r\n" +
	"x-b3-traceid: 0af7651916cd43dd8448eb211c80319c\r\n" +
	"x-b3-spanid: b7ad6b7169203331\r\n" +
	"x-b3-parentspanid: 8448eb211c80319c\r\n" +
	"x-b3-sampled: 0\r\n" +
	"x-forwarded-client-cert: By=spiffe://cluster.local/ns/default/sa/productpage;Hash=9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08;URI=spiffe://cluster.local/ns/istio-system/sa/gateway\r\n" +
	"\r\n"

// costResponse is the response of the upstream. Envoy adds headers to it.
const (
	costResponse = "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 2\r\n\r\n" + costBody
	costBody     = "{}"
)

// sendAll sends costRequest over keep-alive connections, one after the other on each,
// and returns the latency of every request.
func sendAll(ctx context.Context, address netip.AddrPort, requests, connections int) ([]time.Duration, error) {
	latencies := make([][]time.Duration, connections)
	group, ctx := errgroup.WithContext(ctx)
	for i := range connections {
		group.Go(func() (err error) {
			latencies[i], err = sendOn(ctx, address, costRequest, requests/connections)
			return err
		})
	}
	if err := group.Wait(); err != nil {
		return nil, fmt.Errorf("send requests to Envoy: %w", err)
	}
	return slices.Concat(latencies...), nil
}

func sendOn(ctx context.Context, address netip.AddrPort, request string, requests int) ([]time.Duration, error) {
	conn, err := new(net.Dialer).DialContext(ctx, "tcp", address.String())
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	defer context.AfterFunc(ctx, func() { _ = conn.Close() })()
	latencies := make([]time.Duration, 0, requests)
	buffer := make([]byte, 4096)
	for range requests {
		began := time.Now()
		if err := Exchange(conn, request, costBody, buffer); err != nil {
			return nil, err
		}
		latencies = append(latencies, time.Since(began))
	}
	return latencies, nil
}
