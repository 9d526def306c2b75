// SPDX-License-Identifier: Apache-2.0

package explain

import (
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"go.opentelemetry.io/otel/trace"

	"github.com/layertrace/layertrace/agent/internal/breakdown"
	"github.com/layertrace/layertrace/agent/internal/breakdown/breakdowntest"
	"github.com/layertrace/layertrace/agent/internal/span"
	"github.com/layertrace/layertrace/agent/internal/tracestore"
	"github.com/layertrace/layertrace/internal/observe"
)

// The span of the root's sender took longer than the root hop: what no agent saw is
// unattributed, and neither a verdict nor its absence is of high confidence.
func TestSpanLongerThanItsHop(t *testing.T) {
	r := rand.New(rand.NewPCG(9, 9))
	baseline := baselineOf(r, 20, nil)
	seen := pageTrace(r, 1, nil)
	root := breakdown.Split(seen.Observations, nil).Roots[0]
	for _, test := range []struct {
		longer time.Duration
		unseen bool
		want   Confidence
	}{
		{0, false, High}, {time.Millisecond, false, High}, {3 * time.Second, true, Low},
	} {
		stored := seen
		stored.Spans = []span.Span{{ID: root.SpanID, Parent: trace.SpanID{9}, Duration: time.Duration(root.Total) + test.longer}}
		report := Explain(stored, baseline)
		want := root.Total
		if test.unseen {
			want += test.longer.Nanoseconds()
		}
		if report.Total != want || report.Verdict.Confidence != test.want {
			t.Errorf("%s longer: total %d, want %d; %s confidence, want %s: %s",
				test.longer, report.Total, want, report.Verdict.Confidence, test.want, report.Verdict.Text)
		}
		checkReport(t, &report)
		group := compareAnew([]tracestore.Trace{stored}, baseline)
		if group.SlowTotal != want || group.Verdict.Confidence != test.want || group.Unattributed != report.Unattributed {
			t.Errorf("%s longer: the group of one has %d ns, %s confidence: %s", test.longer, group.SlowTotal, group.Verdict.Confidence, group.Verdict.Text)
		}
	}
}

// A client's own span, which no hop has in its header, tells that the trace took longer than
// what was seen, if it does not always.
func TestSpanAboveTheFirstHop(t *testing.T) {
	r := rand.New(rand.NewPCG(15, 15))
	with := func(t tracestore.Trace, more time.Duration) tracestore.Trace {
		root := breakdown.Split(t.Observations, nil).Roots[0]
		t.Spans = []span.Span{
			{ID: trace.SpanID{0xee}, Duration: time.Duration(root.Total) + more},
			{ID: root.SpanID, Parent: trace.SpanID{0xee}, Duration: time.Duration(root.Total)},
		}
		return t
	}
	seen := pageTrace(r, 1, nil)
	relay := pageTrace(r, 1, nil, toDetails(func(h *breakdowntest.Hop) { h.Relay += 100_000_000 }))
	for name, test := range map[string]struct {
		one         tracestore.Trace
		more, usual time.Duration
		want        Confidence
	}{
		"as long":              {seen, 0, 0, High},
		"always a second":      {seen, time.Second, time.Second, High},
		"a second":             {seen, time.Second, time.Millisecond, Low},
		"a slow hop besides":   {relay, 50 * time.Millisecond, 0, Medium},
		"a slow hop, and more": {relay, time.Second, 0, Low},
	} {
		var baseline []tracestore.Trace
		for _, b := range baselineOf(r, 20, nil) {
			baseline = append(baseline, with(b, test.usual))
		}
		one := with(test.one, test.more)
		report, group := Explain(one, baseline), compareAnew([]tracestore.Trace{one, one}, baseline)
		if report.Verdict.Confidence != test.want || group.Verdict.Confidence != test.want {
			t.Errorf("%s: %s confidence, together %s, want %s: %s %q", name, report.Verdict.Confidence, group.Verdict.Confidence, test.want, report.Verdict.Text, report.Verdict.Evidence)
		}
	}
	// Spans that are their own ancestors end.
	circle := seen
	circle.Spans = []span.Span{{ID: trace.SpanID{1}, Parent: trace.SpanID{2}}, {ID: trace.SpanID{2}, Parent: trace.SpanID{1}}}
	Explain(circle, nil)
}

// The time of a hop that was not seen counts as the application's, which is not blamed for
// it with confidence. The baseline shows that a hop is missing.
func TestMissingHop(t *testing.T) {
	r := rand.New(rand.NewPCG(11, 11))
	baseline := baselineOf(r, 40, nil)
	lacks := func(span byte, client bool) func(*observe.Observation) bool {
		return func(o *observe.Observation) bool {
			return o.Context.SpanID[0] == span && (!client || o.Socket != nil && o.Socket.Client)
		}
	}
	for name, test := range map[string]struct {
		drop     func(*observe.Observation) bool
		evidence string
		want     Confidence
	}{
		"all seen":                   {nil, "", High},
		"the call of an application": {lacks(3, false), "the hop productpage (sidecar) > productpage caused no hops, but in the baseline 1", Low},
		"a call inside a pod":        {lacks(5, false), "the hop productpage > details caused no hops, but in the baseline 1", Low},
		"the first hop":              {lacks(1, false), "the trace begins with the hop productpage (sidecar) > productpage, seen from process to process", Medium},
		"the first socket":           {lacks(1, true), "seen from pod to pod of its sender", Medium},
	} {
		one := pageTrace(r, 1, test.drop)
		v := Explain(one, baseline).Verdict
		if v.Confidence != test.want {
			t.Errorf("%s: %s confidence, want %s: %s %q", name, v.Confidence, test.want, v.Text, v.Evidence)
		}
		if test.evidence != "" && !slices.ContainsFunc(v.Evidence, func(e string) bool { return strings.Contains(e, test.evidence) }) {
			t.Errorf("%s: evidence %q lacks %q", name, v.Evidence, test.evidence)
		}
		group := []tracestore.Trace{one, pageTrace(r, 2, test.drop), pageTrace(r, 3, test.drop), pageTrace(r, 4, test.drop)}
		if c := compareAnew(group, baseline); c.Verdict.Confidence != test.want {
			t.Errorf("%s: %s confidence together, want %s: %s", name, c.Verdict.Confidence, test.want, c.Verdict.Text)
		}
	}
}
