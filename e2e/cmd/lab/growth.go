// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"os"
	"path/filepath"
	"time"

	"github.com/spf13/cobra"

	"github.com/layertrace/layertrace/e2e/cost"
)

// growthReport is growth.json.
type growthReport struct {
	Slopes  []cost.Slope  `json:"slopes"`
	Results []cost.Growth `json:"results"`
}

func growthCommand() *cobra.Command {
	var (
		of, layertrace []string
		seconds        float64
		times          int
		out, name      string
	)
	cmd := &cobra.Command{
		Use:   "growth",
		Short: "Measure how the agent's cost grows with interfaces, connections, pods and spans",
		Long: `Measures the agent's CPU time and memory with more and more watched interfaces, open
connections, known pods and spans per trace, each beside the same load without the agent, and
names each figure that grows faster than n log n. Needs root, an otherwise idle machine, and
2 GiB of memory for 100,000 connections.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			sizes, err := cost.ParseSizes(of)
			if err != nil {
				return err
			}
			return measureGrowth(cmd.Context(), layertrace, out, cost.GrowthOptions{
				Testbed: cost.Options{Name: name, Dir: filepath.Join(out, "growth")}, Sizes: sizes,
				Duration: time.Duration(seconds * float64(time.Second)), Times: times, Progress: progress(),
			})
		},
	}
	cmd.Flags().StringArrayVar(&of, "of", nil, "what grows, and its sizes: NAME or NAME=N,N,... (repeatable; default: interfaces, connections, pods and spans-per-trace)")
	cmd.Flags().StringArrayVar(&layertrace, "layertrace", nil, "program of layertrace to measure (default: built from the checkout)")
	cmd.Flags().Float64Var(&seconds, "seconds", 4, "duration of a measurement, in seconds")
	cmd.Flags().IntVar(&times, "times", 1, "how often to measure each size")
	cmd.Flags().StringVar(&out, "out", "out", "directory for growth.json and the logs")
	cmd.Flags().StringVar(&name, "name", "growth", "name of the testbed, to run several at once")
	return cmd
}

func measureGrowth(ctx context.Context, layertrace []string, out string, options cost.GrowthOptions) error {
	load, binaries, err := costPrograms(ctx, layertrace, options.Progress)
	if err != nil {
		return err
	}
	options.Testbed.Load, options.Testbed.Progress, options.Agent = load, options.Progress, binaries[0].Path
	results, err := cost.MeasureGrowth(ctx, options)
	if err != nil {
		return err
	}
	slopes := cost.Slopes(results)
	if err := cost.WriteGrowth(os.Stdout, slopes); err != nil {
		return err
	}
	return writeJSON(filepath.Join(out, "growth.json"), growthReport{slopes, results})
}
