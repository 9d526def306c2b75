// SPDX-License-Identifier: Apache-2.0

package explain

import (
	"cmp"
	"fmt"
	"maps"
	"slices"

	"github.com/layertrace/layertrace/agent/internal/tracestore"
	"github.com/layertrace/layertrace/internal/observe"
)

// maxListed is the maximum number of slow traces to list.
const maxListed = 10

// CompareService compares the slowest traces of a service, those above the quantile
// (0 to 1) of their times, with all others, and names the layer that makes the
// difference.
func CompareService(service string, traces []tracestore.Trace, slowQuantile float64) Comparison {
	c := newComparison(len(traces))
	c.Service = service
	all := c.take(traces, newMeasuredTrace)
	c.Skipped = len(traces) - len(all)
	if len(all) < 2 {
		c.Verdict = noVerdict("There are too few traces to compare.")
		c.Verdict.Confidence = Low
		return c
	}
	mixed := ""
	chosen, leftOut := mostDelayed(all, slowQuantile)
	if leftOut > 0 {
		c.Notes = append(c.Notes, fmt.Sprintf("compared are requests for %s, which lost the most time; %s for other paths", chosen[0].request, counted(leftOut, "trace is", "traces are")))
	} else if requests := requestsOf(all); requests == 1 && !all[0].request.known() {
		mixed = pathUnknown
	} else if requests > 1 {
		mixed = fmt.Sprintf("the traces have requests for %d different paths, too few for each to be compared by itself", requests)
	}
	slices.SortFunc(chosen, byTotal)
	first := firstSlow(len(chosen), slowQuantile)
	baseline, slow := chosen[:first], chosen[first:]
	c.Threshold = slow[0].total
	c.compare(baseline, slow)
	c.Verdict.doubt(mixed)
	return c
}

// requestsOf is the number of different requests.
func requestsOf(all []measured) int {
	requests := map[request]bool{}
	for _, m := range all {
		requests[m.request] = true
	}
	return len(requests)
}

// compareTraces compares some traces with a baseline, and names the layer that is
// slower in most of them. Chance in one of them does not count.
func compareTraces(traces, baseline []tracestore.Trace, measure measuring) Comparison {
	c := newComparison(len(traces) + len(baseline))
	for _, t := range traces {
		c.TraceIDs = append(c.TraceIDs, t.ID.String())
		c.Service, _ = rootOf(t)
	}
	before, slow := c.take(baseline, measure), c.take(traces, measure)
	c.Skipped = c.Traces - len(before) - len(slow)
	if len(slow) == 0 {
		c.Verdict = noVerdict("No hop of these traces was seen from its request to its response.")
		c.Verdict.Confidence = Low
		return c
	}
	slices.SortFunc(slow, byTotal)
	c.compare(before, slow)
	if len(traces) == 1 { // the same as of the one
		r := timesOf(baseline, measure).explain(traces[0])
		c.SlowTotal, c.Unattributed, c.Verdict = r.Total, r.Unattributed, r.Verdict
		if c.Verdict.blames() { // here of what the trace took more
			c.Verdict.Share = share(c.Verdict.Excess, c.difference())
		}
	}
	if len(before) == 0 {
		c.Notes = append(c.Notes, "no baseline to compare with: the verdict is the layer that took the longest, which may be normal")
	}
	return c
}

func newComparison(traces int) Comparison {
	return Comparison{
		Traces: traces, SkippedReasons: map[string]int{},
		Layers: []LayerDelta{}, SlowTraces: []string{}, Notes: []string{},
	}
}

func byTotal(a, b measured) int { return cmp.Compare(a.total, b.total) }

// take returns the traces that can be compared, and counts those that it skips.
func (c *Comparison) take(traces []tracestore.Trace, measure measuring) (all []measured) {
	for _, t := range traces {
		if at := t.Start(); !at.IsZero() {
			if c.From.IsZero() || at.Before(c.From) {
				c.From = at
			}
			if at.After(c.To) {
				c.To = at
			}
		}
		switch m := measure(t); {
		case t.Partial != "":
			c.SkippedReasons["the store returned only a part"]++
		case len(t.Observations) == 0:
			c.SkippedReasons["no spans of layertrace"]++
		case m.total == 0:
			c.SkippedReasons["no hop seen from request to response"]++
		default:
			one := m.measured
			one.sums = maps.Clone(one.sums) // alignMerged changes them
			all = append(all, one)
		}
	}
	return all
}

