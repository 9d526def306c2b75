// SPDX-License-Identifier: Apache-2.0

package explain

import (
	"math/rand/v2"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/layertrace/layertrace/agent/internal/breakdown"
	"github.com/layertrace/layertrace/agent/internal/breakdown/breakdowntest"
	"github.com/layertrace/layertrace/agent/internal/tracestore"
	"github.com/layertrace/layertrace/internal/observe"
)

// oneLayer is a trace with segments of one layer at one location, in µs by name.
func oneLayer(segments map[string]int64) sums {
	t := &total{segments: map[segmentKey]amount{}}
	for between, micros := range segments {
		ns := micros * us
		t.time += ns
		t.segments[segmentKey{between: between}] = amount{ns, &breakdown.Hop{}, breakdown.Segment{Time: ns, Between: between}}
	}
	return sums{{layer: observe.ProtocolStack, location: "reviews"}: t}
}

// The excess of a layer is that of its slow segments.
func TestExcessOfSlowSegments(t *testing.T) {
	var r *rand.Rand
	about := func(micros int64) int64 { return micros + r.Int64N(micros/5) }
	normal := func() map[string]int64 {
		return map[string]int64{"inbound": about(50), "between": about(1000), "outbound": about(50), "far": about(50)}
	}
	// One segment takes from 0 to 3 ms and hides another one in the sum.
	restless := func() map[string]int64 {
		return map[string]int64{"inbound": about(50), "between": 1 + r.Int64N(3000), "outbound": about(50)}
	}
	// In one of ten traces "outbound" takes as long as in the slow ones below.
	n := 0
	atTimes := func() map[string]int64 {
		p := restless()
		if n++; n%10 == 0 {
			p["outbound"] += 1400
		}
		return p
	}
	// Each of twenty segments varies so much that 60 µs more are within the baseline.
	manyParts := func() map[string]int64 {
		p := map[string]int64{}
		for i := range 20 {
			p[strconv.Itoa(i)] = 1 + r.Int64N(200)
		}
		return p
	}
	slower := func(segments map[string]int64, micros int64) map[string]int64 {
		for between := range segments {
			segments[between] += micros
		}
		return segments
	}
	add := func(segments func() map[string]int64, excess map[string]int64) func(i int) map[string]int64 {
		return func(int) map[string]int64 {
			p := segments()
			for between, micros := range excess {
				p[between] += micros
			}
			return p
		}
	}
	type expected int
	const maybe, yes, no = expected(0), expected(1), expected(2)
	for name, c := range map[string]struct {
		baseline  func() map[string]int64
		slow      func(i int) map[string]int64
		traces    int   // of the baseline
		want      int64 // µs; 0: none
		between   string
		elsewhere expected
	}{
		"within baseline":            {normal, add(normal, nil), 100, 0, "", maybe},
		"one segment":                {normal, add(normal, map[string]int64{"inbound": 5000}), 100, 5000, "inbound", no},
		"with consequences":          {normal, add(normal, map[string]int64{"inbound": 5000, "between": 600, "far": 100}), 100, 5000, "inbound", yes},
		"the same, few to compare":   {normal, add(normal, map[string]int64{"inbound": 5000, "between": 600, "far": 100}), minBaseline - 1, 5700, "inbound", no},
		"two segments":               {normal, add(normal, map[string]int64{"inbound": 5000, "far": 2000}), 100, 7000, "inbound", maybe},
		"one segment, others less":   {normal, add(normal, map[string]int64{"inbound": 20_000, "between": 1000, "outbound": 1000, "far": 300}), 100, 22_000, "inbound", maybe},
		"slow all over":              {manyParts, func(int) map[string]int64 { return slower(manyParts(), 60) }, 100, 1200, "", maybe},
		"restless, within baseline":  {restless, add(restless, nil), 100, 0, "", maybe},
		"restless, with one slow":    {restless, add(restless, map[string]int64{"outbound": 1260}), 100, 1260, "outbound", maybe},
		"restless, at times as slow": {atTimes, add(restless, map[string]int64{"outbound": 1260}), 100, 0, "", maybe},
		"now here, now there": {normal, func(i int) map[string]int64 {
			p := normal()
			p[[]string{"inbound", "far"}[i%2]] += 1000
			p[[]string{"far", "inbound"}[i%2]] += 500
			return p
		}, 100, 1500, "", maybe},
		"a new segment": {normal, add(normal, map[string]int64{"another": 3000}), 100, 3000, "another", maybe},
	} {
		t.Run(name, func(t *testing.T) {
			r = rand.New(rand.NewPCG(8, 8))
			var before, slow []sums
			for range c.traces {
				before = append(before, oneLayer(c.baseline()))
			}
			for i := range 7 {
				slow = append(slow, oneLayer(c.slow(i)))
			}
			found := candidates(slow, referenceOf(before), 20_000*us)
			if len(found) != 1 {
				t.Fatalf("%d candidates, want 1", len(found))
			}
			v := judge(found, 20_000*us, len(before))
			if (v.Layer == observe.NoLayer) != (c.want == 0) {
				t.Fatalf("verdict %+v, want %d us", v, c.want)
			}
			if c.want == 0 {
				return
			}
			// The median of seven sums is that of the segments, within some of their variation.
			if off := v.Excess/us - c.want; max(off, -off) > c.want/20+100 {
				t.Errorf("excess of %d µs, want %d: %+v", v.Excess/us, c.want, v)
			}
			if c.between != "" && v.Between != c.between {
				t.Errorf("longest segment %q, want %q", v.Between, c.between)
			}
			got := no
			if strings.Contains(strings.Join(v.Evidence, "\n"), "spread over its other segments") {
				got = yes
			}
			if c.elsewhere != maybe && c.elsewhere != got {
				t.Errorf("evidence %q, want other segments in it: %v", v.Evidence, c.elsewhere == yes)
			}
		})
	}
}

