// SPDX-License-Identifier: Apache-2.0

package faults

import (
	"cmp"
	"slices"

	"github.com/layertrace/layertrace/internal/stats"
)

// Share is so many of so many.
type Share struct{ Part, Of int }

// Value is the share from 0 to 1; of nothing it is 0.
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

// Group is a kind of fault at a magnitude, as it was meant.
type Group struct {
	Kind        Kind
	MagnitudeUS int64
}

// Score is what the results add up to.
type Score struct {
	// Accuracy, FalseBlame as in File; Close is the share of the right verdicts
	// that give the layer what was injected.
	Accuracy, FalseBlame, Close Share
	// Queue is the share of the right verdicts on faults in a queue of the protocol
	// stack that name the queue.
	Queue Share
	// SingleAccuracy and SingleFalseBlame are the same of each request by itself,
	// faults of 1 ms and more: what happens to it by chance counts.
	SingleAccuracy, SingleFalseBlame Share
	// SingleSeen is how many of those blamed without a fault were slow for the
	// client, too.
	SingleSeen Share
	// Small is the number of faults that took less than 1 ms.
	Small int
	// ByGroup is the accuracy of each kind at each magnitude, in Groups' order.
	Groups  []Group
	ByGroup map[Group]*Share
	// ByLoad is the accuracy without and with load.
	ByLoad map[bool]*Share
	// Matrix counts verdicts by true layer and verdict's; WrongPlace of those on
	// the diagonal the ones at the wrong place.
	Matrix     map[Layer]map[Layer]int
	WrongPlace map[Layer]int
	// Unattributed is the median share of a request's time without a layer.
	Unattributed float64
	// Wrong are the results that count and are not right.
	Wrong []Result
}

// Add up results.
func Add(results []Result) Score {
	s := Score{
		ByGroup: map[Group]*Share{}, ByLoad: map[bool]*Share{false: {}, true: {}},
		Matrix: map[Layer]map[Layer]int{}, WrongPlace: map[Layer]int{},
	}
	var unattributed []float64
	for _, r := range results {
		if r.TotalUS > 0 {
			unattributed = append(unattributed, float64(r.UnattributedUS)/float64(r.TotalUS))
		}
		if r.Layer != None && !r.Counts() {
			s.Small++
			continue
		}
		s.add(r)
	}
	s.Unattributed = stats.Median(unattributed)
	slices.SortFunc(s.Groups, func(a, b Group) int {
		return cmp.Or(cmp.Compare(slices.Index(Kinds, a.Kind), slices.Index(Kinds, b.Kind)), cmp.Compare(a.MagnitudeUS, b.MagnitudeUS))
	})
	return s
}

func (s *Score) add(r Result) {
	if s.Matrix[r.Layer] == nil {
		s.Matrix[r.Layer] = map[Layer]int{}
	}
	named := r.VerdictLayer
	if r.RightLayer() {
		named = r.Layer // also of a group
	}
	s.Matrix[r.Layer][named]++
	for _, one := range r.Singles {
		switch {
		case r.Layer == None:
			s.SingleFalseBlame.add(one.Layer != None)
			if one.Layer != None {
				s.SingleSeen.add(one.SeenByClient())
			}
		case one.InjectedUS >= 1000:
			s.SingleAccuracy.add(one.Right)
		}
	}
	if !r.Right() {
		s.Wrong = append(s.Wrong, r)
	}
	if r.Layer == None {
		s.FalseBlame.add(r.VerdictLayer != None)
		return
	}
	if r.RightLayer() && !r.Right() {
		s.WrongPlace[r.Layer]++
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
