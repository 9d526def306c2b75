// SPDX-License-Identifier: Apache-2.0

// Package tracestore reads traces from the stores that keep them: Jaeger, or a file
// of OTLP JSON.
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

// ErrNotFound is the error for a trace that the store does not have.
var ErrNotFound = errors.New("no such trace")

// Store keeps traces.
type Store interface {
	// Trace returns one trace, or ErrNotFound.
	Trace(ctx context.Context, id trace.TraceID) (Trace, error)
	// Search returns the traces that match, latest first.
	Search(ctx context.Context, q Query) ([]Trace, error)
	// Name identifies the store in messages.
	Name() string
}

// Query chooses traces.
type Query struct {
	// Service has a span in the trace.
	Service string
	// Operation is the name of that span; "" for any.
	Operation string
	// From and To bound the start of the trace; zero: no bound.
	From, To time.Time
	// Limit is how many traces at most.
	Limit int
}

// Trace is one trace as the store has it.
type Trace struct {
	ID trace.TraceID
	// Spans are those of proxies and applications.
	Spans []Span
	// Observations are those of layertrace's agents.
	Observations []observe.Observation
	// Duplicates is the number of spans that were skipped because they were stored more than once.
	Duplicates int
	// Unreadable spans of layertrace had missing or contradicting attributes.
	Unreadable []string
}

// Span is a span of a proxy or an application.
type Span struct {
	ID, Parent trace.SpanID
	// Name is the operation, Service the service.name of the resource.
	Name, Service string
	// Kind is client, server, internal, ..., or "".
	Kind     string
	Start    time.Time
	Duration time.Duration
}

// assemble makes a trace of its records.
//
// A span of layertrace has an ID that stands for the exchange and the capture
// point, so the ID alone tells that it was stored twice. Others are duplicates
// only if they are the same in all: where Zipkin's headers are used, the client
// and the server share one span ID.
func assemble(id trace.TraceID, records []span.Stored) Trace {
	t := Trace{ID: id}
	ours := map[trace.SpanID]bool{}
	others := map[Span]bool{}
	for i := range records {
		r := &records[i]
		switch {
		case r.IsDerived():
		case r.IsOurs():
			if ours[r.ID] {
				t.Duplicates++
				continue
			}
			ours[r.ID] = true
			o, err := span.Decode(r)
			if err != nil {
				t.Unreadable = append(t.Unreadable, fmt.Sprintf("span %s (%s): %v", r.ID, r.Name, err))
				continue
			}
			t.Observations = append(t.Observations, o)
		default:
			o := other(r)
			if others[o] {
				t.Duplicates++
				continue
			}
			others[o] = true
			t.Spans = append(t.Spans, o)
		}
	}
	return t
}

// Start is when the trace began: the first start of its spans.
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

// latest sorts traces, latest first, and leaves out what is above the limit; 0
// is none.
func latest(traces []Trace, limit int) []Trace {
	slices.SortStableFunc(traces, func(a, b Trace) int { return b.Start().Compare(a.Start()) })
	if limit > 0 && len(traces) > limit {
		return traces[:limit]
	}
	return traces
}

// ParseTraceID reads a trace ID as people copy it: 32 hex digits, or 16 of a
// short one, in upper or lower case.
func ParseTraceID(text string) (trace.TraceID, error) {
	digits := strings.ToLower(strings.TrimSpace(text))
	if len(digits) != 32 && len(digits) != 16 {
		return trace.TraceID{}, fmt.Errorf("%q is no trace ID: it has 32 hex digits, or 16", text)
	}
	id, err := trace.TraceIDFromHex(pad(digits, 32))
	if err != nil {
		return id, fmt.Errorf("%q is no trace ID: it has 32 hex digits, not all of them 0", text)
	}
	return id, nil
}

// pad puts zeros in front of a short number.
func pad(digits string, length int) string {
	if len(digits) >= length {
		return digits
	}
	return strings.Repeat("0", length-len(digits)) + digits
}

// other is a stored span as a span of a proxy or an application.
func other(s *span.Stored) Span {
	return Span{
		ID: s.ID, Parent: s.Parent, Name: s.Name, Service: s.Service, Kind: s.Kind,
		Start: s.Start, Duration: max(s.Duration, 0),
	}
}