// If no layer is blamed, the verdict gives the largest difference, not that of a
// layer slightly above the baseline.
func TestLargestDifference(t *testing.T) {
	all := []candidate{
		{key: key{layer: observe.ProtocolStack, location: "details"}, time: 60 * us, baseline: 20 * us, excess: 40 * us, threshold: minExcess, compared: true},
		{key: key{layer: observe.Application, location: "ratings"}, time: 900 * us, baseline: 400 * us, excess: 500 * us, threshold: minExcess, compared: true, withinBaseline: true},
	}
	const want = "No layer is clearly slower than the baseline; the largest difference is 500 µs, in the application of ratings."
	if v := judge(all, 20_000*us, 100); v.Layer != observe.NoLayer || v.Text != want {
		t.Errorf("%s: %q, want %q", v.Layer, v.Text, want)
	}
}

// A segment may be slow even if the whole layer is within the baseline.
func TestTextOfSegments(t *testing.T) {
	c := candidate{
		key: key{layer: observe.ProtocolStack, location: "reviews"}, time: 1780 * us, baseline: 1990 * us, excess: 1260 * us,
		threshold: minExcess, compared: true, longest: amount{hop: &breakdown.Hop{}},
	}
	const want = "Segments of the protocol stack of reviews took 1.26 ms more than the baseline; the whole layer took 1.78 ms."
	if v := judge([]candidate{c}, 20_000*us, 100); v.Text != want {
		t.Errorf("%q, want %q", v.Text, want)
	}
	c.time = c.baseline + c.excess
	if v := judge([]candidate{c}, 20_000*us, 100); v.Text != "The protocol stack of reviews took 3.25 ms, 1.26 ms more than the baseline." {
		t.Errorf("%q", v.Text)
	}
}

