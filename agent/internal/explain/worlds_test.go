// SPDX-License-Identifier: Apache-2.0

package explain

import (
	"fmt"
	"io"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"go.opentelemetry.io/otel/trace"

	"github.com/layertrace/layertrace/agent/internal/breakdown/breakdowntest"
	"github.com/layertrace/layertrace/agent/internal/span"
	"github.com/layertrace/layertrace/agent/internal/tracestore"
	"github.com/layertrace/layertrace/internal/observe"
)

// anyWorld is a front page in which one layer may be slow and something may be missing,
// and how much each layer truly took.
type anyWorld struct {
	tracestore.Trace
	took map[string]uint64
	what []string // of the fault and of what is missing
}

// slowAnywhere returns a change that makes one layer of one hop slow.
func slowAnywhere(r *rand.Rand) (change func(*breakdowntest.Hop), what string) {
	chosen, kind, ns := r.IntN(5), r.IntN(9), 300_000+r.Uint64N(30_000_000)
	hop := -1
	return func(h *breakdowntest.Hop) {
		hop++
		from, to, _ := h.Ends()
		if hop != chosen {
			return
		}
		switch kind {
		case 0:
			h.Stack += ns
		case 1:
			h.VNet += ns
		case 2:
			h.Driver += ns
		case 3:
			if h.Device == "" {
				h.Relay += ns // on both links it would be of two locations
			}
		case 4:
			h.RequestStall, h.Blamed = ns, to
		case 5:
			h.ResponseStall, h.Blamed = ns, from
		case 6:
			h.InDevice += ns
		case 7:
			h.SlowLink, h.SlowNode = ns, "node4" // an end of both hops between nodes
		}
	}, fmt.Sprintf("kind %d, hop %d, %d ns", kind, chosen, ns)
}

// lose makes a world in which some observations are missing or are not whole.
func lose(r *rand.Rand, w *anyWorld) {
	switch r.IntN(8) {
	case 0: // some observations
		for range 1 + r.IntN(3) {
			i := r.IntN(len(w.Observations))
			w.what = append(w.what, fmt.Sprintf("without %v %v of span %v", w.Observations[i].Point.Kind, w.Observations[i].Point.Node, w.Observations[i].Context.SpanID))
			w.Observations = slices.Delete(w.Observations, i, i+1)
		}
	case 1: // a hop
		lost := w.Observations[r.IntN(len(w.Observations))].Context.SpanID
		w.Observations = slices.DeleteFunc(w.Observations, func(o observe.Observation) bool { return o.Context.SpanID == lost })
		w.what = append(w.what, fmt.Sprintf("without hop %v", lost))
	case 2: // an agent
		node := w.Observations[r.IntN(len(w.Observations))].Point.Node
		w.Observations = slices.DeleteFunc(w.Observations, func(o observe.Observation) bool { return o.Point.Node == node })
		w.what = append(w.what, "without "+node)
	case 3: // times of a last byte
		for range 1 + r.IntN(4) {
			o := &w.Observations[r.IntN(len(w.Observations))]
			which := r.IntN(2)
			m := []*observe.Message{&o.Request, &o.Response}[which]
			at := []int{1, 3, 5}[r.IntN(3)]
			*[]*uint64{&m.First, &m.Last, &m.App.First, &m.App.Last, &m.Tx.First, &m.Tx.Last}[at] = 0
			w.what = append(w.what, fmt.Sprintf("%v %v of span %v lacks time %d of %d", o.Point.Kind, o.Point.Node, o.Context.SpanID, at, which))
		}
	case 4: // a flag
		o := &w.Observations[r.IntN(len(w.Observations))]
		o.Flags |= observe.Flags(1) << r.IntN(14)
		w.what = append(w.what, "flags")
	case 5: // a proxy's span is longer than what was seen
		o := &w.Observations[r.IntN(len(w.Observations))]
		w.Spans = append(w.Spans, span.Span{ID: trace.SpanID(o.Context.SpanID), Duration: time.Duration(r.Int64N(1e9))})
		w.what = append(w.what, "span")
	case 6: // the answer ended early
		o := &w.Observations[r.IntN(len(w.Observations))]
		o.Response, o.Status, o.Flags = observe.Message{}, 0, o.Flags|observe.FlagNoResponse
		w.what = append(w.what, "no response")
	}
}

