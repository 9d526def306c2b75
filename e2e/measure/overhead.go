// SPDX-License-Identifier: Apache-2.0

package measure

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/layertrace/layertrace/e2e/lab"
	"github.com/layertrace/layertrace/internal/stats"
)

// Case is one load.
type Case struct {
	Name string
	// Rate is the number of requests per second; 0 for as many as Connections
	// carry when each sends its next request after a response.
	Rate        float64
	Connections int
}

// Cases are the rates of the paper and saturation. With a rate there are more
// connections than requests in flight, so that no request waits for another.
var Cases = []Case{
	{Name: "50", Rate: 50, Connections: 64},
	{Name: "80", Rate: 80, Connections: 64},
	{Name: "saturation", Connections: 16},
}

// OverheadOptions configure a measurement.
type OverheadOptions struct {
	// Cases are the loads to measure.
	Cases []Case
	// Setup configures the mesh and its agents.
	Setup lab.Setup
	// Rounds is how often each case is measured without and with agents, Duration
	// for how long each time.
	Rounds   int
	Duration time.Duration
	Progress func(format string, args ...any)
}

// Overhead measures the cost of the agents: the same load without and with them,
// alternately, in a mesh that keeps running. It returns a result per case, in
// order, and what the agents' BPF programs do per request.
func Overhead(ctx context.Context, l *lab.Lab, options OverheadOptions) (results []OverheadResult, programs []Program, err error) {
	setup := options.Setup
	setup.NoAgents = true
	setup.Export = cmp.Or(setup.Export, "otlp-grpc")
	run, err := l.Start(ctx, setup)
	if err != nil {
		return nil, nil, err
	}
	defer func() { err = errors.Join(err, run.Stop()) }()
	m := meter{OverheadOptions: options, lab: l, run: run}
	if err := m.warmUp(ctx); err != nil {
		return nil, nil, err
	}
	// Before the rounds: a failure here costs none of them.
	options.Progress("counting the runs of the BPF programs")
	if programs, err = m.programs(ctx); err != nil {
		return nil, nil, err
	}
	results = make([]OverheadResult, len(options.Cases))
	for i, c := range options.Cases {
		results[i].Case = c
	}
	for round := range options.Rounds {
		for i := range results {
			pair, err := m.pair(ctx, results[i].Case)
			if err != nil {
				return nil, nil, fmt.Errorf("case %s: %w", results[i].Case.Name, err)
			}
			results[i].Pairs = append(results[i].Pairs, pair)
			options.Progress("round %d of %d, case %s: p50 %v off, %v on; %.1f requests/s off, %.1f on",
				round+1, options.Rounds, results[i].Case.Name, pair.Off.P50.Round(time.Microsecond),
				pair.On.P50.Round(time.Microsecond), pair.Off.PerSecond, pair.On.PerSecond)
		}
	}
	return results, programs, nil
}

type meter struct {
	OverheadOptions
	lab *lab.Lab
	run *lab.Run
	// on is set while the agents run.
	on bool
	// fresh is set between a start or stop of the agents and the next load.
	fresh bool
	// limit is the approximate throughput at saturation, in requests per second.
	limit float64
}

// warmUp opens the Envoys' connections and measures limit, which determines how
// many requests saturation takes.
func (m *meter) warmUp(ctx context.Context) error {
	for _, requests := range []int{100, 400} {
		result, err := m.lab.Send(ctx, lab.Load{Requests: requests, Connections: 16})
		if err != nil {
			return fmt.Errorf("warm up: %w", err)
		}
		m.limit = result.PerSecond()
	}
	m.Progress("warm: about %.0f requests/s at most", m.limit)
	return nil
}

// pair measures a case with and without agents, first in the current state. The
// agents start or stop once per pair, and the order alternates, so that a drift of
// the machine affects both alike.
func (m *meter) pair(ctx context.Context, c Case) (p Pair, err error) {
	for i := range 2 {
		if i == 1 {
			if err := m.flip(ctx); err != nil {
				return p, err
			}
		}
		sample := &p.Off
		if m.on {
			sample = &p.On
		}
		if *sample, err = m.sample(ctx, c); err != nil {
			return p, err
		}
	}
	return p, nil
}

func (m *meter) flip(ctx context.Context) error {
	m.on = !m.on
	m.fresh = true
	if m.on {
		return m.run.StartAgents(ctx)
	}
	return m.run.StopAgents()
}

const (
	// leadIn is how long a load runs before the measurement.
	leadIn = time.Second
	// settling is leadIn after a start or stop of the agents. They hold what they
	// read for five seconds, until a trace is complete, and then send it; at their
	// end they send everything at once, and Jaeger has to store it.
	settling = 8 * time.Second
)

