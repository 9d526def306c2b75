// SPDX-License-Identifier: Apache-2.0

package explain

import (
	"cmp"
	"fmt"
	"math"
	"slices"
	"time"

	"github.com/layertrace/layertrace/agent/internal/breakdown"
	"github.com/layertrace/layertrace/internal/observe"
)

const (
	// leastExcess is the least time in ns more than typical that is blamed on a
	// layer, and leastShare the least share of it in the whole.
	leastExcess = int64(700 * time.Microsecond)
	leastShare  = 0.03
	// chance is how likely a layer of several traces may be blamed that does
	// nothing unusual.
	chance = 0.0005
	// leastBeyond is how many of the typical traces may be as slow as one that a
	// layer is blamed for: in an incident some of them have the same cause.
	leastBeyond = 0.05
	// fewTraces is how many typical traces are too few to be sure.
	fewTraces = 10
)

// verdict names the layer that took longer than it usually does. Without a
// baseline it is the one that took most.
func (y *typical) verdict(s sums, whole int64, tree *breakdown.Tree) Verdict {
	v := judge(candidates([]sums{s}, y.whole, whole), whole, y.traces)
	if y.traces == 0 {
		v.Evidence = append(v.Evidence, "there are no typical traces to compare with: this is what took most, which may be as usual")
	}
	if len(tree.Roots) > 1 && v.Confidence == High {
		v.Confidence = Medium
	}
	return v
}

// hopVerdict is the same within a hop.
func (y *typical) hopVerdict(l *breakdown.Hop) Verdict {
	if len(l.Segments) == 0 {
		return nothingToBlame("This hop was not seen from its request to its response.")
	}
	return judge(candidates([]sums{sumOf(l)}, y.hops[hopName(l)], l.Total), l.Total, y.traces)
}

// exceptions is how many of several traces need not be slow: a quarter.
func exceptions(traces int) int { return traces / 4 }

// beyond returns how large a share of the typical times may lie above a time, for
// it to be chance only this seldom that all of so many traces, but for the
// exceptions, take longer.
func beyond(traces int) float64 {
	least, most := 0.0, 1.0
	for range 30 {
		middle := (least + most) / 2
		if tail(traces, traces-exceptions(traces), middle) > chance {
			most = middle
		} else {
			least = middle
		}
	}
	return max(least, leastBeyond)
}

// tail is the probability of k or more of n, each with probability p.
func tail(n, k int, p float64) (sum float64) {
	for ; k <= n; k++ {
		ways := 1.0
		for i := range k {
			ways *= float64(n-i) / float64(i+1)
		}
		sum += ways * math.Pow(p, float64(k)) * math.Pow(1-p, float64(n-k))
	}
	return sum
}

// judge names the first candidate, where it is to blame; typical is how many
// traces all are compared with.
func judge(all []candidate, whole int64, typical int) Verdict {
	if len(all) == 0 {
		return nothingToBlame("Nothing is known of the layers.")
	}
	c := all[0]
	if typical > 0 && (c.usual || c.excess < c.threshold) {
		most := slices.MaxFunc(all, func(a, b candidate) int { return cmp.Compare(a.difference(), b.difference()) })
		return nothingToBlame(fmt.Sprintf("No layer took more than it usually does; the largest difference is %s at the %s.", short(most.difference()), most.what()))
	}
	v := Verdict{
		Layer: c.layer, Location: c.place, Between: c.most.part.Between, Queue: c.most.part.Queue, Time: c.time, Excess: c.excess,
		Share: share(c.excess, whole), MergedLayers: c.layers, Evidence: []string{}, Confidence: confidence(all, typical),
	}
	if c.compared {
		v.Text = fmt.Sprintf("The %s took %s, %s more than usual.", c.what(), short(c.time), short(c.excess))
		if c.inParts() {
			v.Text = fmt.Sprintf("Segments of the %s took %s more than usual, the whole %s.", c.what(), short(c.excess), short(c.time))
		}
		v.Evidence = append(v.Evidence, fmt.Sprintf("%s; in %d typical traces %s", short(c.time), typical, short(c.typical)))
		if e := c.elsewhere(); e != "" {
			v.Evidence = append(v.Evidence, e)
		}
	} else {
		v.Text = fmt.Sprintf("The %s took most: %s of %s.", c.what(), short(c.time), short(whole))
	}
	v.Evidence = append(v.Evidence, evidence(c.most.leg, c.most.part)...)
	return v
}

func confidence(all []candidate, typical int) Confidence {
	c := all[0]
	switch {
	case len(c.layers) > 0 || !c.compared:
		return Low
	case typical < fewTraces || len(all) > 1 && !all[1].usual && all[1].excess > c.excess/2 || c.excess < 2*c.threshold:
		return Medium
	default:
		return High
	}
}

func nothingToBlame(text string) Verdict {
	return Verdict{Layer: observe.NoLayer, Confidence: High, Evidence: []string{}, Text: text}
}

// words are the layers' names in sentences: the paper's.
var words = map[observe.Layer]string{
	observe.Application: "application", observe.ProtocolStack: "protocol stack", observe.NodeDriver: "node driver",
	observe.VirtualNetwork: "virtual network", observe.RelayNetwork: "relay network",
}

// what names the layer and its place, or the group.
func (c candidate) what() string {
	name := words[c.layer]
	for _, other := range c.layers[min(1, len(c.layers)):] {
		name += " or " + words[other]
	}
	return name + " of " + c.place
}

// short writes a time in ns with three digits.
func short(ns int64) string {
	d := time.Duration(ns)
	switch {
	case d >= time.Second || -d >= time.Second:
		return fmt.Sprintf("%.2f s", d.Seconds())
	case d >= time.Millisecond || -d >= time.Millisecond:
		return fmt.Sprintf("%.2f ms", d.Seconds()*1e3)
	default:
		return fmt.Sprintf("%.0f µs", d.Seconds()*1e6)
	}
}
