// SPDX-License-Identifier: Apache-2.0

package campaign

import (
	"context"
	"errors"
	"fmt"

	"github.com/layertrace/layertrace/e2e/faults/front"
	"github.com/layertrace/layertrace/e2e/faults/inject"
	"github.com/layertrace/layertrace/e2e/lab"
)

// WithSession starts the mesh in a setup, calls do with what faults are made
// with, and stops the mesh.
func (v Variant) WithSession(ctx context.Context, l *lab.Lab, tracer lab.Tracer, setup lab.Setup, do func(*inject.Session) error) (err error) {
	run, err := l.Start(ctx, setup)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, run.Stop()) }()
	bench, err := inject.New(l, run)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, bench.Close()) }()
	client := front.New(l, tracer)
	defer client.Close()
	var others []*front.Client
	for range v.Connections {
		others = append(others, front.New(l, tracer))
	}
	load := front.NewLoad(v.Rate, others...)
	defer load.Close()
	if err := do(&inject.Session{Bench: bench, Client: client, Load: load}); err != nil {
		return err
	}
	if failed := load.Failed.Load(); failed > 0 {
		return fmt.Errorf("%d of %d requests of the load failed: look at the logs of the Envoys", failed, load.Sent.Load())
	}
	return nil
}
