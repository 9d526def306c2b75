// SPDX-License-Identifier: Apache-2.0

package evaluate

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/layertrace/layertrace/e2e/lab"
	"github.com/layertrace/layertrace/internal/stats"
)

// Sample is one run: one load of one case at one rate.
type Sample struct {
	Rate float64 `json:"rate"`
	Case string  `json:"case"`
	// Latencies are the response times in µs, in the order of the requests, from
	// when each was due.
	Latencies []int64 `json:"latencies_us"`
	// LateP99 is the 99th percentile, in µs, of how long after it was due the client
	// sent a request.
	LateP99 int64 `json:"late_p99_us"`
	// MeshCPU and AgentsCPU are the CPU times, in µs per request, of applications and
	// Envoys with the packets that they send, and of the agents' processes.
	MeshCPU   float64 `json:"mesh_cpu_us"`
	AgentsCPU float64 `json:"agents_cpu_us"`
}

// Round has one run of each case at each rate.
type Round struct {
	Samples []Sample `json:"samples"`
}

const (
	// warmUp is how many requests a mesh gets after its start, before it is measured.
	warmUp = 400
	// leadIn is the usual lead of a meter. Agents hold what they read for five
	// seconds, until a trace is complete.
	leadIn = 5 * time.Second
	// leadInRate is between the two rates.
	leadInRate = 65
)

// meter measures response times in meshes that are up at the same time. Only one of
// them has load.
type meter struct {
	cases    []Case
	requests int
	// lead is how long a case runs under load before it is measured.
	lead     time.Duration
	progress func(format string, args ...any)
	// labs are for the meshes, by Case.mesh.
	labs map[string]*lab.Lab
}

// round starts the meshes, measures every case at every rate, and stops the meshes.
// Each round has processes of its own, so that what depends on a process, as the place
// of its memory does, differs from round to round.
func (m *meter) round(ctx context.Context, number int) (r Round, err error) {
	shared := map[string]*lab.Run{}
	defer func() {
		for _, run := range shared {
			err = errors.Join(err, stop(run))
		}
	}()
	for _, c := range m.cases {
		if c.fromStart || shared[c.mesh()] != nil {
			continue
		}
		run, err := m.start(ctx, c)
		if err != nil {
			return r, err
		}
		shared[c.mesh()] = run
	}
	rates := slices.Clone(Rates)
	if number%2 == 1 {
		slices.Reverse(rates)
	}
	for _, c := range order(m.cases, number) {
		samples, err := m.visit(ctx, c, shared[c.mesh()], rates)
		if err != nil {
			return r, fmt.Errorf("case %s: %w", c.Name, err)
		}
		r.Samples = append(r.Samples, samples...)
	}
	return r, nil
}

// order returns the cases in the order of a round: each is first, second and so on
// equally often, and odd rounds go backwards. A drift of the machine meets all alike.
func order(cases []Case, round int) []Case {
	at := round % len(cases)
	turned := slices.Concat(cases[at:], cases[:at])
	if round%2 == 1 {
		slices.Reverse(turned)
	}
	return turned
}

// start starts the mesh of a case, and its agents if they must precede the connections.
func (m *meter) start(ctx context.Context, c Case) (*lab.Run, error) {
	l := m.labs[c.mesh()]
	run, err := l.Start(ctx, c.setup(l))
	if err != nil {
		return nil, err
	}
	if _, err := l.Send(ctx, lab.Load{Requests: warmUp, Connections: 16}); err != nil {
		return nil, errors.Join(fmt.Errorf("warm up: %w", err), stop(run))
	}
	return run, nil
}

// stop stops a mesh and removes its logs: those of a long evaluation do not fit the disk.
func stop(run *lab.Run) error {
	err := run.Stop()
	if err == nil {
		err = os.RemoveAll(filepath.Dir(run.AccessLog("gateway")))
	}
	if err != nil {
		return fmt.Errorf("stop a mesh: %w", err)
	}
	return nil
}

// visit measures a case at each rate, in a mesh that runs already or one of its own.
func (m *meter) visit(ctx context.Context, c Case, run *lab.Run, rates []float64) (samples []Sample, err error) {
	l := m.labs[c.mesh()]
	switch {
	case c.fromStart:
		if run, err = m.start(ctx, c); err != nil {
			return nil, err
		}
		defer func() { err = errors.Join(err, stop(run)) }()
	case c.agents != nil:
		run.UseAgents(c.setup(l))
		defer func() { err = errors.Join(err, run.StopAgents()) }()
		if err := run.StartAgents(ctx); err != nil {
			return nil, err
		}
	}
	lead := lab.OpenLoop{Requests: max(1, int(leadInRate*m.lead.Seconds())), Rate: leadInRate}
	if _, err := l.SendOpenLoop(ctx, lead); err != nil {
		return nil, err
	}
	for _, rate := range rates {
		sample, err := m.sample(ctx, c, l, rate)
		if err != nil {
			return nil, err
		}
		samples = append(samples, sample)
	}
	return samples, nil
}

func (m *meter) sample(ctx context.Context, c Case, l *lab.Lab, rate float64) (s Sample, err error) {
	before, err := l.Usage()
	if err != nil {
		return s, err
	}
	result, err := l.SendOpenLoop(ctx, lab.OpenLoop{Requests: m.requests, Rate: rate})
	if err != nil {
		return s, err
	}
	after, err := l.Usage()
	if err != nil {
		return s, err
	}
	used := after.Minus(before)
	slices.Sort(result.Late)
	s = Sample{
		Rate: rate, Case: c.Name,
		LateP99:   stats.Quantile(result.Late, 0.99).Microseconds(),
		MeshCPU:   float64(used.Mesh.Microseconds()) / float64(m.requests),
		AgentsCPU: float64(used.Agents.Microseconds()) / float64(m.requests),
	}
	for _, latency := range result.Latencies {
		s.Latencies = append(s.Latencies, latency.Microseconds())
	}
	m.progress("%g requests/s, %s: mean %.2f ms", rate, c.Title, mean(s.Latencies)/1e3)
	return s, nil
}

// bringUp creates a lab for each mesh.
func (m *meter) bringUp(ctx context.Context, options func(mesh string) lab.Options) error {
	m.labs = map[string]*lab.Lab{}
	for _, c := range m.cases {
		if m.labs[c.mesh()] != nil {
			continue
		}
		l, err := lab.Up(ctx, options(c.mesh()))
		if err != nil {
			return errors.Join(err, m.down())
		}
		m.labs[c.mesh()] = l
	}
	return nil
}

func (m *meter) down() error {
	var group errgroup.Group
	for _, l := range m.labs {
		group.Go(l.Down)
	}
	return group.Wait()
}
