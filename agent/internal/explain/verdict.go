// SPDX-License-Identifier: Apache-2.0

package explain

import (
	"cmp"
	"fmt"
	"math"
	"slices"
	"strings"
	"time"

	"github.com/layertrace/layertrace/agent/internal/breakdown"
	"github.com/layertrace/layertrace/internal/observe"
)

const (
	// minExcess is the smallest excess in ns that a layer is blamed for, minShare
	// its smallest share of the whole time.
	minExcess = int64(700 * time.Microsecond)
	minShare  = 0.03
	// minSegmentShare is the smallest excess of a segment that belongs to its
	// layer's, as a share of the largest one; minExcess is always enough. Smaller
	// ones are consequences: everything runs slower for a while after a wait.
	minSegmentShare = 0.25
	// maxFalsePositive is the accepted probability of blaming a layer of several
	// traces that is no slower than the baseline.
	maxFalsePositive = 0.0005
	// minTailShare is the share of the baseline that may always be as slow as a
	// blamed layer: in an incident some of it has the same cause.
	minTailShare = 0.05
	// minBaseline is the number of baseline traces from which on they are enough.
	minBaseline = 10
)

// verdict names the layer of a trace that is slower than the baseline; without a
// baseline, the one that took the longest.
func (b *baselineTimes) verdict(s sums, whole int64, tree *breakdown.Tree) Verdict {
	all := candidates([]sums{s}, b.whole, whole)
	v := judge(all, whole, b.traces)
	if v.Layer != observe.NoLayer && b.traces > 0 {
		v.doubt(b.doubt(&v, all[0].longest.hop))
	}
	if b.traces > 0 {
		v.capUnexplained(whole, b.total)
	} else {
		v.Evidence = append(v.Evidence, "no baseline to compare with: this layer took the longest, which may be normal")
	}
	v.capRoots(len(tree.Roots))
	return v
}

// capRoots lowers a high confidence if a trace has hops without a known parent: its
// critical path may be another one.
func (v *Verdict) capRoots(roots int) {
	if roots > 1 && v.Confidence == High {
		v.Confidence = Medium
	}
}

// hopVerdict does the same for one hop.
func (b *baselineTimes) hopVerdict(h *breakdown.Hop) Verdict {
	if len(h.Segments) == 0 {
		return noVerdict("This hop was not seen from its request to its response.")
	}
	r, mixed := b.ofHop(h)
	v := judge(candidates([]sums{sumOfHop(h)}, r.reference, h.Total), h.Total, min(r.hops, b.traces))
	v.doubt(mixed)
	return v
}

// doubt returns why the hop that a verdict on a trace blames may be as slow as ever there:
// what it asked for is slow, or rare; "" if it is not.
func (b *baselineTimes) doubt(v *Verdict, h *breakdown.Hop) string {
	r, mixed := b.ofHop(h)
	if mixed != "" || r.hops == b.hops[hopKey{name: hopName(h)}].hops || len(h.Segments) == 0 {
		return mixed
	}
	if alone := b.hopVerdict(h); alone.Layer != v.Layer || alone.Location != v.Location {
		return fmt.Sprintf("the hop %s alone, compared with %s for %s: %s", hopName(h), counted(r.hops, "request", "requests"), requestOfHop(h), alone.Text)
	}
	return ""
}

// candidate is a layer that may be blamed, in one trace or in several.
type candidate struct {
	key
	// time and baseline are medians in ns.
	time, baseline    int64
	excess, threshold int64
	compared          bool // there is a baseline
	// withinBaseline: so many baseline traces are as slow that it may be chance.
	withinBaseline bool
	// hidden is how much of time may be a delay all the same, in ns.
	hidden int64
	// strange is the time in ns of segments that the baseline does not have, per trace.
	strange   int64
	merged    []observe.Layer
	namespace string // of total
	// longest segment; of the slow ones, if there are any.
	longest amount
	// way that the longest segments of all traces but the exceptions lost most of their
	// time on, "" if unknown.
	way breakdown.Phase
}

