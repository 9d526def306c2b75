// SPDX-License-Identifier: Apache-2.0

// Command bench measures the cost of the BPF programs: of one packet in the capture
// programs and in those of a device that reads headers only (in ns and as a ratio to an
// empty program, measured alternately), of a
// write outside the target cgroups, of an empty program at each hook, and of empty
// programs and ours for a message with cold caches. It also counts the cache lines that
// such a message touches.
package main

import (
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"text/tabwriter"

	"github.com/cilium/ebpf/rlimit"

	"github.com/layertrace/layertrace/internal/stats"
)

//go:generate go tool bpf2go -cc clang -target bpfel -go-package main BenchDevice device.bpf.c -- -mcpu=v3 -Wall -Werror -D__TARGET_ARCH_x86 -I/usr/include/x86_64-linux-gnu
//go:generate go tool bpf2go -cc clang -target bpfel -go-package main Bench bench.bpf.c -- -mcpu=v3 -Wall -Werror -Wno-initializer-overrides -I/usr/include/x86_64-linux-gnu

// sendTurns is the number of turns (off, empty, on) of the writes.
const sendTurns = 400

func main() {
	rounds := flag.Int("rounds", 31, "measurements of each case, of which the median is reported")
	packets := flag.Bool("packets", false, "measure packets only")
	device := flag.Bool("device", false, "measure packets in the programs of a device only")
	onlyCold := flag.Bool("cold", false, "measure messages with cold caches only")
	work := flag.String("other-work", "data", "what runs between messages with cold caches: none, data, code (x86-64 only) or both")
	lines := flag.Bool("lines", false, "count the cache lines that a sampled message touches only")
	out := flag.String("out", "out/bench.json", "JSON `FILE` to update with the results")
	flag.Parse()
	if err := run(*rounds, *packets, *device, *onlyCold, *lines, *work, *out); err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

func run(rounds int, packets, device, onlyCold, lines bool, work, out string) error {
	if err := rlimit.RemoveMemlock(); err != nil {
		return fmt.Errorf("raise memlock limit (run as root): %w", err)
	}
	if lines {
		return countLines(os.Stdout)
	}
	other, err := newOtherWork(work)
	if err != nil {
		return err
	}
	if onlyCold {
		cold, err := measureColdMessages(other)
		if err != nil {
			return err
		}
		return writeJSON(out, cold)
	}
	all, err := cases()
	if err != nil {
		return err
	}
	runs, err := prepareDevice()
	if err != nil {
		return err
	}
	modes := []string{"tcx", "socket-filter"}
	if device {
		modes = nil
	}
	for _, mode := range modes {
		for _, c := range all {
			m, err := prepare(c, mode)
			if err != nil {
				return fmt.Errorf("case %s, %s: %w", c.name, mode, err)
			}
			runs = append(runs, m)
		}
		for _, c := range encryptedCases() {
			m, err := prepareEncrypted(c, mode)
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
	switch {
	case device:
		return writeJSON(out, map[string]any{"device": runs})
	case packets:
		return writeJSON(out, map[string]any{"packet": runs})
	}
	s, err := measureSends(sendTurns)
	if err != nil {
		return err
	}
	fmt.Printf("\nA write to a socket outside the target cgroups: %.0f ns, with empty programs at the tracepoints %.0f ns, with ours %.0f ns.\nMedian differences of %d turns: ours over empty %.1f ns, ours over none %.1f ns\n",
		s.OffNS, s.EmptyNS, s.OnNS, s.Turns, s.OursNS, s.AddedNS)
	hooks, err := measureHooks()
	if err != nil {
		return err
	}
	fmt.Println("\nTime that an empty program adds to a message over loopback that passes its hook once:")
	table = tabwriter.NewWriter(os.Stdout, 0, 8, 2, ' ', 0)
	for _, h := range hooks {
		fmt.Fprintf(table, "%s\t%.0f ns\n", h.Hook, h.AddedNS)
	}
	if err := table.Flush(); err != nil {
		return err
	}
	cold, err := measureColdMessages(other)
	if err != nil {
		return err
	}
	results := map[string]any{"packet": runs, "send": s, "hooks": hooks}
	maps.Copy(results, cold)
	return writeJSON(out, results)
}

// measureColdMessages measures and prints what messages cost with cold caches.
func measureColdMessages(other *otherWork) (map[string]any, error) {
	unsampled, err := measureCold(coldUnsampled, other)
	if err != nil {
		return nil, err
	}
	sampled, err := measureCold(coldSampled, other)
	if err != nil {
		return nil, err
	}
	fmt.Printf("\nA message over loopback that passes each hook once, after other work (%s): %.0f ns.\n", other.kind, unsampled.OffNS)
	for kind, c := range map[string]cold{"not sampled": unsampled, "sampled": sampled} {
		fmt.Printf("%s: empty programs add %.0f ns to a request and %.0f ns to a response, ours %.0f and %.0f ns.\n",
			kind, c.RequestEmptyNS, c.ResponseEmptyNS, c.RequestOursNS, c.ResponseOursNS)
	}
	return map[string]any{"cold": unsampled, "cold_sampled": sampled}, nil
}

// medianDifference returns the median of the differences within a turn.
func medianDifference(a, b []float64) float64 {
	differences := make([]float64, len(a))
	for i := range a {
		differences[i] = a[i] - b[i]
	}
	return stats.Median(differences)
}

// writeJSON sets keys of the file and keeps its other keys.
func writeJSON(path string, results map[string]any) error {
	content := map[string]any{}
	old, err := os.ReadFile(path)
	if err == nil {
		err = json.Unmarshal(old, &content)
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("read %s (delete it to start over): %w", path, err)
	}
	maps.Copy(content, results)
	text, err := json.MarshalIndent(content, "", "  ")
	if err != nil {
		return fmt.Errorf("encode results: %w", err)
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return fmt.Errorf("create output directory: %w", err)
	}
	if err := os.WriteFile(path, append(text, '\n'), 0o644); err != nil {
		return fmt.Errorf("write results: %w", err)
	}
	return nil
}
