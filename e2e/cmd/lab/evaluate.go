// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"

	"github.com/layertrace/layertrace/e2e/evaluate"
	"github.com/layertrace/layertrace/e2e/lab"
	"github.com/layertrace/layertrace/e2e/provision"
)

func evaluateCommand() *cobra.Command {
	var o evaluate.Options
	var cases []string
	var out, docs string
	var fresh bool
	cmd := &cobra.Command{
		Use:   "evaluate",
		Short: "Repeat the paper's evaluation and write a report with its figures",
		Long: `Repeats section 8 of the paper: the acquisition rate at ten capture points with the
trace context in Envoy's order and at the start; response times at 50 and 80
requests/s in five cases, which alternate; and one trace in Zipkin's UI without and
with interface spans. Writes evaluation.html and evaluation.json, and figures and
data into the directory evaluation.

The default takes less than 20 minutes. The paper's own numbers are --runs=100
--requests=5000: a day with all cases, 14 hours with --case=reordered,options. An
interrupted evaluation goes on when the same command runs again. Needs root, Java,
Maven and Chromium, and an otherwise idle machine.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) (err error) {
			if o.Cases, err = evaluate.ParseCases(cases); err != nil {
				return fmt.Errorf("--case: %w", err)
			}
			o.Dir, o.Progress = filepath.Join(out, "evaluation"), progress()
			return runEvaluation(cmd.Context(), o, fresh, out, docs)
		},
	}
	cmd.Flags().IntVar(&o.Runs, "runs", evaluate.DefaultRuns, "runs of each case at each rate")
	cmd.Flags().IntVar(&o.Requests, "requests", evaluate.DefaultRequests, "requests of a run")
	cmd.Flags().IntVar(&o.Acquisition, "acquisition", evaluate.DefaultAcquisition, "requests for the acquisition rate, for each header order")
	cmd.Flags().StringSliceVar(&cases, "case", nil, "measure only these cases, and stock: "+strings.Join(evaluate.CaseNames(), ", ")+" (all)")
	cmd.Flags().BoolVar(&fresh, "fresh", os.Getenv("FRESH") == "1", "start anew instead of going on with an earlier evaluation (or set FRESH=1)")
	cmd.Flags().StringVar(&out, "out", "out", "directory for the report, the figures and the logs")
	cmd.Flags().StringVar(&docs, "docs", "", "also write the report as evaluation.md into this directory")
	cmd.Flags().StringVar(&o.Name, "name", "evaluate", "name of the lab, to run several at once")
	return cmd
}

func runEvaluation(ctx context.Context, o evaluate.Options, fresh bool, out, docs string) (err error) {
	if o.Runs < 2 || o.Requests < 1 || o.Acquisition < 3 {
		return fmt.Errorf("--runs %d, --requests %d, --acquisition %d: want at least 2, 1 and 3", o.Runs, o.Requests, o.Acquisition)
	}
	if err := lab.CheckRoot(); err != nil {
		return err
	}
	if fresh {
		if err := evaluate.Discard(o.Dir); err != nil {
			return err
		}
	}
	if o.Tools, err = provision.Tools(ctx, o.Progress); err != nil {
		return err
	}
	if o.ZipkinJAR, err = provision.Zipkin(ctx, o.Progress); err != nil {
		return err
	}
	results, err := evaluate.Run(ctx, o)
	if err != nil {
		return err
	}
	o.Progress("drawing the figures and writing the report")
	if err := results.Write(out); err != nil {
		return err
	}
	if docs != "" {
		if err := results.WriteDocs(docs); err != nil {
			return err
		}
	}
	fmt.Printf("%s\n%s\n", filepath.Join(out, "evaluation.html"), filepath.Join(out, "evaluation.json"))
	return results.Check()
}
