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
	"github.com/layertrace/layertrace/e2e/faults/matrix"
	"github.com/layertrace/layertrace/e2e/lab"
)

// verifyFaults injects the drawn faults without agents, and prints what each
// took by its own measure and by the client's.
func (f *faultsRun) verifyFaults(ctx context.Context, l *lab.Lab, variant matrix.Variant, tracer lab.Tracer) error {
	setup := lab.Setup{Name: "verify", Tracer: tracer, Reordered: true, NoAgents: true}
	return variant.WithSession(ctx, l, tracer, setup, func(s *faults.Session) error {
		start := time.Now()
		rows, err := matrix.Verify(ctx, s, variant.Draw(f.seed, f.cases))
		w := tabwriter.NewWriter(os.Stdout, 0, 0, 2, ' ', tabwriter.AlignRight)
		fmt.Fprintln(w, "injected\tclient\tdifference\t\t  fault")
		for _, r := range rows {
			note := ""
			if r.Err != nil {
				note = r.Err.Error()
			}
			fmt.Fprintf(w, "%.3f ms\t%.3f ms\t%+.3f ms\t%s\t  %v\n", ms(r.Injected), ms(r.Client-r.Baseline), ms(r.Unexplained()), note, r.Case)
		}
		fmt.Fprintf(w, "\nmedian difference\tof\tmissed\tunsound\t  of %d faults in %.0f s\n", len(rows), time.Since(start).Seconds())
		for _, s := range matrix.Summarize(rows) {
			fmt.Fprintf(w, "%+.3f ms\t%d\t%d\t%d\t  %s\n", ms(s.Median), s.Rows, s.Missed, s.Unsound, s.Kind)
		}
		return errors.Join(err, w.Flush())
	})
}

func ms(d time.Duration) float64 { return float64(d) / float64(time.Millisecond) }
