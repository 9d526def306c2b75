// SPDX-License-Identifier: Apache-2.0

// Package explain reports where the time of a trace went: per hop the layers, and
// which of them is slower than the baseline, the traces of the same operation.
//
// Explain and CompareService work on traces that were read; Select reads them and
// their baseline from a trace store.
package explain

import (
	"encoding/json"
	"io"
	"slices"
	"time"

	"github.com/layertrace/layertrace/agent/internal/breakdown"
	"github.com/layertrace/layertrace/internal/observe"
)

// Report explains one trace. Times are in ns. Starts are offsets from the start
// of the trace; they mix the clocks of nodes and are for display only.
type Report struct {
	TraceID string `json:"trace_id"`
	// Service and Operation are those of the root span.
	Service   string    `json:"service"`
	Operation string    `json:"operation"`
	Start     time.Time `json:"start"`
	// Total is the time of the root hop.
	Total int64 `json:"total_ns"`
	// Unattributed is the part of Total that no layer can be given.
	Unattributed int64   `json:"unattributed_ns"`
	Verdict      Verdict `json:"verdict"`
	// Layers are the sums over the hops on the critical path, largest excess
	// first.
	Layers []LayerTime `json:"layers"`
	// Hops in the order of their starts, each after its parent.
	Hops     []Hop    `json:"hops"`
	Baseline Baseline `json:"baseline"`
	// Notes report what is missing, and its consequence.
	Notes []string `json:"notes"`
}

// Baseline describes the traces that a trace is compared with.
type Baseline struct {
	// Traces is their number; 0: no comparison.
	Traces int `json:"traces"`
	// BaselineTotal is their median time in ns.
	BaselineTotal int64 `json:"baseline_total_ns"`
}

// LayerTime is the time of a layer at a location.
type LayerTime struct {
	Layer observe.Layer `json:"layer"`
	// Location is the service (application, protocol stack), the node (node
	// driver, virtual network), or NODE-NODE (relay network).
	Location string `json:"location"`
	// Namespace of the service in Location, "" without one or if it is unknown.
	Namespace string `json:"namespace"`
	Time      int64  `json:"time_ns"`
	// Baseline is the median of the baseline, -1 if unknown.
	Baseline int64 `json:"baseline_ns"`
	// Share of the trace's total time, 0 to 1.
	Share float64 `json:"share"`
	// MergedLayers are several layers that no capture point separates; Layer is
	// the first of them.
	MergedLayers []observe.Layer `json:"merged_layers,omitempty"`
}

// Hop is one request on one TCP connection. It is separate from breakdown.Hop, whose
// observations and links are not part of the JSON form.
type Hop struct {
	// Depth in the tree of hops, 0 for the root.
	Depth int `json:"depth"`
	// SpanID is the one in the request's header.
	SpanID string `json:"span_id"`
	// From and To are the services. Inside a pod, "(sidecar)" marks the end of the
	// proxy.
	From string `json:"from"`
	To   string `json:"to"`
	// FromNamespace and ToNamespace are those of the services, "" if unknown.
	FromNamespace string `json:"from_namespace"`
	ToNamespace   string `json:"to_namespace"`
	// FromNode and ToNode are the nodes, "" if unknown.
	FromNode string    `json:"from_node"`
	ToNode   string    `json:"to_node"`
	Start    int64     `json:"start_ns"`
	Total    int64     `json:"total_ns"`
	Status   int       `json:"status"`
	Segments []Segment `json:"segments"`
	// Unattributed is Total without the segments and child hops.
	Unattributed int64 `json:"unattributed_ns"`
	// OnCriticalPath is false if the trace did not wait for this hop: a parallel
	// one ended later.
	OnCriticalPath bool `json:"on_critical_path"`
	// Flags are the names of the remarks of its capture points (observe.Flags).
	Flags   []string `json:"flags"`
	Verdict Verdict  `json:"verdict"`
	Notes   []string `json:"notes"`
}

// Segment is a piece of a hop's time; breakdown, which sees one trace, has no baseline.
type Segment struct {
	breakdown.Segment
	// Baseline is the median of the baseline, -1 if unknown.
	Baseline int64 `json:"baseline_ns"`
}

// MarshalJSON writes the namespace also if it is "".
func (s Segment) MarshalJSON() ([]byte, error) {
	type fields Segment
	return json.Marshal(struct {
		fields
		Namespace string `json:"namespace"`
	}{fields(s), s.Namespace})
}

