// SPDX-License-Identifier: Apache-2.0

// Package logcost measures what the access log for the agents costs Envoy: the CPU time and
// the instructions of a request through two proxies that speak mutual TLS, with the parts
// that layertrace install configures, without them, and with some of them.
package logcost

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"

	"github.com/layertrace/layertrace/e2e/reorder"
	"github.com/layertrace/layertrace/e2e/sandbox"
	"github.com/layertrace/layertrace/internal/stats"
)

// Options configure a measurement.
type Options struct {
	// Envoy is the path of the program, Dir an existing directory for configurations
	// and logs.
	Envoy, Dir string
	// Starts is how often new processes are started, Rounds how often each of them
	// measures each variant.
	Starts, Rounds int
	Progress       func(format string, args ...any)
}

// Load is the requests of a round.
type Load struct {
	// Requests are sent in a round; of them every nth is sampled, 0 for none.
	Requests, Every int
}

// Sampled is the share of sampled requests in percent.
func (l Load) Sampled() float64 {
	if l.Every == 0 {
		return 0
	}
	return 100 / float64(l.Every)
}

// comparison is variants that are measured in turns under one load.
type comparison struct {
	load     Load
	variants []Variant
	// fewer divides the number of rounds: one with sampled requests waits for their records.
	fewer int
}

// Time is the CPU time of a variant's requests under a load.
type Time struct {
	Variant string  `json:"variant"`
	Sampled float64 `json:"sampled_percent"`
	Pairs   int     `json:"pairs"`
	// Client and Server are of the proxy that sends requests and of that which receives
	// them.
	Client Figures `json:"client"`
	Server Figures `json:"server"`
}

// Figures are of one proxy. More and Ratio compare the variant with none, in the same
// round.
type Figures struct {
	// Micros is the CPU time of a request, in µs: the median.
	Micros float64  `json:"us"`
	More   Interval `json:"more_us"`
	Ratio  Interval `json:"ratio"`
}

// Interval is a median and the 95 % interval of it, by bootstrap.
type Interval struct {
	Median float64 `json:"median"`
	Low    float64 `json:"low"`
	High   float64 `json:"high"`
}

// comparisons returns what to measure.
func comparisons() ([]comparison, error) {
	all, err := variants()
	if err != nil {
		return nil, err
	}
	named := func(name string) Variant {
		return all[slices.IndexFunc(all, func(v Variant) bool { return v.Name == name })]
	}
	installed := []Variant{named(None), named(NoneAgain), named(EnvoyFilter), named(Telemetry)}
	return []comparison{
		{Load{Requests: 400}, all, 1},
		{Load{Requests: 2000, Every: 100}, installed, 8},
		{Load{Requests: 400, Every: 1}, append(installed, withoutFields(named(EnvoyFilter), "envoyfilter-bare")), 8},
	}, nil
}

// union returns the variants of all comparisons, each once.
func union(all []comparison) (variants []Variant) {
	for _, c := range all {
		for _, v := range c.variants {
			if !slices.ContainsFunc(variants, func(o Variant) bool { return o.Name == v.Name }) {
				variants = append(variants, v)
			}
		}
	}
	return variants
}

// busy is the number of requests at a time that keep the proxies busy.
const busy = 4

// warmUp is the number of requests before the first round, for each variant.
const warmUp = 400

// Measure measures CPU time.
func Measure(ctx context.Context, o Options) (rows []Time, err error) {
	compared, err := comparisons()
	if err != nil {
		return nil, err
	}
	for i, c := range compared {
		compared[i].variants = slices.DeleteFunc(c.variants, func(v Variant) bool { return v.Counted })
	}
	samples := make([][][]sample, len(compared)) // by comparison and variant
	for i, c := range compared {
		samples[i] = make([][]sample, len(c.variants))
	}
	for start := range o.Starts {
		o.Progress("start %d of %d", start+1, o.Starts)
		if err := measureStart(ctx, o, start, compared, samples); err != nil {
			return nil, err
		}
	}
	for i, c := range compared {
		none := samples[i][0]
		for j, v := range c.variants {
			rows = append(rows, Time{
				Variant: v.Name, Sampled: c.load.Sampled(), Pairs: len(none),
				Client: compare(samples[i][j], none, func(s sample) float64 { return s.client }),
				Server: compare(samples[i][j], none, func(s sample) float64 { return s.server }),
			})
		}
	}
	return rows, nil
}

