// SPDX-License-Identifier: Apache-2.0

package reorder

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/layertrace/layertrace/e2e/lab/await"
	"github.com/layertrace/layertrace/e2e/lab/envoy"
	"github.com/layertrace/layertrace/e2e/reorder/golden"
	"github.com/layertrace/layertrace/e2e/reorder/proxy"
	"github.com/layertrace/layertrace/e2e/reorder/upstream"
)

// Options of the golden suite.
type Options struct {
	// Envoy and Module are the paths of the programs under test.
	Envoy, Module string
	// Dir is an existing directory for configurations and logs.
	Dir string
	// Golden has a directory of golden files for each tracer.
	Golden fs.FS
	// Placements to hold to the files; none means all of them.
	Placements []Placement
	Progress   func(format string, args ...any)
	// After, if set, is called with each Envoy when its cases are through.
	After func(context.Context, envoy.Tracer, []Placement, *proxy.Proxy) error
}

// Tracers are those that golden files exist for.
var Tracers = []envoy.Tracer{envoy.Zipkin, envoy.OpenTelemetry}

var protocols = []proxy.Protocol{proxy.HTTP1, proxy.HTTP2}

// Result is one case on the wire.
type Result struct {
	Tracer    envoy.Tracer   `json:"tracer"`
	Placement Placement      `json:"placement"`
	Case      string         `json:"case"`
	Protocol  proxy.Protocol `json:"protocol"`
	Pass      bool           `json:"pass"`
	// Order is the names of the header fields in wire order, of the last
	// attempt where there were several.
	Order []string `json:"order"`
	// Err says what is wrong when Pass is false.
	Err error `json:"-"`
}

// Run starts the Envoys, one for each tracer and set of inline headers, and
// sends every case through every placement by both protocols. A case that is not
// as the file says is a Result without Pass, not an error.
func Run(ctx context.Context, o Options) ([]Result, error) {
	if len(o.Placements) == 0 {
		o.Placements = Placements
	}
	var results []Result
	for _, tracer := range Tracers {
		cases, err := golden.Load(o.Golden, string(tracer))
		if err != nil {
			return nil, err
		}
		for _, group := range groupByBootstrap(o.Placements, tracer) {
			o.Progress("%s: %d cases, %v", tracer, len(cases), group)
			part, err := runGroup(ctx, o, tracer, group, cases)
			results = append(results, part...)
			if err != nil {
				return results, fmt.Errorf("%s, %v: %w", tracer, group, err)
			}
		}
	}
	return results, nil
}

// groupByBootstrap parts the placements by the inline headers they need.
func groupByBootstrap(placements []Placement, tracer envoy.Tracer) [][]Placement {
	var groups [][]Placement
	for _, p := range placements {
		at := slices.IndexFunc(groups, func(g []Placement) bool {
			return slices.Equal(g[0].InlineHeaders(tracer), p.InlineHeaders(tracer))
		})
		if at < 0 {
			groups = append(groups, nil)
			at = len(groups) - 1
		}
		groups[at] = append(groups[at], p)
	}
	return groups
}

// runGroup runs placements with the same bootstrap in one Envoy.
func runGroup(ctx context.Context, o Options, tracer envoy.Tracer, placements []Placement, cases []golden.Case) (results []Result, err error) {
	bench, err := startBench(ctx, o, tracer, placements, cases)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, bench.stop()) }()
	if err := bench.warmUp(ctx, placements, cases); err != nil {
		return nil, err
	}
	for _, c := range cases {
		for _, placement := range placements {
			for _, protocol := range protocols {
				result := Result{Tracer: tracer, Placement: placement, Case: c.Name, Protocol: protocol}
				heads, err := bench.exchange(ctx, placement, protocol, c)
				if ctx.Err() != nil {
					return results, ctx.Err()
				}
				if err == nil {
					err = c.Compare(string(placement), heads)
				}
				result.Pass, result.Err, result.Order = err == nil, err, lastOrder(heads)
				results = append(results, result)
			}
		}
	}
	if o.After != nil {
		return results, o.After(ctx, tracer, placements, bench.proxy)
	}
	return results, nil
}

func lastOrder(heads []upstream.Head) []string {
	names := []string{} // an empty list in JSON, not null
	if len(heads) == 0 {
		return names
	}
	for _, f := range heads[len(heads)-1].Fields {
		names = append(names, f.Name)
	}
	return names
}

// warmUp sends root requests to the listeners whose filter sets placeholders,
// until it does: it has to see first that the tracer overwrites them.
func (b *bench) warmUp(ctx context.Context, placements []Placement, cases []golden.Case) error {
	done := map[string]bool{}
	for _, placement := range placements {
		for _, protocol := range protocols {
			for _, c := range cases {
				name := listenerName(placement, protocol, c.Setup)
				if placement != WasmConnectionManager || c.Setup.NoTracer || c.Setup.Refused || done[name] {
					continue
				}
				done[name] = true
				if err := b.awaitPlaceholders(ctx, placement, protocol, c.Setup); err != nil {
					return fmt.Errorf("%s: %w", name, err)
				}
			}
		}
	}
	return nil
}

