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

	"github.com/spf13/cobra"

	"github.com/layertrace/layertrace/e2e/lab"
	"github.com/layertrace/layertrace/e2e/logcost"
	"github.com/layertrace/layertrace/e2e/measure"
	"github.com/layertrace/layertrace/e2e/provision"
)

type mtlsCost struct {
	starts, rounds int
	time, count    bool
	kernel         bool
	out, name      string

	progress func(format string, args ...any)
}

func mtlsCostCommand() *cobra.Command {
	m := &mtlsCost{}
	cmd := &cobra.Command{
		Use:   "mtls-cost",
		Short: "Measure what the access log for the agents costs Envoy",
		Long: `Sends small requests through two Envoys that speak mutual TLS, alternately without and
with the access logs of layertrace install, and with parts of them. Reports the CPU time
of a request, and counts its instructions in Valgrind. Then counts how often the agents'
BPF programs run in a mesh with and without mutual TLS. Needs root, valgrind, and for the
time an otherwise idle machine.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			m.progress = progress()
			return m.run(cmd.Context())
		},
	}
	flags := cmd.Flags()
	flags.IntVar(&m.starts, "starts", 3, "how often new Envoys are started")
	flags.IntVar(&m.rounds, "rounds", 40, "rounds with each of them: how often it measures each variant; an eighth with sampled requests")
	flags.BoolVar(&m.time, "time", true, "measure the CPU time of a request")
	flags.BoolVar(&m.count, "count", true, "count the instructions of a request")
	flags.BoolVar(&m.kernel, "kernel", true, "count the runs of the BPF programs")
	flags.StringVar(&m.out, "out", "out", "directory for mtls-cost.json and the logs")
	flags.StringVar(&m.name, "name", "mtls-cost", "name of the lab, to run several at once")
	return cmd
}

func (m *mtlsCost) run(ctx context.Context) error {
	dir, err := filepath.Abs(filepath.Join(m.out, "mtls-cost"))
	if err != nil {
		return err
	}
	if err := errors.Join(os.RemoveAll(dir), os.MkdirAll(dir, 0o755)); err != nil {
		return fmt.Errorf("create a directory for the logs: %w", err)
	}
	var result mtlsCostResult
	envoy, err := provision.Envoy(ctx, m.progress)
	if err != nil {
		return err
	}
	o := logcost.Options{Envoy: envoy, Dir: dir, Starts: m.starts, Rounds: m.rounds, Progress: m.progress}
	if m.count {
		if result.Instructions, err = logcost.Count(ctx, o); err != nil {
			return err
		}
	}
	if m.kernel {
		if result.Programs, err = m.programs(ctx, filepath.Join(dir, "lab")); err != nil {
			return err
		}
	}
	if m.time {
		if result.Time, err = logcost.Measure(ctx, o); err != nil {
			return err
		}
	}
	result.print(os.Stdout)
	return writeJSON(filepath.Join(m.out, "mtls-cost.json"), result)
}

// mtlsCostResult is mtls-cost.json.
type mtlsCostResult struct {
	Time         []logcost.Time         `json:"time"`
	Instructions []logcost.Instructions `json:"instructions"`
	Programs     []mtlsPrograms         `json:"programs"`
}

// mtlsPrograms is how often BPF programs run in a mesh.
type mtlsPrograms struct {
	Mesh     string       `json:"mesh"` // encrypted or plain
	Programs []programRow `json:"programs"`
}

// programRequests is the number of front pages during which the kernel counts.
const programRequests = 1000

// programs counts the runs of the agents' BPF programs for a front page, of which one in a
// hundred is sampled, with and without mutual TLS.
func (m *mtlsCost) programs(ctx context.Context, dir string) (all []mtlsPrograms, err error) {
	if err := lab.CheckRoot(); err != nil {
		return nil, err
	}
	tools, err := provision.Tools(ctx, m.progress)
	if err != nil {
		return nil, err
	}
	l, err := lab.Up(ctx, lab.Options{Name: m.name, Dir: dir, Tools: tools, Progress: m.progress, MaxTraces: 1000})
	if err != nil {
		return nil, err
	}
	defer func() {
		m.progress("taking the lab down")
		err = errors.Join(err, l.Down())
	}()
	for _, setup := range []lab.Setup{measure.Encrypted(lab.OpenTelemetry), measure.Stock(lab.OpenTelemetry)} {
		m.progress("counting the runs of the BPF programs, %s", setup.Name)
		setup.NoAgents, setup.Sampling, setup.Export = true, 1, "otlp-grpc"
		ran, err := countPrograms(ctx, l, setup)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", setup.Name, err)
		}
		all = append(all, mtlsPrograms{setup.Name, ran})
	}
	return all, nil
}

func countPrograms(ctx context.Context, l *lab.Lab, setup lab.Setup) (rows []programRow, err error) {
	run, err := l.Start(ctx, setup)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, run.Stop()) }()
	send := func(requests int) error {
		_, err := l.Send(ctx, lab.Load{Requests: requests})
		return err
	}
	if err := send(100); err != nil { // opens the connections
		return nil, err
	}
	programs, err := measure.CountPrograms(programRequests, func() error { return run.StartAgents(ctx) }, func() error { return send(programRequests) })
	if err != nil {
		return nil, err
	}
	for _, p := range programs {
		rows = append(rows, programRow{p.Name, p.Runs, p.Time.Nanoseconds()})
	}
	return rows, nil
}

// print prints a table for each part that was measured.
func (r *mtlsCostResult) print(w io.Writer) {
	if r.Time != nil {
		printLogTime(w, r.Time)
	}
	if r.Instructions != nil {
		printInstructions(w, r.Instructions)
	}
	for _, mesh := range r.Programs {
		fmt.Fprintf(w, "\nBPF programs of the agents for a front page, of which 1 %% are sampled (%s):\n\n", mesh.Mesh)
		table := tabwriter.NewWriter(w, 0, 0, 2, ' ', tabwriter.AlignRight)
		fmt.Fprintln(table, "program\truns\tns\t")
		for _, p := range mesh.Programs {
			fmt.Fprintf(table, "%s\t%.1f\t%d\t\n", p.Program, p.Runs, p.NS)
		}
		_ = table.Flush() // to standard output
	}
}

// printLogTime prints a line for each variant and load.
func printLogTime(w io.Writer, rows []logcost.Time) {
	fmt.Fprint(w, `
CPU time of a request, in µs, in the proxy that sends it (client) and in the one that
receives it (server): median, and how much more than none in the same round (median, 95 %
interval by bootstrap).

`)
	table := tabwriter.NewWriter(w, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintln(table, "sampled\tvariant\tpairs\tclient\tmore\tratio\tserver\tmore\tratio\t")
	for _, r := range rows {
		fmt.Fprintf(table, "%g %%\t%s\t%d\t", r.Sampled, r.Variant, r.Pairs)
		for _, f := range []logcost.Figures{r.Client, r.Server} {
			fmt.Fprintf(table, "%.1f\t%+.1f (%+.1f to %+.1f)\t%.3f (%.3f to %.3f)\t", f.Micros,
				f.More.Median, f.More.Low, f.More.High, f.Ratio.Median, f.Ratio.Low, f.Ratio.High)
		}
		fmt.Fprintln(table)
	}
	_ = table.Flush() // as above
}

// printInstructions prints a line for each variant and load, with the difference to the
// first of the load, which is none.
func printInstructions(w io.Writer, rows []logcost.Instructions) {
	fmt.Fprint(w, "\nInstructions of a request in user space, and how many more than none:\n\n")
	table := tabwriter.NewWriter(w, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintln(table, "sampled\tvariant\tclient\tmore\tserver\tmore\t")
	var none logcost.Instructions
	for _, r := range rows {
		if r.Variant == logcost.None {
			none = r
		}
		fmt.Fprintf(table, "%g %%\t%s\t%d\t%+d\t%d\t%+d\t\n", r.Sampled, r.Variant,
			r.Client, r.Client-none.Client, r.Server, r.Server-none.Server)
	}
	_ = table.Flush() // as above
}
