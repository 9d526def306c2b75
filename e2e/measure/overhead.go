// SPDX-License-Identifier: Apache-2.0

// Package overhead measures what the agents cost a mesh: the same load with
// and without them, alternately, in a mesh that runs all the time.
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
	// Rate is the number of requests begun per second; 0 for as many as
	// Connections carry when each sends its next request after an answer.
	Rate        float64
	Connections int
}

// Cases are the rates of the paper and the limit. With a rate there are more
// connections than requests in flight, so that none waits for another.
var Cases = []Case{
	{Name: "50", Rate: 50, Connections: 64},
	{Name: "80", Rate: 80, Connections: 64},
	{Name: "saturation", Connections: 16},
}

// Options say how much to measure.
type OverheadOptions struct {
	// Cases are what is measured.
	Cases []Case
	// Setup is how the mesh and its agents run.
	Setup lab.Setup
	// Rounds is how often each case is measured off and on, Duration for how
	// long each time.
	Rounds   int
	Duration time.Duration
	Progress func(format string, args ...any)
}

// Measure runs the mesh and returns a result per case, in their order, and what
// the agents' BPF programs do for a request.
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
	// Before the rounds: what goes wrong here loses none of them.
	options.Progress("counting what the BPF programs do")
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
	// on tells whether the agents run.
	on bool
	// fresh tells that they have begun or ended, and no load was sent since.
	fresh bool
	// limit is about how many requests per second the mesh answers at most.
	limit float64
}

// warmUp opens the Envoys' connections, and finds out how many requests the
// limit's case has to send.
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

// pair measures a case with and without agents, beginning with what is: the
// agents are started or stopped once per pair, and which of both comes first
// alternates, so that a drift of the machine falls on both alike.
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
	// leadIn is how long a load runs before it counts.
	leadIn = time.Second
	// settling is the same when the agents have just begun or ended: what they read
	// they keep for five seconds, until a trace is complete, and then send; at the
	// end they send all at once, and Jaeger has to store it.
	settling = 8 * time.Second
)

// Sample is what one load showed.
type Sample struct {
	Requests  int
	PerSecond float64
	// P50 and P99 are latencies, counted from when a request should have begun.
	P50, P99 time.Duration
	// Usage is the CPU time taken while the load ran.
	Usage lab.Usage
	// Spans are those that the agents delivered while the load ran.
	Spans int
	// Resident and Peak are the memory of the largest agent, in bytes.
	Resident, Peak uint64
}

// sample sends the load of a case. What the agents and Envoys have put off in
// the lead-in falls into the sample, as what they put off in it falls behind.
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

// Result is a case and its measured pairs.
type OverheadResult struct {
	Case  Case
	Pairs []Pair
}

// Pair is a case measured without and with agents, one right after the other.
type Pair struct{ Off, On Sample }

// Summary is the median of each figure over the samples of a case.
type Summary struct {
	PerSecond float64
	P50, P99  time.Duration
	// AgentsCPU, JaegerCPU and MeshCPU are seconds per 1,000 requests.
	AgentsCPU, JaegerCPU, MeshCPU float64
	// Spans are those of the agents per request.
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

// perThousand returns the seconds of CPU that a part took per 1,000 requests.
func perThousand(part func(lab.Usage) time.Duration) func(Sample) float64 {
	return func(s Sample) float64 { return part(s.Usage).Seconds() * 1000 / float64(s.Requests) }
}

// Ratio is a figure with agents divided by the same without, over the pairs.
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
