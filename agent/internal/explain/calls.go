// SPDX-License-Identifier: Apache-2.0

package explain

import (
	"cmp"
	"fmt"
	"slices"

	"github.com/layertrace/layertrace/agent/internal/breakdown"
	"github.com/layertrace/layertrace/internal/observe"
	"github.com/layertrace/layertrace/internal/stats"
)

// A hop that no agent reported, because its records were lost or have not arrived, counts as
// the application of the one that sent it. Nothing in the trace shows that, but the baseline
// does: there the same hop caused more of them.

// calls are the hops that each hop of a trace caused, and where the trace begins.
type calls struct {
	order  []string       // names of the hops, each once, parents first
	caused map[string]int // child hops by the name of the hop; the fewest, of several hops
	root   begin
}

// begin is the hop that a trace begins with, and the first and last point of its sender that
// saw it.
type begin struct{ hop, from, to string }

func callsOf(tree *breakdown.Tree) calls {
	c := calls{caused: map[string]int{}}
	for i, h := range tree.Hops {
		name := hopName(h)
		if i == 0 {
			from, to := h.Seen()
			c.root = begin{name, from, to}
		}
		fewest, known := c.caused[name]
		if !known {
			c.order, fewest = append(c.order, name), len(h.Children)
		}
		c.caused[name] = min(fewest, len(h.Children))
	}
	return c
}

// usualCalls are those of a baseline.
type usualCalls struct {
	traces int
	roots  map[begin]int  // traces by their begin
	least  map[string]int // child hops that all but minTailShare of the traces have at least
}

func usualCallsOf(baseline []calls) usualCalls {
	u := usualCalls{len(baseline), map[begin]int{}, map[string]int{}}
	caused := map[string][]int{}
	for _, c := range baseline {
		u.roots[c.root]++
		for name, n := range c.caused {
			caused[name] = append(caused[name], n)
		}
	}
	for name, all := range caused {
		slices.Sort(all)
		u.least[name] = stats.Quantile(all, minTailShare)
	}
	return u
}

// missing returns which hop a trace probably lacks, "" if it has all that are usual.
func (u usualCalls) missing(c calls) string {
	if u.traces == 0 {
		return ""
	}
	if float64(u.roots[c.root]) < minTailShare*float64(u.traces) {
		return fmt.Sprintf("the trace begins with the hop %s, seen from %s to %s of its sender, but hardly any trace of the baseline does: what came before and after may not have been seen",
			c.root.hop, cmp.Or(c.root.from, "nowhere"), cmp.Or(c.root.to, "nowhere"))
	}
	for _, name := range c.order {
		if why := u.missingBelow(name, c.caused[name]); why != "" {
			return why
		}
	}
	return ""
}

// missingBelow returns which hop is probably missing below one that caused so many, "" if
// none is.
func (u usualCalls) missingBelow(name string, caused int) string {
	if caused >= u.least[name] {
		return ""
	}
	return fmt.Sprintf("the hop %s caused %s, but in the baseline %d: what is missing may not have been seen, and its time counts as the application's",
		name, counted(caused, "hop", "hops"), u.least[name])
}

// capMissing lowers a high confidence if a hop may be missing; to low if an application is
// blamed, which the time of that hop would count for.
func (v *Verdict) capMissing(why string) {
	if why == "" {
		return
	}
	v.doubt(why)
	if v.Layer == observe.Application {
		v.Confidence = Low
	}
}
