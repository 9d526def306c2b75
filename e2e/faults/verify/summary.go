// SPDX-License-Identifier: Apache-2.0

package verify

import (
	"slices"
	"time"

	"github.com/layertrace/layertrace/e2e/faults"
)

// Summary is what the rows of one kind of fault say.
type Summary struct {
	Kind faults.Kind
	// Median is that of the differences between client and injector.
	Median       time.Duration
	Rows, Missed int
	// Unsound is how many requests something else made slow as well.
	Unsound int
}

// Summarize sums rows up, one line per kind that there is.
func Summarize(rows []Row) (summaries []Summary) {
	for _, kind := range faults.Kinds {
		s := Summary{Kind: kind}
		var off []time.Duration
		for _, r := range rows {
			switch {
			case r.Case.Kind != kind:
				continue
			case r.Err != nil:
				s.Missed++
			default:
				off = append(off, r.Off())
				if !r.Sound() {
					s.Unsound++
				}
			}
			s.Rows++
		}
		if slices.Sort(off); len(off) > 0 {
			s.Median = off[len(off)/2]
		}
		if s.Rows > 0 {
			summaries = append(summaries, s)
		}
	}
	return summaries
}
