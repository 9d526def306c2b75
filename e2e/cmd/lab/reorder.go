// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"github.com/layertrace/layertrace/e2e/provision"
	"github.com/layertrace/layertrace/e2e/reorder"
	luafilter "github.com/layertrace/layertrace/lua-filter"
)

type reorderCmd struct {
	out  string
	cost bool

	progress func(format string, args ...any)
}

func reorderCommand() *cobra.Command {
	r := &reorderCmd{}
	cmd := &cobra.Command{
		Use:   "reorder",
		Short: "Check on the wire what moves the trace context to the start, and measure its cost",
		Long: `Compares each filter that moves the trace context to the start with the golden files
of e2e/testdata/wire: Wasm as upstream filter and in the connection manager, in Go and
as compact module, Lua as upstream filter, and a stock Envoy for comparison; with both
tracers, over HTTP/1.1 and HTTP/2, on the wire of a real Envoy. Then measures Envoy's
memory and the cost of a request with each of them. Fails when a request differs from its golden file.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			r.progress = progress()
			return r.run(cmd.Context())
		},
	}
	cmd.Flags().StringVar(&r.out, "out", "out", "directory for reorder.json and the logs")
	cmd.Flags().BoolVar(&r.cost, "cost", true, "also measure the cost (needs an otherwise idle machine)")
	return cmd
}

func (r *reorderCmd) run(ctx context.Context) error {
	dir, err := filepath.Abs(filepath.Join(r.out, "reorder"))
	if err != nil {
		return err
	}
	if err := errors.Join(os.RemoveAll(dir), os.MkdirAll(dir, 0o755)); err != nil {
		return fmt.Errorf("create a directory for the logs: %w", err)
	}
	checkout, err := provision.Checkout()
	if err != nil {
		return err
	}
	envoy, err := provision.Envoy(ctx, r.progress)
	if err != nil {
		return err
	}
	module := filepath.Join(dir, "layertrace.wasm")
	if err := provision.Wasm(ctx, module, r.progress); err != nil {
		return err
	}

	var report reorderReport
	report.Wire, err = reorder.Run(ctx, reorder.Options{
		Envoy: envoy, Module: module, Dir: dir, Progress: r.progress,
		Golden: os.DirFS(filepath.Join(checkout, "e2e", "testdata", "wire")),
	})
	if err != nil {
		return err
	}
	printWire(os.Stdout, report.Wire)
	printOffsets(os.Stdout, report.Wire)
	if r.cost {
		if err := r.measure(ctx, envoy, module, dir, &report); err != nil {
			return err
		}
		printCost(os.Stdout, report.Cost)
		printMemory(os.Stdout, report.Memory)
	}
	return errors.Join(report.write(filepath.Join(r.out, "reorder.json")), report.failed())
}

func (r *reorderCmd) measure(ctx context.Context, envoy, module, dir string, report *reorderReport) error {
	lua, err := luafilter.Source(luafilter.Config{})
	if err != nil {
		return err
	}
	options := reorder.CostOptions{Envoy: envoy, Module: module, Lua: lua, Dir: dir, Progress: r.progress}
	if report.Memory, err = reorder.MeasureMemory(ctx, options); err != nil {
		return fmt.Errorf("measure the memory: %w", err)
	}
	if report.Cost, err = reorder.MeasureCost(ctx, options); err != nil {
		return fmt.Errorf("measure the cost: %w", err)
	}
	return nil
}

// reorderReport is reorder.json.
type reorderReport struct {
	Wire   []reorder.Result `json:"wire"`
	Cost   []reorder.Cost   `json:"cost"`
	Memory []reorder.Memory `json:"memory"`
}

func (r reorderReport) write(path string) error { return writeJSON(path, r) }

// failed returns an error when a request differs from its golden file.
func (r reorderReport) failed() error {
	failed := 0
	for _, result := range r.Wire {
		if !result.Pass {
			failed++
		}
	}
	if failed > 0 {
		return fmt.Errorf("%d of %d requests differ from the golden files of e2e/testdata/wire", failed, len(r.Wire))
	}
	return nil
}

// printWire prints a row per tracer and case with a column per placement, and then
// the differences.
func printWire(w io.Writer, results []reorder.Result) {
	fmt.Fprint(w, "\nRequests on the wire that equal their golden files byte by byte (one over\nHTTP/1.1, one over HTTP/2):\n\n")
	table := tabwriter.NewWriter(w, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprint(table, "tracer\tcase\t")
	for _, placement := range reorder.Placements {
		fmt.Fprintf(table, "%s\t", placement)
	}
	fmt.Fprintln(table)
	type key struct{ tracer, name string }
	var rows []key
	cells := map[key]map[reorder.Placement][2]int{} // passed, all
	for _, r := range results {
		k := key{string(r.Tracer), r.Case}
		if cells[k] == nil {
			cells[k] = map[reorder.Placement][2]int{}
			rows = append(rows, k)
		}
		cell := cells[k][r.Placement]
		if r.Pass {
			cell[0]++
		}
		cell[1]++
		cells[k][r.Placement] = cell
	}
	for _, k := range rows {
		fmt.Fprintf(table, "%s\t%s\t", k.tracer, k.name)
		for _, placement := range reorder.Placements {
			fmt.Fprintf(table, "%d/%d\t", cells[k][placement][0], cells[k][placement][1])
		}
		fmt.Fprintln(table)
	}
	// Only writing to w can fail; reorder.json has the results as well.
	_ = table.Flush()
	for _, r := range results {
		if !r.Pass {
			fmt.Fprintf(w, "\nFAILED %s %s %s %s: %v\n", r.Tracer, r.Case, r.Placement, r.Protocol, r.Err)
		}
	}
}

// printOffsets prints the offset of the trace context in requests, for the cases
// that occur in every mesh.
func printOffsets(w io.Writer, results []reorder.Result) {
	fmt.Fprint(w, "\nOffset of the tracer's first header in an HTTP/1.1 request, in bytes:\n\n")
	table := tabwriter.NewWriter(w, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprint(table, "tracer\tcase\t")
	for _, placement := range reorder.Placements {
		fmt.Fprintf(table, "%s\t", placement)
	}
	fmt.Fprintln(table)
	for _, tracer := range reorder.Tracers {
		for _, name := range []string{"root", "continued", "retry"} {
			fmt.Fprintf(table, "%s\t%s\t", tracer, name)
			for _, placement := range reorder.Placements {
				at := slices.IndexFunc(results, func(r reorder.Result) bool {
					return r.Tracer == tracer && r.Case == name && r.Placement == placement && r.Protocol == reorder.HTTP1
				})
				if at < 0 || results[at].Offset < 0 {
					fmt.Fprint(table, "none\t")
					continue
				}
				fmt.Fprintf(table, "%d\t", results[at].Offset)
			}
			fmt.Fprintln(table)
		}
	}
	_ = table.Flush()
}

// printCost prints the cost of a request, and its difference to a stock Envoy.
func printCost(w io.Writer, results []reorder.Cost) {
	fmt.Fprint(w, "\nCost of a request, medians: CPU time of the Envoy process, and its difference to\nstock:\n\n")
	stock := slices.IndexFunc(results, func(r reorder.Cost) bool { return r.Variant == string(reorder.Stock) })
	table := tabwriter.NewWriter(w, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintln(table, "variant\tCPU µs\tmore\tp50 µs\tp99 µs\tMiB\t")
	for _, r := range results {
		more := "?"
		if stock >= 0 {
			more = fmt.Sprintf("%+.1f", r.CPUMicros-results[stock].CPUMicros)
		}
		fmt.Fprintf(table, "%s\t%.1f\t%s\t%.0f\t%.0f\t%.0f\t\n",
			r.Variant, r.CPUMicros, more, r.P50Micros, r.P99Micros, mebibytes(r.RSSBytes))
	}
	_ = table.Flush()
}

// printMemory prints the memory of an Envoy, and its difference to a stock one with as many
// workers.
func printMemory(w io.Writer, results []reorder.Memory) {
	fmt.Fprint(w, "\nMemory of Envoy after some load, medians, in MiB: resident, and what it has written of\nthat, with the difference to stock:\n\n")
	stock := map[int]reorder.Memory{}
	for _, r := range results {
		if r.Variant == string(reorder.Stock) {
			stock[r.Workers] = r
		}
	}
	table := tabwriter.NewWriter(w, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintln(table, "workers\tvariant\tresident\tmore\twritten\tmore\t")
	for _, r := range results {
		s := stock[r.Workers]
		fmt.Fprintf(table, "%d\t%s\t%.1f\t%+.1f\t%.1f\t%+.1f\t\n", r.Workers, r.Variant,
			mebibytes(r.RSSBytes), mebibytes(r.RSSBytes)-mebibytes(s.RSSBytes),
			mebibytes(r.AnonymousBytes), mebibytes(r.AnonymousBytes)-mebibytes(s.AnonymousBytes))
	}
	_ = table.Flush()
}
