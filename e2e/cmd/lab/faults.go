// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"path/filepath"

	"github.com/spf13/cobra"

	"github.com/layertrace/layertrace/e2e/faults"
	"github.com/layertrace/layertrace/e2e/lab"
	"github.com/layertrace/layertrace/e2e/lab/envoy"
	"github.com/layertrace/layertrace/e2e/lab/provision"
)

type faultsRun struct {
	seed   uint64
	cases  int
	verify bool
	tracer string
	out    string
	name   string

	progress func(format string, args ...any)
}

func faultsCommand() *cobra.Command {
	f := &faultsRun{}
	cmd := &cobra.Command{
		Use:   "faults",
		Short: "Put faults into each layer, and hold what explain says against them",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			f.progress = progress()
			return f.run(cmd.Context())
		},
	}
	flags := cmd.Flags()
	flags.Uint64Var(&f.seed, "seed", 1, "what the cases are drawn from")
	flags.IntVar(&f.cases, "cases", faults.DefaultCases, "how many requests; of six one has no fault")
	flags.BoolVar(&f.verify, "verify", false, "only prove the faults, by what the client sees of them")
	flags.StringVar(&f.tracer, "tracer", string(envoy.Zipkin), "the Envoys' tracer: zipkin or opentelemetry")
	flags.StringVar(&f.out, "out", "out", "directory for faults.json and the logs")
	flags.StringVar(&f.name, "name", "faults", "tells labs apart that run at the same time")
	return cmd
}

func (f *faultsRun) run(ctx context.Context) (err error) {
	tracer, err := envoy.ParseTracer(f.tracer)
	if err != nil {
		return err
	}
	if err := lab.CheckRoot(); err != nil {
		return err
	}
	tools, err := provision.Tools(ctx, f.progress)
	if err != nil {
		return err
	}
	l, err := lab.Up(ctx, lab.Options{
		Name: f.name, Dir: filepath.Join(f.out, f.name+"-lab"), Tools: tools, Progress: f.progress,
	})
	if err != nil {
		return err
	}
	defer func() {
		f.progress("taking the lab down")
		err = errors.Join(err, l.Down())
	}()
	return f.verifyFaults(ctx, l, tracer)
}
