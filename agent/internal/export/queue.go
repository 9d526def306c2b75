// SPDX-License-Identifier: Apache-2.0

// Package export delivers spans over OTLP and observations as JSON lines. The span
// queue is bounded, and the outcome of each span is counted.
package export

import (
	"context"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.opentelemetry.io/otel/exporters/otlp/otlptrace"

	"github.com/layertrace/layertrace/agent/internal/span"
)

const (
	// batchSize is the maximum number of spans per request. One of 512 is 10 % cheaper per
	// span, and keeps the CPU twice as long.
	batchSize = 256
	// batchDelay is the maximum time a span waits for its batch to fill.
	batchDelay = time.Second
	// cancelGrace is how long Close waits for an export that it has cancelled.
	cancelGrace = time.Second
	// warnInterval is the minimum time between two warnings of a full queue.
	warnInterval = 10 * time.Second
	// progressInterval is the time between two lines about what is left at the end.
	progressInterval = 2 * time.Second
	// maxFree is the number of empty batches that are kept, some 100 KB each: one fills while
	// another is sent, and a few wait meanwhile.
	maxFree = 4
)

// Queue encodes spans and sends them in batches. It holds a bounded number of spans,
// including those being sent, drops what exceeds it, and counts the outcome of each span.
//
// A Queue is also the collector of its metrics.
type Queue struct {
	size     int64
	batch    int // spans of a batch
	client   otlptrace.Client
	counters counters
	moved    atomic.Int64 // Unix time in ns when a batch was delivered, or the first span queued
	log      *slog.Logger

	alive  context.Context
	cancel context.CancelFunc // gives up the present batch and all later ones
	// wake has an element when a batch is to be sent, due fires when the delay of one that
	// is not full ends, and done is closed when the last was sent.
	wake chan struct{}
	due  *time.Timer
	done chan struct{}

	lost     uint64 // since lastLost; both are of the goroutine that sends
	lastLost time.Time

	mu       sync.Mutex // guards the rest
	filling  *batch
	waiting  []*batch // the oldest first
	free     []*batch
	flushed  []chan struct{} // closed when all that waits now was sent
	closed   bool
	lastWarn time.Time
}

// NewQueue returns a queue of up to size spans for a client.
func NewQueue(client otlptrace.Client, size int, log *slog.Logger) *Queue {
	q := &Queue{
		size: int64(size), batch: min(size, batchSize), client: client, log: log,
		wake: make(chan struct{}, 1), due: time.NewTimer(batchDelay), done: make(chan struct{}),
		filling: newBatch(0),
	}
	q.alive, q.cancel = context.WithCancel(context.Background())
	q.due.Stop()
	go q.run()
	return q
}

// Take queues a span, or drops and counts it. It does not block: spans are encoded before the
// lock, which is held for a copy only.
func (q *Queue) Take(s *span.Finished) {
	q.counters.accepted.Add(1)
	queued := q.counters.queued.Add(1)
	if queued == 1 {
		q.moved.Store(time.Now().UnixNano())
	}
	var encoded *[]byte
	if queued <= q.size {
		encoded = scratch.Get().(*[]byte)
		*encoded = appendSpan((*encoded)[:0], s)
		defer scratch.Put(encoded)
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	switch {
	case q.closed:
		q.counters.queued.Add(-1)
		q.counters.late.Add(1)
		return
	case encoded == nil:
		q.counters.queued.Add(-1)
		q.warnFull(q.counters.dropped.Add(1))
		return
	}
	q.filling.add(s.Origin, *encoded)
	switch len(q.filling.spans) {
	case q.batch:
		q.hand()
	case 1:
		q.due.Reset(batchDelay)
	}
}

// scratch has memory for one encoded span.
var scratch = sync.Pool{New: func() any { return new([]byte) }}

// warnFull logs once per interval; the counter has the rest.
func (q *Queue) warnFull(dropped uint64) {
	if time.Since(q.lastWarn) >= warnInterval {
		q.lastWarn = time.Now()
		q.log.Warn("span queue is full, dropping spans; raise --queue-size or check the receiver", "dropped_so_far", dropped)
	}
}

// hand makes the batch that fills the last one that waits.
func (q *Queue) hand() {
	if len(q.filling.spans) > 0 {
		q.waiting = append(q.waiting, q.filling)
		if last := len(q.free) - 1; last >= 0 {
			q.filling, q.free = q.free[last], q.free[:last]
		} else {
			q.filling = newBatch(len(q.filling.encoded)) // it does not grow in steps
		}
	}
	select {
	case q.wake <- struct{}{}:
	default: // it is awake
	}
}

// run sends batches until the queue is closed and empty.
func (q *Queue) run() {
	defer close(q.done)
	request := newRequest()
	for {
		select {
		case <-q.wake:
		case <-q.due.C:
			q.mu.Lock()
			q.hand()
			q.mu.Unlock()
			continue
		}
		for b := q.next(); b != nil; b = q.next() {
			q.send(b, request)
			q.giveBack(b)
		}
		if q.ended() {
			if q.lost > 0 {
				q.log.Warn("lost spans", "spans", q.lost)
			}
			return
		}
	}
}

// next returns the oldest batch that waits, nil without one: then all was sent.
func (q *Queue) next() *batch {
	q.mu.Lock()
	defer q.mu.Unlock()
	if len(q.waiting) == 0 {
		for _, f := range q.flushed {
			close(f)
		}
		q.flushed = nil
		return nil
	}
	b := q.waiting[0]
	q.waiting = slices.Delete(q.waiting, 0, 1)
	return b
}

func (q *Queue) giveBack(b *batch) {
	b.reset()
	q.mu.Lock()
	defer q.mu.Unlock()
	if len(q.free) < maxFree {
		q.free = append(q.free, b)
	}
}

func (q *Queue) ended() bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.closed && len(q.waiting) == 0
}

