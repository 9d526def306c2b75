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

	"github.com/layertrace/layertrace/e2e/attack"
	"github.com/layertrace/layertrace/e2e/lab"
	"github.com/layertrace/layertrace/e2e/provision"
)

func attackCommand() *cobra.Command {
	opts := attack.Options{}
	var out string
	cmd := &cobra.Command{
		Use:   "attack",
		Short: "Do to an agent what hostile traffic does, and check that each bound holds",
		Long: `Attacks an agent in network namespaces of its own, with a bounded number of requests,
segments and connections, and writes attack.json. Fails when a bound does not hold.
Needs root.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			opts.Progress = progress()
			return runAttack(cmd.Context(), opts, out)
		},
	}
	flags := cmd.Flags()
	flags.StringVar(&out, "out", "out", "directory for attack.json and the logs")
	flags.StringVar(&opts.Program, "program", "bin/layertrace", "the layertrace to attack")
	flags.StringVar(&opts.Only, "case", "", "run only this case")
	return cmd
}

func runAttack(ctx context.Context, opts attack.Options, out string) error {
	if err := lab.CheckRoot(); err != nil {
		return err
	}
	if err := makeAbsolute(&opts.Program, &out); err != nil {
		return err
	}
	opts.Dir = filepath.Join(out, "attack")
	if opts.Only == "" || attack.NeedsEnvoy(opts.Only) {
		var err error
		if opts.Envoy, err = provision.Envoy(ctx, opts.Progress); err != nil {
			return err
		}
	}
	results, err := attack.Run(ctx, opts)
	if err != nil {
		return err
	}
	if err := writeJSON(filepath.Join(out, "attack.json"), map[string]any{"cases": results}); err != nil {
		return err
	}
	return printAttacks(os.Stdout, results)
}

// printAttacks prints a table, and returns an error if a bound does not hold.
func printAttacks(out io.Writer, results []attack.Result) error {
	failed := 0
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "RESULT\tCASE\tMEASURED\tBOUND")
	for _, r := range results {
		verdict := "pass"
		if !r.Pass {
			verdict = "FAIL"
			failed++
		}
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\n", verdict, r.Name, r.Measured, r.Bound)
	}
	if err := w.Flush(); err != nil {
		return fmt.Errorf("write the table: %w", err)
	}
	if failed > 0 {
		return fmt.Errorf("%d of %d bounds do not hold; the logs are in out/attack", failed, len(results))
	}
	return nil
}
