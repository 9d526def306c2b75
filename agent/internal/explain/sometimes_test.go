// SPDX-License-Identifier: Apache-2.0

package explain

import (
	"slices"
	"testing"

	"github.com/layertrace/layertrace/agent/internal/layer"
)

// In some of seven traces the slow network could not be told from a driver, whose
// time was not seen; another hop's part of it was. One may be an exception.
func TestLayersSometimesTogether(t *testing.T) {
	const usually, slowly = 15_000, 1_800_000
	relay := key{layer: layer.RelayNetwork, place: "node3-node4"}
	group := key{layer: relay.layer, place: relay.place, covers: "[relay-network node-driver]"}
	covers := []layer.Layer{layer.RelayNetwork, layer.NodeDriver}
	trace := func(times map[key]int64) measured {
		m := measured{sums: sums{}}
		for k, ns := range times {
			one := &total{time: ns, parts: map[partKey]amount{
				{where: k.covers}: {ns, &layer.Leg{}, layer.Part{Layer: k.layer, Place: k.place, Time: ns}},
			}}
			if k.covers != "" {
				one.layers = covers
			}
			m.sums[k] = one
			m.total += ns
		}
		return m
	}
	for grouped, want := range [][]layer.Layer{0: nil, 1: nil, 2: covers} {
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
		if v.Layer != layer.RelayNetwork || v.Place != relay.place || v.Excess < slowly-usually {
			t.Errorf("%d with a group: verdict %+v", grouped, v)
		}
		if !slices.Equal(v.Covers, want) || (v.Confidence == Low) != (want != nil) {
			t.Errorf("%d with a group: it covers %v with confidence %s, want %v", grouped, v.Covers, v.Confidence, want)
		}
	}
}
