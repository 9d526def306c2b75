// SPDX-License-Identifier: Apache-2.0

package explain

import (
	"time"

	"github.com/layertrace/layertrace/internal/observe"
)

const us = int64(time.Microsecond)

var testStart = time.Date(2026, 1, 2, 15, 4, 5, 123_456_000, time.UTC)

// reports are made by hand, one for each thing that can be missing.
func reports() map[string]*Report {
	return map[string]*Report{"slow-network": slowNetwork(), "no-baseline": noBaseline(), "nothing": nothing(), "hostile": hostile()}
}

// slowNetwork has everything: a baseline, hops in hops, a culprit.
func slowNetwork() *Report {
	return &Report{
		TraceID: "4bf92f3577b34da6a3ce929d0e0e4736", Service: "gateway", Operation: "GET /productpage",
		Start: testStart, Total: 48_200 * us, Unattributed: 320 * us,
		Verdict: Verdict{
			Layer: observe.RelayNetwork, Location: "node2-node3", Between: "eth0 of node2 to eth0 of node3",
			Time: 36_400 * us, Excess: 35_900 * us, Share: 0.745, Confidence: High,
			Text:     "The network between node2 and node3 made this slow: it took 36.4 ms, 35.9 ms more than it typically does, 74 % of the whole time.",
			Evidence: []string{"2 segments of the request were sent again on the way from productpage-v1 to reviews-v1", "all other layers took what they typically take"},
		},
		Baseline: Baseline{Traces: 100, BaselineTotal: 12_100 * us},
		Layers: []Share{
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
					{Layer: observe.VirtualNetwork, Location: "node1", Between: "vethgw to eth0", Phase: "request", Start: 0, Time: 210 * us, Baseline: 200 * us},
					{Layer: observe.Application, Location: "productpage-v1", Between: "between the sockets of productpage-v1", Phase: "request", Start: 300 * us, Time: 2_000 * us, Baseline: 2_100 * us},
					{Layer: observe.Application, Location: "productpage-v1", Between: "between the sockets of productpage-v1", Phase: "response", Start: 45_900 * us, Time: 2_100 * us, Baseline: 2_200 * us},
				},
			},
			{
				Depth: 1, SpanID: "00f067aa0ba902b8", From: "productpage-v1", To: "details-v1", FromNode: "node2", ToNode: "node4",
				Start: 2_400 * us, Total: 3_300 * us, Status: 200, Unattributed: 0, Verdict: Verdict{Layer: observe.NoLayer},
				Segments: []Segment{{Layer: observe.Application, Location: "details-v1", Between: "socket of details-v1", Phase: "both", Start: 2_700 * us, Time: 2_800 * us, Baseline: 2_750 * us}},
				Notes:    []string{"node4 has no agent at its physical interface"},
			},
			{
				Depth: 1, SpanID: "00f067aa0ba902b9", From: "productpage-v1", To: "reviews-v1", FromNode: "node2", ToNode: "node3",
				Start: 2_400 * us, Total: 43_400 * us, Status: 503, OnCriticalPath: true, Unattributed: 120 * us,
				Segments: []Segment{
					{Layer: observe.ProtocolStack, Location: "productpage-v1", Between: "socket of productpage-v1 to vethpp", Phase: "request", Start: 2_400 * us, Time: 60 * us, Baseline: 50 * us},
					{Layer: observe.NodeDriver, Location: "node2", Between: "queue of eth0", Phase: "request", Start: 2_460 * us, Time: 120 * us, Baseline: -1},
					{Layer: observe.RelayNetwork, Location: "node2-node3", Between: "eth0 of node2 to eth0 of node3", Phase: "request", Start: 2_600 * us, Time: 36_400 * us, Baseline: 500 * us},
					{Layer: observe.ProtocolStack, Location: "reviews-v1", Between: "vethrv to the socket of reviews-v1", Phase: "request", Start: 39_000 * us, Time: 580 * us, Baseline: 560 * us},
					{Layer: observe.Application, Location: "reviews-v1", Between: "socket of reviews-v1", Phase: "both", Start: 39_580 * us, Time: 6_200 * us, Baseline: 6_000 * us},
				},
				Verdict: Verdict{Layer: observe.RelayNetwork, Location: "node2-node3", Time: 36_400 * us, Confidence: High, Text: "36.4 ms between eth0 of node2 and eth0 of node3, typically 500 µs."},
			},
			{
				Depth: 2, SpanID: "00f067aa0ba902ba", From: "reviews-v1 (sidecar)", To: "reviews-v1", FromNode: "node3", ToNode: "node3",
				Start: 39_700 * us, Total: 5_900 * us, Status: 503, OnCriticalPath: true,
				Segments: []Segment{{Layer: observe.Application, Location: "reviews-v1", Between: "socket of reviews-v1", Phase: "both", Start: 39_800 * us, Time: 5_700 * us, Baseline: 5_600 * us}},
				Verdict:  Verdict{Layer: observe.NoLayer},
			},
		},
	}
}

