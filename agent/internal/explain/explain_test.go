// SPDX-License-Identifier: Apache-2.0

package explain

import (
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/layertrace/layertrace/agent/internal/breakdown"
	"github.com/layertrace/layertrace/agent/internal/breakdown/breakdowntest"
	"github.com/layertrace/layertrace/agent/internal/span"
	"github.com/layertrace/layertrace/agent/internal/tracestore"
	"github.com/layertrace/layertrace/internal/observe"
	"go.opentelemetry.io/otel/trace"
)

// pageTrace is a front page whose times vary by up to a tenth. change may make hops
// slower.
func pageTrace(r *rand.Rand, id byte, drop func(*observe.Observation) bool, change ...func(*breakdowntest.Hop)) tracestore.Trace {
	w := breakdowntest.New()
	w.ID, w.Drop = trace.TraceID{id}, drop
	vary := func(h *breakdowntest.Hop) {
		for _, ns := range []*uint64{&h.Stack, &h.VNet, &h.Driver, &h.Relay} {
			*ns += r.Uint64N(*ns / 10)
		}
	}
	w.FrontPage(append([]func(*breakdowntest.Hop){vary}, change...)...)
	return tracestore.Trace{ID: w.ID, Observations: w.All}
}

func baselineOf(r *rand.Rand, n byte, drop func(*observe.Observation) bool) (traces []tracestore.Trace) {
	for id := range n {
		traces = append(traces, pageTrace(r, 100+id, drop))
	}
	return traces
}

// toDetails slows the hop between the pods of productpage and details.
func toDetails(slow func(*breakdowntest.Hop)) func(*breakdowntest.Hop) {
	return func(h *breakdowntest.Hop) {
		if _, to, inside := h.Ends(); to == "details" && !inside {
			slow(h)
		}
	}
}

func TestVerdict(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 1))
	baseline := baselineOf(r, 40, nil)
	for name, c := range map[string]struct {
		change   func(*breakdowntest.Hop)
		layer    observe.Layer
		location string
		excess   int64
	}{
		"nothing": {func(*breakdowntest.Hop) {}, observe.NoLayer, "", 0},
		// Request and response have the delay, so the excess is twice that.
		"relay":       {toDetails(func(h *breakdowntest.Hop) { h.Relay += 1_000_000 }), observe.RelayNetwork, "node3-node4", 2_000_000},
		"little less": {toDetails(func(h *breakdowntest.Hop) { h.Relay += 200_000 }), observe.NoLayer, "", 0},
	} {
		t.Run(name, func(t *testing.T) {
			report := Explain(pageTrace(r, 1, nil, c.change), baseline)
			v := report.Verdict
			if v.Layer != c.layer || v.Location != c.location {
				t.Fatalf("verdict %s %s, want %s %s: %s", v.Layer, v.Location, c.layer, c.location, v.Text)
			}
			if d := v.Excess - c.excess; c.layer != observe.NoLayer && (d < -20_000 || d > 20_000 || v.Confidence != High) {
				t.Errorf("excess %d ns with %s confidence, want %d, high", v.Excess, v.Confidence, c.excess)
			}
			checkReport(t, &report)
			together := compareAnew([]tracestore.Trace{
				pageTrace(r, 1, nil, c.change), pageTrace(r, 2, nil, c.change), pageTrace(r, 3, nil, c.change), pageTrace(r, 4, nil),
			}, baseline)
			if together.Verdict.Layer != c.layer || together.Verdict.Location != c.location {
				t.Errorf("together: %s", together.Verdict.Text)
			}
		})
	}
}

// checkReport: the layers add up to the total.
func checkReport(t *testing.T, report *Report) {
	t.Helper()
	sum := report.Unattributed
	for _, l := range report.Layers {
		sum += l.Time
		if l.Share < 0 || l.Share > 1 {
			t.Errorf("%s %s has a share of %v", l.Layer, l.Location, l.Share)
		}
	}
	if sum != report.Total {
		t.Errorf("layers add up to %d ns of %d", sum, report.Total)
	}
	if report.Notes == nil || report.Layers == nil || report.Hops == nil || report.Verdict.Evidence == nil {
		t.Error("a list is null in JSON")
	}
}

// If a capture point is missing, the report has merged layers.
func TestVerdictOnGroup(t *testing.T) {
	r := rand.New(rand.NewPCG(2, 2))
	drop := func(o *observe.Observation) bool { return o.Point.Kind == observe.KindPNIC && o.Point.Node == "node3" }
	slow := toDetails(func(h *breakdowntest.Hop) { h.VNet += 3_000_000 })
	report := Explain(pageTrace(r, 1, drop, slow), baselineOf(r, 20, drop))
	v := report.Verdict
	// The virtual network of node 4 is still separate.
	if v.Layer != observe.RelayNetwork && v.Layer != observe.VirtualNetwork || v.Excess < 5_900_000 {
		t.Fatalf("%s", v.Text)
	}
	group := false
	for _, l := range report.Layers {
		group = group || len(l.MergedLayers) > 1 && l.Time-l.Baseline > 5_900_000
	}
	if !group {
		t.Errorf("no group of layers has the time: %+v", report.Layers)
	}
	checkReport(t, &report)
}