// candidates returns the layers of slow traces, largest excess first. A layer that
// fewer than half of them have is ignored. whole is the time in ns of a whole
// trace or hop.
func candidates(slow []sums, baseline reference, whole int64) []candidate {
	having := map[key][]*total{}
	for _, s := range slow {
		for k, t := range s {
			having[k] = append(having[k], t)
		}
	}
	tail, fast := tailShare(len(slow)), fastShare(len(slow))
	var all []candidate
	for k, totals := range having {
		if 2*len(totals) < len(slow) {
			continue
		}
		c := candidate{key: k, threshold: max(minExcess, int64(minShare*float64(whole)))}
		for _, t := range totals {
			if len(t.merged) > len(c.merged) {
				c.merged = t.merged
			}
			c.namespace = cmp.Or(c.namespace, t.namespace)
		}
		c.weigh(totals, len(slow), baseline, tail, fast)
		all = append(all, c)
	}
	slices.SortFunc(all, func(a, b candidate) int {
		switch {
		case a.withinBaseline && !b.withinBaseline:
			return 1
		case b.withinBaseline && !a.withinBaseline:
			return -1
		}
		return cmp.Or(cmp.Compare(b.excess, a.excess), cmp.Compare(a.String(), b.String()))
	})
	return all
}

// weigh sets the excess of a layer over the baseline. That is the excess of its slow
// segments, or of the whole layer if they make less than half of it.
func (c *candidate) weigh(totals []*total, slow int, baseline reference, tail, fast float64) {
	times := make([]int64, len(totals))
	for i, t := range totals {
		times[i] = t.time
	}
	d, before := distributionOf(times), orUnknown(baseline.layers, c.key)
	c.time, c.baseline, c.compared = d.median, max(before.median, 0), before.median >= 0
	c.excess, c.hidden = c.difference(), c.time-max(before.fastest(fast), 0)
	if c.withinBaseline = c.compared && d.lowest(slow) <= before.exceededBy(tail); c.withinBaseline {
		// There are more segments than layers, so one of them exceeds the baseline
		// by chance more often.
		tail = min(tail, minTailShare)
	}
	excess, segments := slowSegments(totals, slow, baseline.segments, tail)
	if c.compared && excess > 0 && 2*excess >= c.excess {
		c.excess, c.withinBaseline = excess, false
	} else {
		segments = nil
	}
	c.strange = strange(totals, baseline.segments)
	c.longest = longest(totals, segments)
	ways := map[breakdown.Phase]int{}
	for _, t := range totals {
		ways[longest([]*total{t}, segments).segment.Way]++
	}
	for _, way := range []breakdown.Phase{breakdown.Request, breakdown.Response} {
		if ways[way] >= len(totals)-exceptions(len(totals)) {
			c.way = way
		}
	}
}

// strange returns the time in ns per trace of segments that the baseline does not have: a
// capture point between two of them may be missing.
func strange(totals []*total, baseline map[segmentKey]distribution) (ns int64) {
	for _, t := range totals {
		for k, a := range t.segments {
			if len(baseline[k].sorted) < minBaseline {
				ns += a.time
			}
		}
	}
	return ns / int64(len(totals))
}

// slowSegments returns the segments that are slower than the baseline, and their
// common excess in ns. It ignores segments that few of the traces have.
func slowSegments(totals []*total, slow int, baseline map[segmentKey]distribution, tail float64) (excess int64, segments map[segmentKey]bool) {
	times := map[segmentKey][]int64{}
	for _, t := range totals {
		for k, a := range t.segments {
			times[k] = append(times[k], a.time)
		}
	}
	excesses, largest := map[segmentKey]int64{}, int64(0)
	for k, all := range times {
		d, before := distributionOf(all), orUnknown(baseline, k)
		if 2*len(all) < slow || len(before.sorted) < minBaseline || d.lowest(slow) <= before.exceededBy(tail) {
			continue
		}
		excesses[k] = d.median - before.median
		largest = max(largest, excesses[k])
	}
	segments = map[segmentKey]bool{}
	medians, sumPerTrace := int64(0), make([]int64, len(totals))
	for k, ns := range excesses {
		if ns <= 0 || ns < min(minExcess, int64(minSegmentShare*float64(largest))) {
			continue
		}
		segments[k] = true
		medians += baseline[k].median
		for i, t := range totals {
			sumPerTrace[i] += t.segments[k].time
		}
	}
	return distributionOf(sumPerTrace).median - medians, segments
}

