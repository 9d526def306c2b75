// SPDX-License-Identifier: Apache-2.0

// Package cost measures what a request costs Envoy with each way to put the
// trace context in front, and without.
package cost

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/layertrace/layertrace/e2e/reorder/proxy"
	"github.com/layertrace/layertrace/e2e/sandbox"
	"github.com/layertrace/layertrace/internal/stats"
)

// Options of a measurement.
type Options struct {
	// Envoy and Module are the paths of the programs under test, Lua is the
	// source of the Lua filter.
	Envoy, Module, Lua string
	// Dir is an existing directory for modules, configurations and logs.
	Dir      string
	Progress func(format string, args ...any)
	// Variants to measure; nil for Variants().
	Variants []Variant
	// Rounds is how often each variant gets Requests requests, one variant
	// after the other: 0 for 150 rounds of 400. Short rounds are over before
	// what else the machine does changes.
	Rounds, Requests int
}

// Result is what a request costs with one variant: medians over the rounds.
type Result struct {
	Variant string `json:"variant"`
	// CPUMicros is the CPU time of the Envoy process per request, in µs.
	CPUMicros float64 `json:"cpu_us_per_request"`
	// P50Micros and P99Micros are quantiles of the time from sending a request
	// to the end of its answer, in µs, with 4 requests under way.
	P50Micros float64 `json:"p50_us"`
	P99Micros float64 `json:"p99_us"`
	// RSSBytes is the resident memory of the Envoy process at the end.
	RSSBytes uint64 `json:"rss_bytes"`
}

// connections is how many requests are under way at a time: enough to keep one
// worker thread busy.
const connections = 4

// Measure runs one Envoy for each variant and sends them requests in turns, so
// that what else the machine does falls on all of them alike. What it starts has
// ended when it returns.
func Measure(ctx context.Context, o Options) (results []Result, err error) {
	if o.Rounds == 0 {
		o.Rounds, o.Requests = 150, 400
	}
	if o.Variants == nil {
		if o.Variants, err = Variants(ctx, o); err != nil {
			return nil, err
		}
	}
	upstream, err := serve(response)
	if err != nil {
		return nil, err
	}
	defer upstream.close()
	runs := make([]*run, 0, len(o.Variants))
	defer func() {
		for _, r := range runs {
			err = errors.Join(err, r.proxy.Stop())
		}
	}()
	for _, v := range o.Variants {
		o.Progress("starting Envoy for %s", v.Name)
		r, err := start(ctx, o, v, upstream.address())
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

// warmUp is how many requests V8 gets until what a module runs often is compiled
// once more, and better.
const warmUp = 5000

// takeTurns runs the rounds, each beginning with another variant.
func takeTurns(ctx context.Context, o Options, runs []*run) error {
	o.Progress("cost: warming up")
	for _, r := range runs {
		if err := r.round(ctx, min(warmUp, o.Rounds*o.Requests), false); err != nil {
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

// run is a variant at work.
type run struct {
	name          string
	proxy         *proxy.Proxy
	cpu, p50, p99 []float64 // µs, one per round
}

func (r *run) round(ctx context.Context, requests int, keep bool) error {
	address, err := r.proxy.Address(r.name)
	if err != nil {
		return err
	}
	before, err := cpuTime(r.proxy.PID())
	if err != nil {
		return err
	}
	latencies, err := send(ctx, address, requests, connections)
	if err != nil {
		return err
	}
	after, err := cpuTime(r.proxy.PID())
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

func (r *run) result() (Result, error) {
	memory, err := sandbox.ReadMemory(r.proxy.PID())
	return Result{
		Variant: r.name, CPUMicros: stats.Median(r.cpu), P50Micros: stats.Median(r.p50), P99Micros: stats.Median(r.p99),
		RSSBytes: memory.Resident,
	}, err
}

func micros(d time.Duration) float64 { return float64(d) / float64(time.Microsecond) }
