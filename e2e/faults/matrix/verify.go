// SPDX-License-Identifier: Apache-2.0

// Package verify proves the injectors: what they say that a fault took is held
// against how much longer the client had to wait than without a fault.
package matrix

import (
	"context"
	"errors"
	"slices"
	"time"

	"github.com/layertrace/layertrace/e2e/faults"
)

// Row is one injected fault.
type Verification struct {
	faults.Injection
	Case faults.Case
	// Err is inject.ErrMissed, if not nil.
	Err error
}

// Run injects each case and tells what came of it, a row each.
func Verify(ctx context.Context, s *faults.Session, cases []faults.Case) (rows []Verification, err error) {
	defer s.Load.Set(false)
	if err := s.WarmUp(ctx); err != nil {
		return nil, err
	}
	for _, c := range cases {
		made, err := s.Make(ctx, c)
		if err != nil && !errors.Is(err, faults.ErrMissed) {
			return rows, err
		}
		rows = append(rows, Verification{made, c, err})
	}
	return rows, nil
}

// Summary is what the rows of one kind of fault say.
type VerifySummary struct {
	Kind faults.Kind
	// Median is that of the differences between client and injector.
	Median       time.Duration
	Rows, Missed int
	// Unsound is how many requests something else made slow as well.
	Unsound int
}

// Summarize sums rows up, one line per kind that there is.
func Summarize(rows []Verification) (summaries []VerifySummary) {
	for _, kind := range faults.Kinds {
		s := VerifySummary{Kind: kind}
		var off []time.Duration
		for _, r := range rows {
			switch {
			case r.Case.Kind != kind:
				continue
			case r.Err != nil:
				s.Missed++
			default:
				off = append(off, r.Unexplained())
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
