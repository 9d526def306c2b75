// SPDX-License-Identifier: Apache-2.0

// Package overhead measures what the agents cost a mesh: the same load with
// and without them, alternately, in a mesh that runs all the time.
package overhead

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/layertrace/layertrace/e2e/lab"
	"github.com/layertrace/layertrace/e2e/lab/traffic"
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
type Options struct {
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
func Measure(ctx context.Context, l *lab.Lab, options Options) (results []Result, programs []Program, err error) {
	setup := options.Setup
	setup.NoAgents = true
	setup.Export = cmp.Or(setup.Export, "otlp-grpc")
	run, err := l.Start(ctx, setup)
	if err != nil {
		return nil, nil, err
	}
	defer func() { err = errors.Join(err, run.Stop()) }()
	m := meter{Options: options, lab: l, run: run}
	if err := m.warmUp(ctx); err != nil {
		return nil, nil, err
	}
	// Before the rounds: what goes wrong here loses none of them.
	options.Progress("counting what the BPF programs do")
	if programs, err = m.programs(ctx); err != nil {
		return nil, nil, err
	}
	results = make([]Result, len(options.Cases))
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
	Options
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
		result, err := m.lab.Send(ctx, traffic.Load{Requests: requests, Connections: 16})
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
