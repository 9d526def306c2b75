// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/layertrace/layertrace/e2e/provision"
	"github.com/layertrace/layertrace/e2e/soak"
)

func soakCommand() *cobra.Command {
	opts := soak.Options{}
	var out string
	cmd := &cobra.Command{
		Use:   "soak",
		Short: "Run an agent for hours and check that nothing of it grows",
		Long: `Runs an agent with layers beside 200 requests per second, pods that come and go every 5 s, a
Jaeger that restarts, and an API server that is away now and then. Samples memory, file
descriptors, goroutines and the entries of BPF maps every second, and writes soak.json with the
growth per hour of each and its 95 % confidence interval. Fails when something grows, or when a
request failed. Needs root.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			opts.Progress = progress()
			return runSoak(cmd.Context(), opts, out)
		},
	}
	flags := cmd.Flags()
	flags.DurationVar(&opts.For, "for", 2*time.Hour, "how long the load lasts, 1m or more")
	flags.IntVar(&opts.Rate, "rate", 200, "requests per second")
	flags.StringVar(&out, "out", "out", "directory for soak.json and the logs")
	flags.StringVar(&opts.Agent, "program", "bin/layertrace", "the layertrace to run")
	return cmd
}

func runSoak(ctx context.Context, opts soak.Options, out string) error {
	if opts.For < time.Minute || opts.Rate < 1 || opts.Rate > 10_000 {
		return fmt.Errorf("run for %v at %d requests/s: want 1m or more, and 1 to 10000", opts.For, opts.Rate)
	}
	if err := makeAbsolute(&opts.Agent, &out); err != nil {
		return err
	}
	opts.Dir = filepath.Join(out, "soak")
	checkout, err := provision.Checkout()
	if err != nil {
		return err
	}
	if opts.Jaeger, err = provision.Jaeger(ctx, checkout, opts.Progress); err != nil {
		return err
	}
	report, ended := soak.Run(ctx, opts)
	if report.Figures == nil {
		return ended
	}
	if err := writeJSON(filepath.Join(out, "soak.json"), report); err != nil {
		return errors.Join(ended, err)
	}
	if err := printSoak(os.Stdout, &report); err != nil {
		return errors.Join(ended, err)
	}
	return errors.Join(ended, report.Healthy())
}

func printSoak(out io.Writer, r *soak.Report) error {
	fmt.Fprintf(out, "%d requests, %d failed; %.0f spans exported, %.0f lost; %d pods came and went, Jaeger restarted %d times, the API server was away %d times\n",
		r.Requests, r.Failed, r.Spans, r.Lost, r.Pods, r.JaegerRestarts, r.APIOutages)
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprint(w, "figure\tfirst\tlast\tper hour\tfrom\tto\t\t\n")
	for _, f := range r.Figures {
		verdict := ""
		if f.Grows {
			verdict = "GROWS"
		}
		fmt.Fprintf(w, "%s\t%.0f\t%.0f\t%.3g\t%.3g\t%.3g\t%s\t\n", f.Name, f.First, f.Last, f.Slope, f.Low, f.High, verdict)
	}
	if err := w.Flush(); err != nil {
		return fmt.Errorf("write the table: %w", err)
	}
	return nil
}
