// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"github.com/layertrace/layertrace/e2e/devices"
	"github.com/layertrace/layertrace/e2e/lab"
	"github.com/layertrace/layertrace/e2e/provision"
)

type devicesRun struct {
	requests, connections int
	layouts               []string
	collector, crash      bool
	tracer, out, name     string

	progress func(format string, args ...any)
}

func devicesCommand() *cobra.Command {
	d := &devicesRun{}
	cmd := &cobra.Command{
		Use:   "devices",
		Short: "Send requests through two routers that read TCP headers only, and check their spans",
		Long: `Runs the mesh with two routers between the nodes, each with an agent that reads headers
only, and layertrace join. Sends requests for the front page with each layout of the TCP
option, and compares the spans of the routers' interfaces with what passed them, by the
logs of Envoys and applications. With --collector, an OpenTelemetry Collector shares the
work between two joins by connection. Needs root.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			d.progress = progress()
			return d.run(cmd.Context())
		},
	}
	flags := cmd.Flags()
	flags.IntVar(&d.requests, "requests", 10_000, "front page requests for each layout")
	flags.IntVar(&d.connections, "connections", 8, "parallel connections of the client")
	flags.StringSliceVar(&d.layouts, "layouts", []string{"compact", "paper"}, "layouts of the TCP option")
	flags.BoolVar(&d.collector, "collector", false, "an OpenTelemetry Collector, which is built first, before two joins")
	flags.BoolVar(&d.crash, "crash", false, "with --collector: one join crashes after a third of the requests, and starts again after another")
	flags.StringVar(&d.tracer, "tracer", string(lab.Zipkin), "the Envoys' tracer: zipkin or opentelemetry")
	flags.StringVar(&d.out, "out", "out", "directory for devices.json and the logs")
	flags.StringVar(&d.name, "name", "devices", "name of the lab, to run several at once")
	return cmd
}

func (d *devicesRun) run(ctx context.Context) (err error) {
	tracer, err := lab.ParseTracer(d.tracer)
	if err != nil {
		return err
	}
	if d.crash && !d.collector {
		return errors.New("--crash is for one of two joins: add --collector")
	}
	if err := lab.CheckRoot(); err != nil {
		return err
	}
	tools, err := provision.Tools(ctx, d.progress)
	if err != nil {
		return err
	}
	balancer := ""
	if d.collector {
		checkout, err := provision.Checkout()
		if err == nil {
			balancer, err = provision.Balancer(ctx, checkout, d.progress)
		}
		if err != nil {
			return err
		}
	}
	l, err := lab.Up(ctx, lab.Options{
		Name: d.name, Dir: filepath.Join(d.out, d.name+"-lab"), Tools: tools, Progress: d.progress, Devices: true, MaxTraces: 1000,
	})
	if err != nil {
		return err
	}
	defer func() {
		d.progress("taking the lab down")
		err = errors.Join(err, l.Down())
	}()
	var during []func(context.Context, *lab.Run) error
	if d.crash {
		during = append(during,
			func(_ context.Context, run *lab.Run) error { return run.KillJoin(0) },
			func(ctx context.Context, run *lab.Run) error { return run.RestartJoin(ctx, 0) })
	}
	var results []devices.Result
	var wrong []error
	for _, layout := range d.layouts {
		r, err := devices.Check(ctx, l, devices.Options{
			Layout: layout, Tracer: tracer, Requests: d.requests, Connections: d.connections,
			Balancer: balancer, During: during,
		}, d.progress)
		if err != nil {
			return err
		}
		results = append(results, r)
		if d.crash {
			wrong = append(wrong, r.NeverWrong())
		} else {
			wrong = append(wrong, r.Exact())
		}
	}
	w := tabwriter.NewWriter(os.Stdout, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintln(w, "option\trequests\tpassages\tseen\tmissing\twrong\tdoubled\tno option\t")
	for _, r := range results {
		fmt.Fprintf(w, "%s\t%d\t%d\t%d\t%d\t%d\t%d\t%d\t\n", r.Layout, r.Requests, r.Expected, r.Seen, r.Missing, r.Wrong, r.Doubled, r.Unmarked)
	}
	if err := w.Flush(); err != nil {
		return err
	}
	if d.collector {
		printShares(results)
	}
	return errors.Join(writeJSON(filepath.Join(d.out, "devices.json"), results), errors.Join(wrong...))
}

// printShares prints what each of several joins has done.
func printShares(results []devices.Result) {
	for _, r := range results {
		fmt.Printf("%s: of %d agents' spans that were stored, %d came to joins; sightings %v\n", r.Layout, r.Stored, r.Exchanges, r.Sightings)
		for _, join := range slices.Sorted(maps.Keys(r.Joins)) {
			s := r.Joins[join]
			fmt.Printf("  join %s: %d spans of %d connections, %d of them divided\n", join, s.Spans, s.Connections, s.Divided)
		}
	}
}
