// SPDX-License-Identifier: Apache-2.0

package explain

import (
	"slices"
	"testing"

	"github.com/layertrace/layertrace/agent/internal/breakdown"
	"github.com/layertrace/layertrace/internal/observe"
)

// In some of seven traces the slow network could not be told from a driver, whose
// time was not seen; another hop's part of it was. One may be an exception.
func TestLayersSometimesTogether(t *testing.T) {
	const usually, slowly = 15_000, 1_800_000
	relay := key{layer: observe.RelayNetwork, place: "node3-node4"}
	group := key{layer: relay.layer, place: relay.place, covers: "[relay-network node-driver]"}
	covers := []observe.Layer{observe.RelayNetwork, observe.NodeDriver}
	trace := func(times map[key]int64) measured {
		m := measured{sums: sums{}}
		for k, ns := range times {
			one := &total{time: ns, parts: map[partKey]amount{
				{where: k.covers}: {ns, &breakdown.Hop{}, breakdown.Segment{Layer: k.layer, Location: k.place, Time: ns}},
			}}
			if k.covers != "" {
				one.layers = covers
			}
			m.sums[k] = one
			m.total += ns
		}
		return m
	}
	for grouped, want := range [][]observe.Layer{0: nil, 1: nil, 2: covers} {
		var usual, slow []measured
		for range 50 {
			usual = append(usual, trace(map[key]int64{relay: usually}))
		}
		for i := range 7 {
			times := map[key]int64{relay: slowly}
			if i < grouped {
				times = map[key]int64{relay: usually, group: slowly}
			}
			slow = append(slow, trace(times))
		}
		var c Comparison
		c.compare(usual, slow)
		v := c.Verdict
		if v.Layer != observe.RelayNetwork || v.Location != relay.place || v.Excess < slowly-usually {
			t.Errorf("%d with a group: verdict %+v", grouped, v)
		}
		if !slices.Equal(v.MergedLayers, want) || (v.Confidence == Low) != (want != nil) {
			t.Errorf("%d with a group: it covers %v with confidence %s, want %v", grouped, v.MergedLayers, v.Confidence, want)
		}
	}
}