// The evidence has the time to the acknowledgement of the request if it is known, and
// the segment is between the sockets and not of the response only.
func TestEvidenceOfTheAcknowledgement(t *testing.T) {
	const want = "the peer's TCP acknowledged the request 250 µs after it was sent"
	request := observe.Message{First: 1_000, Last: 2_000, Acknowledged: 252_000}
	silent := request
	silent.Acknowledged = 0
	seen := func(m observe.Message) *observe.Observation {
		return &observe.Observation{Point: &observe.Point{}, Request: m}
	}
	for name, c := range map[string]struct {
		hop     breakdown.Hop
		segment breakdown.Segment
		want    bool
	}{
		"request":     {breakdown.Hop{Sender: seen(request)}, breakdown.Segment{Layer: observe.ProtocolStack, Phase: breakdown.Request}, true},
		"both phases": {breakdown.Hop{Sender: seen(request)}, breakdown.Segment{Layer: observe.RelayNetwork, Phase: breakdown.Both}, true},
		"response":    {breakdown.Hop{Sender: seen(request)}, breakdown.Segment{Layer: observe.RelayNetwork, Phase: breakdown.Response}, false},
		"application": {breakdown.Hop{Sender: seen(request)}, breakdown.Segment{Layer: observe.Application, Phase: breakdown.Both}, false},
		"not known":   {breakdown.Hop{Sender: seen(silent)}, breakdown.Segment{Layer: observe.RelayNetwork, Phase: breakdown.Both}, false},
		"not seen":    {breakdown.Hop{ClientVNIC: seen(silent)}, breakdown.Segment{Layer: observe.RelayNetwork, Phase: breakdown.Both}, false},
	} {
		t.Run(name, func(t *testing.T) {
			e := evidence(&c.hop, c.segment)
			if got := slices.Contains(e, want); got != c.want {
				t.Errorf("%v: %s", got, strings.Join(e, "; "))
			}
		})
	}
}

// The evidence explains the queue of the longest segment.
func TestEvidenceOfTheQueue(t *testing.T) {
	for queue, want := range map[breakdown.Queue]string{
		breakdown.SendQueue: "in the send queue", breakdown.PodQueue: "the pod's queue", breakdown.ReceiveQueue: "in the receive queue", "": "",
	} {
		e := evidence(&breakdown.Hop{}, breakdown.Segment{Layer: observe.ProtocolStack, Queue: queue})
		if want == "" && len(e) != 1 || want != "" && (len(e) != 2 || !strings.Contains(e[1], want)) {
			t.Errorf("%q: %q", queue, e)
		}
	}
}

// Where an acknowledgement shows which way was slow, the verdict of a trace and of a group
// say so. The relay network delays the response by 30 ms.
func TestVerdictNamesTheWay(t *testing.T) {
	r := rand.New(rand.NewPCG(5, 5))
	baseline := baselineOf(r, 40, nil)
	slow := func(id byte, acknowledged uint64) tracestore.Trace {
		// Only the sum of both ways is measured, so it does not matter which one is slow.
		w := pageTrace(r, id, nil, toDetails(func(h *breakdowntest.Hop) { h.Relay += 15_000_000 }))
		for i := range w.Observations {
			if o := &w.Observations[i]; acknowledged > 0 && o.Socket != nil && o.Socket.Client {
				o.Request.Acknowledged = o.Request.Last + acknowledged
			}
		}
		return w
	}
	const way, atLeast = ", on the way of the response.", "of it on the way of the response: the request was acknowledged"
	for acknowledged, want := range map[uint64]bool{0: false, 300_000: true, 40_000_000: false} {
		var group []tracestore.Trace
		for id := range byte(4) {
			group = append(group, slow(id+1, acknowledged))
		}
		for _, v := range []Verdict{Explain(group[0], baseline).Verdict, compareAnew(group, baseline).Verdict, Explain(group[0], nil).Verdict} {
			if v.Layer != observe.RelayNetwork || v.Location != "node3-node4" {
				t.Fatalf("%s", v.Text)
			}
			if strings.HasSuffix(v.Text, way) != want || strings.Contains(strings.Join(v.Evidence, "\n"), atLeast) != want {
				t.Errorf("acknowledged after %d ns: %s %q", acknowledged, v.Text, v.Evidence)
			}
		}
	}
}

