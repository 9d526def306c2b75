// SPDX-License-Identifier: Apache-2.0

package matrix

import (
	"cmp"
	"slices"
	"time"

	"github.com/layertrace/layertrace/e2e/faults"
	"github.com/layertrace/layertrace/internal/observe"
	"github.com/layertrace/layertrace/internal/stats"
)

// Result is a case, the injected fault, and layertrace's verdict: an element of `cases`
// in faults.json. Other programs read that file: the JSON keys stay as they are, also
// where they differ from the names of the fields.
type Result struct {
	Fault      faults.Kind   `json:"fault"`
	Layer      observe.Layer `json:"layer"`
	Location   string        `json:"place"`
	InjectedUS int64         `json:"injected_us"`

	VerdictLayer    observe.Layer `json:"verdict_layer"`
	VerdictLocation string        `json:"verdict_place"`
	VerdictQueue    string        `json:"verdict_queue,omitempty"`
	MeasuredUS      int64         `json:"measured_us"`
	UnattributedUS  int64         `json:"unattributed_us"`
	TotalUS         int64         `json:"total_us"`

	// MergedLayers are the layers that the verdict could not distinguish.
	MergedLayers []observe.Layer  `json:"verdict_covers,omitempty"`
	Confidence   string           `json:"confidence,omitempty"`
	MagnitudeUS  int64            `json:"magnitude_us"`
	Transfer     *faults.Transfer `json:"leg,omitempty"`
	Version      string           `json:"version"`
	Load         bool             `json:"load"`
	// Report is set for requests for the slow endpoint, in mixed traffic.
	Report bool `json:"report,omitempty"`
	// Flags are those of all traces' spans at the pod, after a reset.
	Flags []string `json:"flags,omitempty"`
	// ClientUS is how long the client waited.
	ClientUS int64 `json:"client_us"`
	// TraceIDs are the traces of the case's requests. InjectedUS and ClientUS are
	// medians over them; the verdict is on all of them together.
	TraceIDs []string `json:"trace_ids"`
	// Singles are the verdicts on each request alone.
	Singles []Single `json:"single_verdicts"`
	Seed    uint64   `json:"seed"`
}

// Single is the verdict on one request of a case.
type Single struct {
	InjectedUS int64         `json:"injected_us"`
	Layer      observe.Layer `json:"verdict_layer"`
	Location   string        `json:"verdict_place"`
	MeasuredUS int64         `json:"measured_us"`
	Confidence string        `json:"confidence,omitempty"`
	Right      bool          `json:"right"`
	// ClientOffUS is how much of the client's wait neither baseline nor fault
	// explains: another cause.
	ClientOffUS int64 `json:"client_off_us"`
}

// SeenByClient reports whether the client also measured half or more of the time that
// a layer is blamed for. Without an injected fault, another cause was slow.
func (s Single) SeenByClient() bool { return 2*s.ClientOffUS >= s.MeasuredUS }

// Sample is a request of a case: its trace, how long the fault held it up, how long the
// client waited, and how much of that neither fault nor baseline explains.
type Sample struct {
	TraceID                     string
	Injected, Client, ClientOff time.Duration
}

// NewResult returns the result of a case, without a verdict.
func NewResult(c faults.Case, requests []Sample, seed uint64) Result {
	r := Result{
		Fault: c.Kind, Layer: c.Kind.Layer(), Location: c.Location(),
		MagnitudeUS: c.Magnitude.Microseconds(), Version: c.Version, Load: c.Load, Report: c.Report, Seed: seed,
		InjectedUS: stats.MedianOf(requests, func(q Sample) time.Duration { return q.Injected }).Microseconds(),
		ClientUS:   stats.MedianOf(requests, func(q Sample) time.Duration { return q.Client }).Microseconds(),
	}
	for _, q := range requests {
		r.TraceIDs = append(r.TraceIDs, q.TraceID)
		r.Singles = append(r.Singles, Single{InjectedUS: q.Injected.Microseconds(), ClientOffUS: q.ClientOff.Microseconds()})
	}
	if c.Transfer != (faults.Transfer{}) {
		r.Transfer = &c.Transfer
	}
	return r
}

// Verdict is layertrace's verdict on traces.
type Verdict struct {
	Layer        observe.Layer
	Location     string
	Queue        string
	MergedLayers []observe.Layer
	Confidence   string
	// Excess is the layer's time above the baseline, Unattributed the time without a
	// layer, Total the whole time.
	Excess, Unattributed, Total time.Duration
}

