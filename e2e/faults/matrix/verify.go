// SPDX-License-Identifier: Apache-2.0

package matrix

import (
	"context"
	"time"

	"github.com/layertrace/layertrace/e2e/faults"
	"github.com/layertrace/layertrace/internal/stats"
)

// Verification is an injected fault: its measurement compared with the client's wait.
type Verification struct {
	faults.Injection
	Case faults.Case
	// Err is nil, ErrMissed or ErrFailed.
	Err error
}

// Verify injects each case without agents, to check the injectors against the client's
// measurements.
func Verify(ctx context.Context, s *faults.Session, cases []faults.Case) (rows []Verification, err error) {
	defer s.Load.Set(false)
	if err := s.WarmUp(ctx); err != nil {
		return nil, err
	}
	for _, c := range cases {
		made, err := s.Make(ctx, c)
		if err != nil && !faults.Useless(err) {
			return rows, err
		}
		rows = append(rows, Verification{made, c, err})
	}
	return rows, nil
}

// VerifySummary sums up the verifications of one kind of fault.
type VerifySummary struct {
	Kind faults.Kind
	// Median is the median difference between client and injector.
	Median       time.Duration
	Rows, Missed int
	// Unsound counts requests that another cause delayed as well.
	Unsound int
}

// Summarize sums up verifications by kind.
func Summarize(rows []Verification) (summaries []VerifySummary) {
	for _, kind := range faults.Kinds {
		s := VerifySummary{Kind: kind}
		var differences []time.Duration
		for _, r := range rows {
			switch {
			case r.Case.Kind != kind:
				continue
			case r.Err != nil:
				s.Missed++
			default:
				differences = append(differences, r.Unexplained())
				if !r.Sound() {
					s.Unsound++
				}
			}
			s.Rows++
		}
		s.Median = stats.Median(differences)
		if s.Rows > 0 {
			summaries = append(summaries, s)
		}
	}
	return summaries
}
