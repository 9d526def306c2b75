// SPDX-License-Identifier: Apache-2.0

package explain

import (
	"math/rand/v2"
	"testing"

	"github.com/layertrace/layertrace/agent/internal/layer"
)

// oneLayer is a trace with parts of one layer at one place, in µs by their names.
func oneLayer(parts map[string]int64) sums {
	t := &total{parts: map[partKey]amount{}}
	for where, micros := range parts {
		ns := micros * us
		t.time += ns
		t.parts[partKey{where: where}] = amount{ns, &layer.Leg{}, layer.Part{Time: ns, Where: where}}
	}
	return sums{{layer: layer.ProtocolStack, place: "reviews"}: t}
}

// What a layer took more than usual is what its slow parts did.
func TestStandingOut(t *testing.T) {
	r := rand.New(rand.NewPCG(8, 8))
	about := func(micros int64) int64 { return micros + r.Int64N(micros/5) }
	typically := func() map[string]int64 {
		return map[string]int64{"way in": about(50), "between": about(1000), "way out": about(50), "far": about(50)}
	}
	// One way in a third of the traces, the layer elsewhere takes from 0 to 3 ms.
	restless := func() map[string]int64 {
		return map[string]int64{"way in": about(50), "between": 1 + r.Int64N(3000), "way out": about(50)}
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
	for name, c := range map[string]struct {
		usual func() map[string]int64
		slow  func(i int) map[string]int64
		want  int64 // µs; 0: as usual
		where string
	}{
		"as usual":                {typically, add(typically, nil), 0, ""},
		"one part":                {typically, add(typically, map[string]int64{"way in": 5000}), 5000, "way in"},
		"with what follows":       {typically, add(typically, map[string]int64{"way in": 5000, "between": 700, "far": 100}), 5000, "way in"},
		"two parts":               {typically, add(typically, map[string]int64{"way in": 5000, "far": 2000}), 7000, "way in"},
		"all of it, little each":  {typically, add(typically, map[string]int64{"way in": 4, "between": 900, "way out": 4, "far": 4}), 900, "between"},
		"restless, as usual":      {restless, add(restless, nil), 0, ""},
		"restless, with one slow": {restless, add(restless, map[string]int64{"way out": 1260}), 1260, "way out"},
		"now here, now there": {typically, func(i int) map[string]int64 {
			p := typically()
			p[[]string{"way in", "far"}[i%2]] += 1000
			p[[]string{"far", "way in"}[i%2]] += 500
			return p
		}, 1500, "way in"},
		"a part that is new": {typically, add(typically, map[string]int64{"another": 3000}), 3000, "another"},
	} {
		t.Run(name, func(t *testing.T) {
			var before, slow []sums
			for range 100 {
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
			if (v.Layer == layer.None) != (c.want == 0) {
				t.Fatalf("verdict %+v, want %d us", v, c.want)
			}
			if c.want == 0 {
				return
			}
			if off := v.Excess/us - c.want; off < -60 || off > 60 {
				t.Errorf("%d us more than usual, want %d: %+v", v.Excess/us, c.want, v)
			}
			if c.where != v.Where && name != "now here, now there" {
				t.Errorf("most of it %q, want %q", v.Where, c.where)
			}
		})
	}
}
