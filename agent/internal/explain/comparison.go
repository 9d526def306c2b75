// SPDX-License-Identifier: Apache-2.0

package explain

import (
	"time"

	"github.com/layertrace/layertrace/internal/observe"
)

// Comparison sets the slow traces of a service against its typical ones. Times
// are in ns.
type Comparison struct {
	Service string `json:"service"`
	// Asked are the IDs of traces that were asked for, slow or not; empty when
	// the slow ones were searched.
	Asked []string `json:"asked,omitempty"`
	// From and To are the start of the first and the last trace.
	From time.Time `json:"from"`
	To   time.Time `json:"to"`
	// Traces were read; Left of them had nothing to compare, for Reasons.
	Traces  int            `json:"traces"`
	Left    int            `json:"skipped"`
	Reasons map[string]int `json:"skipped_reasons"`
	// Slow traces are those above Threshold, Baseline all others.
	Slow      int   `json:"slow"`
	Baseline  int   `json:"baseline"`
	Threshold int64 `json:"threshold_ns"`
	// SlowTotal and BaselineTotal are medians.
	SlowTotal     int64 `json:"slow_total_ns"`
	BaselineTotal int64 `json:"baseline_total_ns"`
	// Unattributed is the median of what no layer was given in slow traces.
	Unattributed int64 `json:"unattributed_ns"`
	// Layers, largest excess first.
	Layers []Delta `json:"layers"`
	// Verdict names the layer that makes the tail.
	Verdict Verdict `json:"verdict"`
	// SlowTraces are IDs, slowest first, at most ten.
	SlowTraces []string `json:"slow_traces"`
	Notes      []string `json:"notes"`
}

// Delta compares a layer at a place; Slow and Baseline are medians.
type Delta struct {
	Layer        observe.Layer   `json:"layer"`
	Location     string          `json:"location"`
	Slow         int64           `json:"slow_ns"`
	Baseline     int64           `json:"baseline_ns"`
	Excess       int64           `json:"excess_ns"`
	Share        float64         `json:"share"`
	MergedLayers []observe.Layer `json:"merged_layers,omitempty"`
}
