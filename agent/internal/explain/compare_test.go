// SPDX-License-Identifier: Apache-2.0

package explain

import (
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/layertrace/layertrace/agent/internal/breakdown"
	"github.com/layertrace/layertrace/agent/internal/breakdown/breakdowntest"
	"github.com/layertrace/layertrace/agent/internal/tracestore"
	"github.com/layertrace/layertrace/internal/observe"
)

// compareAnew remembers no trace.
func compareAnew(traces, baseline []tracestore.Trace) Comparison {
	return compareTraces(traces, baseline, newMeasuredTrace)
}

// The slow traces of a service have one layer in common.
func TestCompare(t *testing.T) {
	r := rand.New(rand.NewPCG(5, 5))
	traces := baselineOf(r, 95, nil)
	for id := range byte(5) {
		traces = append(traces, pageTrace(r, 220+id, nil, toDetails(func(h *breakdowntest.Hop) { h.Driver += 20_000_000 })))
	}
	r.Shuffle(len(traces), func(i, j int) { traces[i], traces[j] = traces[j], traces[i] })
	c := CompareService("gateway", append(traces, tracestore.Trace{}), 0.95)
	if c.Slow != 5 || c.Baseline != 95 || c.Skipped != 1 || len(c.SlowTraces) != 5 {
		t.Errorf("%d slow, %d baseline, %d skipped of %d", c.Slow, c.Baseline, c.Skipped, c.Traces)
	}
	if c.Verdict.Layer != observe.NodeDriver || c.Verdict.Excess < 19_000_000 {
		t.Errorf("%s", c.Verdict.Text)
	}
	if few := CompareService("gateway", traces[:1], 0.95); few.Verdict.Layer != observe.NoLayer || few.Verdict.Confidence != Low {
		t.Errorf("of one trace: %+v", few.Verdict)
	}
}

// In some of seven traces the slow network is merged with a driver, which was not
// captured, and in another hop it is not. One such trace is an exception.
func TestLayersSometimesTogether(t *testing.T) {
	const normal, slowly = 15_000, 1_800_000
	relay := key{layer: observe.RelayNetwork, location: "node3-node4"}
	group := key{layer: relay.layer, location: relay.location, merged: "[relay-network node-driver]"}
	merged := []observe.Layer{observe.RelayNetwork, observe.NodeDriver}
	trace := func(times map[key]int64) measured {
		m := measured{sums: sums{}}
		for k, ns := range times {
			one := &total{time: ns, segments: map[segmentKey]amount{
				{between: k.merged}: {ns, &breakdown.Hop{}, breakdown.Segment{Layer: k.layer, Location: k.location, Time: ns}},
			}}
			if k.merged != "" {
				one.merged = merged
			}
			m.sums[k] = one
			m.total += ns
		}
		return m
	}
	for grouped, want := range [][]observe.Layer{0: nil, 1: nil, 2: merged} {
		var baseline, slow []measured
		for range 50 {
			baseline = append(baseline, trace(map[key]int64{relay: normal}))
		}
		for i := range 7 {
			times := map[key]int64{relay: slowly}
			if i < grouped {
				times = map[key]int64{relay: normal, group: slowly}
			}
			slow = append(slow, trace(times))
		}
		var c Comparison
		c.compare(baseline, slow)
		v := c.Verdict
		if v.Layer != observe.RelayNetwork || v.Location != relay.location || v.Excess < slowly-normal {
			t.Errorf("%d with a group: verdict %+v", grouped, v)
		}
		if !slices.Equal(v.MergedLayers, want) || (v.Confidence == Low) != (want != nil) {
			t.Errorf("%d with a group: merged layers %v with confidence %s, want %v", grouped, v.MergedLayers, v.Confidence, want)
		}
	}
}

// A hop without a known parent in one of the traces lowers the confidence of the group
// as it does for the trace alone.
func TestGroupWithSecondRoot(t *testing.T) {
	relay := key{layer: observe.RelayNetwork, location: "node3-node4"}
	trace := func(ns int64, roots int) measured {
		return measured{total: ns, roots: roots, sums: sums{relay: {time: ns, segments: map[segmentKey]amount{
			{between: "a"}: {ns, &breakdown.Hop{}, breakdown.Segment{Time: ns}},
		}}}}
	}
	for roots, want := range map[int]Confidence{1: High, 2: Medium} {
		var baseline []measured
		for range 50 {
			baseline = append(baseline, trace(1_000_000, 1))
		}
		var c Comparison
		c.compare(baseline, []measured{trace(90_000_000, 1), trace(100_000_000, roots)})
		if c.Verdict.Layer != observe.RelayNetwork || c.Verdict.Confidence != want {
			t.Errorf("%d roots: %s confidence, want %s: %s", roots, c.Verdict.Confidence, want, c.Verdict.Text)
		}
	}
}

// The segment that a verdict of several traces shows as evidence is no longer than the
// layer's median time: it is of the median trace, not of the slowest.
func TestEvidenceOfMedianTrace(t *testing.T) {
	one := func(ns int64) *total {
		return &total{time: ns, segments: map[segmentKey]amount{
			{between: "a"}: {ns, &breakdown.Hop{}, breakdown.Segment{Time: ns}},
		}}
	}
	if got := longest([]*total{one(225), one(53), one(40)}, nil).time; got != 53 {
		t.Errorf("the longest segment has %d ns, want 53", got)
	}
}
