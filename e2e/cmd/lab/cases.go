// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"github.com/layertrace/layertrace/e2e/cases"
	"github.com/layertrace/layertrace/e2e/lab"
)

func casesCommand() *cobra.Command {
	var opts cases.Options
	cmd := &cobra.Command{
		Use:   "cases",
		Short: "Run packet captures whose truth is known through decode and the BPF programs",
		Long: `Runs the captures of a directory with truth.json, and the project's own, through
layertrace decode and, if they are of Ethernet, through a real agent: the packets are
sent to its interfaces at the pace of their timestamps. Compares both with the truth,
and writes cases.json. Fails when one of them is wrong. Needs root and tcpdump.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			opts.Progress = progress()
			return runCases(cmd.Context(), opts)
		},
	}
	flags := cmd.Flags()
	flags.StringVar(&opts.Dir, "dir", "", "directory with truth.json, captures and vectors.txt; empty: only the project's own")
	flags.StringVar(&opts.Out, "out", "out", "directory for cases.json and the logs")
	flags.StringVar(&opts.Program, "program", "bin/layertrace", "the layertrace to test")
	return cmd
}

func runCases(ctx context.Context, opts cases.Options) error {
	if err := lab.CheckRoot(); err != nil {
		return err
	}
	if err := makeAbsolute(&opts.Program, &opts.Out); err != nil {
		return err
	}
	out := opts.Out
	opts.Out = filepath.Join(out, "cases")
	results, err := cases.Run(ctx, opts)
	if err != nil {
		return err
	}
	if err := writeJSON(filepath.Join(out, "cases.json"), map[string]any{"cases": results}); err != nil {
		return err
	}
	return printCases(os.Stdout, results)
}

// printCases prints a table, and returns an error if a reader was wrong.
func printCases(out io.Writer, results []cases.Result) error {
	failed := 0
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "READER\tRESULT\tCASE\tWHY")
	for _, r := range results {
		verdict := "pass"
		if !r.Pass {
			verdict = "FAIL"
			failed++
		}
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\n", r.Reader, verdict, r.File, r.Why)
	}
	if err := w.Flush(); err != nil {
		return fmt.Errorf("write the table: %w", err)
	}
	if failed > 0 {
		return fmt.Errorf("%d of %d results are wrong", failed, len(results))
	}
	return nil
}
