// SPDX-License-Identifier: Apache-2.0

package explain

import (
	"math/rand/v2"
	"strconv"
	"strings"
	"testing"

	"github.com/layertrace/layertrace/agent/internal/breakdown"
	"github.com/layertrace/layertrace/internal/observe"
)

// oneLayer is a trace with parts of one layer at one place, in µs by their names.
func oneLayer(parts map[string]int64) sums {
	t := &total{parts: map[partKey]amount{}}
	for where, micros := range parts {
		ns := micros * us
		t.time += ns
		t.parts[partKey{where: where}] = amount{ns, &breakdown.Hop{}, breakdown.Segment{Time: ns, Between: where}}
	}
	return sums{{layer: observe.ProtocolStack, place: "reviews"}: t}
}

// What a layer took more than usual is what its slow parts did.
func TestStandingOut(t *testing.T) {
	var r *rand.Rand
	about := func(micros int64) int64 { return micros + r.Int64N(micros/5) }
	typically := func() map[string]int64 {
		return map[string]int64{"way in": about(50), "between": about(1000), "way out": about(50), "far": about(50)}
	}
	// One part takes from 0 to 3 ms, and hides in the sum what another takes.
	restless := func() map[string]int64 {
		return map[string]int64{"way in": about(50), "between": 1 + r.Int64N(3000), "way out": about(50)}
	}
	// In one of ten traces the way out takes as long as in the slow ones below.
	n := 0
	atTimes := func() map[string]int64 {
		p := restless()
		if n++; n%10 == 0 {
			p["way out"] += 1400
		}
		return p
	}
	// Each of twenty parts varies so much that 60 µs more do not stand out.
	manyParts := func() map[string]int64 {
		p := map[string]int64{}
		for i := range 20 {
			p[strconv.Itoa(i)] = 1 + r.Int64N(200)
		}
		return p
	}
	slower := func(parts map[string]int64, micros int64) map[string]int64 {
		for where := range parts {
			parts[where] += micros
		}
		return parts
	}
	add := func(parts func() map[string]int64, more map[string]int64) func(i int) map[string]int64 {
		return func(int) map[string]int64 {
			p := parts()
			for where, micros := range more {
				p[where] += micros
			}
			return p
		}
	}
	type said int
	const maybe, yes, no = said(0), said(1), said(2)
	for name, c := range map[string]struct {
		usual     func() map[string]int64
		slow      func(i int) map[string]int64
		typically int   // traces
		want      int64 // µs; 0: as usual
		where     string
		elsewhere said
	}{
		"as usual":                   {typically, add(typically, nil), 100, 0, "", maybe},
		"one part":                   {typically, add(typically, map[string]int64{"way in": 5000}), 100, 5000, "way in", no},
		"with what follows":          {typically, add(typically, map[string]int64{"way in": 5000, "between": 600, "far": 100}), 100, 5000, "way in", yes},
		"the same, few to compare":   {typically, add(typically, map[string]int64{"way in": 5000, "between": 600, "far": 100}), fewTraces - 1, 5700, "way in", no},
		"two parts":                  {typically, add(typically, map[string]int64{"way in": 5000, "far": 2000}), 100, 7000, "way in", maybe},
		"one part, others less":      {typically, add(typically, map[string]int64{"way in": 20_000, "between": 1000, "way out": 1000, "far": 300}), 100, 22_000, "way in", maybe},
		"slow all over":              {manyParts, func(int) map[string]int64 { return slower(manyParts(), 60) }, 100, 1200, "", maybe},
		"restless, as usual":         {restless, add(restless, nil), 100, 0, "", maybe},
		"restless, with one slow":    {restless, add(restless, map[string]int64{"way out": 1260}), 100, 1260, "way out", maybe},
		"restless, at times as slow": {atTimes, add(restless, map[string]int64{"way out": 1260}), 100, 0, "", maybe},
		"now here, now there": {typically, func(i int) map[string]int64 {
			p := typically()
			p[[]string{"way in", "far"}[i%2]] += 1000
			p[[]string{"far", "way in"}[i%2]] += 500
			return p
		}, 100, 1500, "", maybe},
		"a part that is new": {typically, add(typically, map[string]int64{"another": 3000}), 100, 3000, "another", maybe},
	} {
		t.Run(name, func(t *testing.T) {
			r = rand.New(rand.NewPCG(8, 8))
			var before, slow []sums
			for range c.typically {
				before = append(before, oneLayer(c.usual()))
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
			// The median of seven sums is that of the parts within some of what they vary by.
			if off := v.Excess/us - c.want; max(off, -off) > c.want/20+100 {
				t.Errorf("%d us more than usual, want %d: %+v", v.Excess/us, c.want, v)
			}
			if c.where != "" && v.Between != c.where {
				t.Errorf("most of it %q, want %q", v.Between, c.where)
			}
			told := no
			if strings.Contains(strings.Join(v.Evidence, "\n"), "spread over its other parts") {
				told = yes
			}
			if c.elsewhere != maybe && c.elsewhere != told {
				t.Errorf("evidence %q, want other parts in it: %v", v.Evidence, c.elsewhere == yes)
			}
		})
	}
}

// Between nothing is to blame, the largest difference is told, not that of what
// stands out by a little.
func TestLargestDifference(t *testing.T) {
	all := []candidate{
		{key: key{layer: observe.ProtocolStack, place: "details"}, time: 60 * us, typical: 20 * us, excess: 40 * us, threshold: leastExcess, compared: true},
		{key: key{layer: observe.Application, place: "ratings"}, time: 900 * us, typical: 400 * us, excess: 500 * us, threshold: leastExcess, compared: true, usual: true},
	}
	const want = "No layer took more than it usually does; the largest difference is 500 µs at the application of ratings."
	if v := judge(all, 20_000*us, 100); v.Layer != observe.NoLayer || v.Text != want {
		t.Errorf("%s: %q, want %q", v.Layer, v.Text, want)
	}
}

// A part may be slow where the layer as a whole took no longer than usual.
func TestTextOfAPart(t *testing.T) {
	c := candidate{
		key: key{layer: observe.ProtocolStack, place: "reviews"}, time: 1780 * us, typical: 1990 * us, excess: 1260 * us,
		threshold: leastExcess, compared: true, most: amount{leg: &breakdown.Hop{}},
	}
	const want = "Segments of the protocol stack of reviews took 1.26 ms more than usual, the whole 1.78 ms."
	if v := judge([]candidate{c}, 20_000*us, 100); v.Text != want {
		t.Errorf("%q, want %q", v.Text, want)
	}
	c.time = c.typical + c.excess
	if v := judge([]candidate{c}, 20_000*us, 100); v.Text != "The protocol stack of reviews took 3.25 ms, 1.26 ms more than usual." {
		t.Errorf("%q", v.Text)
	}
}
