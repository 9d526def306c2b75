// SPDX-License-Identifier: Apache-2.0

package explain

import (
	"bytes"
	"encoding/json"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"github.com/layertrace/layertrace/agent/internal/breakdown"
	"github.com/layertrace/layertrace/internal/observe"
)

const us = int64(time.Microsecond)

var testStart = time.Date(2026, 1, 2, 15, 4, 5, 123_456_000, time.UTC)

// segment adds the baseline to a segment.
func segment(baseline int64, s breakdown.Segment) Segment { return Segment{s, baseline} }

// reports are made by hand, one for each kind of missing information.
func reports() map[string]*Report {
	return map[string]*Report{"slow-network": slowNetwork(), "no-baseline": noBaseline(), "nothing": nothing(), "hostile": hostile()}
}

// slowNetwork has everything: a baseline, child hops, a blamed layer.
func slowNetwork() *Report {
	return &Report{
		TraceID: "4bf92f3577b34da6a3ce929d0e0e4736", Service: "gateway", Operation: "GET /productpage",
		Start: testStart, Total: 48_200 * us, Unattributed: 320 * us,
		Verdict: Verdict{
			Layer: observe.RelayNetwork, Location: "node2-node3", Between: "eth0 of node2 to eth0 of node3",
			Time: 36_400 * us, Excess: 35_900 * us, Share: 0.745, Confidence: High,
			Text:     "The network between node2 and node3 made this slow: it took 36.4 ms, 35.9 ms more than the baseline.",
			Evidence: []string{"2 TCP segments of the request were retransmitted between productpage-v1 and reviews-v1", "all other layers are within the baseline"},
		},
		Baseline: Baseline{Traces: 100, BaselineTotal: 12_100 * us},
		Layers: []LayerTime{
			{Layer: observe.RelayNetwork, Location: "node2-node3", Time: 36_400 * us, Baseline: 500 * us, Share: 0.755},
			{Layer: observe.Application, Location: "reviews-v1", Time: 6_200 * us, Baseline: 6_000 * us, Share: 0.129},
			{Layer: observe.Application, Location: "productpage-v1", Time: 4_100 * us, Baseline: 4_300 * us, Share: 0.085},
			{Layer: observe.ProtocolStack, Location: "reviews-v1", Time: 640 * us, Baseline: 610 * us, Share: 0.013},
			{Layer: observe.VirtualNetwork, Location: "node2", Time: 420 * us, Baseline: 400 * us, Share: 0.009},
			{Layer: observe.NodeDriver, Location: "node2", Time: 120 * us, Baseline: -1, Share: 0.002},
		},
		Hops: []Hop{
			{
				Depth: 0, SpanID: "00f067aa0ba902b7", From: "gateway", To: "productpage-v1", FromNode: "node1", ToNode: "node2",
				Total: 48_200 * us, Status: 200, OnCriticalPath: true, Unattributed: 200 * us, Verdict: Verdict{Layer: observe.NoLayer},
				Segments: []Segment{
					segment(200*us, breakdown.Segment{Layer: observe.VirtualNetwork, Location: "node1", Between: "vethgw to eth0", Phase: breakdown.Request, Start: 0, Time: 210 * us}),
					segment(2_100*us, breakdown.Segment{Layer: observe.Application, Location: "productpage-v1", Between: "between the sockets of productpage-v1", Phase: breakdown.Request, Start: 300 * us, Time: 2_000 * us}),
					segment(2_200*us, breakdown.Segment{Layer: observe.Application, Location: "productpage-v1", Between: "between the sockets of productpage-v1", Phase: breakdown.Response, Start: 45_900 * us, Time: 2_100 * us}),
				},
			},
			{
				Depth: 1, SpanID: "00f067aa0ba902b8", From: "productpage-v1", To: "details-v1", FromNode: "node2", ToNode: "node4",
				Start: 2_400 * us, Total: 3_300 * us, Status: 200, Unattributed: 0, Verdict: Verdict{Layer: observe.NoLayer},
				Segments: []Segment{segment(2_750*us, breakdown.Segment{Layer: observe.Application, Location: "details-v1", Between: "socket of details-v1", Phase: breakdown.Both, Start: 2_700 * us, Time: 2_800 * us})},
				Notes:    []string{"node4 has no agent at its physical interface"},
			},
			{
				Depth: 1, SpanID: "00f067aa0ba902b9", From: "productpage-v1", To: "reviews-v1", FromNode: "node2", ToNode: "node3",
				Start: 2_400 * us, Total: 43_400 * us, Status: 503, OnCriticalPath: true, Unattributed: 120 * us,
				Segments: []Segment{
					segment(50*us, breakdown.Segment{Layer: observe.ProtocolStack, Location: "productpage-v1", Between: "socket of productpage-v1 to vethpp", Phase: breakdown.Request, Start: 2_400 * us, Time: 60 * us}),
					segment(-1, breakdown.Segment{Layer: observe.NodeDriver, Location: "node2", Between: "queue of eth0", Phase: breakdown.Request, Start: 2_460 * us, Time: 120 * us}),
					segment(500*us, breakdown.Segment{Layer: observe.RelayNetwork, Location: "node2-node3", Between: "eth0 of node2 to eth0 of node3", Phase: breakdown.Request, Start: 2_600 * us, Time: 36_400 * us}),
					segment(560*us, breakdown.Segment{Layer: observe.ProtocolStack, Location: "reviews-v1", Between: "vethrv to the socket of reviews-v1", Phase: breakdown.Request, Start: 39_000 * us, Time: 580 * us}),
					segment(6_000*us, breakdown.Segment{Layer: observe.Application, Location: "reviews-v1", Between: "socket of reviews-v1", Phase: breakdown.Both, Start: 39_580 * us, Time: 6_200 * us}),
				},
				Verdict: Verdict{Layer: observe.RelayNetwork, Location: "node2-node3", Time: 36_400 * us, Confidence: High, Text: "36.4 ms between eth0 of node2 and eth0 of node3, in the baseline 500 µs."},
			},
			{
				Depth: 2, SpanID: "00f067aa0ba902ba", From: "reviews-v1 (sidecar)", To: "reviews-v1", FromNode: "node3", ToNode: "node3",
				Start: 39_700 * us, Total: 5_900 * us, Status: 503, OnCriticalPath: true,
				Segments: []Segment{segment(5_600*us, breakdown.Segment{Layer: observe.Application, Location: "reviews-v1", Between: "socket of reviews-v1", Phase: breakdown.Both, Start: 39_800 * us, Time: 5_700 * us})},
				Verdict:  Verdict{Layer: observe.NoLayer},
			},
		},
	}
}

