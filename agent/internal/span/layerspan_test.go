// SPDX-License-Identifier: Apache-2.0

package span

import (
	"testing"

	"github.com/layertrace/layertrace/agent/internal/breakdown"
	"github.com/layertrace/layertrace/internal/observe"
)

func TestLayerNames(t *testing.T) {
	for _, c := range []struct {
		segment breakdown.Segment
		want    string
	}{
		{breakdown.Segment{Layer: observe.Application, Location: "reviews", Phase: breakdown.Both}, "application"},
		{breakdown.Segment{Layer: observe.VirtualNetwork, Location: "node1", Phase: breakdown.Request}, "virtual network, request"},
		{breakdown.Segment{Layer: observe.ProtocolStack, Location: "reviews", Phase: breakdown.Response, Queue: breakdown.SendQueue}, "protocol stack: send queue of reviews, response"},
		{breakdown.Segment{
			Layer: observe.ProtocolStack, Location: "reviews", Phase: breakdown.Both,
			MergedLayers: []observe.Layer{observe.ProtocolStack, observe.Application},
		}, "protocol stack + application"},
	} {
		if got := layerName(&c.segment); got != c.want {
			t.Errorf("%+v: %q, want %q", c.segment, got, c.want)
		}
	}
}

func TestLayerSpanOfCutHop(t *testing.T) {
	s := LayerSpan{Segment: &breakdown.Segment{Layer: observe.Application}, Flags: observe.FlagEndGuessed}
	for _, kv := range appendLayer(nil, &s) {
		if kv.Key == keyFlags {
			if got := kv.Value.AsStringSlice(); len(got) != 1 || got[0] != "end_guessed" {
				t.Errorf("flags %q", got)
			}
			return
		}
	}
	t.Error("the span of a cut hop has no flags")
}

// A preliminary report and the whole have one ID, and the times of a stream of hours,
// above 32 bits of ns, are written.
func TestWholeOfAStreamHasTheIDOfItsPreliminaryReport(t *testing.T) {
	whole := sample()
	whole.Point = &observe.Point{ID: "node1/7"}
	whole.Response.First = whole.Request.First + 5e9
	whole.Response.Last = whole.Request.First + 7200e9
	early := whole
	early.Flags, early.Response.Last = observe.FlagStillOpen, early.Response.First
	if ID(&whole) != ID(&early) {
		t.Error("two IDs")
	}
	want := map[string]int64{"layertrace.response.first_ns": 5e9, "layertrace.response.last_ns": 7200e9}
	for _, kv := range appendAttributes(nil, &whole, whole.Request.First) {
		if ns, ok := want[string(kv.Key)]; ok && kv.Value.AsInt64() == ns {
			delete(want, string(kv.Key))
		}
	}
	if len(want) != 0 {
		t.Errorf("not written: %v", want)
	}
}