func TestWithoutBaseline(t *testing.T) {
	r := rand.New(rand.NewPCG(3, 3))
	report := Explain(pageTrace(r, 1, nil), nil)
	v := report.Verdict
	if v.Layer != observe.ProtocolStack || v.Location != "productpage" || v.Confidence != Low || !strings.Contains(v.Text, "took the longest") {
		t.Errorf("%s verdict %s %s: %s", v.Confidence, v.Layer, v.Location, v.Text)
	}
	if len(report.Layers) == 0 || report.Layers[0].Baseline != -1 {
		t.Errorf("layers %+v", report.Layers)
	}
	checkReport(t, &report)
}

// Traces without a known hop have no verdict, and a note or hop shows the reason.
func TestNothingToExplain(t *testing.T) {
	r := rand.New(rand.NewPCG(4, 4))
	baseline := baselineOf(r, 20, nil)
	cut := pageTrace(r, 1, nil)
	for i := range cut.Observations {
		cut.Observations[i].Response.First, cut.Observations[i].Response.Last = 0, 0
		cut.Observations[i].Response.App.Last = 0
	}
	for name, trace := range map[string]tracestore.Trace{
		"no spans at all":  {},
		"no response":      cut,
		"unreadable spans": {Unreadable: []string{"a", "b", "c", "d", "e"}, Duplicates: 2},
	} {
		t.Run(name, func(t *testing.T) {
			report := Explain(trace, baseline)
			if report.Verdict.Layer != observe.NoLayer || report.Verdict.Confidence != Low || report.Total != 0 {
				t.Errorf("%s verdict %s of %d ns: %s", report.Verdict.Confidence, report.Verdict.Layer, report.Total, report.Verdict.Text)
			}
			if len(report.Notes) == 0 && len(report.Hops) == 0 {
				t.Error("neither a note nor a hop")
			}
			checkReport(t, &report)
			if c := compareAnew([]tracestore.Trace{trace}, baseline); c.Verdict.Layer != observe.NoLayer || c.Verdict.Confidence != Low {
				t.Errorf("together: %+v", c.Verdict)
			}
		})
	}
}

// eachCut returns the flags of observe.Cut.
func eachCut() (flags []observe.Flags) {
	for f := observe.Flags(1); f != 0; f <<= 1 {
		if f&observe.Cut != 0 {
			flags = append(flags, f)
		}
	}
	return flags
}

// A verdict says why for each flag of a hop that is cut, and for no other.
func TestCutReasons(t *testing.T) {
	for f := observe.Flags(1); f != 0; f <<= 1 {
		hop := &breakdown.Hop{Sender: &observe.Observation{}, ServerVNIC: &observe.Observation{Flags: f}}
		v := Verdict{Confidence: High}
		v.capCut(hop.Cut())
		if cut := f&observe.Cut != 0; cut != (v.Confidence == Medium) || cut != (len(v.Evidence) == 1) {
			t.Errorf("flag %v: confidence %s, evidence %q", f.Names(), v.Confidence, v.Evidence)
		}
	}
}

// No verdict has high confidence if a hop of it was joined without a proxy's record, and any
// other join changes nothing.
func TestInferredIsNotHigh(t *testing.T) {
	r := rand.New(rand.NewPCG(5, 5))
	baseline := baselineOf(r, 20, nil)
	slow := toDetails(func(h *breakdowntest.Hop) { h.Relay += 50_000_000 })
	for _, join := range []observe.Join{observe.JoinNone, observe.JoinExact, observe.JoinTime, observe.JoinInferred} {
		whole := pageTrace(r, 1, nil, slow)
		for i := range whole.Observations {
			whole.Observations[i].Join = join
		}
		report := Explain(whole, baseline)
		want := High
		if join == observe.JoinInferred {
			want = Medium
		}
		if report.Verdict.Confidence != want || report.Verdict.Layer != observe.RelayNetwork {
			t.Errorf("join %q: %s with confidence %s, want %s", join, report.Verdict.Layer, report.Verdict.Confidence, want)
		}
		for _, h := range report.Hops {
			if join == observe.JoinInferred && h.Verdict.Confidence == High {
				t.Errorf("hop from %s has high confidence", h.From)
			}
		}
		c := Comparison{Verdict: Verdict{Confidence: High}}
		var slower, usual []measured
		for range 3 {
			slower = append(slower, newMeasuredTrace(whole).measured)
		}
		for _, b := range baseline {
			usual = append(usual, newMeasuredTrace(b).measured)
		}
		c.compare(usual, slower)
		if (join == observe.JoinInferred) == (c.Verdict.Confidence == High) {
			t.Errorf("join %q: a group has confidence %s", join, c.Verdict.Confidence)
		}
	}
}

