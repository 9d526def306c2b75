// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/spf13/cobra"

	"github.com/layertrace/layertrace/e2e/lab"
	"github.com/layertrace/layertrace/e2e/measure"
	"github.com/layertrace/layertrace/e2e/provision"
)

type demo struct {
	requests int
	keep     bool
	tracer   string
	out      string
	name     string

	progress func(format string, args ...any)
}

func demoCommand() *cobra.Command {
	d := &demo{}
	cmd := &cobra.Command{
		Use:   "demo",
		Short: "Show a request's way through the interfaces, in numbers and in Jaeger",
		Long: `Sends front page requests through Bookinfo three times: with Envoy's own header
order and agents that look at the first 1,024 bytes, the same with agents that
search on (deep), and with the trace headers put in front by the Wasm filter.
Prints how many trace contexts were read at each interface, and one trace as
Jaeger has it. Needs root.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			d.progress = progress()
			return d.run(cmd.Context())
		},
	}
	cmd.Flags().IntVar(&d.requests, "requests", 300, "front page requests per setup")
	cmd.Flags().BoolVar(&d.keep, "keep", os.Getenv("KEEP") == "1", "keep mesh and Jaeger up until Ctrl-C (also KEEP=1)")
	cmd.Flags().StringVar(&d.tracer, "tracer", string(lab.Zipkin), "the Envoys' tracer: zipkin or opentelemetry")
	cmd.Flags().StringVar(&d.out, "out", "out", "directory for demo.json and the logs")
	cmd.Flags().StringVar(&d.name, "name", "demo", "tells labs apart that run at the same time")
	return cmd
}

func (d *demo) run(ctx context.Context) (err error) {
	tracer, err := lab.ParseTracer(d.tracer)
	if err != nil {
		return err
	}
	if d.requests < 3 {
		return fmt.Errorf("--requests %d: at least 3, so that each version of reviews is asked", d.requests)
	}
	if err := lab.CheckRoot(); err != nil {
		return err
	}
	tools, err := provision.Tools(ctx, d.progress)
	if err != nil {
		return err
	}
	l, err := lab.Up(ctx, lab.Options{
		Name: d.name, Dir: filepath.Join(d.out, "lab"), Tools: tools, Progress: d.progress,
	})
	if err != nil {
		return err
	}
	defer func() {
		d.progress("taking the lab down")
		err = errors.Join(err, l.Down())
	}()

	r, hops, err := d.measure(ctx, l, tracer)
	if err != nil {
		return err
	}
	printTable(os.Stdout, r)
	traceErr := d.showTrace(ctx, l, r, hops)
	if err := errors.Join(traceErr, r.write(filepath.Join(d.out, "demo.json"))); err != nil {
		return err
	}
	if d.keep {
		if err := d.keepUp(ctx, l, tracer); err != nil {
			return err
		}
	}
	return r.missed()
}

// measure runs the three setups and returns the requests of the last.
func (d *demo) measure(ctx context.Context, l *lab.Lab, tracer lab.Tracer) (*report, []measure.Hop, error) {
	r := newReport()
	var hops []measure.Hop
	for _, setup := range []lab.Setup{measure.Stock(tracer), measure.StockDeep(tracer), measure.Reordered(tracer)} {
		d.progress("%s: starting applications, Envoys and agents", setup.Name)
		out, err := measure.Acquisition(ctx, l, setup, lab.Load{
			Requests: d.requests,
			Progress: func(done int) { d.progress("%s: %d of %d requests", setup.Name, done, d.requests) },
		})
		if err != nil {
			return nil, nil, fmt.Errorf("%s: %w", setup.Name, err)
		}
		d.progress("%s: %d requests, %.0f per second, %d hops between pods",
			setup.Name, d.requests, out.Load.PerSecond(), len(out.Hops))
		r.add(setup.Name, out.Points)
		hops = out.Hops
	}
	return r, hops, nil
}

// showTrace reads one trace back from Jaeger and prints it. A trace through
// reviews-v3 has both kinds of hop: between nodes, and (to ratings) within one.
func (d *demo) showTrace(ctx context.Context, l *lab.Lab, r *report, hops []measure.Hop) error {
	want, err := measure.LastTraceThrough(hops, "reviews-v3")
	if err != nil {
		return err
	}
	r.TraceID = want.ID()
	d.progress("reading trace %s back from Jaeger", want.ID())
	trace, err := l.Jaeger.CompleteTrace(ctx, want.ID(), want.Spans(), 20*time.Second)
	fmt.Printf("\nTrace %s as Jaeger has it (interface spans marked |):\n\n", want.ID())
	printTree(os.Stdout, trace)
	return err
}

// keepUp runs the mesh again, reordered, with Jaeger reachable from the host,
// until ctx ends.
func (d *demo) keepUp(ctx context.Context, l *lab.Lab, tracer lab.Tracer) error {
	setup := measure.Reordered(tracer)
	setup.Name = "kept"
	run, err := l.Start(ctx, setup)
	if err != nil {
		return err
	}
	address, closeProxy, err := l.ExposeJaeger()
	if err != nil {
		return errors.Join(err, run.Stop())
	}
	defer closeProxy()
	fmt.Printf("\nJaeger: http://%s  (Ctrl-C ends the demo)\n", address)
	fmt.Printf("More requests: nsenter --net=/run/netns/%s curl %s\n", l.NodeNamespace(lab.ClientNode).Name, lab.FrontPage())
	<-ctx.Done()
	return run.Stop()
}
