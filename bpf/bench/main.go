// SPDX-License-Identifier: Apache-2.0

package main

import (
	"errors"
	"flag"
	"fmt"
	"os"
	"slices"
	"text/tabwriter"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/ringbuf"
	"github.com/cilium/ebpf/rlimit"
)

// sendTurns is how many turns of off, empty and on the writes are measured in.
const sendTurns = 400

// repeat is how often a packet runs at once: few enough for the ring buffer to
// hold an exchange for each.
const repeat = 20000

func main() {
	rounds := flag.Int("rounds", 31, "times that each case is measured; the median counts")
	out := flag.String("out", "out/bench.json", "JSON file whose key \"packet\" is set")
	flag.Parse()
	if err := run(*rounds, *out); err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

func run(rounds int, out string) error {
	if err := rlimit.RemoveMemlock(); err != nil {
		return fmt.Errorf("raise memlock limit (run as root): %w", err)
	}
	all, err := cases()
	if err != nil {
		return err
	}
	var runs []*measured
	for _, mode := range []string{"tcx", "socket-filter"} {
		for _, c := range all {
			m, err := prepare(c, mode)
			if err != nil {
				return fmt.Errorf("case %s, %s: %w", c.name, mode, err)
			}
			runs = append(runs, m)
		}
	}
	for round := range rounds {
		fmt.Fprintf(os.Stderr, "\rround %d of %d", round+1, rounds)
		for _, m := range runs {
			if err := m.round(); err != nil {
				return fmt.Errorf("case %s, %s: %w", m.Case, m.Mode, err)
			}
		}
	}
	fmt.Fprintln(os.Stderr)
	table := tabwriter.NewWriter(os.Stdout, 0, 8, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintln(table, "case\tmode\tns\tempty ns\tratio\t")
	for _, m := range runs {
		m.summarise()
		fmt.Fprintf(table, "%s\t%s\t%.1f\t%.1f\t%.2f\t\n", m.Case, m.Mode, m.NS, m.emptyNS, m.Ratio)
	}
	if err := table.Flush(); err != nil {
		return err
	}
	s, err := measureSends(sendTurns)
	if err != nil {
		return err
	}
	fmt.Printf("\nA write to a socket outside of the chosen cgroups: %.0f ns, with empty programs at the tracepoints %.0f ns, with ours %.0f ns.\nMedian differences of %d turns: ours over empty %.1f ns, over nothing %.1f ns\n",
		s.OffNS, s.EmptyNS, s.OnNS, s.Turns, s.OursNS, s.AddedNS)
	hooks, err := measureHooks()
	if err != nil {
		return err
	}
	fmt.Println("\nWhat an empty program at a hook adds to a message over loopback, where it passes it once:")
	table = tabwriter.NewWriter(os.Stdout, 0, 8, 2, ' ', 0)
	for _, h := range hooks {
		fmt.Fprintf(table, "%s\t%.0f ns\n", h.Hook, h.AddedNS)
	}
	if err := table.Flush(); err != nil {
		return err
	}
	c, err := measureCold()
	if err != nil {
		return err
	}
	fmt.Printf("\nA message over loopback that passes each of them once, behind %d KiB of other work: %.0f ns.\nEmpty programs add %.0f ns to a request and %.0f ns to a response, ours %.0f and %.0f ns.\n",
		coldBytes>>10, c.OffNS, c.RequestEmptyNS, c.ResponseEmptyNS, c.RequestOursNS, c.ResponseOursNS)
	return writeJSON(out, map[string]any{"packet": runs, "send": s, "hooks": hooks, "cold": c})
}

// measured is one case in one mode.
type measured struct {
	Case  string  `json:"case"`
	Mode  string  `json:"mode"`
	NS    float64 `json:"ns"`
	Ratio float64 `json:"ratio"`

	emptyNS         float64
	packet          []byte
	program, empty  *ebpf.Program
	ring            *ringbuf.Reader
	times, nothings []float64
}

func prepare(c benchCase, mode string) (*measured, error) {
	spec, err := LoadBench()
	if err != nil {
		return nil, err
	}
	if err := errors.Join(spec.Variables["bench_step"].Set(c.step), spec.Variables["prefix_window"].Set(c.window)); err != nil {
		return nil, err
	}
	names := map[string][2]string{"tcx": {"bench_tcx", "empty_tcx"}, "socket-filter": {"bench_sock", "empty_sock"}}[mode]
	for name := range spec.Programs {
		if name != names[0] && name != names[1] {
			delete(spec.Programs, name)
		}
	}
	coll, err := ebpf.NewCollection(spec)
	if err != nil {
		return nil, err
	}
	ring, err := ringbuf.NewReader(coll.Maps["exchanges"])
	if err != nil {
		return nil, err
	}
	m := &measured{
		Case: c.name, Mode: mode, packet: c.packet,
		program: coll.Programs[names[0]], empty: coll.Programs[names[1]], ring: ring,
	}
	if c.before != nil {
		_, err = m.program.Run(&ebpf.RunOptions{Data: c.before})
	}
	return m, err
}

func (m *measured) round() error {
	for _, one := range []struct {
		program *ebpf.Program
		times   *[]float64
	}{{m.empty, &m.nothings}, {m.program, &m.times}} {
		_, took, err := one.program.Benchmark(m.packet, repeat, func() {})
		if err != nil {
			return err
		}
		*one.times = append(*one.times, float64(took.Nanoseconds()))
	}
	return m.drain()
}

// drain empties the ring, so that each round finds room in it.
func (m *measured) drain() error {
	var record ringbuf.Record
	m.ring.SetDeadline(time.Now().Add(-time.Second))
	for {
		err := m.ring.ReadInto(&record)
		if errors.Is(err, os.ErrDeadlineExceeded) {
			return nil
		}
		if err != nil {
			return err
		}
	}
}

func (m *measured) summarise() {
	ratios := make([]float64, len(m.times))
	for i := range m.times {
		ratios[i] = m.times[i] / m.nothings[i]
	}
	m.NS, m.emptyNS, m.Ratio = median(m.times), median(m.nothings), median(ratios)
}

func median(values []float64) float64 {
	sorted := slices.Sorted(slices.Values(values))
	return sorted[len(sorted)/2]
}

// medianDifference returns the median of the differences within a turn.
func medianDifference(a, b []float64) float64 {
	differences := make([]float64, len(a))
	for i := range a {
		differences[i] = a[i] - b[i]
	}
	return median(differences)
}