// longest returns the longest of these segments, or of all if none is given, in the
// trace with the median time of those that have one: the verdict's times are medians,
// and a segment of the slowest trace may be longer than the whole of them.
func longest(totals []*total, segments map[segmentKey]bool) (most amount) {
	inOrder := slices.Clone(totals)
	slices.SortFunc(inOrder, func(a, b *total) int { return cmp.Compare(a.time, b.time) })
	for n := len(inOrder); n > 0; n = len(inOrder) {
		middle := (n - 1) / 2
		for k, a := range inOrder[middle].segments {
			if len(segments) == 0 || segments[k] {
				most = most.plus(a)
			}
		}
		if most.hop != nil {
			return most
		}
		inOrder = slices.Delete(inOrder, middle, middle+1)
	}
	return most
}

// exceptions is the number of slow traces that need not be slow in the blamed
// layer: a quarter.
func exceptions(traces int) int { return traces / 4 }

// tailShare returns the share of the baseline that may exceed a time so that the
// probability stays below maxFalsePositive that all of so many traces, except for
// the exceptions, take longer by chance.
func tailShare(traces int) float64 {
	return max(shareFor(traces, traces-exceptions(traces), maxFalsePositive), minTailShare)
}

// maxFaster is the accepted probability that so many traces are faster than the time that
// counts as the baseline's fastest.
const maxFaster = 0.05

// fastShare returns the share of the baseline that may be below a time so that the median of so
// many traces hardly ever is by chance.
func fastShare(traces int) float64 { return shareFor(traces, (traces+1)/2, maxFaster) }

// shareFor returns the largest share (0 to 1) of a baseline so that the probability that k
// or more out of n traces belong to it by chance is at most so large.
func shareFor(n, k int, probability float64) float64 {
	low, high := 0.0, 1.0
	for range 30 {
		middle := (low + high) / 2
		if binomialTail(n, k, middle) > probability {
			high = middle
		} else {
			low = middle
		}
	}
	return low
}

// binomialTail is the probability of k or more out of n, each with probability p.
func binomialTail(n, k int, p float64) (sum float64) {
	ways := func(n int) float64 { // logarithm of n!
		l, _ := math.Lgamma(float64(n + 1))
		return l
	}
	for ; k <= n; k++ {
		sum += math.Exp(ways(n) - ways(k) - ways(n-k) + float64(k)*math.Log(p) + float64(n-k)*math.Log1p(-p))
	}
	return sum
}

