// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"github.com/layertrace/layertrace/e2e/devices"
	"github.com/layertrace/layertrace/e2e/lab"
	"github.com/layertrace/layertrace/e2e/provision"
)

type devicesRun struct {
	requests, connections int
	layouts               []string
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
logs of Envoys and applications. Needs root.`,
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
	if err := lab.CheckRoot(); err != nil {
		return err
	}
	tools, err := provision.Tools(ctx, d.progress)
	if err != nil {
		return err
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
	var results []devices.Result
	var wrong []error
	for _, layout := range d.layouts {
		r, err := devices.Check(ctx, l, devices.Options{
			Layout: layout, Tracer: tracer, Requests: d.requests, Connections: d.connections,
		}, d.progress)
		if err != nil {
			return err
		}
		results = append(results, r)
		wrong = append(wrong, r.Exact())
	}
	w := tabwriter.NewWriter(os.Stdout, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintln(w, "option\trequests\tpassages\tseen\tmissing\twrong\tdoubled\tno option\t")
	for _, r := range results {
		fmt.Fprintf(w, "%s\t%d\t%d\t%d\t%d\t%d\t%d\t%d\t\n", r.Layout, r.Requests, r.Expected, r.Seen, r.Missing, r.Wrong, r.Doubled, r.Unmarked)
	}
	return errors.Join(w.Flush(), writeJSON(filepath.Join(d.out, "devices.json"), results), errors.Join(wrong...))
}
