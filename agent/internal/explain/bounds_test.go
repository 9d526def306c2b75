// SPDX-License-Identifier: Apache-2.0

package explain

import (
	"bytes"
	"io"
	"strings"
	"testing"
	"time"

	"github.com/layertrace/layertrace/agent/internal/breakdown/breakdowntest"
	"github.com/layertrace/layertrace/agent/internal/tracestore"
	"github.com/layertrace/layertrace/internal/observe"
)

// Whoever can send requests, or write to the trace store, chooses how many hops a trace has
// and how they nest. The report is made within the deadline, which is wide, lists a bounded
// number of hops, and says what it leaves out.
func TestTracesOfManyHops(t *testing.T) {
	for _, nested := range []bool{false, true} {
		began := time.Now()
		r := Explain(tracestore.Trace{Observations: breakdowntest.Legs(20_000, nested)}, nil)
		if took := time.Since(began); took > time.Minute {
			t.Errorf("nested %v: explained after %v", nested, took)
		}
		if len(r.Hops) != maxHops {
			t.Errorf("nested %v: %d hops are listed, want %d", nested, len(r.Hops), maxHops)
		}
		var text bytes.Buffer
		if err := r.WriteText(&text, TextOptions{Width: 100}); err != nil {
			t.Fatal(err)
		}
		if err := WriteHTML(io.Discard, &r); err != nil {
			t.Fatal(err)
		}
		oneLine := strings.Join(strings.Fields(text.String()), " ")
		for _, want := range []string{
			"the trace has 40000 sightings of requests: only the first 32768 of them are counted",
			"the trace has too many hops to list: the 1000 that took longest are here",
		} {
			if !strings.Contains(oneLine, want) {
				t.Errorf("nested %v: the report lacks %q", nested, want)
			}
		}
		if r.Verdict.Confidence == High || r.Verdict.Confidence == Medium {
			t.Errorf("nested %v: confidence %v in a part of the trace", nested, r.Verdict.Confidence)
		}
	}
}

// A report on a trace that an agent limited says so, and is not sure of anything.
func TestLimitedTrace(t *testing.T) {
	observations := breakdowntest.Legs(3, true)
	observations[4].Flags |= observe.FlagTraceLimited
	r := Explain(tracestore.Trace{Observations: observations}, nil)
	if len(r.Notes) == 0 || !strings.Contains(strings.Join(r.Notes, " "), "--trace-spans") || r.Verdict.Confidence != Low {
		t.Errorf("notes %q, confidence %v", r.Notes, r.Verdict.Confidence)
	}
}