// noBaseline has no typical traces, and lacks capture points.
func noBaseline() *Report {
	covers := []observe.Layer{observe.ProtocolStack, observe.VirtualNetwork, observe.NodeDriver}
	return &Report{
		TraceID: "0000000000000000a3ce929d0e0e4736", Service: "frontend", Operation: "POST /orders/{id}/items", Start: testStart, Total: 2_345_678_901, Unattributed: 400_000 * us,
		Verdict: Verdict{
			Layer: observe.ProtocolStack, Location: "orders", Time: 1_700_000 * us, Excess: 1_700_000 * us, Share: 0.72, Confidence: Low, MergedLayers: covers,
			Text:     "Most of the time, 1.70 s of 2.35 s, went between the process of orders and the physical interface of its node.",
			Evidence: []string{"there are no typical traces, so this may be as usual"},
		},
		Layers: []Share{
			{Layer: observe.ProtocolStack, Location: "orders", Time: 1_700_000 * us, Baseline: -1, Share: 0.72, MergedLayers: covers},
			{Layer: observe.Application, Location: "a-service-with-a-very-long-name-indeed", Time: 245_678 * us, Baseline: -1, Share: 0.104},
		},
		Hops: []Hop{{
			SpanID: "00f067aa0ba902b7", From: "frontend", To: "orders", ToNode: "worker-7", Total: 2_345_678_901, OnCriticalPath: true, Unattributed: 400_000 * us,
			Segments: []Segment{{Layer: observe.ProtocolStack, Location: "orders", Between: "eth0 of worker-7 to the socket of orders", Phase: "request", Start: 300_000 * us, Time: 1_700_000 * us, Baseline: -1, MergedLayers: covers}},
			Notes:    []string{"nothing was seen of it at a virtual interface of worker-7"},
		}},
		Notes: []string{"no typical traces: the store has no other trace of this service and operation in 15m0s before it", "1 span of layertrace could not be read: span 000000000000000b (reviews_veth1): host.name is missing, so its node is not known"},
	}
}

// nothing has no layers at all.
func nothing() *Report {
	return &Report{
		TraceID: "4bf92f3577b34da6a3ce929d0e0e4737", Start: testStart,
		Verdict: Verdict{Layer: observe.NoLayer, Confidence: Low, Text: "Nothing can be said: the trace has no spans of layertrace."},
		Notes:   []string{"is the agent running on the nodes of this trace? layertrace status tells"},
	}
}

// hostile has names that want to be more than names.
func hostile() *Report {
	r := slowNetwork()
	const name = `<script>document.title="owned"</script>` + "\x1b[31m\u202e"
	r.Service, r.Operation, r.Verdict.Text, r.Verdict.Evidence = name, `"onmouseover="alert(1)`, name, []string{name}
	r.Hops[0].From, r.Hops[0].Segments[0].Between, r.Hops[0].Notes = name, `"><img src=x onerror=alert(1)>`, []string{name + "\nnext line"}
	r.Layers[0].Location, r.Verdict.Location, r.Notes = name, name, []string{name}
	r.Hops[1].Segments[0].Layer = observe.Layer("};x:expression(alert(1))")
	r.Hops[2].Start, r.Hops[2].Total = -5_000*us, -1 // and times that are none
	return r
}

func slowTail() *Comparison {
	return &Comparison{
		Service: "productpage", From: testStart, To: testStart.Add(15 * time.Minute), Traces: 300, Left: 4,
		Reasons: map[string]int{"without spans of layertrace": 3, "without an end": 1},
		Slow:    15, Baseline: 281, Threshold: 31_000 * us, SlowTotal: 47_000 * us, BaselineTotal: 12_100 * us,
		Layers: []Delta{
			{Layer: observe.NodeDriver, Location: "node3", Slow: 33_000 * us, Baseline: 150 * us, Excess: 32_850 * us, Share: 0.94},
			{Layer: observe.Application, Location: "reviews-v1", Slow: 6_900 * us, Baseline: 6_000 * us, Excess: 900 * us, Share: 0.03},
			{Layer: observe.ProtocolStack, Location: "productpage-v1", Slow: 700 * us, Baseline: 820 * us, Excess: -120 * us, MergedLayers: []observe.Layer{observe.ProtocolStack, observe.VirtualNetwork}},
		},
		Verdict: Verdict{
			Layer: observe.NodeDriver, Location: "node3", Time: 33_000 * us, Excess: 32_850 * us, Share: 0.94, Confidence: Medium,
			Text: "The queue of node3's physical interface makes the slow traces slow: 33.0 ms there, 150 µs in typical ones.", Evidence: []string{"13 of 15 slow traces waited there"},
		},
		SlowTraces: []string{"4bf92f3577b34da6a3ce929d0e0e4736", "4bf92f3577b34da6a3ce929d0e0e4737"},
		Notes:      []string{"traces that ended with an error are in the comparison"},
	}
}