// Verdict names the layer and location that explain the excess.
type Verdict struct {
	// Layer is observe.NoLayer if none is slower than the baseline.
	Layer    observe.Layer `json:"layer"`
	Location string        `json:"location"`
	// Namespace of the service in Location, "" without one or if it is unknown.
	Namespace string `json:"namespace"`
	// Between is that of the longest segment.
	Between string `json:"between,omitempty"`
	// Queue is that of the longest segment.
	Queue breakdown.Queue `json:"queue,omitempty"`
	// Time of the layer. Excess is its time above the baseline; without a baseline
	// it is Time.
	Time   int64 `json:"time_ns"`
	Excess int64 `json:"excess_ns"`
	// Share of Excess in the whole time, 0 to 1.
	Share        float64         `json:"share"`
	Confidence   Confidence      `json:"confidence"`
	MergedLayers []observe.Layer `json:"merged_layers,omitempty"`
	// Evidence are sentences that support the verdict: times, retransmissions,
	// drops, a queue.
	Evidence []string `json:"evidence"`
	// Text is the verdict as one sentence.
	Text string `json:"text"`
}

// Confidence is how far a verdict can be trusted.
type Confidence string

// Confidences. Low: information that could change the verdict is missing.
const (
	High   Confidence = "high"
	Medium Confidence = "medium"
	Low    Confidence = "low"
)

// Comparison compares slow traces with a baseline: those of a service, or some
// traces by their IDs. Times are in ns.
type Comparison struct {
	Service string `json:"service"`
	// TraceIDs are the traces that were asked for, slow or not; empty if the slow
	// ones of the service were searched.
	TraceIDs []string `json:"trace_ids,omitempty"`
	// From and To are the starts of the first and the last trace.
	From time.Time `json:"from"`
	To   time.Time `json:"to"`
	// Traces is the number of traces read, Skipped of those without anything to
	// compare, SkippedReasons their number by reason.
	Traces         int            `json:"traces"`
	Skipped        int            `json:"skipped"`
	SkippedReasons map[string]int `json:"skipped_reasons"`
	// Slow is the number of slow traces, Baseline that of all others. Threshold
	// is the time from which on a trace of the service is slow.
	Slow      int   `json:"slow"`
	Baseline  int   `json:"baseline"`
	Threshold int64 `json:"threshold_ns"`
	// SlowTotal and BaselineTotal are medians; -1: there is no trace.
	SlowTotal     int64 `json:"slow_total_ns"`
	BaselineTotal int64 `json:"baseline_total_ns"`
	// Unattributed is the median of the slow traces.
	Unattributed int64 `json:"unattributed_ns"`
	// Layers, largest excess first.
	Layers []LayerDelta `json:"layers"`
	// Verdict names the layer that makes the slow traces slow.
	Verdict Verdict `json:"verdict"`
	// SlowTraces are IDs, slowest first, at most ten.
	SlowTraces []string `json:"slow_traces"`
	Notes      []string `json:"notes"`
}

// LayerDelta compares the time of a layer at a location. Slow and Baseline are
// medians; a Baseline of -1 is unknown.
type LayerDelta struct {
	Layer    observe.Layer `json:"layer"`
	Location string        `json:"location"`
	// Namespace of the service in Location, "" without one or if it is unknown.
	Namespace string `json:"namespace"`
	Slow      int64  `json:"slow_ns"`
	Baseline  int64  `json:"baseline_ns"`
	Excess    int64  `json:"excess_ns"`
	// Share of Excess in that of the whole traces.
	Share        float64         `json:"share"`
	MergedLayers []observe.Layer `json:"merged_layers,omitempty"`
}

// WriteJSON writes the report as one line of JSON. No list is null.
func (r *Report) WriteJSON(w io.Writer) error {
	c, names := *r, r.names()
	c.Layers, c.Hops = notNull(c.Layers), slices.Clone(notNull(c.Hops))
	c.Notes, c.Verdict = notNull(c.Notes), c.Verdict.asShown(names)
	for i := range c.Hops {
		h := &c.Hops[i]
		h.Flags = notNull(h.Flags)
		h.Segments, h.Notes, h.Verdict = notNull(h.Segments), notNull(h.Notes), h.Verdict.asShown(names)
	}
	return encode(w, c)
}

// WriteJSON writes the comparison as one line of JSON. No list is null.
func (c *Comparison) WriteJSON(w io.Writer) error {
	d := *c
	d.Layers, d.SlowTraces, d.Notes, d.Verdict = notNull(d.Layers), notNull(d.SlowTraces), notNull(d.Notes), d.Verdict.asShown(c.names())
	if d.SkippedReasons == nil {
		d.SkippedReasons = map[string]int{}
	}
	return encode(w, d)
}

func encode(w io.Writer, value any) error {
	e := json.NewEncoder(w)
	e.SetEscapeHTML(false)
	return e.Encode(value)
}

func notNull[T any](items []T) []T {
	if items == nil {
		return []T{}
	}
	return items
}