// noBaseline has no baseline, and lacks capture points.
func noBaseline() *Report {
	merged := []observe.Layer{observe.ProtocolStack, observe.VirtualNetwork, observe.NodeDriver}
	return &Report{
		TraceID: "0000000000000000a3ce929d0e0e4736", Service: "frontend", Operation: "POST /orders/{id}/items", Start: testStart, Total: 2_345_678_901, Unattributed: 400_000 * us,
		Verdict: Verdict{
			Layer: observe.ProtocolStack, Location: "orders", Time: 1_700_000 * us, Excess: 1_700_000 * us, Share: 0.72, Confidence: Low, MergedLayers: merged,
			Text:     "Most of the time, 1.70 s of 2.35 s, went between the process of orders and the physical interface of its node.",
			Evidence: []string{"there is no baseline, so this may be normal"},
		},
		Layers: []LayerTime{
			{Layer: observe.ProtocolStack, Location: "orders", Time: 1_700_000 * us, Baseline: -1, Share: 0.72, MergedLayers: merged},
			{Layer: observe.Application, Location: "a-service-with-a-very-long-name-indeed", Time: 245_678 * us, Baseline: -1, Share: 0.104},
		},
		Hops: []Hop{{
			SpanID: "00f067aa0ba902b7", From: "frontend", To: "orders", ToNode: "worker-7", Total: 2_345_678_901, OnCriticalPath: true, Unattributed: 400_000 * us,
			Segments: []Segment{segment(-1, breakdown.Segment{Layer: observe.ProtocolStack, Location: "orders", Between: "eth0 of worker-7 to the socket of orders", Phase: breakdown.Request, Start: 300_000 * us, Time: 1_700_000 * us, MergedLayers: merged})},
			Notes:    []string{"no virtual interface of worker-7 saw the request"},
		}},
		Notes: []string{"no baseline: the store has no other trace of this service and operation in 15m0s before it", "1 span of layertrace could not be read: span 000000000000000b (reviews_veth1): host.name is missing, so its node is not known"},
	}
}

