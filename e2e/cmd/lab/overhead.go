// SPDX-License-Identifier: Apache-2.0

package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"text/tabwriter"
	"time"

	"github.com/layertrace/layertrace/e2e/measure"
)

// overheadRow is a case with agents off or on in bench.json.
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
applications and Envoys, which is where most of the BPF programs' time is. Spans
are those of the agents per request. Memory is that of the largest agent: resident
at the end of a round, and at most.

`, len(results[0].Pairs))
	table := tabwriter.NewWriter(w, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintln(table, "case\tagent\trequests/s\tp50 ms\tp99 ms\tCPU agents\tJaeger\tmesh\tspans\tMiB\tat most\t")
	for _, result := range results {
		for _, state := range states {
			s := result.Summary(state.on)
			fmt.Fprintf(table, "%s\t%s\t%.1f\t%.2f\t%.2f\t%.3f\t%.3f\t%.3f\t%.2f\t%.1f\t%.1f\t\n",
				result.Case.Name, state.name, s.PerSecond, milliseconds(s.P50), milliseconds(s.P99),
				s.AgentsCPU, s.JaegerCPU, s.MeshCPU, s.Spans, mebibytes(s.Resident), mebibytes(s.Peak))
		}
	}
	// Writing to w is what fails, if anything; then the next table fails as well.
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
BPF programs of the agents, per front page request at the limit, by the kernel's
count. The time of a run has that of measuring it in it.

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

// writeOverhead sets the results' key of the JSON file, and the programs' beside
// it, and keeps what else is in it.
func writeOverhead(path, key string, results []measure.OverheadResult, programs []measure.Program) error {
	content := map[string]json.RawMessage{}
	old, err := os.ReadFile(path)
	if err == nil {
		err = json.Unmarshal(old, &content)
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("read %s (delete it to start anew): %w", path, err)
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
