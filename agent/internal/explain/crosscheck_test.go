// SPDX-License-Identifier: Apache-2.0

package explain

import (
	"math/rand/v2"
	"testing"
	"time"

	"go.opentelemetry.io/otel/trace"

	"github.com/layertrace/layertrace/agent/internal/breakdown"
	"github.com/layertrace/layertrace/agent/internal/span"
	"github.com/layertrace/layertrace/agent/internal/tracestore"
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
		group := compareTraces([]tracestore.Trace{stored}, baseline)
		if group.SlowTotal != want || group.Verdict.Confidence != test.want || group.Unattributed != report.Unattributed {
			t.Errorf("%s longer: the group of one has %d ns, %s confidence: %s", test.longer, group.SlowTotal, group.Verdict.Confidence, group.Verdict.Text)
		}
	}
}
