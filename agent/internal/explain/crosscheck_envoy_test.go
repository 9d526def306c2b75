// SPDX-License-Identifier: Apache-2.0

package explain

import (
	"context"
	"slices"
	"testing"

	"go.opentelemetry.io/otel/trace"

	"github.com/layertrace/layertrace/agent/internal/tracestore"
	"github.com/layertrace/layertrace/internal/observe"
)

// envoyTrace is a front page of the fault laboratory, from its Jaeger, without the spans of layers: spans of real
// Envoys and of three agents. The network between two nodes took some 100 ms.
func envoyTrace(t *testing.T) tracestore.Trace {
	t.Helper()
	all, err := tracestore.NewFile("testdata/envoy-relay-delay.json").Search(context.Background(), tracestore.Query{
		Service: "istio-ingressgateway", Limit: 1,
	})
	if err != nil || len(all) != 1 {
		t.Fatalf("%d traces: %v", len(all), err)
	}
	if len(all[0].Spans) < 6 || len(all[0].Observations) < 25 {
		t.Fatalf("%d spans of Envoys, %d observations", len(all[0].Spans), len(all[0].Observations))
	}
	return all[0]
}

// What real Envoys report contradicts nothing that was seen whole. If 60 ms of
// the wait were missed, they are unattributed, and no verdict is of high confidence.
func TestEnvoySpansAgainstHops(t *testing.T) {
	whole := envoyTrace(t)
	var baseline []tracestore.Trace
	for id := range byte(20) {
		copied := whole
		copied.ID = trace.TraceID{0xb0, id}
		baseline = append(baseline, copied)
	}
	report := Explain(whole, baseline)
	if report.Verdict.Layer != observe.NoLayer || report.Verdict.Confidence != High || report.Total < 100_000_000 || len(report.Notes) > 0 {
		t.Errorf("%d ns: %s confidence, %s, notes %q", report.Total, report.Verdict.Confidence, report.Verdict.Text, report.Notes)
	}

	const missed = 60_000_000
	cut := withoutMiddle(whole, missed)
	half := Explain(cut, baseline)
	const reported = 112_263_000 // by the Envoy of productpage; the gateway's hop is longer
	unseen := reported - (report.Total - missed)
	if half.Verdict.Confidence != Low || len(half.Notes) != 1 || half.Total != reported || half.Unattributed != unseen {
		t.Errorf("%d of %d ns unattributed: %s confidence, %s, notes %q", half.Unattributed, half.Total, half.Verdict.Confidence, half.Verdict.Text, half.Notes)
	}
	group := compareAnew([]tracestore.Trace{cut, cut}, baseline)
	if group.Verdict.Confidence != Low || group.Unattributed != unseen {
		t.Errorf("group: %d ns unattributed, %s confidence", group.Unattributed, group.Verdict.Confidence)
	}
}

// withoutMiddle takes a time in ns out of the middle of a trace, which is that of the slow
// network, as the clocks of the nodes on its near side saw it.
func withoutMiddle(whole tracestore.Trace, missed uint64) tracestore.Trace {
	const begin = 20_000_000 // after the first request of the node: within the wait
	first := map[string]uint64{}
	for _, o := range whole.Observations {
		if at, ok := first[o.Point.Node]; !ok || o.Request.First < at {
			first[o.Point.Node] = o.Request.First
		}
	}
	cut := whole
	cut.Observations = slices.Clone(whole.Observations)
	for i := range cut.Observations {
		o := &cut.Observations[i]
		if o.Point.Node == "node3" { // the far side
			continue
		}
		for _, m := range []*observe.Message{&o.Request, &o.Response} {
			for _, at := range []*uint64{&m.First, &m.Last, &m.App.First, &m.App.Last, &m.Tx.First, &m.Tx.Last, &m.Acknowledged} {
				if *at > first[o.Point.Node]+begin {
					*at -= missed
				}
			}
		}
	}
	return cut
}
