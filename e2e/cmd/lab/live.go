// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/layertrace/layertrace/e2e/lab"
	"github.com/layertrace/layertrace/e2e/live"
	"github.com/layertrace/layertrace/e2e/provision"
)

func liveCasesCommand() *cobra.Command {
	var out, named string
	var times int
	cmd := &cobra.Command{
		Use:   "live-cases",
		Short: "Check explain on pauses, streams, slow readers and an outage, by the client's clock",
		Long: `Sends six requests from a plain client to a plain server over a router where an agent
captures: responses that pause or come in parts, readers that wait, and a router that
forwards nothing for a while. Fails when a total of layertrace explain is not within
2 % of the client's clock, or when its verdict names another layer or location. Needs
root; about half a minute.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			cases, err := live.Select(named)
			if err != nil {
				return err
			}
			var errs []error
			for range times {
				// A new one each time: slow requests would become part of the baseline.
				errs = append(errs, withTestbed(cmd.Context(), live.Options{
					Name: "live", Dir: filepath.Join(out, "live-cases"), ClientAddresses: 1, Export: "otlp-grpc",
				}, func(ctx context.Context, t *live.Testbed) error { return checkLiveCases(ctx, t, cases, out) }))
			}
			return errors.Join(errs...)
		},
	}
	cmd.Flags().StringVar(&named, "case", "", "only cases whose names contain this")
	cmd.Flags().IntVar(&times, "times", 1, "how often to run the cases")
	cmd.Flags().StringVar(&out, "out", "out", "directory for the reports and the logs")
	return cmd
}

// withTestbed calls do with a testbed, and takes it down.
func withTestbed(ctx context.Context, options live.Options, do func(context.Context, *live.Testbed) error) (err error) {
	if err := lab.CheckRoot(); err != nil {
		return err
	}
	options.Progress = progress()
	if options.Tools, err = provision.Tools(ctx, options.Progress); err != nil {
		return err
	}
	t, err := live.Up(ctx, options)
	if err != nil {
		return err
	}
	return errors.Join(do(ctx, t), t.Down())
}

func checkLiveCases(ctx context.Context, t *live.Testbed, cases []live.Case, out string) error {
	results, err := t.Check(ctx, cases)
	if err != nil {
		return err
	}
	if err := live.WriteResults(os.Stdout, results); err != nil {
		return err
	}
	var wrong []string
	for _, r := range results {
		file := filepath.Join(out, "live-cases", r.TraceID[28:]+".txt")
		if err := os.WriteFile(file, []byte(r.Text), 0o644); err != nil {
			return fmt.Errorf("write a report: %w", err)
		}
		if len(r.Problems) > 0 {
			wrong = append(wrong, r.Name)
		}
	}
	if len(wrong) > 0 {
		return fmt.Errorf("explain was wrong on: %s", strings.Join(wrong, ", "))
	}
	return nil
}

func openExchangesCommand() *cobra.Command {
	var out string
	var o live.OpenOptions
	var flags []string
	cmd := &cobra.Command{
		Use:   "open-exchanges",
		Short: "Keep very many responses open and watch the agent",
		Long: `Opens responses that never end, each on a connection of its own, through an agent's
interfaces, keeps them open, and sends ordinary requests meanwhile. Reports the
agent's memory, and compares its records with what it counted and with the client's
clock. Fails when an eviction is not counted or not marked, or when an ordinary
request is missing or has wrong times. Needs root, and 2 GiB of memory.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return withTestbed(cmd.Context(), live.Options{
				Name: "open", Dir: filepath.Join(out, "open-exchanges"), ClientAddresses: 4, Export: "stdout", AgentFlags: flags,
			}, func(ctx context.Context, t *live.Testbed) error {
				r, err := t.Open(ctx, o)
				if err != nil {
					return err
				}
				if err := writeJSON(filepath.Join(out, "open-exchanges.json"), r); err != nil {
					return err
				}
				r.Write(os.Stdout)
				if problems := r.Problems(); len(problems) > 0 {
					return errors.New(strings.Join(problems, "; "))
				}
				return nil
			})
		},
	}
	cmd.Flags().IntVar(&o.Connections, "connections", 100_000, "number of responses that never end")
	cmd.Flags().IntVar(&o.Rate, "rate", 2000, "how many of them begin per second")
	cmd.Flags().DurationVar(&o.Duration, "duration", 10*time.Minute, "how long all of them stay open")
	cmd.Flags().StringSliceVar(&flags, "agent-flag", nil, "further flags of the agent, such as --max-connections=200000")
	cmd.Flags().StringVar(&out, "out", "out", "directory for the report and the logs")
	return cmd
}