// send sends one batch and counts its spans by outcome. If the receiver accepted a part, it
// reported how many it did not.
func (q *Queue) send(b *batch, r *request) {
	n := uint64(len(b.spans))
	defer q.counters.queued.Add(-int64(n))
	if q.alive.Err() != nil {
		q.counters.late.Add(n)
		return
	}
	ctx, some := withPartial(q.alive)
	err := q.client.UploadTraces(ctx, r.of(b))
	rejected := uint64(max(0, some.rejected))
	switch {
	case rejected > 0 && rejected <= n: // the clients return an error then
		q.moved.Store(time.Now().UnixNano())
		q.counters.exported.Add(n - rejected)
		q.counters.failed.Add(rejected)
		q.warnLost(rejected, fmt.Errorf("the receiver rejected %d of %d: %s", rejected, n, some.message))
	case err == nil, some.accepted && rejected == 0: // the clients return a warning as an error
		q.moved.Store(time.Now().UnixNano())
		q.counters.exported.Add(n)
	case q.alive.Err() != nil:
		q.counters.late.Add(n)
	default:
		q.counters.failed.Add(n)
		q.warnLost(n, advise(err))
	}
}

// warnLost logs lost spans with the reason, once per interval.
func (q *Queue) warnLost(n uint64, why error) {
	if q.lost += n; time.Since(q.lastLost) >= warnInterval {
		q.lastLost = time.Now()
		q.log.Warn("lost spans", "spans", q.lost, "error", why)
		q.lost = 0
	}
}

// Stalled returns for how long spans have waited without one being delivered, 0 if none wait.
func (q *Queue) Stalled() time.Duration {
	if q.counters.queued.Load() <= 0 {
		return 0
	}
	return max(0, time.Since(time.Unix(0, q.moved.Load())))
}

// IsCrowded reports whether the queue is more than half full although the receiver takes
// spans: who can wait should.
func (q *Queue) IsCrowded() bool {
	return q.counters.queued.Load() > q.size/2 && q.Stalled() < time.Second
}

// ForceFlush sends the queued spans, and returns when that was done.
func (q *Queue) ForceFlush(ctx context.Context) error {
	flushed := make(chan struct{})
	q.mu.Lock()
	q.flushed = append(q.flushed, flushed)
	q.hand()
	q.mu.Unlock()
	select {
	case <-flushed:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("send the queued spans: %w", ctx.Err())
	}
}

// Close sends the queued spans and stops. Call it once, after the last span. When
// ctx ends first, the remaining spans are dropped and counted, and the error has
// their number.
func (q *Queue) Close(ctx context.Context) error {
	q.mu.Lock()
	q.closed = true
	q.hand()
	q.mu.Unlock()
	q.await(ctx)
	q.cancel()
	err := q.client.Stop(context.WithoutCancel(ctx))
	if c := q.Counters(); c.DroppedShutdown+c.Queued > 0 {
		return fmt.Errorf("%d spans were not delivered within the shutdown timeout", c.DroppedShutdown+c.Queued)
	}
	if err != nil {
		return fmt.Errorf("stop the exporter: %w", err)
	}
	return nil
}

// await waits until all is sent, or ctx ends, and logs meanwhile how much is left.
func (q *Queue) await(ctx context.Context) {
	progress := time.NewTicker(progressInterval)
	defer progress.Stop()
	for {
		select {
		case <-q.done:
			return
		case <-progress.C:
			q.log.Info("sending the queued spans", "left", q.Counters().Queued)
		case <-ctx.Done():
			q.cancel()
			select {
			case <-q.done:
			case <-time.After(cancelGrace):
			}
			return
		}
	}
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
