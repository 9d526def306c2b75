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
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/layertrace/layertrace/e2e/faults/matrix"
	"github.com/layertrace/layertrace/e2e/lab"
	"github.com/layertrace/layertrace/e2e/measure"
	"github.com/layertrace/layertrace/e2e/provision"
)

type bench struct {
	cases     []string
	rounds    int
	duration  time.Duration
	tracer    string
	tcpOption string
	export    string
	sampling  float64
	layers    bool
	oneNode   bool
	packet    bool
	out       string
	name      string

	progress func(format string, args ...any)
}

func benchCommand() *cobra.Command {
	b := &bench{}
	cmd := &cobra.Command{
		Use:   "bench",
		Short: "Measure the cost of a packet, a request and the agents",
		Long: `First measures the cost of a packet in the BPF programs, and counts how often the
agents' programs run per request. Then sends requests for Bookinfo's front page
(trace headers at the start), alternately without and with agents: at fixed rates,
with latencies counted from when a request was due, and at saturation. Needs root,
and an otherwise idle machine.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			b.progress = progress()
			return b.run(cmd.Context())
		},
	}
	cmd.Flags().StringSliceVar(&b.cases, "case", nil, "measure only these cases: "+strings.Join(caseNames(), ", ")+" (all)")
	cmd.Flags().IntVar(&b.rounds, "rounds", 6, "how often each case is measured without and with agents")
	cmd.Flags().DurationVar(&b.duration, "duration", 10*time.Second, "duration of each measurement")
	cmd.Flags().StringVar(&b.tracer, "tracer", string(lab.Zipkin), "the Envoys' tracer: zipkin or opentelemetry")
	cmd.Flags().StringVar(&b.tcpOption, "tcp-option", "", "the agents' TCP option: compact or paper; results go to the key lab-compact or lab-paper")
	cmd.Flags().StringVar(&b.export, "export", "otlp-grpc", "the agents' exporter; none measures the cost of capturing alone; results go to the key lab-none")
	cmd.Flags().Float64Var(&b.sampling, "sampling", 100, "share of requests that the mesh samples, in percent; results go to the key lab-sampling-N")
	cmd.Flags().BoolVar(&b.layers, "layers", false, "run the agents with --spans=layers, which also captures at sockets and drivers; results go to the key lab-layers")
	cmd.Flags().BoolVar(&b.oneNode, "one-node", false, "run all pods on one node with one agent per kernel, as in a cluster; results go to the key lab-one-node")
	cmd.Flags().BoolVar(&b.packet, "packet", true, "also measure packets")
	cmd.Flags().StringVar(&b.out, "out", "out", "directory for bench.json and the logs")
	cmd.Flags().StringVar(&b.name, "name", "bench", "name of the lab, to run several at once")
	return cmd
}

func (b *bench) run(ctx context.Context) error {
	tracer, err := lab.ParseTracer(b.tracer)
	if err != nil {
		return err
	}
	if b.rounds < 1 || b.duration < time.Second {
		return fmt.Errorf("--rounds %d, --duration %v: want at least 1 round and 1 second", b.rounds, b.duration)
	}
	cases, err := chosenCases(b.cases)
	if err != nil {
		return err
	}
	if b.sampling <= 0 || b.sampling > 100 {
		return fmt.Errorf("--sampling %g: want more than 0 and at most 100 percent", b.sampling)
	}
	if b.tcpOption != "" && b.tcpOption != "compact" && b.tcpOption != "paper" {
		return fmt.Errorf("--tcp-option %q: want compact or paper", b.tcpOption)
	}
	if err := lab.CheckRoot(); err != nil {
		return err
	}
	if b.oneNode {
		lab.UseOneNode()
	}
	tools, err := provision.Tools(ctx, b.progress)
	if err != nil {
		return err
	}
	file := filepath.Join(b.out, "bench.json")
	if b.packet {
		if err := b.packets(ctx, file); err != nil {
			return err
		}
	}
	setup := measure.Reordered(tracer)
	setup.TCPOption, setup.Export, setup.Sampling = b.tcpOption, b.export, b.sampling
	results, programs, err := b.requests(ctx, tools, setup, cases)
	if err != nil {
		return err
	}
	printOverhead(os.Stdout, results)
	printPrograms(os.Stdout, programs)
	return writeOverhead(file, b.key(), results, programs)
}

// key returns the key of the results in bench.json: "lab" for the default setup.
func (b *bench) key() string {
	key := "lab"
	if b.tcpOption != "" {
		key += "-" + b.tcpOption
	}
	if b.export != "otlp-grpc" {
		key += "-" + b.export
	}
	if b.layers {
		key += "-layers"
	}
	if b.oneNode {
		key += "-one-node"
	}
	if b.sampling != 100 {
		key += fmt.Sprintf("-sampling-%g", b.sampling)
	}
	return key
}

func caseNames() (names []string) {
	for _, c := range measure.Cases {
		names = append(names, c.Name)
	}
	return names
}

// chosenCases returns the cases with these names; all of them without names.
func chosenCases(names []string) (chosen []measure.Case, err error) {
	for _, name := range names {
		i := slices.Index(caseNames(), name)
		if i < 0 {
			return nil, fmt.Errorf("--case %s: want one or more of %s", name, strings.Join(caseNames(), ", "))
		}
		chosen = append(chosen, measure.Cases[i])
	}
	if len(names) == 0 {
		chosen = measure.Cases
	}
	return chosen, nil
}

// requests measures requests in a lab of their own.
func (b *bench) requests(ctx context.Context, tools lab.Tools, setup lab.Setup, cases []measure.Case) (results []measure.OverheadResult, programs []measure.Program, err error) {
	l, err := lab.Up(ctx, lab.Options{
		Name: b.name, Dir: filepath.Join(b.out, "bench-lab"), Tools: tools, Progress: b.progress,
		// The traces are not read, and a growing Jaeger would disturb later rounds.
		MaxTraces: 1000,
	})
	if err != nil {
		return nil, nil, err
	}
	defer func() {
		b.progress("taking the lab down")
		err = errors.Join(err, l.Down())
	}()
	if b.layers {
		matrix.EnableLayers(l, &setup)
	}
	b.progress("starting applications and Envoys")
	return measure.Overhead(ctx, l, measure.OverheadOptions{
		Cases: cases, Setup: setup, Rounds: b.rounds, Duration: b.duration, Progress: b.progress,
	})
}

// overheadRow is a case without or with agents in bench.json.
type overheadRow struct {
	Case              string  `json:"case"`
	Agent             string  `json:"agent"`
	RequestsPerSecond float64 `json:"requests_per_second"`
	P50               float64 `json:"p50_us"`
	P99               float64 `json:"p99_us"`
	AgentCPU          float64 `json:"agent_cpu_s_per_1000"`
	AgentRSS          uint64  `json:"agent_rss_bytes"`
	Spans             float64 `json:"spans_per_request"`
}

// programRow is a BPF program of the agents in bench.json.
type programRow struct {
	Program string  `json:"program"`
	Runs    float64 `json:"runs_per_request"`
	NS      int64   `json:"ns"`
}

// states are the two halves of a pair, in the order of the table.
var states = []struct {
	name string
	on   bool
}{{"off", false}, {"on", true}}

// printOverhead prints the medians per case and state, and the ratios.
func printOverhead(w io.Writer, results []measure.OverheadResult) {
	fmt.Fprintf(w, `
Front page requests with agents off and on, alternately; medians of %d rounds. CPU
is seconds per 1,000 requests: of the agents' processes, of Jaeger, and of
applications and Envoys, which includes most of the BPF programs' time. Spans are
the agents' per request. Memory is the largest agent's: resident at the end of a
round, and its peak.

`, len(results[0].Pairs))
	table := tabwriter.NewWriter(w, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintln(table, "case\tagent\trequests/s\tp50 ms\tp99 ms\tCPU agents\tJaeger\tmesh\tspans\tMiB\tpeak\t")
	for _, result := range results {
		for _, state := range states {
			s := result.Summary(state.on)
			fmt.Fprintf(table, "%s\t%s\t%.1f\t%.2f\t%.2f\t%.3f\t%.3f\t%.3f\t%.2f\t%.1f\t%.1f\t\n",
				result.Case.Name, state.name, s.PerSecond, milliseconds(s.P50), milliseconds(s.P99),
				s.AgentsCPU, s.JaegerCPU, s.MeshCPU, s.Spans, mebibytes(s.Resident), mebibytes(s.Peak))
		}
	}
	// Only writing to w can fail; then the next table fails as well.
	_ = table.Flush()
	fmt.Fprint(w, "\nOn divided by off within each pair: median (lowest to highest)\n\n")
	table = tabwriter.NewWriter(w, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintln(table, "case\trequests/s\tp50\tp99\tmesh CPU\t")
	for _, result := range results {
		fmt.Fprintf(table, "%s\t%s\t%s\t%s\t%s\t\n", result.Case.Name,
			ratio(result.Ratio(measure.PerSecond)), ratio(result.Ratio(measure.P50)),
			ratio(result.Ratio(measure.P99)), ratio(result.Ratio(measure.MeshCPU)))
	}
	_ = table.Flush()
}

// printPrograms prints how often the agents' BPF programs run per request.
func printPrograms(w io.Writer, programs []measure.Program) {
	fmt.Fprint(w, `
BPF programs of the agents, per front page request at saturation, as counted by the
kernel. The time of a run includes that of measuring it.

`)
	table := tabwriter.NewWriter(w, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintln(table, "program\truns\tns\t")
	total := 0.0
	for _, p := range programs {
		fmt.Fprintf(table, "%s\t%.1f\t%d\t\n", p.Name, p.Runs, p.Time.Nanoseconds())
		total += p.Runs
	}
	fmt.Fprintf(table, "all\t%.1f\t\t\n", total)
	_ = table.Flush() // as above
}

func ratio(r measure.Ratio) string {
	return fmt.Sprintf("%.3f (%.3f to %.3f)", r.Median, r.Lowest, r.Highest)
}

func milliseconds(d time.Duration) float64 { return d.Seconds() * 1e3 }

func mebibytes(bytes uint64) float64 { return float64(bytes) / (1 << 20) }

// writeOverhead sets the keys of results and programs in the JSON file, and keeps
// its other keys.
func writeOverhead(path, key string, results []measure.OverheadResult, programs []measure.Program) error {
	content := map[string]json.RawMessage{}
	old, err := os.ReadFile(path)
	if err == nil {
		err = json.Unmarshal(old, &content)
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("read %s (delete it to start over): %w", path, err)
	}
	var rows []overheadRow
	for _, result := range results {
		for _, state := range states {
			s := result.Summary(state.on)
			rows = append(rows, overheadRow{
				Case: result.Case.Name, Agent: state.name, RequestsPerSecond: s.PerSecond,
				P50: s.P50.Seconds() * 1e6, P99: s.P99.Seconds() * 1e6,
				AgentCPU: s.AgentsCPU, AgentRSS: s.Resident, Spans: s.Spans,
			})
		}
	}
	if content[key], err = json.Marshal(rows); err != nil {
		return fmt.Errorf("encode results: %w", err)
	}
	var ran []programRow
	for _, p := range programs {
		ran = append(ran, programRow{p.Name, p.Runs, p.Time.Nanoseconds()})
	}
	if content[key+"-programs"], err = json.Marshal(ran); err != nil {
		return fmt.Errorf("encode programs: %w", err)
	}
	return writeJSON(path, content)
}

// packets builds and runs the benchmark of the BPF programs, which prints its
// results and writes them to file.
func (b *bench) packets(ctx context.Context, file string) error {
	checkout, err := provision.Checkout()
	if err != nil {
		return err
	}
	// Not `go run`, which would leave the program running when it is killed.
	program := filepath.Join(checkout, "bin", "packet-bench")
	b.progress("measuring packets")
	build := exec.CommandContext(ctx, "go", "build", "-trimpath", "-o", program, "./bpf/bench")
	build.Dir, build.Env = checkout, append(os.Environ(), "CGO_ENABLED=0")
	build.Stderr = os.Stderr
	measure := exec.CommandContext(ctx, program, "-out", file)
	measure.Stdout, measure.Stderr = os.Stdout, os.Stderr
	for _, cmd := range []*exec.Cmd{build, measure} {
		if err := cmd.Run(); err != nil {
			return errors.Join(ctx.Err(), fmt.Errorf("measure packets: run %s: %w", cmd.Path, err))
		}
	}
	return nil
}
