// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"text/tabwriter"
	"time"

	"github.com/layertrace/layertrace/e2e/faults"
	"github.com/layertrace/layertrace/e2e/faults/front"
	"github.com/layertrace/layertrace/e2e/faults/inject"
	"github.com/layertrace/layertrace/e2e/faults/verify"
	"github.com/layertrace/layertrace/e2e/lab"
	"github.com/layertrace/layertrace/e2e/lab/envoy"
)

// verifyFaults injects the drawn faults without agents, and prints what each
// took by its own measure and by the client's.
func (f *faultsRun) verifyFaults(ctx context.Context, l *lab.Lab, tracer envoy.Tracer) (err error) {
	run, err := l.Start(ctx, lab.Setup{Name: "verify", Tracer: tracer, Reordered: true, NoAgents: true})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, run.Stop()) }()
	bench, err := inject.New(l, run)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, bench.Close()) }()
	c := front.New(l, tracer, 1)
	defer c.Close()
	others := front.New(l, tracer, 8)
	defer others.Close()
	load := front.NewLoad(others, 40)

	w := tabwriter.NewWriter(os.Stdout, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintln(w, "injected\tclient\tdifference\t\t  fault")
	missed, off := 0, 0
	start := time.Now()
	err = verify.Run(ctx, bench, c, load, faults.Draw(f.seed, f.cases), func(r verify.Row) {
		note := ""
		switch limit := max(time.Millisecond, r.Injected/20); {
		case r.Err != nil:
			missed++
			note = r.Err.Error()
		case r.Off().Abs() > limit:
			off++
			note = "(!)"
		}
		fmt.Fprintf(w, "%.3f ms\t%.3f ms\t%+.3f ms\t%s\t  %v\n", ms(r.Injected), ms(r.Extra), ms(r.Off()), note, r.Case)
	})
	fmt.Printf("%d cases in %.0f s; %d missed, %d differ by more than 1 ms and 5 %%; load: %d sent, %d failed\n\n",
		f.cases, time.Since(start).Seconds(), missed, off, load.Sent.Load(), load.Failed.Load())
	return errors.Join(err, w.Flush())
}

func ms(d time.Duration) float64 { return float64(d) / float64(time.Millisecond) }
