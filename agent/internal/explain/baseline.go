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

	"github.com/layertrace/layertrace/agent/internal/breakdown"
	"github.com/layertrace/layertrace/agent/internal/tracestore"
	"github.com/layertrace/layertrace/internal/stats"
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
	requests  map[trace.TraceID]request
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
	s := &Selection{store: store, opts: opts, asked: map[trace.TraceID]bool{}, found: map[rootOperation][]tracestore.Trace{}, requests: map[trace.TraceID]request{}}
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
			r := Explain(t, baseline)
			r.Verdict.capMixed(mixed)
			for i := range r.Hops {
				r.Hops[i].Verdict.capMixed(mixed)
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
		c := compareTraces(group, baseline)
		c.Verdict.capMixed(mixed)
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

// requestOf remembers the requests of traces: many explained ones share a baseline.
func (s *Selection) requestOf(t tracestore.Trace) request {
	r, known := s.requests[t.ID]
	if !known {
		r = requestOf(t)
		s.requests[t.ID] = r
	}
	return r
}

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
			if !s.asked[t.ID] && !known[t.ID] && rootOperationOf(t) == root {
				known[t.ID] = true
				baseline = append(baseline, t)
			}
		}
	}
	slices.SortStableFunc(baseline, func(a, b tracestore.Trace) int { return a.Start().Compare(b.Start()) })
	return baseline, nil
}

// baselineTimes is how long layers and segments take in the traces of a baseline.
type baselineTimes struct {
	traces int
	total  int64 // median in ns, -1 without a trace
	whole  reference
	hops   map[hopKey]hopReference
}

// hopKey identifies hops that are alike; with an unknown request, all of a name.
type hopKey struct {
	name    string
	request request
}

// hopReference is the reference of some hops.
type hopReference struct {
	reference
	hops int
}

// newBaselineTimes ignores traces without a hop of known time.
func newBaselineTimes(baseline []tracestore.Trace) *baselineTimes {
	var totals []int64
	var whole []sums
	hops := map[hopKey][]sums{}
	for _, t := range baseline {
		tree := breakdown.Split(t.Observations, parents(t))
		if len(tree.Roots) == 0 || tree.Roots[0].Total == 0 {
			continue
		}
		totals = append(totals, tree.Roots[0].Total)
		s, _ := sumOfTree(tree)
		whole = append(whole, s)
		for _, h := range tree.Hops {
			any := hopKey{name: hopName(h)}
			hops[any] = append(hops[any], sumOfHop(h))
			if r := requestOfHop(h); r.known() {
				same := hopKey{any.name, r}
				hops[same] = append(hops[same], sumOfHop(h))
			}
		}
	}
	b := &baselineTimes{
		traces: len(totals), total: distributionOf(totals).median,
		whole: referenceOf(whole), hops: make(map[hopKey]hopReference, len(hops)),
	}
	for k, all := range hops {
		b.hops[k] = hopReference{referenceOf(all), len(all)}
	}
	return b
}

// of returns the median of a layer at a location, -1 if unknown.
func (b *baselineTimes) of(k key) int64 { return orUnknown(b.whole.layers, k).median }

// ofSegment returns the median of a segment of a hop, -1 if unknown.
func (b *baselineTimes) ofSegment(h *breakdown.Hop, s breakdown.Segment) int64 {
	r, _ := b.ofHop(h)
	return orUnknown(r.segments, segmentKeyOf(h, s)).median
}

// ofHop returns the reference of the hops that asked for the same, if there are enough;
// else that of all hops between the same ends, and why others are among them ("" if it is
// not known that there are any).
func (b *baselineTimes) ofHop(h *breakdown.Hop) (r hopReference, mixed string) {
	q := requestOfHop(h)
	all, same := b.hops[hopKey{name: hopName(h)}], b.hops[hopKey{hopName(h), q}]
	switch {
	case !q.known() || same.hops == all.hops:
		return all, ""
	case same.hops >= minAlike:
		return same, ""
	}
	return all, fmt.Sprintf("on the hop %s, %s of the baseline asked for %s: the baseline has others", hopName(h), counted(same.hops, "request", "requests"), q)
}

// reference is the distribution of the time of each layer and segment, in traces
// or hops that are alike.
type reference struct {
	layers   map[key]distribution
	segments map[segmentKey]distribution
}

func referenceOf(all []sums) reference {
	layers, segments := map[key][]int64{}, map[segmentKey][]int64{}
	for _, s := range all {
		for k, t := range s {
			layers[k] = append(layers[k], t.time)
			for segment, a := range t.segments {
				segments[segment] = append(segments[segment], a.time)
			}
		}
	}
	return reference{distributions(layers), distributions(segments)}
}

// distribution of times in ns.
type distribution struct {
	sorted []int64
	median int64 // -1: unknown
}

func distributionOf(values []int64) distribution {
	if len(values) == 0 {
		return distribution{median: -1}
	}
	sorted := slices.Sorted(slices.Values(values))
	return distribution{sorted: sorted, median: stats.Quantile(sorted, 0.5)}
}

func distributions[K comparable](values map[K][]int64) map[K]distribution {
	all := make(map[K]distribution, len(values))
	for k, v := range values {
		all[k] = distributionOf(v)
	}
	return all
}

func orUnknown[K comparable](all map[K]distribution, k K) distribution {
	if d, ok := all[k]; ok {
		return d
	}
	return distribution{median: -1}
}

// exceededBy returns the time that a share (0 to 1) of the distribution exceeds;
// the largest time if the share is less than one value.
func (d distribution) exceededBy(share float64) int64 {
	n := len(d.sorted)
	return d.sorted[max(n-1-int(share*float64(n)), 0)]
}

// lowest returns the time that all but the exceptions of so many slow traces took
// at least.
func (d distribution) lowest(slow int) int64 {
	return d.sorted[min(exceptions(slow), len(d.sorted)-1)]
}
