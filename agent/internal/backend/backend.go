// SPDX-License-Identifier: Apache-2.0

// Package backend reads traces back from where they are kept: Jaeger, or a file
// of OTLP JSON. It is the way from spans to sightings, the opposite of package
// span.
package backend

import (
	"context"
	"errors"
	"time"

	"github.com/layertrace/layertrace/agent/internal/layer"
	"go.opentelemetry.io/otel/trace"
)

// ErrNotFound says that the source has no such trace.
var ErrNotFound = errors.New("no such trace")

// Source is where traces are kept.
type Source interface {
	// Trace returns one trace, or ErrNotFound.
	Trace(ctx context.Context, id trace.TraceID) (Trace, error)
	// Search returns the traces that match, latest first.
	Search(ctx context.Context, q Query) ([]Trace, error)
	// Name says which source it is, for messages.
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

// Trace is what a source has of one trace.
type Trace struct {
	ID trace.TraceID
	// Spans are those of others: proxies and applications.
	Spans []Span
	// Sightings are what layertrace's agents saw.
	Sightings []layer.Sighting
	// Duplicates were left out: the same span, stored more than once.
	Duplicates int
	// Unreadable spans of layertrace had missing or contradicting attributes.
	Unreadable []string
}

// Span is a span that somebody else made.
type Span struct {
	ID, Parent trace.SpanID
	// Name is the operation, Service the service.name of the resource.
	Name, Service string
	// Kind is client, server, internal, ..., or "".
	Kind     string
	Start    time.Time
	Duration time.Duration
}