// No verdict on an exchange that was cut has high confidence: that of its trace and hop,
// of a group, and that nothing is slow.
func TestCutIsNotHigh(t *testing.T) {
	r := rand.New(rand.NewPCG(5, 5))
	baseline := baselineOf(r, 20, nil)
	for _, slower := range []uint64{0, 50_000_000} {
		slow := toDetails(func(h *breakdowntest.Hop) { h.Relay += slower })
		whole := pageTrace(r, 1, nil, slow)
		if c := Explain(whole, baseline).Verdict.Confidence; c != High {
			t.Fatalf("confidence %s without a cut", c)
		}
		for _, flag := range eachCut() {
			for i := range whole.Observations {
				cut := whole
				cut.Observations = slices.Clone(whole.Observations)
				cut.Observations[i].Flags = flag
				report := Explain(cut, baseline)
				for _, v := range []Verdict{report.Verdict, compareAnew([]tracestore.Trace{cut}, baseline).Verdict} {
					if v.Confidence == High || len(v.Evidence) == 0 {
						t.Errorf("%v: confidence %s, evidence %q", flag.Names(), v.Confidence, v.Evidence)
					}
				}
			}
		}
	}
}

// The wall clock of one node is wrong, or is set during the request: times are of
// monotonic clocks, so nothing changes.
func TestWallClocksDoNotCount(t *testing.T) {
	r := rand.New(rand.NewPCG(6, 6))
	baseline := baselineOf(r, 20, nil)
	trace := pageTrace(r, 1, nil, toDetails(func(h *breakdowntest.Hop) { h.Relay += 5_000_000 }))
	right := Explain(trace, baseline)
	for _, off := range []int64{-500_000_000, 500_000_000, 3_600_000_000_000} {
		for i := range trace.Observations {
			if trace.Observations[i].Point.Node == "node3" && i%2 == 0 {
				trace.Observations[i].Wall += off
			}
		}
		report := Explain(trace, baseline)
		if report.Verdict.Layer != right.Verdict.Layer || report.Verdict.Location != right.Verdict.Location ||
			report.Verdict.Excess != right.Verdict.Excess || report.Total != right.Total {
			t.Errorf("clock off by %d ns: %s, want %s", off, report.Verdict.Text, right.Verdict.Text)
		}
	}
}

// More than a tenth of the time without a layer could change any verdict.
func TestConfidenceNeedsAttributedTime(t *testing.T) {
	for _, test := range []struct {
		unattributed, whole int64
		before, want        Confidence
	}{
		{0, 1000, High, High}, {100, 1000, High, High}, {101, 1000, High, Medium},
		{-101, 1000, High, Medium}, {900, 1000, Low, Low}, {400, 1000, Medium, Medium},
		{501, 1000, High, Low}, {-501, 1000, Medium, Low},
	} {
		v := Verdict{Layer: observe.Application, Confidence: test.before, Excess: 500}
		v.capConfidence(test.unattributed, test.whole)
		if v.Confidence != test.want || (len(v.Evidence) > 0) != (v.Confidence != test.before) {
			t.Errorf("%d of %d ns unattributed: %s confidence becomes %s, want %s; evidence %q",
				test.unattributed, test.whole, test.before, v.Confidence, test.want, v.Evidence)
		}
	}
}

// Where the data of a trace ends in the middle, a note says so; there is none of a whole one.
func TestDataEndsInTheMiddle(t *testing.T) {
	r := rand.New(rand.NewPCG(8, 24))
	for name, test := range map[string]struct {
		drop func(*observe.Observation) bool
		want string
	}{
		"whole":                {func(*observe.Observation) bool { return false }, ""},
		"no agent on the node": {func(o *observe.Observation) bool { return o.Point.Node == "node3" }, "nothing was seen on its server's side"},
		"one point missing": {func(o *observe.Observation) bool {
			return o.Point.Kind == observe.KindVNIC && o.Point.Workload.Service == "details"
		}, ""},
	} {
		notes := strings.Join(Explain(pageTrace(r, 1, test.drop), nil).Notes, "\n")
		if got := strings.Contains(notes, "the data ends"); got != (test.want != "") || !strings.Contains(notes, test.want) {
			t.Errorf("%s: notes %q", name, notes)
		}
	}
	cut := pageTrace(r, 1, nil)
	last := breakdown.Split(cut.Observations, nil).Hops
	id := last[len(last)-1].SpanID
	for i := range cut.Observations {
		if o := &cut.Observations[i]; trace.SpanID(o.Context.SpanID) == id {
			o.Flags, o.Response = observe.FlagNoResponse, observe.Message{}
		}
	}
	report := Explain(cut, baselineOf(r, 20, nil))
	if notes := strings.Join(report.Notes, "\n"); !strings.Contains(notes, "its response was not seen") {
		t.Errorf("no response: notes %q", notes)
	}
}