// nothing has no layers at all.
func nothing() *Report {
	return &Report{
		TraceID: "4bf92f3577b34da6a3ce929d0e0e4737", Start: testStart,
		Verdict: Verdict{Layer: observe.NoLayer, Confidence: Low, Text: "The layers are unknown: the trace has no spans of layertrace."},
		Notes:   []string{"is the agent running on the nodes of this trace? layertrace status shows it"},
	}
}

// hostile has names that try to be markup or control sequences.
func hostile() *Report {
	r := slowNetwork()
	const name = `<script>document.title="owned"</script>` + "\x1b[31m\u202e"
	r.Service, r.Operation, r.Verdict.Text, r.Verdict.Evidence = name, `"onmouseover="alert(1)`, name, []string{name}
	r.Hops[0].From, r.Hops[0].Segments[0].Between, r.Hops[0].Notes = name, `"><img src=x onerror=alert(1)>`, []string{name + "\nnext line"}
	r.Layers[0].Location, r.Verdict.Location, r.Notes = name, name, []string{name}
	r.Hops[1].Segments[0].Layer = observe.Layer("};x:expression(alert(1))")
	r.Hops[2].Start, r.Hops[2].Total = -5_000*us, -1 // and impossible times
	return r
}

func slowTail() *Comparison {
	return &Comparison{
		Service: "productpage", From: testStart, To: testStart.Add(15 * time.Minute), Traces: 300, Skipped: 4,
		SkippedReasons: map[string]int{"without spans of layertrace": 3, "without an end": 1},
		Slow:           15, Baseline: 281, Threshold: 31_000 * us, SlowTotal: 47_000 * us, BaselineTotal: 12_100 * us,
		Layers: []LayerDelta{
			{Layer: observe.NodeDriver, Location: "node3", Slow: 33_000 * us, Baseline: 150 * us, Excess: 32_850 * us, Share: 0.94},
			{Layer: observe.Application, Location: "reviews-v1", Slow: 6_900 * us, Baseline: 6_000 * us, Excess: 900 * us, Share: 0.03},
			{Layer: observe.ProtocolStack, Location: "productpage-v1", Slow: 700 * us, Baseline: 820 * us, Excess: -120 * us, MergedLayers: []observe.Layer{observe.ProtocolStack, observe.VirtualNetwork}},
		},
		Verdict: Verdict{
			Layer: observe.NodeDriver, Location: "node3", Time: 33_000 * us, Excess: 32_850 * us, Share: 0.94, Confidence: Medium,
			Text: "The queue of node3's physical interface makes the slow traces slow: 33.0 ms there, 150 µs in the baseline.", Evidence: []string{"13 of 15 slow traces waited there"},
		},
		SlowTraces: []string{"4bf92f3577b34da6a3ce929d0e0e4736", "4bf92f3577b34da6a3ce929d0e0e4737"},
		Notes:      []string{"traces that ended with an error are included"},
	}
}

// A report is one line, can be read back, and has no null.
func TestJSON(t *testing.T) {
	for name, want := range reports() {
		var b bytes.Buffer
		if err := want.WriteJSON(&b); err != nil {
			t.Fatal(err)
		}
		if text := b.String(); strings.Count(text, "\n") != 1 || strings.Contains(text, "null") {
			t.Errorf("%s: not a line, or with null: %s", name, text)
		}
		for i := range want.Hops {
			if v := &want.Hops[i].Verdict; v.Text == "" { // the sentence that people read
				v.Text = "No layer is slower than the baseline."
			}
		}
		var got Report
		if err := json.Unmarshal(b.Bytes(), &got); err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(*want, got, cmpopts.EquateEmpty(), cmpopts.IgnoreUnexported(breakdown.Segment{})); diff != "" {
			t.Errorf("%s: %s", name, diff)
		}
	}
	var b bytes.Buffer
	if err := (&Comparison{}).WriteJSON(&b); err != nil {
		t.Fatal(err)
	}
	if strings.Contains(b.String(), "null") {
		t.Errorf("null in %s", b.String())
	}
}