// A second layer with more than half of the excess lowers the confidence, also if part of
// it is merged with a third one, or has no baseline.
func TestRivals(t *testing.T) {
	ms := func(n int64) int64 { return n * 1_000_000 }
	layer := func(excess, strange int64, merged ...observe.Layer) candidate {
		return candidate{time: excess + strange, excess: excess, strange: strange, compared: true, threshold: minExcess, merged: merged}
	}
	for name, test := range map[string]struct {
		others []candidate
		want   Confidence
	}{
		"none":                       {nil, High},
		"half":                       {[]candidate{layer(ms(5), 0)}, High},
		"more":                       {[]candidate{layer(ms(6), 0)}, Medium},
		"partly merged":              {[]candidate{layer(ms(3), 0), layer(ms(3), 0, observe.ProtocolStack, observe.VirtualNetwork)}, Medium},
		"in a segment of its own":    {[]candidate{layer(ms(3), ms(3))}, Medium},
		"two of a third each":        {[]candidate{layer(ms(3), 0), layer(ms(3), 0)}, High},
		"without a baseline":         {[]candidate{{time: ms(6), excess: ms(6)}}, Medium},
		"as slow as in the baseline": {[]candidate{{time: ms(6), excess: ms(6), compared: true, withinBaseline: true}}, High},
	} {
		if got := confidence(append([]candidate{layer(ms(10), 0)}, test.others...), minBaseline); got != test.want {
			t.Errorf("%s: %s, want %s", name, got, test.want)
		}
	}
}

// That nothing is slow is as uncertain as a blame: with few traces to compare with, if some
// of them are as slow, or if the whole is slower than any layer explains.
func TestConfidenceInNothing(t *testing.T) {
	r := rand.New(rand.NewPCG(12, 12))
	slower := func(relay uint64) func(*breakdowntest.Hop) {
		return toDetails(func(h *breakdowntest.Hop) { h.Relay += relay })
	}
	few := baselineOf(r, minBaseline-1, nil)
	enough := append(slices.Clone(few), pageTrace(r, 98, nil))
	for name, test := range map[string]struct {
		baseline []tracestore.Trace
		change   func(*breakdowntest.Hop)
		want     Confidence
	}{
		"enough":         {enough, slower(0), High},
		"one":            {few[:1], slower(0), Medium},
		"few":            {few, slower(0), Medium},
		"one as slow":    {append(slices.Clone(few), pageTrace(r, 98, nil, slower(9_000_000))), slower(8_000_000), Medium},
		"slow all over":  {enough, func(h *breakdowntest.Hop) { h.Relay += 300_000; h.VNet += 100_000 }, Medium},
		"little slower":  {enough, slower(100_000), High},
		"slow, not none": {enough, slower(8_000_000), High},
	} {
		one := pageTrace(r, 1, nil, test.change)
		v := Explain(one, test.baseline).Verdict
		if v.Confidence != test.want || (v.Layer == observe.NoLayer) != (name != "slow, not none") {
			t.Errorf("%s: %s confidence, want %s: %s %q", name, v.Confidence, test.want, v.Text, v.Evidence)
		}
		group := compareAnew([]tracestore.Trace{one, pageTrace(r, 2, nil, test.change)}, test.baseline).Verdict
		if group.Confidence != test.want && (group.Layer != v.Layer || name == "one") {
			t.Errorf("%s: %s confidence together, want %s: %s %q", name, group.Confidence, test.want, group.Text, group.Evidence)
		}
	}
}