// Judge adds a verdict.
func (r *Result) Judge(v Verdict) {
	r.VerdictLayer, r.VerdictLocation, r.VerdictQueue = v.Layer, v.Location, v.Queue
	r.MergedLayers, r.Confidence = v.MergedLayers, v.Confidence
	r.MeasuredUS, r.UnattributedUS, r.TotalUS = v.Excess.Microseconds(), v.Unattributed.Microseconds(), v.Total.Microseconds()
}

// JudgeSingle adds the verdict on one request.
func (r *Result) JudgeSingle(i int, v Verdict) {
	s := &r.Singles[i]
	alone := *r
	alone.Judge(v)
	s.Layer, s.Location, s.Confidence, s.MeasuredUS, s.Right = v.Layer, v.Location, v.Confidence, alone.MeasuredUS, alone.Right()
}

// RightLayer reports whether the verdict names the layer, alone or merged with others.
func (r Result) RightLayer() bool {
	return r.VerdictLayer == r.Layer || slices.Contains(r.MergedLayers, r.Layer)
}

// Right reports whether the verdict names layer and location. Merged layers have the
// location of the first, which need not be the fault's.
func (r Result) Right() bool {
	if r.VerdictLayer == r.Layer {
		return r.VerdictLocation == r.Location
	}
	return r.RightLayer()
}

// Counts reports whether the fault must be found: those under 1 ms need not be, and
// those that end in a reset only must not be given a wrong cause.
func (r Result) Counts() bool {
	return r.Layer != observe.NoLayer && r.InjectedUS >= 1000 && r.Fault != faults.ResponseReset
}

// high is the confidence with which a verdict must not be wrong.
const high = "high"

// HighButWrong reports whether a verdict of high confidence is wrong: on layer or
// location, on a fault of 1 ms or more that it does not see, or on none that it sees.
func (r Result) HighButWrong() bool {
	tooSmall := r.Layer != observe.NoLayer && r.InjectedUS < 1000
	return r.Confidence == high && !r.Right() && (!tooSmall || r.VerdictLayer != observe.NoLayer)
}

// Flagged reports whether the spans say that the response was not whole.
func (r Result) Flagged() bool {
	return slices.Contains(r.Flags, "reset") || slices.Contains(r.Flags, "incomplete")
}

// Close reports whether the verdict's time is within 5 % or 200 µs of the injected.
func (r Result) Close() bool {
	off := r.MeasuredUS - r.InjectedUS
	return max(off, -off) <= max(200, r.InjectedUS/20)
}

// File is faults.json.
type File struct {
	Cases []Result `json:"cases"`
	// Accuracy is the share of right verdicts on faults of 1 ms and more, FalseBlame
	// the share of cases without a fault whose verdict blames a layer.
	Accuracy   float64 `json:"accuracy"`
	FalseBlame float64 `json:"false_blame"`
	// HighButWrong is the number of cases whose verdict is wrong with high confidence.
	HighButWrong int `json:"high_but_wrong"`
	// Again counts requests that were repeated because the fault missed them or they
	// failed, Skipped the missing cases for which that always happened. Failed counts
	// requests that failed, also those without a fault. Unsound counts requests that
	// another cause delayed as well; they are included.
	Again   int `json:"made_again"`
	Failed  int `json:"failed"`
	Skipped int `json:"left_out"`
	Unsound int `json:"unsound"`
}

// Share is a part of a number.
type Share struct{ Part, Of int }

// Value returns the share from 0 to 1; 0 of nothing.
func (s Share) Value() float64 {
	if s.Of == 0 {
		return 0
	}
	return float64(s.Part) / float64(s.Of)
}

func (s *Share) add(yes bool) {
	s.Of++
	if yes {
		s.Part++
	}
}

// Group is a kind of fault with an intended magnitude.
type Group struct {
	Kind        faults.Kind
	MagnitudeUS int64
}

