// SPDX-License-Identifier: Apache-2.0

// Package explain reads a trace back and tells where its time went: per hop
// the layers, and what is slower there than it usually is.
package explain

import (
	"time"

	"github.com/layertrace/layertrace/agent/internal/breakdown"
	"github.com/layertrace/layertrace/internal/observe"
)

// Confidence is how sure a verdict is.
type Confidence string

// Confidences. Low: something that could have told was missing.
const (
	High   Confidence = "high"
	Medium Confidence = "medium"
	Low    Confidence = "low"
)

// Report is what is known of one trace. Times without a name of their own are
// in ns; starts are offsets from the start of the trace, for display only,
// since they mix the clocks of nodes.
type Report struct {
	TraceID string `json:"trace_id"`
	// Service and Operation are those of the root span.
	Service   string    `json:"service"`
	Operation string    `json:"operation"`
	Start     time.Time `json:"start"`
	// Total is the time of the trace, that of its root hop.
	Total int64 `json:"total_ns"`
	// Unattributed is what of Total no layer was given.
	Unattributed int64   `json:"unattributed_ns"`
	Verdict      Verdict `json:"verdict"`
	// Layers are the sums over the hops that the trace waited for, largest
	// excess over typical first.
	Layers []Share `json:"layers"`
	// Hops in the order of their starts, each behind the hop that caused it.
	Hops     []Hop    `json:"hops"`
	Baseline Baseline `json:"baseline"`
	// Notes say what is missing and what it means.
	Notes []string `json:"notes"`
}

// Baseline says what the trace is compared with.
type Baseline struct {
	// Traces is the number of typical traces; 0: there is no comparison.
	Traces int `json:"traces"`
	// BaselineTotal is their median time in ns.
	BaselineTotal int64 `json:"baseline_total_ns"`
}

// Share is the time that a layer took at a place.
type Share struct {
	Layer observe.Layer `json:"layer"`
	// Location is the service (application, protocol stack), the node (node
	// driver, virtual network), or NODE-NODE (relay network).
	Location string `json:"location"`
	Time     int64  `json:"time_ns"`
	// Baseline is the median of the baseline, -1 without one.
	Baseline int64 `json:"baseline_ns"`
	// Share of the trace's total time, 0 to 1.
	Share float64 `json:"share"`
	// MergedLayers are the layers that could not be told apart, when a capture point
	// between them is missing; Layer is the first of them.
	MergedLayers []observe.Layer `json:"merged_layers,omitempty"`
}

// Hop is one request on one TCP connection.
type Hop struct {
	// Depth in the tree of hops, 0 for the root.
	Depth int `json:"depth"`
	// SpanID is the one in the request's header.
	SpanID string `json:"span_id"`
	// From and To are the services, with "(sidecar)" behind a proxy's end of
	// a connection inside a pod.
	From string `json:"from"`
	To   string `json:"to"`
	// FromNode and ToNode are nodes, "" where nobody looks.
	FromNode string    `json:"from_node"`
	ToNode   string    `json:"to_node"`
	Start    int64     `json:"start_ns"`
	Total    int64     `json:"total_ns"`
	Status   int       `json:"status"`
	Segments []Segment `json:"parts"`
	// Unattributed is Total without the parts; hops inside count as a part.
	Unattributed int64 `json:"unattributed_ns"`
	// OnCriticalPath is false when the trace did not wait for this hop: another one at
	// the same time ended later.
	OnCriticalPath bool     `json:"on_critical_path"`
	Verdict        Verdict  `json:"verdict"`
	Notes          []string `json:"notes"`
}

// Segment is a piece of a hop's time.
type Segment struct {
	Layer    observe.Layer `json:"layer"`
	Location string        `json:"location"`
	// Between says between which points, as "socket of reviews-v1 to vethreviewsv1".
	Between string `json:"between"`
	// Phase is "request", "response" or "both".
	Phase string `json:"phase"`
	Start int64  `json:"start_ns"`
	Time  int64  `json:"time_ns"`
	// Back is where the second half of a part of both ways is drawn: how the
	// relay network's time is split between them no clock knows. 0: one piece.
	Back int64 `json:"back_ns,omitempty"`
	// Baseline is the median of the baseline, -1 without one.
	Baseline     int64           `json:"baseline_ns"`
	MergedLayers []observe.Layer `json:"merged_layers,omitempty"`
}

// piece is a stretch of time that a part is drawn over.
type piece struct{ start, time int64 }

func (p *Segment) pieces() []piece {
	if p.Back == 0 {
		return []piece{{p.Start, p.Time}}
	}
	return []piece{{p.Start, p.Time / 2}, {p.Back, p.Time - p.Time/2}}
}

// Verdict names the layer that is to blame.
type Verdict struct {
	// Layer is observe.NoLayer when nothing stands out.
	Layer    observe.Layer `json:"layer"`
	Location string        `json:"location"`
	// Between is the part of the place that took most, as in Segment.
	Between string `json:"between,omitempty"`
	// Queue is the queue in which most of it was spent, where that is known.
	Queue breakdown.Queue `json:"queue,omitempty"`
	// Time is what the layer took, Excess what of it is more than typical, or
	// all of it without a baseline.
	Time   int64 `json:"time_ns"`
	Excess int64 `json:"excess_ns"`
	// Share of Excess in the whole time, 0 to 1.
	Share        float64         `json:"share"`
	Confidence   Confidence      `json:"confidence"`
	MergedLayers []observe.Layer `json:"merged_layers,omitempty"`
	// Evidence are sentences on what supports it: retransmissions, drops, a
	// queue, the comparison.
	Evidence []string `json:"evidence"`
	// Text is the verdict as one sentence.
	Text string `json:"text"`
}
