// SPDX-License-Identifier: Apache-2.0

package export

import (
	"context"
	"fmt"
	"log/slog"
	"sync/atomic"
	"time"

	sdktrace "go.opentelemetry.io/otel/sdk/trace"
)

const (
	// batchSize is the most spans of one request.
	batchSize = 512
	// batchDelay is how long a span waits for others.
	batchDelay = time.Second
	// cutGrace is what a cut-off export has to come back.
	cutGrace = time.Second
)

// Queue is a span processor that passes spans to an exporter in batches. It
// holds a bounded number of spans, those being sent included, drops further
// ones, and counts what becomes of each. One Queue serves many providers:
// Shutdown of one of them does nothing, only Close ends it.
//
// The SDK's batch processor does the batching. It drops without telling, so
// the bound is kept here, in front of it, at the size of its own queue: it
// never has to drop.
type Queue struct {
	size     int64
	batch    sdktrace.SpanProcessor
	exporter *countingExporter
	counters counters
	closed   atomic.Bool
	log      *rateLimited
}

// NewQueue returns a queue of size spans in front of exporter.
func NewQueue(exporter sdktrace.SpanExporter, size int, log *slog.Logger) *Queue {
	q := &Queue{size: int64(size), log: newRateLimited(log)}
	q.exporter = newCountingExporter(exporter, &q.counters)
	q.batch = sdktrace.NewBatchSpanProcessor(q.exporter,
		sdktrace.WithMaxQueueSize(size),
		sdktrace.WithMaxExportBatchSize(min(size, batchSize)),
		sdktrace.WithBatchTimeout(batchDelay),
		sdktrace.WithExportTimeout(0)) // the exporter has its own
	return q
}

// OnStart does nothing.
func (q *Queue) OnStart(context.Context, sdktrace.ReadWriteSpan) {}

// OnEnd takes a finished span, or drops and counts it. It does not block.
func (q *Queue) OnEnd(s sdktrace.ReadOnlySpan) {
	q.counters.accepted.Add(1)
	if q.closed.Load() {
		q.counters.late.Add(1)
		return
	}
	if q.counters.queued.Add(1) > q.size {
		q.counters.queued.Add(-1)
		n := q.counters.dropped.Add(1)
		q.log.warn("span queue is full, dropping spans; raise --queue-size or see to the receiver", "dropped_so_far", n)
		return
	}
	q.batch.OnEnd(s)
}

// Shutdown does nothing: it is what a provider calls for itself, while the
// queue is shared. See Close.
func (q *Queue) Shutdown(context.Context) error { return nil }

// ForceFlush sends what is queued.
func (q *Queue) ForceFlush(ctx context.Context) error { return q.batch.ForceFlush(ctx) }

// Counters returns the present counts.
func (q *Queue) Counters() Counters { return q.counters.read() }

// Close sends what is queued and stops. Call it once, when no more spans come.
// When ctx ends first, the rest is dropped and counted, and the error tells
// how many spans that were.
func (q *Queue) Close(ctx context.Context) error {
	q.closed.Store(true)
	done := make(chan error, 1)
	go func() { done <- q.batch.Shutdown(context.WithoutCancel(ctx)) }()
	select {
	case err := <-done:
		if err != nil {
			return fmt.Errorf("stop the exporter: %w", err)
		}
	case <-ctx.Done():
		q.exporter.cut()
		select {
		case <-done:
		case <-time.After(cutGrace):
		}
	}
	if c := q.Counters(); c.DroppedShutdown+c.Queued > 0 {
		return fmt.Errorf("%d spans were not delivered within the shutdown timeout", c.DroppedShutdown+c.Queued)
	}
	return nil
}
