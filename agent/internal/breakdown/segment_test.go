// SPDX-License-Identifier: Apache-2.0

package breakdown_test

import (
	"maps"
	"testing"

	"github.com/layertrace/layertrace/agent/internal/breakdown"
	"github.com/layertrace/layertrace/agent/internal/breakdown/breakdowntest"
	"github.com/layertrace/layertrace/internal/observe"
)

// Short segments are coalesced with their neighbours of the same layer, long ones
// stay, and the time of each layer is unchanged.
func TestCoalesced(t *testing.T) {
	for _, c := range []struct {
		stack uint64 // ns of each piece
		want  int    // segments of the protocol stack: two pods, request and response
	}{{3_000, 4}, {30_000, 8}} {
		w := breakdowntest.New()
		h := w.Hop(breakdowntest.Page, observe.Sidecar, breakdowntest.Details, observe.Sidecar)
		h.Stack = c.stack
		h.Run(func() { w.Spend(observe.Application, "details", 1_000) })
		hop := breakdown.Split(w.All, nil).Hops[0]
		coalesced := hop.Coalesced(nil)
		if got, want := perLayer(coalesced), perLayer(hop.Segments); !maps.Equal(got, want) || len(want) == 0 {
			t.Errorf("pieces of %d ns: %v, want %v", c.stack, got, want)
		}
		of := map[observe.Layer]int{}
		for _, p := range coalesced {
			of[p.Layer]++
		}
		if of[observe.ProtocolStack] != c.want {
			t.Errorf("pieces of %d ns: %d segments of the protocol stack, want %d", c.stack, of[observe.ProtocolStack], c.want)
		}
		if of[observe.Application] != 1 || of[observe.VirtualNetwork] != 4 {
			t.Errorf("pieces of %d ns: segments %v", c.stack, of)
		}
		if between := "the sidecar of productpage to veth-productpage"; c.stack < 10_000 && coalesced[0].Between != between {
			t.Errorf("coalesced segment: %q, want %q", coalesced[0].Between, between)
		}
	}
}

func perLayer(segments []breakdown.Segment) map[string]int64 {
	sums := map[string]int64{}
	for _, p := range segments {
		sums[string(p.Layer)+" of "+p.Location+", "+string(p.Phase)] += p.Time
	}
	return sums
}
