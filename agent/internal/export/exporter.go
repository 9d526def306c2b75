// SPDX-License-Identifier: Apache-2.0

package export

import (
	"context"
	"errors"

	sdktrace "go.opentelemetry.io/otel/sdk/trace"
)

var errCut = errors.New("stopped before the spans were delivered")

// countingExporter counts the spans of each batch by its outcome.
type countingExporter struct {
	next     sdktrace.SpanExporter
	counters *counters
	alive    context.Context
	cut      context.CancelFunc // gives up the batch at work and all later ones
}

func newCountingExporter(next sdktrace.SpanExporter, c *counters) *countingExporter {
	e := &countingExporter{next: next, counters: c}
	e.alive, e.cut = context.WithCancel(context.Background())
	return e
}

// ExportSpans sends one batch. A batch that the receiver took in part counts
// as failed: OTLP tells how many spans it refused, not which.
func (e *countingExporter) ExportSpans(ctx context.Context, spans []sdktrace.ReadOnlySpan) error {
	n := uint64(len(spans))
	defer e.counters.queued.Add(-int64(n))
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	defer context.AfterFunc(e.alive, cancel)()

	err := errCut
	if e.alive.Err() == nil {
		err = e.next.ExportSpans(ctx, spans)
	}
	switch {
	case err == nil:
		e.counters.exported.Add(n)
	case e.alive.Err() != nil:
		e.counters.late.Add(n)
	default:
		e.counters.failed.Add(n)
	}
	return err
}

// Shutdown stops the exporter behind.
func (e *countingExporter) Shutdown(ctx context.Context) error { return e.next.Shutdown(ctx) }