// compare fills in the totals, layers and the verdict. slow is in ascending order.
func (c *Comparison) compare(baseline, slow []measured) {
	whole := func(m measured) int64 { return m.total }
	c.Baseline, c.Slow = len(baseline), len(slow)
	c.BaselineTotal, c.SlowTotal = medianOf(baseline, whole), medianOf(slow, whole)
	c.Unattributed = medianOf(slow, func(m measured) int64 { return m.unattributed })
	for i := len(slow) - 1; i >= 0 && len(c.SlowTraces) < maxListed; i-- {
		c.SlowTraces = append(c.SlowTraces, slow[i].id)
	}
	alignMerged(baseline, slow)
	found := candidates(sumsOf(slow), referenceOf(sumsOf(baseline)), c.SlowTotal)
	for _, f := range found {
		c.Layers = append(c.Layers, LayerDelta{
			Layer: f.layer, Location: f.location, Namespace: f.namespace, Slow: f.time, Baseline: f.usual(), Excess: f.difference(),
			Share: share(f.difference(), c.difference()), MergedLayers: f.merged,
		})
	}
	slices.SortFunc(c.Layers, func(a, b LayerDelta) int {
		return cmp.Or(cmp.Compare(b.Excess, a.Excess), cmp.Compare(a.Layer, b.Layer), cmp.Compare(a.Location, b.Location))
	})
	c.Verdict = judge(found, c.SlowTotal, len(baseline))
	c.Verdict.capUnexplained(c.SlowTotal, c.BaselineTotal)
	c.Verdict.capConfidence(medianOf(slow, func(m measured) int64 { return m.unclear }), c.SlowTotal)
	cut, inferred, contradictions := observe.Flags(0), false, []string(nil)
	for _, m := range slow {
		if len(m.contradictions) > 0 {
			contradictions = append(contradictions, m.contradictions[0])
		}
		cut |= m.cut
		inferred = inferred || m.inferred
	}
	c.Verdict.contradicted(contradictions)
	if n := len(contradictions); n > 3 {
		contradictions = append(contradictions[:3], counted(n-3, "more trace has such a span", "more traces have such a span"))
	}
	c.Notes = append(c.Notes, contradictions...)
	c.Verdict.capCut(cut)
	c.Verdict.capInferred(inferred)
	c.Verdict.capMissing(missingInMost(baseline, slow))
	aheadIn := func(m measured) int64 { return m.ahead }
	ahead, usual := medianOf(slow, aheadIn), medianOf(baseline, aheadIn)
	c.Verdict.capAhead(slowAhead(ahead, usual, c.SlowTotal), ahead-usual)
	c.Verdict.capRoots(slices.MaxFunc(slow, func(a, b measured) int { return cmp.Compare(a.roots, b.roots) }).roots)
	if c.Verdict.Layer != observe.NoLayer {
		c.Verdict.Share = share(c.Verdict.Excess, c.difference())
		if found[0].compared && !found[0].isPartial() {
			c.Verdict.Text = found[0].withWay(fmt.Sprintf("The slow traces are slow in the %s: %s, in the baseline %s.",
				found[0].title(), duration(found[0].time), duration(found[0].baseline)))
		}
	}
}

// missingInMost returns which hop more of the slow traces than the exceptions lack, "" if
// none.
func missingInMost(baseline, slow []measured) (why string) {
	made := make([]calls, len(baseline))
	for i, m := range baseline {
		made[i] = m.calls
	}
	usual, lacking := usualCallsOf(made), 0
	for _, m := range slow {
		if text := usual.missing(m.calls); text != "" {
			why = text
			lacking++
		}
	}
	if lacking <= exceptions(len(slow)) {
		return ""
	}
	return why
}

// difference is the time in ns above the baseline, or all of it without one.
func (c *Comparison) difference() int64 { return c.SlowTotal - max(c.BaselineTotal, 0) }

func sumsOf(all []measured) []sums {
	s := make([]sums, len(all))
	for i, m := range all {
		s[i] = m.sums
	}
	return s
}

// medianOf returns the median of a value, -1 without traces.
func medianOf(all []measured, value func(measured) int64) int64 {
	if len(all) == 0 {
		return -1
	}
	values := make([]int64, len(all))
	for i, m := range all {
		values[i] = value(m)
	}
	return distributionOf(values).median
}

// alignMerged makes traces comparable if only some of the slow ones have merged
// layers: in all traces it adds their time to the first of these layers. Otherwise
// the time of a layer would be under one key in some traces, and under another in
// the rest. It ignores merged layers in no more traces than the exceptions.
func alignMerged(baseline, slow []measured) {
	for first, groups := range partlyMerged(slow) {
		with := 0
		for _, m := range slow {
			if slices.ContainsFunc(groups, func(k key) bool { return m.sums[k] != nil }) {
				with++
			}
		}
		if with <= exceptions(len(slow)) {
			continue
		}
		for _, m := range slices.Concat(baseline, slow) {
			for _, k := range groups {
				m.sums.move(k, first)
			}
		}
	}
}

// partlyMerged returns the merged layers that some of the traces have, but not all,
// by their first layer.
func partlyMerged(traces []measured) map[key][]key {
	in := map[key]int{}
	for _, m := range traces {
		for k := range m.sums {
			if k.merged != "" {
				in[k]++
			}
		}
	}
	groups := map[key][]key{}
	for k, n := range in {
		if n < len(traces) {
			first := key{layer: k.layer, location: k.location}
			groups[first] = append(groups[first], k)
		}
	}
	for _, some := range groups {
		slices.SortFunc(some, func(a, b key) int { return cmp.Compare(a.merged, b.merged) })
	}
	return groups
}

// move adds the time under one key to another.
func (s sums) move(from, to key) {
	t := s[from]
	if t == nil {
		return
	}
	delete(s, from)
	both := *t
	both.segments = maps.Clone(t.segments)
	if other := s[to]; other != nil {
		both.time += other.time
		both.namespace = cmp.Or(both.namespace, other.namespace)
		for k, a := range other.segments {
			both.segments[k] = both.segments[k].plus(a)
		}
		for _, l := range other.merged {
			if !slices.Contains(both.merged, l) {
				both.merged = append(slices.Clone(both.merged), l)
			}
		}
	}
	s[to] = &both
}