// Spans of one agent are late: until then the verdict uses the others, names merged
// layers, and blames no other layer.
func TestLateSpans(t *testing.T) {
	r := rand.New(rand.NewPCG(7, 7))
	baseline := baselineOf(r, 20, nil)
	slow := toDetails(func(h *breakdowntest.Hop) { h.VNet += 5_000_000 })
	late := func(o *observe.Observation) bool { return o.Point.Node == "node3" }
	report := Explain(pageTrace(r, 1, late, slow), baseline)
	checkReport(t, &report)
	v := report.Verdict
	beyond := len(v.MergedLayers) > 1 && v.Confidence == Low
	if here := v.Layer == observe.VirtualNetwork && v.Location == "node4"; !beyond && !here {
		t.Errorf("%s verdict %s %s (%v): %s", v.Confidence, v.Layer, v.Location, v.MergedLayers, v.Text)
	}
	whole := Explain(pageTrace(r, 1, nil, slow), baseline)
	if whole.Verdict.Layer != observe.VirtualNetwork {
		t.Errorf("with all spans: %s", whole.Verdict.Text)
	}
}

func TestRoot(t *testing.T) {
	stored := func(id, parent byte, name string, start int64) span.Span {
		return span.Span{ID: trace.SpanID{id}, Parent: trace.SpanID{parent}, Service: "s", Name: name, Start: time.Unix(start, 0)}
	}
	for _, test := range []struct {
		name  string
		spans []span.Span
		want  string
	}{
		{"a root that starts after its child, by another clock", []span.Span{stored(2, 1, "child", 1), stored(1, 0, "root", 2)}, "root"},
		{"client and server share an ID", []span.Span{stored(1, 0, "root", 1), stored(2, 1, "client", 2), stored(2, 1, "server", 3)}, "root"},
		{"root missing", []span.Span{stored(3, 2, "child", 3), stored(2, 9, "first", 1), stored(4, 9, "later", 2)}, "first"},
		{"its own parent", []span.Span{stored(1, 1, "root", 2), stored(2, 1, "child", 1)}, "root"},
		{"a cycle", []span.Span{stored(1, 2, "late", 2), stored(2, 1, "early", 1)}, "early"},
		{"nothing", nil, ""},
	} {
		if _, got := rootOf(tracestore.Trace{Spans: test.spans}); got != test.want {
			t.Errorf("%s: got %q, want %q", test.name, got, test.want)
		}
	}
}

// Segments that are alike, as before and after a request to another service, have a
// baseline of their own: that of both would be counted twice.
func TestBaselineOfEachSegment(t *testing.T) {
	r := rand.New(rand.NewPCG(13, 13))
	report := Explain(pageTrace(r, 1, nil), baselineOf(r, 20, nil))
	segments := 0
	for _, h := range report.Hops {
		for _, s := range h.Segments {
			segments++
			if d := s.Time - s.Baseline; max(d, -d) > s.Time/10 {
				t.Errorf("%s > %s: %s, %d ns, in the baseline %d", h.From, h.To, s.Between, s.Time, s.Baseline)
			}
			if s.Layer == observe.Application && s.Time != s.Baseline { // the same in all
				t.Errorf("%s > %s: %d ns of the application, in the baseline %d", h.From, h.To, s.Time, s.Baseline)
			}
		}
	}
	if segments < 30 {
		t.Errorf("%d segments", segments)
	}
}

// Time without a layer in one hop does not make up for time with two in another.
func TestUnclearTimeAddsUp(t *testing.T) {
	hop := func(unattributed int64, critical bool) *breakdown.Hop {
		return &breakdown.Hop{Total: 1000, Unattributed: unattributed, OnCriticalPath: critical}
	}
	_, unattributed, unclear := sumOfTree(&breakdown.Tree{Hops: []*breakdown.Hop{hop(120, true), hop(-100, true), hop(700, false)}})
	if unattributed != 20 || unclear != 220 {
		t.Errorf("%d ns unattributed, %d unclear, want 20 and 220", unattributed, unclear)
	}
}