func newAnyWorld(r *rand.Rand, id byte, faulty bool, device string) *anyWorld {
	w := breakdowntest.New()
	w.ID = trace.TraceID{id}
	vary := func(h *breakdowntest.Hop) {
		h.Device, h.InDevice = device, 40_000
		for _, ns := range []*uint64{&h.Stack, &h.VNet, &h.Driver, &h.Relay, &h.InDevice} {
			*ns += r.Uint64N(*ns / 10)
		}
	}
	change := []func(*breakdowntest.Hop){vary}
	a := &anyWorld{took: w.Took}
	if faulty {
		slow, what := slowAnywhere(r)
		change, a.what = append(change, slow), append(a.what, what)
	}
	w.FrontPage(change...)
	a.ID, a.Observations = w.ID, w.All
	if faulty {
		lose(r, a)
	}
	return a
}

// Whatever is missing: a verdict of high confidence names a layer that truly took the time.
func TestHighIsRight(t *testing.T) {
	t.Run("a network", func(t *testing.T) { highIsRight(t, "") })
	t.Run("a device", func(t *testing.T) { highIsRight(t, "router1") })
}

// highIsRight checks worlds with a device between the nodes, "" for none.
func highIsRight(t *testing.T, device string) {
	t.Helper()
	r := rand.New(rand.NewPCG(24, 24))
	var baseline []tracestore.Trace
	usual := map[string]uint64{}
	for id := range byte(30) {
		w := newAnyWorld(r, 100+id, false, device)
		baseline = append(baseline, w.Trace)
		for k, ns := range w.took {
			usual[k] = max(usual[k], ns)
		}
	}
	high, blamed := 0, 0
	times := timesOf(baseline, newMeasuredTrace)
	for range 2000 {
		w := newAnyWorld(r, 1, true, device)
		report := times.explain(w.Trace)
		v := report.Verdict
		if err := report.WriteJSON(io.Discard); err != nil {
			t.Fatal(err)
		}
		checkReport(t, &report)
		for _, h := range report.Hops {
			v := h.Verdict
			if missing := max(h.Unattributed, -h.Unattributed); v.Confidence == High && float64(missing) > 0.1*float64(h.Total) {
				t.Errorf("%q: hop %s %d of %d unattributed", w.what, h.To, h.Unattributed, h.Total)
			}
		}
		if v.Confidence != High {
			continue
		}
		high++
		if missing := max(report.Unattributed, -report.Unattributed); float64(missing) > 0.1*float64(report.Total) {
			t.Errorf("%q: high with %d of %d ns unattributed", w.what, missing, report.Total)
		}
		most, excess := "", int64(0)
		for k, ns := range w.took {
			if e := int64(ns) - int64(usual[k]); e > excess {
				most, excess = k, e
			}
		}
		if v.Layer == observe.NoLayer {
			if excess > 3*minExcess && excess > report.Total/10 {
				t.Errorf("%q: none, but %s took %d ns more: %s", w.what, most, excess, v.Text)
			}
			continue
		}
		blamed++
		if got := string(v.Layer) + " " + v.Location; got != most {
			t.Errorf("%q: %s, but %s took %d ns more: %s", w.what, got, most, excess, v.Text)
		} else if d := v.Time - int64(w.took[most]); max(d, -d) > 500_000+int64(w.took[most])/5 {
			t.Errorf("%q: %s took %d ns more: %s", w.what, most, excess, v.Text)
		}
	}
	t.Logf("%d high, %d blamed", high, blamed)
}