// judge blames the first candidate if it is slower than the baseline. traces is the
// number of baseline traces.
func judge(all []candidate, whole int64, traces int) Verdict {
	if len(all) == 0 {
		return noVerdict("The layers are unknown.")
	}
	c := all[0]
	if traces > 0 && (c.withinBaseline || c.excess < c.threshold) {
		most := slices.MaxFunc(all, func(a, b candidate) int { return cmp.Compare(a.difference(), b.difference()) })
		v := noVerdict(fmt.Sprintf("No layer is clearly slower than the baseline; the largest difference is %s, in the %s.", duration(most.difference()), most.title()))
		if most.difference() <= 0 {
			v = noVerdict("No layer is slower than the baseline.")
		}
		switch {
		case traces < minBaseline:
			v.doubt("only " + counted(traces, "trace", "traces") + " to compare with")
		case most.difference() >= most.threshold:
			v.doubt("some traces of the baseline took as long in the " + most.title() + ", so it may be chance, or they have the same cause")
		}
		v.doubt(mayHide(all))
		return v
	}
	v := Verdict{
		Layer: c.layer, Location: c.location, Namespace: c.namespace, Between: c.longest.segment.Between, Queue: c.longest.segment.Queue, Time: c.time, Excess: c.excess,
		Share: share(c.excess, whole), MergedLayers: c.merged, Evidence: []string{}, Confidence: confidence(all, traces),
	}
	if c.compared {
		v.Text = fmt.Sprintf("The %s took %s, %s more than the baseline.", c.title(), duration(c.time), duration(c.excess))
		if c.isPartial() {
			v.Text = fmt.Sprintf("Segments of the %s took %s more than the baseline; the whole layer took %s.", c.title(), duration(c.excess), duration(c.time))
		}
		v.Text = c.withWay(v.Text)
		v.Evidence = append(v.Evidence, fmt.Sprintf("%s, in the baseline %s (median of %s)", duration(c.time), duration(c.baseline), counted(traces, "trace", "traces")))
		if e := c.elsewhere(); e != "" {
			v.Evidence = append(v.Evidence, e)
		}
	} else {
		v.Text = c.withWay(fmt.Sprintf("The %s took the longest: %s of %s.", c.title(), duration(c.time), duration(whole)))
	}
	v.Evidence = append(v.Evidence, evidence(c.longest.hop, c.longest.segment)...)
	return v
}

// mayHide returns which layer may hide a delay that it would be blamed for: its time varies so
// much in the baseline that it may have been a fast one but for the delay. "" if none does.
func mayHide(all []candidate) string {
	c := slices.MaxFunc(all, func(a, b candidate) int { return cmp.Compare(a.hidden-a.threshold, b.hidden-b.threshold) })
	if c.hidden < c.threshold {
		return ""
	}
	return fmt.Sprintf("the %s took %s, and the fastest of the baseline %s: a delay of up to %s there would not be noticed",
		c.title(), duration(c.time), duration(c.time-c.hidden), duration(c.hidden))
}

// maxUnattributed is the share of the whole time that may be unattributed in a
// verdict of high confidence.
const maxUnattributed = 0.1

// capConfidence lowers a high confidence if so much of the time is unclear, that is
// unattributed or attributed twice, that it could change the verdict; to low if that is more
// than the blamed excess, or if none is blamed.
func (v *Verdict) capConfidence(unclear, whole int64) {
	missing := max(unclear, -unclear)
	if v.Confidence == Low || float64(missing) <= maxUnattributed*float64(whole) {
		return
	}
	switch {
	case missing > v.Excess:
		v.Confidence = Low
	case v.Confidence == High:
		v.Confidence = Medium
	default:
		return
	}
	v.Evidence = append(v.Evidence, fmt.Sprintf("%s of %s could not be attributed to a layer, or belong to two", duration(missing), duration(whole)))
}

// cutReasons say what the flags of observe.Cut mean for a verdict.
var cutReasons = []struct {
	flag observe.Flags
	text string
}{
	{observe.FlagStillOpen, "an exchange was still open when it was reported: it took longer than this"},
	{observe.FlagEvicted, "an exchange was reported before its end to make room for others: it may have taken longer"},
	{observe.FlagIdle, "an exchange was reported before its end, after no packet had passed for the timeout: it may have taken longer"},
	{observe.FlagIncomplete, "a response ended before all that it announced had come: it may have been cut"},
	{observe.FlagEndGuessed, "the end of a response is not known from its framing: it may have taken longer"},
	{observe.FlagPacketsMissing, "packets did not pass a capture point that saw their connection: times may be of other bytes"},
}

// capCut lowers a high confidence if an exchange was cut, by flags of observe.Cut, and
// says why.
func (v *Verdict) capCut(flags observe.Flags) {
	if flags == 0 {
		return
	}
	if v.Confidence == High {
		v.Confidence = Medium
	}
	for _, r := range cutReasons {
		if flags&r.flag != 0 {
			v.Evidence = append(v.Evidence, r.text)
		}
	}
}

