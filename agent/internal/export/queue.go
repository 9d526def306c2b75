// SPDX-License-Identifier: Apache-2.0

// Package export delivers spans over OTLP and observations as JSON lines. The span
// queue is bounded, and the outcome of each span is counted.
package export

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
)

const (
	// batchSize is the maximum number of spans per request.
	batchSize = 512
	// batchDelay is the maximum time a span waits for its batch to fill.
	batchDelay = time.Second
	// cancelGrace is how long Close waits for an export that it has cancelled.
	cancelGrace = time.Second
	// warnInterval is the minimum time between two warnings of a full queue.
	warnInterval = 10 * time.Second
)

// Queue is a span processor that passes spans to an exporter in batches. It holds
// a bounded number of spans, including those being sent, drops what exceeds it,
// and counts the outcome of each span. Many providers share one Queue: Shutdown,
// which each provider calls, does nothing, and Close ends it.
//
// The SDK's batch processor does the batching. It drops spans silently when its
// queue is full; the bound here is the same and is checked first, so it never does.
//
// A Queue is also the collector of its metrics.
type Queue struct {
	size     int64
	batch    sdktrace.SpanProcessor
	exporter *countingExporter
	counters counters
	closed   atomic.Bool
	log      *slog.Logger

	mu       sync.Mutex // guards lastWarn
	lastWarn time.Time
}

// NewQueue returns a queue of up to size spans for the exporter.
func NewQueue(exporter sdktrace.SpanExporter, size int, log *slog.Logger) *Queue {
	q := &Queue{size: int64(size), log: log}
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

// OnEnd queues a finished span, or drops and counts it. It does not block.
func (q *Queue) OnEnd(s sdktrace.ReadOnlySpan) {
	q.counters.accepted.Add(1)
	if q.closed.Load() {
		q.counters.late.Add(1)
		return
	}
	if q.counters.queued.Add(1) > q.size {
		q.counters.queued.Add(-1)
		q.warnFull(q.counters.dropped.Add(1))
		return
	}
	q.batch.OnEnd(s)
}

// warnFull logs once per interval; the counter has the rest.
func (q *Queue) warnFull(dropped uint64) {
	q.mu.Lock()
	due := time.Since(q.lastWarn) >= warnInterval
	if due {
		q.lastWarn = time.Now()
	}
	q.mu.Unlock()
	if due {
		q.log.Warn("span queue is full, dropping spans; raise --queue-size or check the receiver", "dropped_so_far", dropped)
	}
}

// Shutdown does nothing: a provider calls it for itself, but the queue is shared.
// See Close.
func (q *Queue) Shutdown(context.Context) error { return nil }

// ForceFlush sends the queued spans.
func (q *Queue) ForceFlush(ctx context.Context) error { return q.batch.ForceFlush(ctx) }

// Close sends the queued spans and stops. Call it once, after the last span. When
// ctx ends first, the remaining spans are dropped and counted, and the error has
// their number.
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
		q.exporter.cancel()
		select {
		case <-done:
		case <-time.After(cancelGrace):
		}
	}
	if c := q.Counters(); c.DroppedShutdown+c.Queued > 0 {
		return fmt.Errorf("%d spans were not delivered within the shutdown timeout", c.DroppedShutdown+c.Queued)
	}
	return nil
}

// Counters are the outcomes of the spans handed in:
//
//	Accepted = Exported + Failed + DroppedQueueFull + DroppedShutdown + Queued
type Counters struct {
	// Accepted spans were handed in.
	Accepted uint64
	// Exported spans were accepted by the receiver.
	Exported uint64
	// Failed spans were refused by the receiver, or it was unreachable for longer
	// than a batch is retried.
	Failed uint64
	// DroppedQueueFull spans came while the queue was full.
	DroppedQueueFull uint64
	// DroppedShutdown spans were still queued when the shutdown timeout ended, or
	// came after Close.
	DroppedShutdown uint64
	// Queued spans wait or are being sent.
	Queued uint64
}

type counters struct {
	accepted, exported, failed, dropped, late atomic.Uint64
	queued                                    atomic.Int64
}

// Counters returns the present counts.
func (q *Queue) Counters() Counters {
	c := &q.counters
	return Counters{
		Accepted:         c.accepted.Load(),
		Exported:         c.exported.Load(),
		Failed:           c.failed.Load(),
		DroppedQueueFull: c.dropped.Load(),
		DroppedShutdown:  c.late.Load(),
		Queued:           uint64(max(0, c.queued.Load())),
	}
}

var (
	acceptedDesc = prometheus.NewDesc("layertrace_spans_accepted_total",
		"Spans made: the sum of exported, failed, dropped and queued spans.", nil, nil)
	exportedDesc = prometheus.NewDesc("layertrace_spans_exported_total",
		"Spans accepted by the receiver.", nil, nil)
	failedDesc = prometheus.NewDesc("layertrace_spans_failed_total",
		"Spans refused by the receiver, or given up after a minute of retries.", nil, nil)
	droppedDesc = prometheus.NewDesc("layertrace_spans_dropped_total",
		"Spans dropped, by reason: queue_full or shutdown.", []string{"reason"}, nil)
	queuedDesc = prometheus.NewDesc("layertrace_spans_queued",
		"Spans that are waiting or being sent.", nil, nil)
)

// Describe implements prometheus.Collector.
func (*Queue) Describe(out chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{acceptedDesc, exportedDesc, failedDesc, droppedDesc, queuedDesc} {
		out <- d
	}
}

// Collect implements prometheus.Collector.
func (q *Queue) Collect(out chan<- prometheus.Metric) {
	counter := func(d *prometheus.Desc, n uint64, labels ...string) {
		out <- prometheus.MustNewConstMetric(d, prometheus.CounterValue, float64(n), labels...)
	}
	c := q.Counters()
	counter(acceptedDesc, c.Accepted)
	counter(exportedDesc, c.Exported)
	counter(failedDesc, c.Failed)
	counter(droppedDesc, c.DroppedQueueFull, "queue_full")
	counter(droppedDesc, c.DroppedShutdown, "shutdown")
	out <- prometheus.MustNewConstMetric(queuedDesc, prometheus.GaugeValue, float64(c.Queued))
}

var errCancelled = errors.New("stopped before the spans were delivered")

// countingExporter counts the spans of each batch by outcome.
type countingExporter struct {
	next     sdktrace.SpanExporter
	counters *counters
	alive    context.Context
	cancel   context.CancelFunc // gives up the present batch and all later ones
}

func newCountingExporter(next sdktrace.SpanExporter, c *counters) *countingExporter {
	e := &countingExporter{next: next, counters: c}
	e.alive, e.cancel = context.WithCancel(context.Background())
	return e
}

// ExportSpans sends one batch. A batch that the receiver accepted in part counts
// as failed: OTLP reports how many spans were refused, but not which.
func (e *countingExporter) ExportSpans(ctx context.Context, spans []sdktrace.ReadOnlySpan) error {
	n := uint64(len(spans))
	defer e.counters.queued.Add(-int64(n))
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	defer context.AfterFunc(e.alive, cancel)()

	err := errCancelled
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

// Shutdown stops the exporter.
func (e *countingExporter) Shutdown(ctx context.Context) error { return e.next.Shutdown(ctx) }
