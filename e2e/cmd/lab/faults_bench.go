// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"os"

	"github.com/layertrace/layertrace/e2e/faults"
	"github.com/layertrace/layertrace/e2e/faults/campaign"
	"github.com/layertrace/layertrace/e2e/faults/front"
	"github.com/layertrace/layertrace/e2e/faults/inject"
	"github.com/layertrace/layertrace/e2e/lab"
	"github.com/layertrace/layertrace/e2e/lab/envoy"
)

const faultsTitle = "Which layer was slow: faults and verdicts"

// bench starts the mesh in a setup, and calls do with what faults are made with.
func (f *faultsRun) bench(
	ctx context.Context, l *lab.Lab, variant campaign.Variant, tracer envoy.Tracer, setup lab.Setup,
	do func(*inject.Session) error,
) (err error) {
	f.progress("%s: starting applications, Envoys and agents", setup.Name)
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
	for range variant.Connections {
		others = append(others, front.New(l, tracer))
	}
	load := front.NewLoad(variant.Rate, others...)
	defer load.Close()
	if err := do(&inject.Session{Bench: bench, Client: client, Load: load}); err != nil {
		return err
	}
	if failed := load.Failed.Load(); failed > 0 {
		return fmt.Errorf("%d of %d requests of the load failed: look at the logs of the Envoys", failed, load.Sent.Load())
	}
	return nil
}

// writePage writes the page of --markdown, if there is to be one.
func (f *faultsRun) writePage(score faults.Score, note string) (err error) {
	if f.markdown == "" {
		return nil
	}
	file, err := os.Create(f.markdown)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, file.Close()) }()
	return score.WritePage(file, faultsTitle, note, "Made by `lab faults --markdown`.")
}
