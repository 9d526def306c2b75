// SPDX-License-Identifier: Apache-2.0

package overhead

import (
	"math"
	"testing"
	"time"

	"github.com/layertrace/layertrace/e2e/lab"
)

// The machine gets twice as slow on the way; in pairs that cancels out.
func TestRatioIsTakenWithinPairs(t *testing.T) {
	var r Result
	for _, slowness := range []float64{1, 2, 4} {
		p50 := func(factor float64) time.Duration {
			return time.Duration(slowness * factor * float64(time.Second))
		}
		r.Pairs = append(r.Pairs, Pair{Off: Sample{P50: p50(1)}, On: Sample{P50: p50(1.5)}})
	}
	if got := r.Ratio(P50); got != (Ratio{1.5, 1.5, 1.5}) {
		t.Errorf("ratio %+v, want 1.5 throughout", got)
	}
}

func TestSummaryIsPerThousandRequests(t *testing.T) {
	r := Result{Pairs: []Pair{{
		Off: Sample{Requests: 500},
		On: Sample{
			Requests: 500, Resident: 5, Peak: 6, Spans: 1500,
			Usage: lab.Usage{Agents: time.Second, Jaeger: 2 * time.Second, Mesh: 3 * time.Second},
		},
	}}}
	on := r.Summary(true)
	for what, d := range map[string]float64{"agents": on.AgentsCPU - 2, "Jaeger": on.JaegerCPU - 4, "mesh": on.MeshCPU - 6} {
		if math.Abs(d) > 1e-9 {
			t.Errorf("CPU of %s is off by %v s per 1,000 requests", what, d)
		}
	}
	if on.Spans != 3 {
		t.Errorf("%v spans per request, want 3", on.Spans)
	}
	if off := r.Summary(false); off.AgentsCPU != 0 || off.Resident != 0 {
		t.Errorf("without agents: %+v", off)
	}
}
