// SPDX-License-Identifier: Apache-2.0

package layer_test

import (
	"maps"
	"testing"

	"github.com/layertrace/layertrace/agent/internal/layer"
	"github.com/layertrace/layertrace/agent/internal/layer/layertest"
)

// Short parts are joined with their neighbours of the same layer, long ones are
// left, and each layer has the same time as before.
func TestJoined(t *testing.T) {
	for _, c := range []struct {
		stack uint64 // ns of each piece
		want  int    // parts of the protocol stack: of two pods, on two ways
	}{{3_000, 4}, {30_000, 8}} {
		w := layertest.New()
		h := w.Hop(layertest.Page, layer.Sidecar, layertest.Details, layer.Sidecar)
		h.Stack = c.stack
		h.Run(func() { w.Spend(layer.Application, "details", 1_000) })
		leg := layer.Split(w.All, nil).Legs[0]
		joined := leg.Joined()
		if got, want := perLayer(joined), perLayer(leg.Parts); !maps.Equal(got, want) || len(want) == 0 {
			t.Errorf("pieces of %d ns: %v, want %v", c.stack, got, want)
		}
		of := map[layer.Layer]int{}
		for _, p := range joined {
			of[p.Layer]++
		}
		if of[layer.ProtocolStack] != c.want {
			t.Errorf("pieces of %d ns: %d parts of the protocol stack, want %d", c.stack, of[layer.ProtocolStack], c.want)
		}
		if of[layer.Application] != 1 || of[layer.VirtualNetwork] != 4 {
			t.Errorf("pieces of %d ns: parts %v", c.stack, of)
		}
		if where := "the sidecar of productpage to veth-productpage"; c.stack < 10_000 && joined[0].Where != where {
			t.Errorf("joined part: %q, want %q", joined[0].Where, where)
		}
	}
}

func perLayer(parts []layer.Part) map[string]int64 {
	sums := map[string]int64{}
	for _, p := range parts {
		sums[string(p.Layer)+" of "+p.Place+", "+string(p.Way)] += p.Time
	}
	return sums
}
