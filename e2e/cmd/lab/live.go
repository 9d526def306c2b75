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
	var out, named, variant string
	var times int
	cmd := &cobra.Command{
		Use:   "live-cases",
		Short: "Check explain on pauses, streams, slow readers and an outage, by the client's clock",
		Long: `Sends six requests from a plain client to a plain server over a router where an agent
captures: responses that pause or come in parts, readers that wait, and a router that
forwards nothing for a while. With --variant=mtls both have a sidecar, mutual TLS is
between these, and there are readers of messages that do not fit into the sidecars'
buffers. Fails when a total of layertrace explain is not within 2 % of the client's
clock, or when its verdict names another layer or location, unless its confidence is
low: then it says why it is not known. Needs root; half a minute, with sidecars a
minute.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			encryption, err := parseLiveVariant(variant)
			if err != nil {
				return err
			}
			cases, err := live.Select(live.Cases(encryption != nil), named)
			if err != nil {
				return err
			}
			var errs []error
			for range times {
				// A new one each time: slow requests would become part of the baseline.
				errs = append(errs, withTestbed(cmd.Context(), live.Options{
					Name: "live", Dir: filepath.Join(out, "live-cases"), ClientAddresses: 1, Export: "otlp-grpc", TLS: encryption,
				}, func(ctx context.Context, t *live.Testbed) error { return checkLiveCases(ctx, t, cases, out) }))
			}
			return errors.Join(errs...)
		},
	}
	cmd.Flags().StringVar(&named, "case", "", "only cases whose names contain this")
	cmd.Flags().StringVar(&variant, "variant", "plain", "plain: client and server without sidecars; mtls: with a sidecar each, and mutual TLS between these")
	cmd.Flags().IntVar(&times, "times", 1, "how often to run the cases")
	cmd.Flags().StringVar(&out, "out", "out", "directory for the reports and the logs")
	return cmd
}

// parseLiveVariant returns how the sidecars of a variant encrypt, nil without sidecars.
func parseLiveVariant(name string) (*lab.TLS, error) {
	switch name {
	case "plain":
		return nil, nil
	case "mtls":
		return &lab.TLS{Version: lab.TLS13}, nil
	default:
		return nil, fmt.Errorf("unknown variant %q: choose plain or mtls", name)
	}
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
