// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"testing"
	"time"

	"github.com/layertrace/layertrace/e2e/faults"
	"github.com/layertrace/layertrace/e2e/faults/matrix"
	"github.com/layertrace/layertrace/e2e/lab"
	"github.com/layertrace/layertrace/e2e/testrun"
	"github.com/layertrace/layertrace/internal/observe"
)

// A clear fault of each kind, and requests without one: explain names layer and
// location. The whole matrix, with small faults and load, is `make faults`.
func TestExplainNamesTheFault(t *testing.T) {
	for _, tracer := range []lab.Tracer{lab.Zipkin, lab.OpenTelemetry} {
		t.Run(string(tracer), func(t *testing.T) {
			variant, err := matrix.ParseVariant("default")
			if err != nil {
				t.Fatal(err)
			}
			l := theLab(t)
			c := &matrix.Runner{
				Jaeger: l.Jaeger, Explainer: matrix.ExplainCommand{Lab: l}, Batch: 20, Requests: 4, Progress: testrun.Report,
			}
			var results []matrix.Result
			err = variant.WithSession(interrupted, l, tracer, variant.Setup(l, tracer), func(s *faults.Session) (err error) {
				c.Session = s
				results, err = c.Run(interrupted, oneOfEach())
				return err
			})
			if err != nil {
				t.Fatal(err)
			}
			const deviceKinds = 2 // of a lab with devices, which have tests of their own
			if len(results) != len(faults.Kinds)-deviceKinds {
				t.Errorf("%d cases, want %d", len(results), len(faults.Kinds)-deviceKinds)
			}
			for _, r := range results {
				t.Logf("%s at %s: %d µs injected, %s at %s with %d µs", r.Fault, r.Location, r.InjectedUS, r.VerdictLayer, r.VerdictLocation, r.MeasuredUS)
				if r.Layer == observe.NoLayer && slowedByAnotherCause(r) {
					continue // other tests need the processors as well
				}
				if r.HighButWrong() {
					t.Errorf("%s at %s: verdict %s at %s is wrong with high confidence (traces %v)", r.Fault, r.Location, r.VerdictLayer, r.VerdictLocation, r.TraceIDs)
				}
				if r.Fault == faults.ResponseReset {
					if !r.Flagged() {
						t.Errorf("%s at %s: the spans have the flags %v, none of a response that is not whole", r.Fault, r.Location, r.Flags)
					}
					continue
				}
				if r.Layer == observe.NoLayer { // blame by chance must be small
					if r.MeasuredUS > 20_000 {
						t.Errorf("%d µs blamed on %s at %s without a fault", r.MeasuredUS, r.VerdictLayer, r.VerdictLocation)
					}
				} else if !r.Right() {
					t.Errorf("%s at %s: verdict %s at %s (traces %v)", r.Fault, r.Location, r.VerdictLayer, r.VerdictLocation, r.TraceIDs)
				}
				if queue := r.Fault.Queue(); r.Right() && r.VerdictQueue != queue {
					t.Errorf("%s at %s: queue %q, want %q", r.Fault, r.Location, r.VerdictQueue, queue)
				}
				if 20*max(r.UnattributedUS, -r.UnattributedUS) > r.TotalUS {
					t.Errorf("%s: %d of %d µs not attributed", r.Fault, r.UnattributedUS, r.TotalUS)
				}
			}
		})
	}
}

// slowedByAnotherCause reports whether most requests of a case without a fault were late
// by the client's clock too, by half or more of what a layer is blamed for.
func slowedByAnotherCause(r matrix.Result) bool {
	late := 0
	for _, s := range r.Singles {
		if r.MeasuredUS > 0 && 2*s.ClientOffUS >= r.MeasuredUS {
			late++
		}
	}
	return 2*late > len(r.Singles)
}

// oneOfEach draws one case of each kind in the mesh, of 100 ms or more and without load:
// on a busy machine smaller faults could be chance.
func oneOfEach() (cases []faults.Case) {
	have := map[faults.Kind]bool{}
	for _, c := range faults.Draw(1, 5000) {
		clear := c.Magnitude == 0 || c.Magnitude >= 100*time.Millisecond && c.Magnitude <= 6*time.Second
		if clear && !c.Load && !have[c.Kind] && c.Version != faults.PlainVersion {
			have[c.Kind] = true
			cases = append(cases, c)
		}
	}
	return cases
}
