// SPDX-License-Identifier: Apache-2.0

package faults

import (
	"slices"
	"time"
)

// Result is a case, what was done, and what layertrace said: one element of
// `cases` in faults.json.
type Result struct {
	Fault      Kind   `json:"fault"`
	Layer      Layer  `json:"layer"`
	Place      string `json:"place"`
	InjectedUS int64  `json:"injected_us"`

	VerdictLayer   Layer  `json:"verdict_layer"`
	VerdictPlace   string `json:"verdict_place"`
	MeasuredUS     int64  `json:"measured_us"`
	UnattributedUS int64  `json:"unattributed_us"`
	TotalUS        int64  `json:"total_us"`

	// Covers are the layers that the verdict could not tell apart.
	Covers      []Layer `json:"verdict_covers,omitempty"`
	Confidence  string  `json:"confidence,omitempty"`
	MagnitudeUS int64   `json:"magnitude_us"`
	Leg         *Leg    `json:"leg,omitempty"`
	Version     string  `json:"version"`
	Load        bool    `json:"load"`
	// ClientUS is how long the client waited.
	ClientUS int64  `json:"client_us"`
	TraceID  string `json:"trace_id"`
	Seed     uint64 `json:"seed"`
}

// NewResult is the result of a case, without a verdict.
func NewResult(c Case, traceID string, injected, client time.Duration, seed uint64) Result {
	r := Result{
		Fault: c.Kind, Layer: c.Kind.Layer(), Place: c.Place(), InjectedUS: injected.Microseconds(),
		MagnitudeUS: c.Magnitude.Microseconds(), Version: c.Version, Load: c.Load,
		ClientUS: client.Microseconds(), TraceID: traceID, Seed: seed,
	}
	if c.Leg != (Leg{}) {
		r.Leg = &c.Leg
	}
	return r
}

// Verdict is what layertrace says of a trace.
type Verdict struct {
	Layer      Layer
	Place      string
	Covers     []Layer
	Confidence string
	// Excess is what the layer took more than usual, Unattributed what no layer
	// was given, Total the whole time.
	Excess, Unattributed, Total time.Duration
}

// Judge adds a verdict.
func (r *Result) Judge(v Verdict) {
	r.VerdictLayer, r.VerdictPlace, r.Covers, r.Confidence = v.Layer, v.Place, v.Covers, v.Confidence
	r.MeasuredUS, r.UnattributedUS, r.TotalUS = v.Excess.Microseconds(), v.Unattributed.Microseconds(), v.Total.Microseconds()
}

// RightLayer tells whether the verdict names the layer, alone or in a group
// that it could not tell apart.
func (r Result) RightLayer() bool {
	return r.VerdictLayer == r.Layer || slices.Contains(r.Covers, r.Layer)
}

// Right tells whether the verdict names layer and place. A group is at the
// place of its first layer, which need not be the fault's.
func (r Result) Right() bool {
	if r.VerdictLayer == r.Layer {
		return r.VerdictPlace == r.Place
	}
	return r.RightLayer()
}

// Counts tells whether the fault is one that has to be found: those under 1 ms
// need not be.
func (r Result) Counts() bool { return r.Layer != None && r.InjectedUS >= 1000 }

// Close tells whether the layer was given what was injected, within 5 % or
// 200 µs.
func (r Result) Close() bool {
	off := r.MeasuredUS - r.InjectedUS
	return max(off, -off) <= max(200, r.InjectedUS/20)
}

// File is faults.json.
type File struct {
	Cases []Result `json:"cases"`
	// Accuracy is the share of the faults of 1 ms and more of which layer and
	// place were named; FalseBlame the share of requests without a fault with a
	// verdict that blames a layer.
	Accuracy   float64 `json:"accuracy"`
	FalseBlame float64 `json:"false_blame"`
	// Again is how many requests were made again, since the fault missed or the
	// client waited for something else as well; LeftOut how many cases are not
	// here for that.
	Again   int `json:"made_again"`
	LeftOut int `json:"left_out"`
}
