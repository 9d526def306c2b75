// SPDX-License-Identifier: Apache-2.0

package explain

import (
	"fmt"

	"go.opentelemetry.io/otel/trace"

	"github.com/layertrace/layertrace/agent/internal/breakdown"
	"github.com/layertrace/layertrace/agent/internal/tracestore"
)

const (
	// minUnseen is the smallest time in ns by which a proxy's span must exceed its hop
	// to contradict it, minUnseenShare its smallest share of the span. A span also has
	// the proxy's own work, which no hop has if the proxy's request was not seen.
	minUnseen      = int64(2_000_000)
	minUnseenShare = 0.05
)

// unseen returns the time in ns by which the spans that proxies and applications
// reported exceed the root hop: they have a clock of their own. 0: none contradicts.
//
// The span in a hop's header is its sender's, so it lasts as long as all attempts at
// least, and at most as long as the request that the sender handles.
func unseen(t tracestore.Trace, tree *breakdown.Tree) (most int64, notes []string) {
	if len(tree.Roots) == 0 {
		return 0, nil
	}
	reported := reportedTimes(t)
	seen, root := map[trace.SpanID]int64{}, tree.Roots[0]
	passedOn := passedOn(tree)
	for _, h := range tree.Hops {
		if !passedOn[h] {
			seen[h.SpanID] += h.Total // several attempts
		}
	}
	for _, h := range tree.Hops {
		time, known := reported[h.SpanID]
		if !known || !h.OnCriticalPath || passedOn[h] {
			continue
		}
		within := seen[h.SpanID]
		if h.Parent != nil {
			within = max(within, h.Parent.Total)
		}
		if !contradicts(time, within) {
			continue
		}
		notes = append(notes, fmt.Sprintf("the span %s, reported by a proxy or application, took %s; the hop %s was seen for %s of it",
			h.SpanID, duration(time), hopName(h), duration(within)))
		most = max(most, time-max(root.Total, within))
	}
	return most, notes
}

// reportedTimes are the times in ns of the spans that proxies and applications reported.
// Client and server may share an ID: the longer one counts.
func reportedTimes(t tracestore.Trace) map[trace.SpanID]int64 {
	times := map[trace.SpanID]int64{}
	for _, s := range t.Spans {
		times[s.ID] = max(times[s.ID], s.Duration.Nanoseconds())
	}
	return times
}

// aheadOf returns the time in ns by which the spans above a trace's first hop exceed it: of a
// client or a proxy whose own request carried no context, so that no agent saw it. 0: none.
func aheadOf(t tracestore.Trace, tree *breakdown.Tree) (ahead int64) {
	above, reported := parents(t), reportedTimes(t)
	root := tree.Roots[0]
	id := root.SpanID
	for range len(above) { // spans may be their own ancestors
		parent, known := above[id]
		if !known {
			break
		}
		id = parent
		ahead = max(ahead, reported[id]-root.Total)
	}
	return ahead
}

// slowAhead says that the spans above a trace's first hop took much longer than those of the
// baseline, "" if they did not. usual is the median of the baseline in ns, -1 if unknown.
func slowAhead(ahead, usual, whole int64) string {
	more := ahead - max(usual, 0)
	if usual < 0 || more <= max(minUnseen, int64(minUnseenShare*float64(whole))) {
		return ""
	}
	return fmt.Sprintf("the spans above the first hop took %s more than it, in the baseline %s: no agent saw that time", duration(ahead), duration(usual))
}

// capAhead lowers the confidence for the reason of slowAhead: to low if that is more time than
// the verdict blames.
func (v *Verdict) capAhead(why string, more int64) {
	if why == "" {
		return
	}
	v.doubt(why)
	if more > v.Excess {
		v.Confidence = Low
	}
}

func contradicts(reported, seen int64) bool {
	return reported-seen > max(minUnseen, int64(minUnseenShare*float64(reported)))
}

// passedOn returns the hops whose header has the same span as that of a hop above:
// applications pass on the header that they receive.
func passedOn(tree *breakdown.Tree) map[*breakdown.Hop]bool {
	all := map[*breakdown.Hop]bool{}
	var above []trace.SpanID // of the hops from the root to the present one
	count := map[trace.SpanID]int{}
	for _, h := range tree.Hops { // each comes right after its parent or after what is below a sibling
		for len(above) > h.Depth {
			last := len(above) - 1
			count[above[last]]--
			above = above[:last]
		}
		if count[h.SpanID] > 0 {
			all[h] = true
		}
		above = append(above, h.SpanID)
		count[h.SpanID]++
	}
	return all
}

// contradicted lowers the confidence because spans took longer than what was seen.
func (v *Verdict) contradicted(notes []string) {
	if len(notes) > 0 {
		v.doubt(notes[0])
	}
}
