// SPDX-License-Identifier: Apache-2.0

package explain

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"go.opentelemetry.io/otel/trace"

	"github.com/layertrace/layertrace/agent/internal/tracestore"
)

// BaselineOptions choose the traces to compare with.
type BaselineOptions struct {
	// Traces is the maximum number; 0: none.
	Traces int
	// Last is how long before the explained trace they may begin, or after it if
	// there are too few.
	Last time.Duration
}

// Selection is the traces to explain, and the search for their baseline.
type Selection struct {
	// Groups have at least one trace each.
	Groups [][]tracestore.Trace

	store     tracestore.Store
	opts      BaselineOptions
	explained []tracestore.Trace
	asked     map[trace.TraceID]bool
	found     map[rootOperation][]tracestore.Trace // oldest first
	measured  map[trace.TraceID]*measuredTrace
}

// rootOperation is what a trace has in common with its baseline: the service and
// operation of its first span.
type rootOperation struct{ service, operation string }

func rootOperationOf(t tracestore.Trace) rootOperation {
	service, operation := rootOf(t)
	return rootOperation{service, operation}
}

// idSeparator joins the IDs of traces that are compared together. A single ID
// followed by it is a group of one.
const idSeparator = ","

// ParseTraceIDs reads trace IDs as given on a command line: each argument is one
// ID, or several joined by commas, and makes a group. together reports whether
// any has a comma. Repeated IDs are skipped: in the same group, or if single.
func ParseTraceIDs(args []string) (groups [][]trace.TraceID, together bool, err error) {
	known := map[trace.TraceID]bool{}
	for _, arg := range args {
		var group []trace.TraceID
		single := !strings.Contains(arg, idSeparator)
		together = together || !single
		for _, text := range strings.Split(strings.TrimSuffix(arg, idSeparator), idSeparator) {
			id, err := tracestore.ParseTraceID(text)
			if err != nil {
				return nil, false, err
			}
			if single && known[id] || slices.Contains(group, id) {
				continue
			}
			known[id] = true
			group = append(group, id)
		}
		if len(group) > 0 {
			groups = append(groups, group)
		}
	}
	return groups, together, nil
}

// Select reads the traces of each group from a store.
func Select(ctx context.Context, store tracestore.Store, groups [][]trace.TraceID, opts BaselineOptions) (*Selection, error) {
	s := &Selection{store: store, opts: opts, asked: map[trace.TraceID]bool{}, found: map[rootOperation][]tracestore.Trace{}, measured: map[trace.TraceID]*measuredTrace{}}
	known := map[trace.TraceID]tracestore.Trace{}
	for _, ids := range groups {
		group := make([]tracestore.Trace, len(ids))
		for i, id := range ids {
			t, ok := known[id]
			if !ok {
				var err error
				t, err = store.Trace(ctx, id)
				switch {
				case errors.Is(err, tracestore.ErrNotFound):
					return nil, fmt.Errorf("%w; it may not have arrived yet, have expired, or not be sampled", err)
				case err != nil:
					return nil, err
				}
				known[id] = t
				s.asked[id] = true
				s.explained = append(s.explained, t)
			}
			group[i] = t
		}
		s.Groups = append(s.Groups, group)
	}
	return s, nil
}

// ExplainAll explains the traces one by one.
func (s *Selection) ExplainAll(ctx context.Context) (reports []*Report) {
	for _, group := range s.Groups {
		for _, t := range group {
			baseline, mixed, note := s.baseline(ctx, t)
			r := timesOf(baseline, s.measure).explain(t)
			r.Verdict.doubt(mixed)
			for i := range r.Hops {
				r.Hops[i].Verdict.doubt(mixed)
			}
			if note != "" {
				r.Notes = append(r.Notes, note)
			}
			reports = append(reports, &r)
		}
	}
	return reports
}