// measureStart measures all rounds of new processes.
func measureStart(ctx context.Context, o Options, start int, compared []comparison, samples [][][]sample) (err error) {
	dir := filepath.Join(o.Dir, fmt.Sprintf("start-%d", start+1))
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return fmt.Errorf("create a directory for the proxies: %w", err)
	}
	all := union(compared)
	// Each start has the variants in another order in its configuration.
	all = slices.Concat(all[start%len(all):], all[:start%len(all)])
	b, err := startTestbed(ctx, testbedOptions{Envoy: o.Envoy, Dir: dir, Variants: all, InFlight: busy})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, b.stop()) }()
	for _, v := range all {
		if err := b.send(ctx, v, warmUp, 100); err != nil {
			return fmt.Errorf("%s: %w", v.Name, err)
		}
	}
	for i, c := range compared {
		rounds := max(1, o.Rounds/c.fewer)
		o.Progress("%g %% sampled: %d rounds of %d variants", c.load.Sampled(), rounds, len(c.variants))
		for round := range rounds {
			for n := range c.variants {
				// Each round begins with another variant, and every other one goes backwards.
				at := (round/2 + n) % len(c.variants)
				if round%2 == 1 {
					at = len(c.variants) - 1 - at
				}
				s, err := b.measure(ctx, c.variants[at], c.load)
				if err != nil {
					return fmt.Errorf("%s: %w", c.variants[at].Name, err)
				}
				samples[i][at] = append(samples[i][at], s)
			}
		}
	}
	return nil
}

// sample is the CPU time of a request in each proxy, in µs.
type sample struct{ client, server float64 }

// measure sends the requests of a round.
func (b *testbed) measure(ctx context.Context, v Variant, load Load) (s sample, err error) {
	before, err := b.cpu()
	if err != nil {
		return s, err
	}
	if err := b.send(ctx, v, load.Requests, load.Every); err != nil {
		return s, err
	}
	after, err := b.cpu()
	n := float64(load.Requests)
	return sample{(after.client - before.client) / n, (after.server - before.server) / n}, err
}

// cpu returns the CPU time of each proxy so far, in µs.
func (b *testbed) cpu() (s sample, err error) {
	micros := func(p *reorder.Envoy) float64 {
		took, failed := sandbox.ProcessCPU(p.PID())
		err = errors.Join(err, failed)
		return float64(took.Nanoseconds()) / 1e3
	}
	return sample{micros(b.client), micros(b.server)}, err
}

// compare compares a variant's samples with those of none in the same rounds.
func compare(samples, none []sample, of func(sample) float64) Figures {
	more, ratio := make([]float64, len(none)), make([]float64, len(none))
	for i := range none {
		more[i] = of(samples[i]) - of(none[i])
		ratio[i] = of(samples[i]) / of(none[i])
	}
	return Figures{Micros: stats.MedianOf(samples, of), More: bootstrap(more), Ratio: bootstrap(ratio)}
}

// bootstrap returns the median and its interval.
func bootstrap(values []float64) Interval {
	const resamples = 2000
	random := rand.New(rand.NewPCG(1, 2)) //nolint:gosec // not for security: the same values have the same interval
	medians := make([]float64, resamples)
	drawn := make([]float64, len(values))
	for i := range medians {
		for j := range drawn {
			drawn[j] = values[random.IntN(len(values))]
		}
		medians[i] = stats.Median(drawn)
	}
	slices.Sort(medians)
	return Interval{stats.Median(values), stats.Quantile(medians, 0.025), stats.Quantile(medians, 0.975)}
}
