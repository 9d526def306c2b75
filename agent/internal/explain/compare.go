// SPDX-License-Identifier: Apache-2.0

package explain

import (
	"cmp"
	"fmt"
	"slices"

	"github.com/layertrace/layertrace/agent/internal/breakdown"
	"github.com/layertrace/layertrace/agent/internal/tracestore"
	"github.com/layertrace/layertrace/internal/observe"
)

// slowListed is how many IDs of slow traces are told.
const slowListed = 10

// measured is a trace with its sums.
type measured struct {
	id                  string
	total, unattributed int64
	sums                sums
}

// Compare sets the slowest traces, those above the quantile (0 to 1) of their
// times, against all others, and names the layer that makes the difference.
func Compare(service string, traces []tracestore.Trace, slowQuantile float64) Comparison {
	c := Comparison{
		Service: service, Traces: len(traces), Reasons: map[string]int{},
		Layers: []Delta{}, SlowTraces: []string{}, Notes: []string{},
	}
	all := c.measure(traces)
	c.Left = len(traces) - len(all)
	if len(all) < 2 {
		c.Verdict = nothingToBlame("There are too few traces to compare.")
		c.Verdict.Confidence = Low
		return c
	}
	slices.SortFunc(all, func(a, b measured) int { return cmp.Compare(a.total, b.total) })
	first := min(max(int(float64(len(all))*slowQuantile), 1), len(all)-1)
	usual, slow := all[:first], all[first:]
	c.Threshold = slow[0].total
	c.compare(usual, slow)
	return c
}

// Together tells what some traces have in common that a baseline has not. What
// happens to one of them by chance does not count.
func Together(traces, baseline []tracestore.Trace) Comparison {
	c := Comparison{
		Traces: len(traces) + len(baseline), Reasons: map[string]int{},
		Layers: []Delta{}, SlowTraces: []string{}, Notes: []string{},
	}
	for _, t := range traces {
		c.Asked = append(c.Asked, t.ID.String())
		c.Service, _ = Root(t)
	}
	usual := c.measure(baseline)
	slow := c.measure(traces)
	c.Left = c.Traces - len(usual) - len(slow)
	if len(slow) == 0 {
		c.Verdict = nothingToBlame("No hop of these traces was seen from its request to its response.")
		c.Verdict.Confidence = Low
		return c
	}
	slices.SortFunc(slow, func(a, b measured) int { return cmp.Compare(a.total, b.total) })
	c.compare(usual, slow)
	if len(usual) == 0 {
		c.Notes = append(c.Notes, "there are no typical traces to compare with: the verdict is what took most, which may be as usual")
	}
	return c
}

func (c *Comparison) measure(traces []tracestore.Trace) (all []measured) {
	for _, t := range traces {
		if at := start(t); !at.IsZero() {
			if c.From.IsZero() || at.Before(c.From) {
				c.From = at
			}
			if at.After(c.To) {
				c.To = at
			}
		}
		tree := breakdown.Split(t.Observations, parents(t))
		switch {
		case len(t.Observations) == 0:
			c.Reasons["no spans of layertrace"]++
		case tree.Roots[0].Total == 0:
			c.Reasons["no hop seen from request to response"]++
		default:
			s, unattributed := sum(tree)
			all = append(all, measured{t.ID.String(), tree.Roots[0].Total, unattributed, s})
		}
	}
	return all
}

// compare fills in the totals, layers and the verdict; slow is in ascending
// order.
func (c *Comparison) compare(usual, slow []measured) {
	whole := func(m measured) int64 { return m.total }
	c.Baseline, c.Slow = len(usual), len(slow)
	c.BaselineTotal, c.SlowTotal = medianOf(usual, whole), medianOf(slow, whole)
	c.Unattributed = medianOf(slow, func(m measured) int64 { return m.unattributed })
	for i := len(slow) - 1; i >= 0 && len(c.SlowTraces) < slowListed; i-- {
		c.SlowTraces = append(c.SlowTraces, slow[i].id)
	}
	joinSometimes(usual, slow)
	found := candidates(sumsOf(slow), referenceOf(sumsOf(usual)), c.SlowTotal)
	for _, f := range found {
		c.Layers = append(c.Layers, Delta{
			Layer: f.layer, Location: f.place, Slow: f.time, Baseline: f.typical, Excess: f.difference(),
			Share: share(f.difference(), c.SlowTotal-c.BaselineTotal), MergedLayers: f.layers,
		})
	}
	slices.SortFunc(c.Layers, func(a, b Delta) int {
		return cmp.Or(cmp.Compare(b.Excess, a.Excess), cmp.Compare(a.Layer, b.Layer), cmp.Compare(a.Location, b.Location))
	})
	c.Verdict = judge(found, c.SlowTotal, len(usual))
	if c.Verdict.Layer != observe.NoLayer {
		c.Verdict.Share = share(c.Verdict.Excess, c.SlowTotal-c.BaselineTotal)
		if !found[0].inParts() {
			c.Verdict.Text = fmt.Sprintf("The slow traces are slow by the %s: %s, in typical ones %s.",
				found[0].what(), short(found[0].time), short(found[0].typical))
		}
	}
}

func sumsOf(all []measured) []sums {
	s := make([]sums, len(all))
	for i, m := range all {
		s[i] = m.sums
	}
	return s
}

// medianOf returns the median of a figure, 0 of none.
func medianOf(all []measured, figure func(measured) int64) int64 {
	if len(all) == 0 {
		return 0
	}
	values := make([]int64, len(all))
	for i, m := range all {
		values[i] = figure(m)
	}
	return distributionOf(values).median
}
