// SPDX-License-Identifier: Apache-2.0

package measure

import (
	"math"
	"reflect"
	"testing"
	"time"

	"github.com/cilium/ebpf"

	"github.com/layertrace/layertrace/e2e/lab"
)

// The machine becomes slower from pair to pair, which cancels out within a pair.
func TestRatioIsTakenWithinPairs(t *testing.T) {
	var r OverheadResult
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
	r := OverheadResult{Pairs: []Pair{{
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

// Two agents with a program of the same name, one that did not run, and one that
// is not theirs.
func TestProgramsPerRequest(t *testing.T) {
	others := map[ebpf.ProgramID]counted{1: {name: "other"}}
	before := map[ebpf.ProgramID]counted{1: {"other", 5, 5}, 2: {"read", 10, 1000}, 3: {"read", 0, 0}, 4: {"sweep", 3, 3}}
	after := map[ebpf.ProgramID]counted{1: {"other", 50, 50}, 2: {"read", 30, 5000}, 3: {"read", 20, 2000}, 4: {"sweep", 3, 3}}
	want := []Program{{Name: "read", Runs: 4, Time: 150 * time.Nanosecond}}
	if got := perRequest(10, others, before, after); !reflect.DeepEqual(got, want) {
		t.Errorf("programs %+v, want %+v", got, want)
	}
}
