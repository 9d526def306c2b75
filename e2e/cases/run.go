// SPDX-License-Identifier: Apache-2.0

package cases

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/layertrace/layertrace/internal/observe"
)

// Options are the settings of a run.
type Options struct {
	// Program is the path of layertrace.
	Program string
	// Dir has truth.json, captures and vectors.txt; "": only the project's own cases.
	Dir string
	// Out is the directory for generated captures and for the agent's output.
	Out string
	// AgentFlags are added to the agent's command.
	AgentFlags []string
	Progress   func(format string, args ...any)
}

// attempts is how often the cases that failed at the agent are played: a busy machine may
// stop between two packets. What is wrong otherwise stays wrong.
const attempts = 2

// parallel is the number of captures that are played at the same time.
const parallel = 8

// Run runs all cases and vectors through both readers.
func Run(ctx context.Context, opts Options) ([]Result, error) {
	if err := os.MkdirAll(opts.Out, 0o755); err != nil {
		return nil, fmt.Errorf("make the directory of the results: %w", err)
	}
	cases, err := ownCases(opts.Out)
	if err != nil {
		return nil, err
	}
	var vectors []vector
	if opts.Dir != "" {
		given, err := Load(opts.Dir)
		if err != nil {
			return nil, err
		}
		cases = append(given, cases...)
		if vectors, err = loadVectors(opts.Dir); err != nil {
			return nil, err
		}
	}
	r := &run{Options: opts}
	opts.Progress("decode: %d captures", len(cases))
	for _, c := range cases {
		if err := r.decode(ctx, c); err != nil {
			return nil, err
		}
	}
	left := cases
	for n := 1; n <= attempts && len(left) > 0; n++ {
		opts.Progress("bpf: %d captures", len(left))
		if left, err = r.replay(ctx, left, n == attempts); err != nil {
			return nil, err
		}
	}
	if len(vectors) > 0 {
		opts.Progress("both: %d vectors", len(vectors))
		if err := r.vectors(ctx, vectors); err != nil {
			return nil, err
		}
	}
	slices.SortStableFunc(r.results, func(a, b Result) int { return compareNames(cases, a.File, b.File) })
	return r.results, nil
}

// compareNames orders results as the cases; vectors are last.
func compareNames(cases []Case, a, b string) int {
	at := func(name string) int {
		i := slices.IndexFunc(cases, func(c Case) bool { return c.Name == name })
		if i < 0 {
			return len(cases)
		}
		return i
	}
	return at(a) - at(b)
}

type run struct {
	Options
	results []Result
}

func (r *run) add(file string, reader Reader, why string) {
	r.results = append(r.results, Result{File: file, Reader: reader, Pass: why == "", Why: why})
}

// decode runs a case through layertrace decode.
func (r *run) decode(ctx context.Context, c Case) error {
	lines, why, err := r.decodeFile(ctx, c.Path)
	if err != nil {
		return err
	}
	if why == "" {
		why = compare(c.Expected, observations(lines), decodeTolerance, asPlanned)
	}
	r.add(c.Name, Decode, why)
	return nil
}

// decodeFile returns the lines of a capture. why is the command's own error.
func (r *run) decodeFile(ctx context.Context, path string, flags ...string) (lines []Line, why string, err error) {
	var stdout, stderr bytes.Buffer
	cmd := exec.CommandContext(ctx, r.Program, slices.Concat([]string{"decode"}, flags, []string{path})...)
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if err := cmd.Run(); err != nil {
		var exit *exec.ExitError
		if errors.As(err, &exit) {
			return nil, "decode failed: " + lastLine(stderr.String()), nil
		}
		return nil, "", fmt.Errorf("run %s decode: %w", r.Program, err)
	}
	lines, err = readLines(stdout.String())
	return lines, "", err
}

func lastLine(text string) string {
	lines := bytes.Split(bytes.TrimSpace([]byte(text)), []byte("\n"))
	return string(lines[len(lines)-1])
}

func observations(lines []Line) (all []observe.Observation) {
	for _, l := range lines {
		all = append(all, l.Observation)
	}
	return all
}

// replay plays captures to an agent, and returns the cases that failed, whose results
// are recorded only if this is the last attempt.
func (r *run) replay(ctx context.Context, cases []Case, last bool) (failed []Case, err error) {
	var played []Case
	var packets [][]packet
	for _, c := range cases {
		p, err := readPackets(c.Path)
		if errors.Is(err, errNotEthernet) {
			continue
		}
		if err != nil {
			return nil, err
		}
		renumber(p, len(played))
		played, packets = append(played, c), append(packets, p)
	}
	if len(played) == 0 {
		return nil, nil
	}
	s, err := newStage(ctx, r.Out, r.Program, "cases", len(played), r.AgentFlags...)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, s.close()) }()
	var group errgroup.Group
	group.SetLimit(parallel)
	sent := make([][]time.Duration, len(played))
	for i := range played {
		group.Go(func() (err error) {
			sent[i], err = s.play(i, packets[i])
			return err
		})
	}
	if err := errors.Join(group.Wait(), s.settle(ctx)); err != nil {
		return nil, err
	}
	lines, err := s.read()
	if err != nil {
		return nil, err
	}
	for i, c := range played {
		why := s.judge(ctx, c, observations(lines[caseInterface(i)]), schedule(packets[i], sent[i]))
		if why != "" && !last {
			failed = append(failed, c)
			continue
		}
		r.add(c.Name, BPF, why)
	}
	return failed, nil
}

// judge compares what the agent reported of a case.
func (s *stage) judge(ctx context.Context, c Case, got []observe.Observation, played func(float64) float64) string {
	if c.Encapsulated == "" || len(got) > 0 {
		return compare(c.Expected, got, bpfTolerance, played)
	}
	// Not read, but counted under its name.
	count, err := s.metric(ctx, "layertrace_packets_encapsulated_total", `kind="`+c.Encapsulated+`"`)
	switch {
	case err != nil:
		return "encapsulated, and not counted: " + err.Error()
	case count == 0:
		return "encapsulated, and not counted as " + c.Encapsulated
	}
	return ""
}

// vectors runs all vectors through both readers.
func (r *run) vectors(ctx context.Context, vectors []vector) (err error) {
	packets := vectorPackets(vectors)
	path := filepath.Join(r.Out, "vectors.pcap")
	if err := writeCapture(path, packets); err != nil {
		return err
	}
	decoded, why, err := r.decodeFile(ctx, path, "--all")
	if err != nil {
		return err
	}
	if why != "" {
		r.add(vectorsFile, Decode, why)
	}
	s, err := newStage(ctx, r.Out, r.Program, "vectors", 1, r.AgentFlags...)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, s.close()) }()
	if _, err := s.play(0, packets); err != nil {
		return err
	}
	if err := s.settle(ctx); err != nil {
		return err
	}
	lines, err := s.read()
	if err != nil {
		return err
	}
	byDecode := byVector(decoded, len(vectors))
	byAgent := byVector(lines[caseInterface(0)], len(vectors))
	for i := range vectors {
		file := vectorsFile + ": " + vectors[i].name
		r.add(file, Decode, vectors[i].check(byDecode[i], true))
		why := vectors[i].check(byAgent[i], false)
		if why == "" {
			why = agree(byDecode[i], byAgent[i])
		}
		r.add(file, BPF, why)
	}
	return nil
}