// CompareAll compares each group with its baseline.
func (s *Selection) CompareAll(ctx context.Context) (comparisons []*Comparison) {
	for _, group := range s.Groups {
		baseline, mixed, note := s.baseline(ctx, group...)
		c := compareTraces(group, baseline, s.measure)
		c.Verdict.doubt(mixed)
		if note != "" {
			c.Notes = append(c.Notes, note)
		}
		comparisons = append(comparisons, &c)
	}
	return comparisons
}

// baseline returns the traces that a trace, or a group with a common root
// operation, is compared with, or a note on why there are none. It takes the
// latest ones before the trace, or before the last of the group. Later ones may
// share the cause of the slowness, so they only count if there are too few. They asked
// for the same path, if there are enough of them; mixed says why not.
func (s *Selection) baseline(ctx context.Context, group ...tracestore.Trace) (baseline []tracestore.Trace, mixed, note string) {
	if s.opts.Traces == 0 {
		return nil, "", ""
	}
	last := slices.MaxFunc(group, func(a, b tracestore.Trace) int { return a.Start().Compare(b.Start()) })
	root := rootOperationOf(group[0])
	if root.service == "" {
		return nil, "", "No baseline: the trace has no span of a proxy or an application, so its service and operation are unknown."
	}
	found, done := s.found[root]
	if !done {
		var err error
		if found, err = s.search(ctx, root); err != nil {
			return nil, "", fmt.Sprintf("No baseline: %v.", err)
		}
		s.found[root] = found
	}
	found, mixed = alike(found, s.commonRequest(group), s.requestOf)
	later, _ := slices.BinarySearchFunc(found, last.Start(), func(f tracestore.Trace, at time.Time) int { return f.Start().Compare(at) })
	first := max(later-s.opts.Traces, 0)
	return found[first:min(first+s.opts.Traces, len(found))], mixed, ""
}

// commonRequest returns what all traces of a group asked for, unknown if they differ.
func (s *Selection) commonRequest(group []tracestore.Trace) request {
	r := s.requestOf(group[0])
	for _, t := range group[1:] {
		if s.requestOf(t) != r {
			return request{}
		}
	}
	return r
}

// measure remembers what it measured: many explained traces share a baseline.
func (s *Selection) measure(t tracestore.Trace) *measuredTrace {
	m := s.measured[t.ID]
	if m == nil {
		m = newMeasuredTrace(t)
		s.measured[t.ID] = m
	}
	return m
}

func (s *Selection) requestOf(t tracestore.Trace) request { return s.measure(t).request }

// searchFactor: so many times the traces that are needed are searched, since some may
// have asked for another path.
const searchFactor = 3

// search reads, once for each root operation, the traces before the last of the
// explained ones, and those after it if there are too few.
func (s *Selection) search(ctx context.Context, root rootOperation) ([]tracestore.Trace, error) {
	var first, last time.Time
	for _, t := range s.explained {
		if rootOperationOf(t) != root {
			continue
		}
		at := t.Start()
		if first.IsZero() || at.Before(first) {
			first = at
		}
		if at.After(last) {
			last = at
		}
	}
	baseline := []tracestore.Trace{}
	known := map[trace.TraceID]bool{}
	for _, window := range [][2]time.Time{{first.Add(-s.opts.Last), last}, {last, last.Add(s.opts.Last)}} {
		if len(baseline) >= searchFactor*s.opts.Traces {
			break
		}
		traces, err := s.store.Search(ctx, tracestore.Query{
			Service: root.service, Operation: root.operation,
			// Some of them may lie between the explained ones.
			From: window[0], To: window[1], Limit: searchFactor*s.opts.Traces + 3*len(s.explained),
		})
		if err != nil {
			return nil, err
		}
		for _, t := range traces {
			if !s.asked[t.ID] && !known[t.ID] && t.Partial == "" && rootOperationOf(t) == root {
				known[t.ID] = true
				baseline = append(baseline, t)
			}
		}
	}
	slices.SortStableFunc(baseline, func(a, b tracestore.Trace) int { return a.Start().Compare(b.Start()) })
	return baseline, nil
}
