// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/layertrace/layertrace/e2e/cost"
	"github.com/layertrace/layertrace/e2e/provision"
)

type peersBench struct {
	tools, loads, layertrace []string
	pairs                    int
	seconds                  float64
	add                      bool
	out, name                string

	highest bool
	between []float64
	steps   int

	progress func(format string, args ...any)
}

// peersReport is bench-peers.json.
type peersReport struct {
	Rows []cost.Row `json:"rows"`
	// Samples are all runs in their order, of which the rows are the summary.
	Samples []cost.Sample `json:"samples"`
}

func benchPeersCommand() *cobra.Command {
	b := &peersBench{}
	cmd := &cobra.Command{
		Use:   "bench-peers",
		Short: "Compare the cost of layertrace with that of tcpdump, ngrep and tshark",
		Long: `Sends HTTP requests to nginx over a node whose two interfaces a tool watches, alternately
with and without the tool. At a rate, latencies count from when a request was due. Counts
what each tool saw, and measures its CPU time, memory and longest uninterrupted run, and
the CPU time of the machine. Needs root, and an otherwise idle machine.

Modes of layertrace: none (--export none), otlp and otlp-http (all requests sampled, spans to
a receiver that only counts), layers (--spans=layers), sampled and sampled-none (1 % sampled,
with and without spans). GoReplay (gor) is measured too if it is there. The tool control looks
at no packet, and takes 0.2 ms of CPU time 120 times per second: what it does to latencies, any
tool does. --layertrace measures other builds in the same runs:

  lab bench-peers --layertrace before=/tmp/layertrace --layertrace after=bin/layertrace --tools none,otlp

With --highest it searches the highest rate of each tool without a loss instead: without one
that the tool reports, with all requests seen, and with a client that reached the rate. Each of
--steps halves the interval --between, and --pairs is how often that is done.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			b.progress = progress()
			return b.run(cmd.Context())
		},
	}
	cmd.Flags().StringSliceVar(&b.tools, "tools", cost.DefaultTools(), "tools to measure, of "+strings.Join(cost.ToolNames(), ", "))
	cmd.Flags().StringSliceVar(&b.loads, "loads", []string{"1000", "5000", cost.Saturation}, "loads: requests per second, "+cost.Saturation+" or "+cost.Half+" (of that)")
	cmd.Flags().IntVar(&b.pairs, "pairs", 5, "how often each tool is measured at each load")
	cmd.Flags().Float64Var(&b.seconds, "seconds", 4, "duration of a measurement, in seconds")
	cmd.Flags().StringArrayVar(&b.layertrace, "layertrace", nil, "program of layertrace to measure, as PATH or NAME=PATH (repeatable; default: built from the checkout)")
	cmd.Flags().BoolVar(&b.add, "add", false, "add to the runs in bench-peers.json")
	cmd.Flags().BoolVar(&b.highest, "highest", false, "search the highest rate without a loss, and write it to bench-highest.json")
	cmd.Flags().Float64SliceVar(&b.between, "between", []float64{2000, 128_000}, "with --highest: lowest and highest rate, in requests per second")
	cmd.Flags().IntVar(&b.steps, "steps", 6, "with --highest: steps of a search")
	cmd.Flags().StringVar(&b.out, "out", "out", "directory for bench-peers.json and the logs")
	cmd.Flags().StringVar(&b.name, "name", "peers", "name of the testbed, to run several at once")
	return cmd
}

func (b *peersBench) run(ctx context.Context) (err error) {
	if b.pairs < 1 || b.seconds < 1 {
		return fmt.Errorf("--pairs %d, --seconds %g: want at least 1", b.pairs, b.seconds)
	}
	if err := cost.ParseLoads(b.loads); err != nil {
		return err
	}
	if len(b.between) != 2 || b.between[0] <= 0 || b.between[1] <= b.between[0] || b.steps < 1 {
		return fmt.Errorf("--between %v, --steps %d: want two rates, the lower one first, and at least one step", b.between, b.steps)
	}
	load, binaries, err := costPrograms(ctx, b.layertrace, b.progress)
	if err != nil {
		return err
	}
	tools, err := cost.Tools(b.tools, binaries)
	if err != nil {
		return err
	}
	file := filepath.Join(b.out, "bench-peers.json")
	var report peersReport
	if b.add {
		if report, err = readPeersReport(file); err != nil {
			return err
		}
	}
	testbed, err := cost.Up(ctx, cost.Options{Name: b.name, Dir: filepath.Join(b.out, "bench-peers"), Load: load, Clients: 1, Workers: 2})
	if err != nil {
		return err
	}
	if b.highest {
		return errors.Join(b.search(ctx, testbed, tools), testbed.Down())
	}
	err = testbed.Compare(ctx, cost.Comparison{
		Tools: tools, Loads: b.loads, Pairs: b.pairs, Duration: time.Duration(b.seconds * float64(time.Second)), Progress: b.progress,
		Done: func(s cost.Sample) error {
			report.Samples = append(report.Samples, s)
			b.progress("%s: %.0f requests/s, p99 %.0f µs, %.1f µs of CPU, %d of %d seen", s.Tool, s.Rate, s.P99/1e3, float64(s.ToolCPU)/1e3/float64(s.Requests), s.Seen, s.Expected)
			return nil
		},
	})
	if err := errors.Join(err, testbed.Down()); err != nil {
		return err
	}
	report.Rows = cost.Rows(report.Samples)
	printPeers(os.Stdout, report.Rows)
	return writeJSON(file, report)
}

// highestReport is bench-highest.json.
type highestReport struct {
	Highest []cost.Highest `json:"highest"`
	// Samples are all runs in their order.
	Samples []cost.Sample `json:"samples"`
}

// search searches the highest rates without a loss.
func (b *peersBench) search(ctx context.Context, testbed *cost.Testbed, tools []cost.Tool) error {
	var report highestReport
	var err error
	report.Highest, err = testbed.Search(ctx, cost.Search{
		Tools: tools, Low: b.between[0], High: b.between[1], Steps: b.steps, Times: b.pairs,
		Duration: time.Duration(b.seconds * float64(time.Second)), Progress: b.progress,
		Done: func(rate float64, carried bool, s cost.Sample) error {
			report.Samples = append(report.Samples, s)
			verdict := "carried"
			if !carried {
				verdict = "too much"
			}
			b.progress("%s: %.0f requests/s are %s (%.0f sent, %d of %d seen, %s reported as lost)", s.Tool, rate, verdict, s.Rate, s.Seen, s.Expected, reported(s.ReportedLost))
			return nil
		},
	})
	if err != nil {
		return err
	}
	table := tabwriter.NewWriter(os.Stdout, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintln(table, "tool\trequests/s without a loss\tof each search\ttoo much\t")
	for _, h := range report.Highest {
		fmt.Fprintf(table, "%s\t%.0f\t%.0f\t%.0f\t\n", h.Tool, h.Rate, h.Rates, h.Above)
	}
	_ = table.Flush() // as in printOverhead
	return writeJSON(filepath.Join(b.out, "bench-highest.json"), report)
}

// costPrograms builds the program of clients and sink, and layertrace unless other
// programs are given.
func costPrograms(ctx context.Context, given []string, progress provision.Progress) (load string, binaries []cost.Binary, err error) {
	checkout, err := provision.Checkout()
	if err != nil {
		return "", nil, err
	}
	load = filepath.Join(checkout, "bin", "load")
	if err := provision.RunGo(ctx, checkout, progress, "build", "-trimpath", "-buildvcs=false", "-o", load, "./e2e/cost/load"); err != nil {
		return "", nil, err
	}
	for _, one := range given {
		name, path, named := strings.Cut(one, "=")
		if !named {
			name, path = "layertrace", one
		}
		if path, err = filepath.Abs(path); err == nil {
			_, err = os.Stat(path)
		}
		if err != nil {
			return "", nil, fmt.Errorf("--layertrace %s: %w", one, err)
		}
		binaries = append(binaries, cost.Binary{Name: name, Path: path})
	}
	if len(given) == 0 {
		path := filepath.Join(checkout, "bin", "layertrace")
		if err := provision.RunGo(ctx, checkout, progress, "build", "-trimpath", "-buildvcs=false", "-o", path, "./agent/cmd/layertrace"); err != nil {
			return "", nil, err
		}
		binaries = []cost.Binary{{Name: "layertrace", Path: path}}
	}
	return load, binaries, nil
}

func readPeersReport(path string) (r peersReport, err error) {
	text, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return r, nil
	}
	if err == nil {
		err = json.Unmarshal(text, &r)
	}
	if err != nil {
		return r, fmt.Errorf("read earlier runs from %s: %w", path, err)
	}
	return r, nil
}

func printPeers(w io.Writer, rows []cost.Row) {
	fmt.Fprint(w, `
Medians per tool and load. CPU is µs per request: of the tool, of client and server with
the packets that they send (without a tool), of all processors (without a tool), and in soft
interrupts as sampled by the tick (without a tool). Seen is the share of the requests
at the tool's capture points. Memory is the peak in user space, and that of BPF maps and
programs. The longest run is for how long the tool kept a CPU from everything else.

`)
	table := tabwriter.NewWriter(w, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintln(table, "load\ttool\truns\ttool\tends\tmachine\tsoftirq\tseen\tlost\treported\tMiB\tBPF\tlongest run ms\twake-ups/s\t")
	for _, r := range rows {
		fmt.Fprintf(table, "%s\t%s\t%d\t%.1f\t%.1f (%.1f)\t%.1f (%.1f)\t%.1f (%.1f)\t%s\t%d\t%s\t%.0f\t%.0f\t%.2f\t%.0f\t\n",
			r.Load, r.Tool, r.Runs, r.CPU, r.Ends, r.EndsOff, r.Machine, r.MachineOff, r.Softirq, r.SoftirqOff, share(r.Seen, r.Expected), r.Lost, reported(r.ReportedLost),
			mebibytes(r.RSS), mebibytes(r.BPF), r.LongestRun/1e3, r.WakeUps)
	}
	_ = table.Flush() // as in printOverhead
	fmt.Fprint(w, "\nLatencies with the tool in µs, and ratios to the run without directly before or after:\nmedian (95 % interval by bootstrap)\n\n")
	table = tabwriter.NewWriter(w, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintln(table, "load\ttool\tp50\tp99\tp99.9\tp50 ratio\tp99 ratio\tp99.9 ratio\trequests/s\t")
	for _, r := range rows {
		fmt.Fprintf(table, "%s\t%s\t%.0f\t%.0f\t%.0f\t%s\t%s\t%s\t%s\t\n", r.Load, r.Tool, r.P50, r.P99, r.P999,
			interval(r.P50Ratio, r.P50Range), interval(r.P99Ratio, r.P99Range), interval(r.P999Ratio, r.P999Range), interval(r.RateRatio, r.RateRange))
	}
	_ = table.Flush()
}

func share(seen, expected int) string {
	if expected == 0 {
		return "-"
	}
	return fmt.Sprintf("%.2f %%", 100*float64(seen)/float64(expected))
}

func reported(lost *int) string {
	if lost == nil {
		return "not"
	}
	return fmt.Sprint(*lost)
}

func interval(median float64, i cost.Interval) string {
	if i == nil {
		return fmt.Sprintf("%.2f", median)
	}
	return fmt.Sprintf("%.2f (%.2f to %.2f)", median, i[0], i[1])
}