// capInferred lowers a high confidence if an encrypted exchange was joined without a record of
// the proxy.
func (v *Verdict) capInferred(inferred bool) {
	if inferred {
		v.doubt("an encrypted exchange got its trace without a record of its proxy (layertrace.join is inferred): it may belong to another request")
	}
}

// inferredOf reports whether a hop of a trace was inferred.
func inferredOf(tree *breakdown.Tree) bool {
	return slices.ContainsFunc(tree.Hops, (*breakdown.Hop).Inferred)
}

// cutOf returns the flags of observe.Cut of all hops of a trace: one that was cut may have been on the
// critical path.
func cutOf(tree *breakdown.Tree) (flags observe.Flags) {
	for _, h := range tree.Hops {
		flags |= h.Cut()
	}
	return flags
}

func noVerdict(text string) Verdict {
	return Verdict{Layer: observe.NoLayer, Confidence: High, Evidence: []string{}, Text: text}
}

func confidence(all []candidate, traces int) Confidence {
	c := all[0]
	switch {
	case len(c.merged) > 0 || !c.compared:
		return Low
	case traces < minBaseline || rival(all) > c.excess/2 || c.excess < 2*c.threshold:
		return Medium
	default:
		return High
	}
}

// rival returns the largest excess in ns that another layer than the first candidate may
// have: its own, and that of merged layers or without a baseline.
func rival(all []candidate) int64 {
	most, unclear := int64(0), int64(0)
	for _, c := range all[1:] {
		excess := max(c.excess, 0)
		switch {
		case c.withinBaseline:
		case len(c.merged) > 0 || !c.compared:
			unclear += excess
		default:
			most = max(most, max(excess, min(excess+c.strange, c.difference())))
		}
	}
	return most + unclear
}

// doubt lowers a high confidence, and says why; "" is no reason.
func (v *Verdict) doubt(why string) {
	if why == "" {
		return
	}
	if v.Confidence == High {
		v.Confidence = Medium
	}
	v.Evidence = append(v.Evidence, why)
}

// minOfWhole is the least share of a blamed layer's excess that the whole has to have lost
// too for a verdict of high confidence. With less, other layers were faster than usual, and
// the baseline is of other work, or it is chance.
const minOfWhole = 0.75

// capUnexplained lowers a high confidence if the whole and its layers disagree: it took
// longer than the baseline, and no layer is blamed; or a layer is, by much more than that.
func (v *Verdict) capUnexplained(whole, baseline int64) {
	more := whole - baseline
	switch {
	case baseline < 0:
	case v.Layer != observe.NoLayer:
		if float64(more) < minOfWhole*float64(v.Excess) {
			v.doubt("the whole took only " + duration(max(more, 0)) + " more than the baseline: other layers took less than usual")
		}
	case more >= 2*max(minExcess, int64(minShare*float64(whole))):
		v.doubt("the whole took " + duration(more) + " more than the baseline, but no layer by itself explains it")
	}
}

// title names the layers and the location.
func (c candidate) title() string {
	return strings.Join(layerTitles(c.layer, c.merged), " or ") + " of " + c.location
}

// withWay adds to a sentence which way was slow, if it is known.
func (c candidate) withWay(sentence string) string {
	if c.way == "" {
		return sentence
	}
	return strings.TrimSuffix(sentence, ".") + ", on the way of the " + string(c.way) + "."
}

// difference is the time of the whole layer above the baseline.
func (c candidate) difference() int64 { return c.time - c.baseline }

// usual is the median of the baseline, -1 if unknown.
func (c candidate) usual() int64 {
	if !c.compared {
		return -1
	}
	return c.baseline
}

// isPartial reports whether the whole layer lost less than its slow segments: other
// segments were faster.
func (c candidate) isPartial() bool {
	return float64(c.excess-c.difference()) > minShown*float64(c.excess)
}