// That no layer is slower has a high confidence only where a delay that is blamed would show:
// in a layer whose time varies, a fast exchange with a delay looks like any other.
func TestNothingIsSureOnlyWhereADelayWouldShow(t *testing.T) {
	const tries, traces = 2000, 60
	r := rand.New(rand.NewPCG(27, 27))
	// Between 1 ms and what varies more, half of the time only a little.
	taking := func(varies int64, delay int64) sums {
		return oneLayer(map[string]int64{"inbound": 1000 + r.Int64N(r.Int64N(varies)+1) + delay})
	}
	for varies, sure := range map[int64]bool{300: true, 3000: false} {
		for _, slow := range []int{1, 2, 7} {
			wrong, certain := 0, 0
			for range tries {
				var before []sums
				for range traces {
					before = append(before, taking(varies, 0))
				}
				reference := referenceOf(before)
				judged := func(delay int64) Verdict {
					var all []sums
					for range slow {
						all = append(all, taking(varies, delay))
					}
					return judge(candidates(all, reference, 10_000*us), 10_000*us, traces)
				}
				if v := judged(minExcess / us); v.Layer == observe.NoLayer && v.Confidence == High {
					wrong++
				}
				v := judged(0)
				if v.Layer == observe.NoLayer && v.Confidence == High {
					certain++
				} else if v.Layer == observe.NoLayer && !strings.Contains(strings.Join(v.Evidence, "\n"), "there would not be noticed") {
					t.Fatalf("no reason for the confidence: %+v", v)
				}
			}
			if share := float64(wrong) / tries; share > maxFaster*1.5 {
				t.Errorf("of %d traces whose layer varies by up to %d µs, a delay was missed with high confidence in %.3f of the tries", slow, varies, share)
			}
			if share := float64(certain) / tries; sure && share < 0.95 {
				t.Errorf("of %d traces whose layer varies by up to %d µs, only %.3f of the verdicts were certain", slow, varies, share)
			}
		}
	}
}

// A layer that lost much more than the whole did is no sure cause: other layers were faster.
func TestConfidenceInABlameOfMoreThanTheWhole(t *testing.T) {
	v := Verdict{Layer: observe.RelayNetwork, Excess: 8_000_000, Confidence: High}
	for name, test := range map[string]struct {
		whole int64
		want  Confidence
		said  string
	}{
		"as much":       {28_000_000, High, ""},
		"three fourths": {26_100_000, High, ""},
		"less":          {25_000_000, Medium, "only 5.00 ms more"},
		"faster":        {19_000_000, Medium, "only 0 ns more"},
	} {
		got := v
		got.capUnexplained(test.whole, 20_000_000)
		if got.Confidence != test.want || !strings.Contains(strings.Join(got.Evidence, "\n"), test.said) || (len(got.Evidence) > 0) != (test.said != "") {
			t.Errorf("%s: %s confidence, want %s: %q", name, got.Confidence, test.want, got.Evidence)
		}
	}
}

// A trace that is as fast as the baseline everywhere has no largest difference.
func TestNothingIsSlower(t *testing.T) {
	one := pageTrace(rand.New(rand.NewPCG(17, 17)), 1, nil)
	var baseline []tracestore.Trace
	for range 10 {
		baseline = append(baseline, one)
	}
	if v := Explain(one, baseline).Verdict; v.Text != "No layer is slower than the baseline." || v.Confidence != High {
		t.Errorf("%s confidence: %s", v.Confidence, v.Text)
	}
}

// The shares of a baseline are those of the binomial distribution, also of thousands of traces.
func TestShares(t *testing.T) {
	for _, test := range []struct {
		n, k int
		want float64
	}{{1, 1, 0.05}, {7, 4, 0.2253}, {5000, 2500, 0.4883}} {
		if got := shareFor(test.n, test.k, 0.05); got < test.want-0.0005 || got > test.want+0.0005 {
			t.Errorf("%d or more of %d: share %.4f, want %.4f", test.k, test.n, got, test.want)
		}
	}
}
