// SPDX-License-Identifier: Apache-2.0

// Package tracestore reads traces from Jaeger, Zipkin or Grafana Tempo, or from a file
// of OTLP JSON or of what one of these returned.
package tracestore

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"go.opentelemetry.io/otel/trace"

	"github.com/layertrace/layertrace/agent/internal/span"
	"github.com/layertrace/layertrace/internal/observe"
)

// ErrNotFound is returned for a trace that the store does not have.
var ErrNotFound = errors.New("no such trace")

// Store has traces.
type Store interface {
	// Trace returns one trace, or ErrNotFound.
	Trace(ctx context.Context, id trace.TraceID) (Trace, error)
	// Search returns the traces that match, latest first.
	Search(ctx context.Context, q Query) ([]Trace, error)
	// Name identifies the store in messages.
	Name() string
}

// Query selects traces.
type Query struct {
	// Service must have a span in the trace.
	Service string
	// Operation is the name of that span; "" for any.
	Operation string
	// From and To limit the start of the trace; zero: no limit.
	From, To time.Time
	// Limit is the maximum number of traces.
	Limit int
}

// includes reports whether a trace begins within the limits.
func (q *Query) includes(t *Trace) bool {
	at := t.Start()
	return (q.From.IsZero() || !at.Before(q.From)) && (q.To.IsZero() || !at.After(q.To))
}

// Trace is one stored trace.
type Trace struct {
	ID trace.TraceID
	// Spans are those of proxies and applications.
	Spans []span.Span
	// Observations are decoded from the spans of layertrace's agents.
	Observations []observe.Observation
	// Duplicates is the number of skipped spans that were stored more than once.
	Duplicates int
	// Replaced is the number of skipped preliminary spans (flag still_open) of exchanges
	// whose whole is there too.
	Replaced int
	// Unreadable has a message for each span of layertrace that could not be decoded.
	Unreadable []string
	// Partial says why the store returned a part of the trace, "" if it returned it whole.
	Partial string
}

// assemble makes a trace of its stored spans.
//
// The ID of a layertrace span identifies the exchange and the capture point, so two
// spans with one ID are duplicates, or a preliminary report and the whole, which wins.
// Others are duplicates only if all fields are equal, because with Zipkin's headers client
// and server share one span ID.
func assemble(id trace.TraceID, stored []span.Stored) Trace {
	t := Trace{ID: id}
	ours := map[trace.SpanID]int{} // index of the observation, -1 if unreadable
	others := map[span.Span]bool{}
	for i := range stored {
		r := &stored[i]
		switch {
		case r.IsDerived():
		case r.IsOurs():
			t.addOurs(r, ours)
		default:
			other := r.Span
			other.Duration = max(other.Duration, 0)
			if others[other] {
				t.Duplicates++
				continue
			}
			others[other] = true
			t.Spans = append(t.Spans, other)
		}
	}
	return t
}

// addOurs adds the observation of an agent's span. known has the index of those that
// were added by span ID, -1 for an unreadable one.
func (t *Trace) addOurs(r *span.Stored, known map[trace.SpanID]int) {
	at, again := known[r.ID]
	o, err := span.Decode(r)
	switch {
	case again && (err != nil || at < 0):
		t.Duplicates++
	case err != nil:
		known[r.ID] = -1
		t.Unreadable = append(t.Unreadable, fmt.Sprintf("span %s (%s): %v", r.ID, r.Name, err))
	case !again:
		known[r.ID] = len(t.Observations)
		t.Observations = append(t.Observations, o)
	case t.Observations[at].Flags&observe.FlagStillOpen != 0:
		t.Observations[at] = o
		t.Replaced++
	case o.Flags&observe.FlagStillOpen != 0:
		t.Replaced++
	default:
		t.Duplicates++
	}
}

// Start returns the earliest start of the spans.
func (t *Trace) Start() time.Time {
	var start time.Time
	for i := range t.Spans {
		if at := t.Spans[i].Start; start.IsZero() || at.Before(start) {
			start = at
		}
	}
	for i := range t.Observations {
		if at := time.Unix(0, t.Observations[i].Wall); start.IsZero() || at.Before(start) {
			start = at
		}
	}
	return start
}

// latest returns the latest traces first, at most limit of them; 0: all.
func latest(traces []Trace, limit int) []Trace {
	slices.SortStableFunc(traces, func(a, b Trace) int { return b.Start().Compare(a.Start()) })
	if limit > 0 && len(traces) > limit {
		return traces[:limit]
	}
	return traces
}

// ParseTraceID parses a trace ID as people copy it: 32 hex digits, or 16 for a short
// one, in upper or lower case.
func ParseTraceID(text string) (trace.TraceID, error) {
	digits := strings.ToLower(strings.TrimSpace(text))
	if len(digits) != 32 && len(digits) != 16 {
		return trace.TraceID{}, fmt.Errorf("%q is not a trace ID: want 32 hex digits, or 16", text)
	}
	id, err := trace.TraceIDFromHex(pad(digits, 32))
	if err != nil {
		return id, fmt.Errorf("%q is not a trace ID: want 32 hex digits that are not all 0", text)
	}
	return id, nil
}

// pad adds leading zeros to a short number.
func pad(digits string, length int) string {
	if len(digits) >= length {
		return digits
	}
	return strings.Repeat("0", length-len(digits)) + digits
}