// elsewhere describes the difference to the baseline outside of the slow segments,
// "" if it is small.
func (c candidate) elsewhere() string {
	rest := c.difference() - c.excess
	if float64(rest) < minShown*float64(c.excess) {
		return ""
	}
	return "another " + duration(rest) + " is spread over its other segments"
}

// queueEvidence explains a message in a queue.
var queueEvidence = map[breakdown.Queue]string{
	breakdown.SendQueue:    "the bytes waited in the send queue: written, but TCP waited for the peer's window or for acknowledgements",
	breakdown.PodQueue:     "the bytes waited between TCP and the host end of the pod's interface: in the pod's queue (qdisc) or packet filter",
	breakdown.ReceiveQueue: "the bytes waited in the receive queue: the reader had no CPU or was busy",
}

// evidence describes the longest segment of a blamed layer, and what the capture
// points of its hop counted.
func evidence(h *breakdown.Hop, s breakdown.Segment) []string {
	where := "on the hop " + hopName(h)
	if s.Between != "?" { // known waypoints
		where = s.Between + ", " + where
	}
	e := []string{fmt.Sprintf("%s of it in one segment: %s", duration(s.Time), where)}
	if text := queueEvidence[s.Queue]; text != "" {
		e = append(e, text)
	}
	var retransmits, zeroWindows, drops uint32
	reason, srtt := "", uint64(0)
	for _, o := range h.Observations() {
		retransmits = max(retransmits, o.Retransmits)
		if o.Drops > drops {
			drops, reason = o.Drops, o.DropReason
		}
		if o.Socket != nil {
			zeroWindows, srtt = max(zeroWindows, o.Socket.ZeroWindows), max(srtt, o.Socket.SRTT)
		}
	}
	if retransmits > 0 {
		e = append(e, counted(retransmits, "TCP segment was", "TCP segments were")+" retransmitted")
	}
	if drops > 0 {
		e = append(e, "the kernel dropped "+counted(drops, "packet", "packets")+", the last one with reason "+reason)
	}
	if zeroWindows > 0 {
		e = append(e, "the receiver announced a zero window "+counted(zeroWindows, "time", "times")+": the reader was too slow")
	}
	if stall := h.StallOf(s.Phase); stall.ByReader > 0 && s.Queue == breakdown.ReceiveQueue {
		text := "the sender had more to send, but the peer's window was closed for " + duration(stall.ByReader) + ": the reader did not read"
		if stall.Witnessed {
			text = "the sender had more to send, but the reader's receive queue was full for " + duration(stall.ByReader) + " before it read"
		}
		e = append(e, text)
	}
	if stall := h.StallOf(s.Phase); stall.Unexplained >= minExcess {
		e = append(e, "for "+duration(stall.Unexplained)+" the peer's window had no room, but the reader is not known to be the cause: packets or acknowledgements may have been late")
	}
	if srtt > 0 && s.Layer == observe.RelayNetwork {
		e = append(e, "TCP's smoothed round-trip time is "+duration(int64(srtt)))
	}
	if s.Way != "" {
		other := map[breakdown.Phase]breakdown.Phase{breakdown.Request: breakdown.Response, breakdown.Response: breakdown.Request}[s.Way]
		return append(e, fmt.Sprintf("at least %s of it on the way of the %s: the %s was acknowledged %s after it had left its node",
			duration(s.AtLeast), s.Way, other, duration(s.Time-s.AtLeast)))
	}
	if took := acknowledged(h); took > 0 && s.Phase != breakdown.Response && s.Layer != observe.Application {
		e = append(e, "the peer's TCP acknowledged the request "+duration(took)+" after it was sent")
	}
	return e
}

// acknowledged returns how long after sending the last byte of the request its
// acknowledgement arrived, in ns; 0 if unknown. TCP may delay acknowledgements,
// so the byte arrived at most that much later.
func acknowledged(h *breakdown.Hop) int64 {
	if o := h.Sender; o != nil && o.Request.Acknowledged > o.Request.Last {
		return int64(o.Request.Acknowledged - o.Request.Last)
	}
	return 0
}
