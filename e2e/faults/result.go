// SPDX-License-Identifier: Apache-2.0

package faults

import (
	"slices"
	"time"

	"github.com/layertrace/layertrace/internal/stats"
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
	VerdictQueue   string `json:"verdict_queue,omitempty"`
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
	ClientUS int64 `json:"client_us"`
	// TraceIDs are those of the case's requests; InjectedUS and ClientUS are
	// medians over them, the verdict is on all together.
	TraceIDs []string `json:"trace_ids"`
	// Singles are the verdicts on each request by itself.
	Singles []Single `json:"single_verdicts"`
	Seed    uint64   `json:"seed"`
}

// Single is the verdict on one request of a case.
type Single struct {
	InjectedUS int64  `json:"injected_us"`
	Layer      Layer  `json:"verdict_layer"`
	Place      string `json:"verdict_place"`
	MeasuredUS int64  `json:"measured_us"`
	Right      bool   `json:"right"`
	// ClientOffUS is by how much the client waited longer than it usually does
	// and the fault accounts for: something else was slow, too.
	ClientOffUS int64 `json:"client_off_us"`
}

// SeenByClient tells whether the client, too, waited longer than usual by half or
// more of what a layer is blamed for: without a fault of ours, something else was
// slow.
func (s Single) SeenByClient() bool { return 2*s.ClientOffUS >= s.MeasuredUS }

// Request is one request of a case: its trace, what was injected into it, how long
// the client waited, and what of that neither the fault nor what is usual explains.
type Request struct {
	TraceID                     string
	Injected, Client, ClientOff time.Duration
}

// NewResult is the result of a case, without a verdict.
func NewResult(c Case, requests []Request, seed uint64) Result {
	r := Result{
		Fault: c.Kind, Layer: c.Kind.Layer(), Place: c.Place(),
		MagnitudeUS: c.Magnitude.Microseconds(), Version: c.Version, Load: c.Load, Seed: seed,
		InjectedUS: stats.MedianOf(requests, func(q Request) time.Duration { return q.Injected }).Microseconds(),
		ClientUS:   stats.MedianOf(requests, func(q Request) time.Duration { return q.Client }).Microseconds(),
	}
	for _, q := range requests {
		r.TraceIDs = append(r.TraceIDs, q.TraceID)
		r.Singles = append(r.Singles, Single{InjectedUS: q.Injected.Microseconds(), ClientOffUS: q.ClientOff.Microseconds()})
	}
	if c.Leg != (Leg{}) {
		r.Leg = &c.Leg
	}
	return r
}

// Verdict is what layertrace says of traces.
type Verdict struct {
	Layer      Layer
	Place      string
	Queue      string
	Covers     []Layer
	Confidence string
	// Excess is what the layer took more than usual, Unattributed what no layer
	// was given, Total the whole time.
	Excess, Unattributed, Total time.Duration
}

// Judge adds a verdict.
func (r *Result) Judge(v Verdict) {
	r.VerdictLayer, r.VerdictPlace, r.VerdictQueue = v.Layer, v.Place, v.Queue
	r.Covers, r.Confidence = v.Covers, v.Confidence
	r.MeasuredUS, r.UnattributedUS, r.TotalUS = v.Excess.Microseconds(), v.Unattributed.Microseconds(), v.Total.Microseconds()
}

// JudgeSingle adds the verdict on one of the requests.
func (r *Result) JudgeSingle(i int, v Verdict) {
	s := &r.Singles[i]
	alone := *r
	alone.Judge(v)
	s.Layer, s.Place, s.MeasuredUS, s.Right = v.Layer, v.Place, alone.MeasuredUS, alone.Right()
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
	// Again is how many requests were made again, since the fault missed them;
	// LeftOut how many cases are not here for that. Unsound is how many requests
	// waited for something else, too, by what the client saw; they are here.
	Again   int `json:"made_again"`
	LeftOut int `json:"left_out"`
	Unsound int `json:"unsound"`
}
