// SPDX-License-Identifier: Apache-2.0

// Package scenario runs the mesh in one setup under load and tells what the
// agents made of it.
package scenario

import (
	"context"
	"errors"

	"github.com/layertrace/layertrace/e2e/lab"
	"github.com/layertrace/layertrace/e2e/lab/traffic"
	"github.com/layertrace/layertrace/e2e/lab/truth"
)

// Outcome is what a setup gave.
type Outcome struct {
	// Run is the run, stopped; its files can be read.
	Run *lab.Run
	// Hops are all requests between pods, Points how the agents did.
	Hops   []truth.Hop
	Points []truth.Acquired
	// Load is what the client saw.
	Load traffic.Result
}

// Measure starts the mesh, sends load from the client node, stops the mesh,
// and compares the agents' exchanges with the ground truth.
func Measure(ctx context.Context, l *lab.Lab, setup lab.Setup, load traffic.Load) (out Outcome, err error) {
	run, err := l.Start(ctx, setup)
	if err != nil {
		return out, err
	}
	out.Run = run
	out.Load, err = l.Send(ctx, load)
	if err == nil {
		err = run.Drain(ctx)
	}
	if err := errors.Join(err, run.Stop()); err != nil {
		return out, err
	}
	if out.Hops, err = truth.Hops(run); err != nil {
		return out, err
	}
	if !setup.NoAgents {
		out.Points, err = truth.Compare(l, run, out.Hops)
	}
	return out, err
}
