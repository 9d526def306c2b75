// SPDX-License-Identifier: Apache-2.0

package lab

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/layertrace/layertrace/e2e/lab/envoy"
	"github.com/layertrace/layertrace/e2e/lab/process"
)

// Setup is one way of running the mesh.
type Setup struct {
	// Name is used in messages and for the run's directory below the lab's.
	Name string
	// Tracer is what the Envoys trace with.
	Tracer envoy.Tracer
	// Reordered puts the trace headers in front by the Wasm module; otherwise
	// they stand where Envoy puts them.
	Reordered bool
	// AgentFlags are further flags of all agents. NoAgents runs the mesh
	// without them.
	AgentFlags []string
	NoAgents   bool
	// NodeFlags are further flags of the agents of some nodes, behind AgentFlags.
	NodeFlags map[int][]string
	// NoPNIC are the nodes whose agents leave the physical interface out.
	NoPNIC map[int]bool
	// ClockOffset puts the monotonic clocks of some nodes' agents ahead, or
	// behind: what they tell of the time is off by as much. What the kernel
	// stamps packets with is not: so do nodes differ whose clocks are wrong.
	ClockOffset map[int]time.Duration
	// TCPOption is the agents' --tcp-option, limited to their node's pods;
	// empty for none.
	TCPOption string
	// Export is the agents' --export; empty for OTLP and the files of exchanges
	// that are compared with the ground truth.
	Export string
	// Sampling is the share of requests that the mesh samples, in per cent;
	// 0 for all.
	Sampling float64
}

func (s Setup) sampling() float64 { return cmp.Or(s.Sampling, 100) }

// Run is the mesh while it runs: applications, Envoys and agents.
type Run struct {
	lab   *Lab
	setup Setup
	dir   string

	apps, envoys []*process.Process
	agents       map[int]*process.Process
	agentFiles   map[int][]AgentFile
}

// Start starts applications, Envoys and agents and waits until all are ready.
// When it fails nothing of them runs on.
func (l *Lab) Start(ctx context.Context, setup Setup) (*Run, error) {
	l.runs++
	r := &Run{
		lab: l, setup: setup, dir: filepath.Join(l.options.Dir, fmt.Sprintf("%d-%s", l.runs, setup.Name)),
		agents: map[int]*process.Process{}, agentFiles: map[int][]AgentFile{},
	}
	if err := os.Mkdir(r.dir, 0o755); err != nil {
		return nil, fmt.Errorf("make the run's directory: %w", err)
	}
	if err := r.start(ctx); err != nil {
		return nil, errors.Join(err, r.killAll())
	}
	return r, nil
}

// start starts everything at once, since loading BPF programs and starting
// Envoys both take their time, and waits for all.
func (r *Run) start(ctx context.Context) error {
	if !r.setup.NoAgents {
		for _, node := range Nodes {
			if node == ClientNode {
				continue
			}
			if err := r.launchAgent(node); err != nil {
				return err
			}
		}
	}
	for _, pod := range Pods {
		if err := r.startPod(pod); err != nil {
			return err
		}
	}
	defer r.lab.waiting.report(r.lab.options.Progress)()
	group, ctx := errgroup.WithContext(ctx)
	for node := range r.agents {
		group.Go(func() error { return r.agentReady(ctx, node) })
	}
	group.Go(func() error { return r.podsReady(ctx) })
	return group.Wait()
}

// Stop ends agents, Envoys and applications in that order, each in its own
// way, so that they write what they still hold: afterwards the run's files are
// complete.
func (r *Run) Stop() error {
	if err := r.StopAgents(); err != nil {
		return errors.Join(err, r.killAll())
	}
	err := stopAll(r.envoys)
	if err == nil {
		err = stopAll(r.apps)
	}
	if err != nil {
		return errors.Join(err, r.killAll())
	}
	r.envoys, r.apps = nil, nil
	return nil
}

// StopAgents ends the agents; what they hold goes to Jaeger and to their files.
func (r *Run) StopAgents() error {
	var agents []*process.Process
	for _, p := range r.agents {
		agents = append(agents, p)
	}
	clear(r.agents)
	return stopAll(agents)
}

func stopAll(processes []*process.Process) error {
	var group errgroup.Group
	for _, p := range processes {
		group.Go(func() error { return p.Stop(20 * time.Second) })
	}
	return group.Wait()
}

// killAll ends what still runs at once.
func (r *Run) killAll() error {
	var errs []error
	for _, p := range r.agents {
		errs = append(errs, p.Kill())
	}
	for _, p := range append(r.envoys, r.apps...) {
		errs = append(errs, p.Kill())
	}
	clear(r.agents)
	r.envoys, r.apps = nil, nil
	return errors.Join(errs...)
}
