// SPDX-License-Identifier: Apache-2.0

package backend

import (
	"slices"
	"time"
)

// Start is when the trace began: the first start of its spans.
func (t *Trace) Start() time.Time {
	var start time.Time
	for i := range t.Spans {
		if at := t.Spans[i].Start; start.IsZero() || at.Before(start) {
			start = at
		}
	}
	for i := range t.Sightings {
		if at := time.Unix(0, t.Sightings[i].Wall); start.IsZero() || at.Before(start) {
			start = at
		}
	}
	return start
}

// latest sorts traces, latest first, and leaves out what is above the limit; 0
// is none.
func latest(traces []Trace, limit int) []Trace {
	slices.SortStableFunc(traces, func(a, b Trace) int { return b.Start().Compare(a.Start()) })
	if limit > 0 && len(traces) > limit {
		return traces[:limit]
	}
	return traces
}