// Sample is the measurement of one load.
type Sample struct {
	Requests  int
	PerSecond float64
	// P50 and P99 are latencies, counted from when a request was due.
	P50, P99 time.Duration
	// Usage is the CPU time while the load ran.
	Usage lab.Usage
	// Spans is how many spans the agents delivered while the load ran.
	Spans int
	// Resident and Peak are the memory of the largest agent, in bytes.
	Resident, Peak uint64
}

// sample sends the load of a case. Work that agents and Envoys defer from the
// lead-in to the sample makes up for what they defer beyond it.
func (m *meter) sample(ctx context.Context, c Case) (s Sample, err error) {
	rate := c.Rate
	if rate == 0 {
		rate = m.limit
	}
	load := lab.Load{Rate: c.Rate, Connections: c.Connections}
	lead := leadIn
	if m.fresh {
		lead, m.fresh = settling, false
	}
	load.Requests = max(1, int(rate*lead.Seconds()))
	if _, err := m.lab.Send(ctx, load); err != nil {
		return s, err
	}
	spansBefore, err := m.run.ExportedSpans(ctx)
	if err != nil {
		return s, err
	}
	before, err := m.lab.Usage()
	if err != nil {
		return s, err
	}
	load.Requests = max(1, int(rate*m.Duration.Seconds()))
	result, err := m.lab.Send(ctx, load)
	if err != nil {
		return s, err
	}
	after, err := m.lab.Usage()
	if err != nil {
		return s, err
	}
	spansAfter, err := m.run.ExportedSpans(ctx)
	if err != nil {
		return s, err
	}
	s = Sample{
		Requests: load.Requests, PerSecond: result.PerSecond(),
		P50: result.Quantile(0.5), P99: result.Quantile(0.99), Usage: after.Minus(before),
		Spans: spansAfter - spansBefore,
	}
	s.Resident, s.Peak, err = m.run.AgentMemory()
	return s, err
}

// OverheadResult is a case and its measured pairs.
type OverheadResult struct {
	Case  Case
	Pairs []Pair
}

// Pair is a case measured without and with agents, one directly after the other.
type Pair struct{ Off, On Sample }

// Summary is the median of each figure over the samples of a case.
type Summary struct {
	PerSecond float64
	P50, P99  time.Duration
	// AgentsCPU, JaegerCPU and MeshCPU are seconds per 1,000 requests.
	AgentsCPU, JaegerCPU, MeshCPU float64
	// Spans is the number of the agents' spans per request.
	Spans float64
	// Resident and Peak are the memory of the largest agent, in bytes.
	Resident, Peak uint64
}

// Summary returns the medians with or without agents.
func (r OverheadResult) Summary(on bool) Summary {
	var samples []Sample
	for _, pair := range r.Pairs {
		if on {
			samples = append(samples, pair.On)
		} else {
			samples = append(samples, pair.Off)
		}
	}
	return Summary{
		PerSecond: stats.MedianOf(samples, func(s Sample) float64 { return s.PerSecond }),
		P50:       stats.MedianOf(samples, func(s Sample) time.Duration { return s.P50 }),
		P99:       stats.MedianOf(samples, func(s Sample) time.Duration { return s.P99 }),
		AgentsCPU: stats.MedianOf(samples, perThousand(func(u lab.Usage) time.Duration { return u.Agents })),
		JaegerCPU: stats.MedianOf(samples, perThousand(func(u lab.Usage) time.Duration { return u.Jaeger })),
		MeshCPU:   stats.MedianOf(samples, perThousand(func(u lab.Usage) time.Duration { return u.Mesh })),
		Spans:     stats.MedianOf(samples, func(s Sample) float64 { return float64(s.Spans) / float64(s.Requests) }),
		Resident:  stats.MedianOf(samples, func(s Sample) uint64 { return s.Resident }),
		Peak:      stats.MedianOf(samples, func(s Sample) uint64 { return s.Peak }),
	}
}

// perThousand returns the CPU seconds of a part per 1,000 requests.
func perThousand(part func(lab.Usage) time.Duration) func(Sample) float64 {
	return func(s Sample) float64 { return part(s.Usage).Seconds() * 1000 / float64(s.Requests) }
}

// Ratio is a figure with agents divided by the same without, over all pairs.
type Ratio struct{ Lowest, Median, Highest float64 }

// Ratio compares a figure within each pair.
func (r OverheadResult) Ratio(figure func(Sample) float64) Ratio {
	ratios := make([]float64, len(r.Pairs))
	for i, pair := range r.Pairs {
		ratios[i] = figure(pair.On) / figure(pair.Off)
	}
	return Ratio{Lowest: slices.Min(ratios), Median: stats.Median(ratios), Highest: slices.Max(ratios)}
}

// Figures to compare.
var (
	PerSecond = func(s Sample) float64 { return s.PerSecond }
	P50       = func(s Sample) float64 { return s.P50.Seconds() }
	P99       = func(s Sample) float64 { return s.P99.Seconds() }
	MeshCPU   = perThousand(func(u lab.Usage) time.Duration { return u.Mesh })
)