// Score sums up results.
type Score struct {
	// Accuracy and FalseBlame are as in File. Close is the share of the right
	// verdicts with the injected time.
	Accuracy, FalseBlame, Close Share
	// HighButWrong and SingleHighButWrong count verdicts that are wrong with high
	// confidence: on cases, and on each request of them alone.
	HighButWrong, SingleHighButWrong int
	// Flagged is the share of the resets that layertrace's spans show.
	Flagged Share
	// Queue is the share of the right verdicts on faults in a queue of the protocol
	// stack that name the queue.
	Queue Share
	// SingleAccuracy and SingleFalseBlame are the same for each request alone, for
	// faults of 1 ms and more, including what happened to it by chance.
	SingleAccuracy, SingleFalseBlame Share
	// SingleSeen is the share of requests blamed without a fault that were slow for
	// the client as well.
	SingleSeen Share
	// Small is the number of faults that took less than 1 ms.
	Small int
	// ByGroup is the accuracy of each kind at each magnitude, in Groups' order.
	Groups  []Group
	ByGroup map[Group]*Share
	// ByLoad is the accuracy without and with load.
	ByLoad map[bool]*Share
	// Matrix counts verdicts by the fault's layer and the verdict's. WrongLocation
	// counts those on the diagonal with a wrong location.
	Matrix        map[observe.Layer]map[observe.Layer]int
	WrongLocation map[observe.Layer]int
	// Unattributed is the median share of a request's time without a layer.
	Unattributed float64
	// Wrong are the results that count and are not right.
	Wrong []Result
}

// NewScore sums up results.
func NewScore(results []Result) Score {
	s := Score{
		ByGroup: map[Group]*Share{}, ByLoad: map[bool]*Share{false: {}, true: {}},
		Matrix: map[observe.Layer]map[observe.Layer]int{}, WrongLocation: map[observe.Layer]int{},
	}
	var unattributed []float64
	for _, r := range results {
		if r.HighButWrong() {
			s.HighButWrong++
		}
		s.SingleHighButWrong += r.singlesHighButWrong()
		if r.Fault == faults.ResponseReset {
			s.Flagged.add(r.Flagged())
			if r.HighButWrong() {
				s.Wrong = append(s.Wrong, r)
			}
			continue
		}
		if r.TotalUS > 0 {
			unattributed = append(unattributed, float64(r.UnattributedUS)/float64(r.TotalUS))
		}
		if r.Layer != observe.NoLayer && !r.Counts() {
			s.Small++
			continue
		}
		s.add(r)
	}
	s.Unattributed = stats.Median(unattributed)
	slices.SortFunc(s.Groups, func(a, b Group) int {
		return cmp.Or(cmp.Compare(slices.Index(faults.Kinds, a.Kind), slices.Index(faults.Kinds, b.Kind)), cmp.Compare(a.MagnitudeUS, b.MagnitudeUS))
	})
	return s
}

// singlesHighButWrong counts the requests whose verdict alone is wrong with high
// confidence.
func (r Result) singlesHighButWrong() (n int) {
	for _, one := range r.Singles {
		tooSmall := r.Layer != observe.NoLayer && one.InjectedUS < 1000
		if one.Confidence == high && !one.Right && (!tooSmall || one.Layer != observe.NoLayer) {
			n++
		}
	}
	return n
}

func (s *Score) add(r Result) {
	if s.Matrix[r.Layer] == nil {
		s.Matrix[r.Layer] = map[observe.Layer]int{}
	}
	named := r.VerdictLayer
	if r.RightLayer() {
		named = r.Layer // even if merged with others
	}
	s.Matrix[r.Layer][named]++
	for _, one := range r.Singles {
		switch {
		case r.Layer == observe.NoLayer:
			s.SingleFalseBlame.add(one.Layer != observe.NoLayer)
			if one.Layer != observe.NoLayer {
				s.SingleSeen.add(one.SeenByClient())
			}
		case one.InjectedUS >= 1000:
			s.SingleAccuracy.add(one.Right)
		}
	}
	if !r.Right() {
		s.Wrong = append(s.Wrong, r)
	}
	if r.Layer == observe.NoLayer {
		s.FalseBlame.add(r.VerdictLayer != observe.NoLayer)
		return
	}
	if r.RightLayer() && !r.Right() {
		s.WrongLocation[r.Layer]++
	}
	group := Group{r.Fault, r.MagnitudeUS}
	if s.ByGroup[group] == nil {
		s.ByGroup[group] = &Share{}
		s.Groups = append(s.Groups, group)
	}
	s.ByGroup[group].add(r.Right())
	s.ByLoad[r.Load].add(r.Right())
	s.Accuracy.add(r.Right())
	if r.Right() {
		s.Close.add(r.Close())
		if queue := r.Fault.Queue(); queue != "" {
			s.Queue.add(r.VerdictQueue == queue)
		}
	}
}
