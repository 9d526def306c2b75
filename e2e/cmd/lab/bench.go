// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
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
		Short: "Measure what a packet, a request and the agents cost",
		Long: `First measures what a packet costs in the BPF programs, and counts how often the
agents' programs run for a request. Then sends front page requests through Bookinfo
(trace headers in front), without and with agents alternately: at a fixed rate,
latencies counted from when a request should have begun, and as fast as answers
come. Needs root, and a machine that does nothing else.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			b.progress = progress()
			return b.run(cmd.Context())
		},
	}
	cmd.Flags().StringSliceVar(&b.cases, "case", nil, "measure only these: "+strings.Join(caseNames(), ", ")+" (all)")
	cmd.Flags().IntVar(&b.rounds, "rounds", 6, "how often each case is measured without and with agents")
	cmd.Flags().DurationVar(&b.duration, "duration", 10*time.Second, "how long each time")
	cmd.Flags().StringVar(&b.tracer, "tracer", string(lab.Zipkin), "the Envoys' tracer: zipkin or opentelemetry")
	cmd.Flags().StringVar(&b.tcpOption, "tcp-option", "", "what the agents write into packets: compact or paper; results go to the key lab-compact or lab-paper")
	cmd.Flags().StringVar(&b.export, "export", "otlp-grpc", "where the agents send: none shows what the capture alone costs; results go to the key lab-none")
	cmd.Flags().Float64Var(&b.sampling, "sampling", 100, "share of requests that the mesh samples, in per cent; results go to the key lab-sampling-N")
	cmd.Flags().BoolVar(&b.layers, "layers", false, "agents with --spans=layers: sockets and drivers, too; results go to the key lab-layers")
	cmd.Flags().BoolVar(&b.oneNode, "one-node", false, "all pods on one node with one agent, as a kernel has in a cluster; results go to the key lab-one-node")
	cmd.Flags().BoolVar(&b.packet, "packet", true, "measure packets as well")
	cmd.Flags().StringVar(&b.out, "out", "out", "directory for bench.json and the logs")
	cmd.Flags().StringVar(&b.name, "name", "bench", "tells labs apart that run at the same time")
	return cmd
}

func (b *bench) run(ctx context.Context) error {
	tracer, err := lab.ParseTracer(b.tracer)
	if err != nil {
		return err
	}
	if b.rounds < 1 || b.duration < time.Second {
		return fmt.Errorf("--rounds %d, --duration %v: at least 1 round and 1 second", b.rounds, b.duration)
	}
	cases, err := chosenCases(b.cases)
	if err != nil {
		return err
	}
	if b.sampling <= 0 || b.sampling > 100 {
		return fmt.Errorf("--sampling %g: want more than 0 and at most 100 per cent", b.sampling)
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

// key is where the results go in bench.json: "lab" for the usual setup.
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

// chosenCases returns the cases of these names, all without names.
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

// requests brings a lab up for the measurement and takes it down again.
func (b *bench) requests(ctx context.Context, tools lab.Tools, setup lab.Setup, cases []measure.Case) (results []measure.OverheadResult, programs []measure.Program, err error) {
	l, err := lab.Up(ctx, lab.Options{
		Name: b.name, Dir: filepath.Join(b.out, "bench-lab"), Tools: tools, Progress: b.progress,
		// Nobody reads the traces; a growing Jaeger would disturb the later rounds.
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