func (b *bench) awaitPlaceholders(ctx context.Context, placement Placement, protocol proxy.Protocol, setup golden.Setup) error {
	const counter = "layertrace_requests_with_placeholders"
	before, err := b.proxy.Counters(ctx, counter)
	if err != nil {
		return err
	}
	setup.FirstAttempt = ""
	return await.Until(ctx, "the filter to set placeholders", time.Minute, 10*time.Millisecond, func(ctx context.Context) error {
		if _, err := b.exchange(ctx, placement, protocol, golden.Case{Name: "warm-up", Setup: setup}); err != nil {
			return err
		}
		now, err := b.proxy.Counters(ctx, counter)
		if err == nil && now == before {
			err = errors.New("none so far")
		}
		return err
	})
}

// bench is an Envoy between a client and an upstream of ours.
type bench struct {
	proxy     *proxy.Proxy
	upstream  *upstream.Server
	collector *collector
}

// startBench starts an Envoy with a listener for each placement, protocol and
// setup of the cases.
func startBench(ctx context.Context, o Options, tracer envoy.Tracer, placements []Placement, cases []golden.Case) (*bench, error) {
	config := proxy.Config{Envoy: o.Envoy, Tracer: tracer, InlineHeaders: placements[0].InlineHeaders(tracer)}
	seen := map[string]bool{}
	for _, placement := range placements {
		for _, protocol := range protocols {
			for _, c := range cases {
				l, err := listener(tracer, placement, protocol, c.Setup, o.Module)
				if err != nil {
					return nil, err
				}
				if !seen[l.Name] {
					seen[l.Name] = true
					config.Listeners = append(config.Listeners, l)
				}
			}
		}
	}
	config.Dir = filepath.Join(o.Dir, string(tracer)+"-"+string(placements[len(placements)-1]))
	if err := os.MkdirAll(config.Dir, 0o755); err != nil {
		return nil, err
	}
	b := &bench{}
	var err error
	if b.upstream, err = upstream.Start(); err != nil {
		return nil, err
	}
	if b.collector, err = startCollector(); err != nil {
		return nil, errors.Join(err, b.stop())
	}
	config.Upstream, config.Collector = b.upstream.Address(), b.collector.address
	if b.proxy, err = proxy.Start(ctx, config); err != nil {
		return nil, errors.Join(err, b.stop())
	}
	return b, nil
}

func (b *bench) stop() (err error) {
	if b.proxy != nil {
		err = b.proxy.Stop()
	}
	if b.collector != nil {
		b.collector.close()
	}
	b.upstream.Close()
	return err
}

func listenerName(placement Placement, protocol proxy.Protocol, setup golden.Setup) string {
	return strings.Join([]string{string(placement), string(protocol), setup.String()}, " ")
}

func listener(tracer envoy.Tracer, placement Placement, protocol proxy.Protocol, setup golden.Setup, module string) (proxy.Listener, error) {
	config := FilterConfig{Headers: setup.Headers, UnknownKey: setup.Refused}
	if setup.OwnFormatOnly {
		config.Formats = []string{format[tracer]}
	}
	l := proxy.Listener{
		Name:     listenerName(placement, protocol, setup),
		Protocol: protocol,
		NoTracer: setup.NoTracer, Unsampled: setup.Unsampled,
		UpstreamSpans: setup.UpstreamSpans, UntracedRoute: setup.UntracedRoute,
	}
	downstream, upstream, err := placement.Filter(tracer, module, config)
	for range setup.Filters {
		l.Downstream = appendFilter(l.Downstream, downstream, l.Name)
		l.Upstream = appendFilter(l.Upstream, upstream, l.Name)
	}
	return l, err
}

func appendFilter(list []proxy.Filter, filter *proxy.Filter, name string) []proxy.Filter {
	if filter == nil {
		return list
	}
	filter.Name = name
	return append(list, *filter)
}

// exchange sends a case's request and returns what reached the upstream.
func (b *bench) exchange(ctx context.Context, placement Placement, protocol proxy.Protocol, c golden.Case) ([]upstream.Head, error) {
	address, err := b.proxy.Address(listenerName(placement, protocol, c.Setup))
	if err != nil {
		return nil, err
	}
	switch c.Setup.FirstAttempt {
	case "503":
		b.upstream.Expect(upstream.Unavailable)
	case "reset":
		b.upstream.Expect(upstream.Reset)
	default:
		b.upstream.Expect()
	}
	b.upstream.Take() // what may have come late of a case that failed
	if err := send(ctx, address, c); err != nil {
		return b.upstream.Take(), err
	}
	return b.upstream.Take(), nil
}
