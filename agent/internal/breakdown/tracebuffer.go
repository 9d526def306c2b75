// SPDX-License-Identifier: Apache-2.0

package breakdown

import (
	"container/list"
	"sync/atomic"
	"time"

	"go.opentelemetry.io/otel/trace"

	"github.com/layertrace/layertrace/internal/observe"
)

// TraceBufferOptions of a TraceBuffer. All are required.
type TraceBufferOptions struct {
	// Wait is the time after its last observation when a trace is complete.
	Wait time.Duration
	// MaxObservations bounds the buffer, at about 400 bytes each. When it is full,
	// the trace that has waited longest is released incomplete.
	MaxObservations int
	// Done takes the observations of one trace.
	Done func([]observe.Observation)
}

// TraceBuffer collects observations by trace. It is for one goroutine; others may
// read Counts.
type TraceBuffer struct {
	opts   TraceBufferOptions
	traces map[trace.TraceID]*list.Element
	queue  *list.List // of *bufferedTrace, longest waiting first
	size   int        // observations

	early, late atomic.Uint64
	// released has the traces that were released within the last Wait, and within
	// the one before.
	released [2]map[trace.TraceID]struct{}
	rotated  time.Time
}

type bufferedTrace struct {
	id           trace.TraceID
	observations []observe.Observation
	last         time.Time
}

// NewTraceBuffer returns an empty TraceBuffer.
func NewTraceBuffer(opts TraceBufferOptions) *TraceBuffer {
	b := &TraceBuffer{opts: opts, traces: map[trace.TraceID]*list.Element{}, queue: list.New()}
	b.released[0], b.released[1] = map[trace.TraceID]struct{}{}, map[trace.TraceID]struct{}{}
	return b
}

// Add takes an observation that arrives now.
func (b *TraceBuffer) Add(o observe.Observation, now time.Time) {
	id := trace.TraceID(o.Context.TraceID)
	if e, ok := b.traces[id]; ok {
		t := e.Value.(*bufferedTrace)
		t.observations, t.last = append(t.observations, o), now
		b.queue.MoveToBack(e)
	} else {
		if b.wasReleased(id) {
			b.late.Add(1)
		}
		b.traces[id] = b.queue.PushBack(&bufferedTrace{id, []observe.Observation{o}, now})
	}
	b.size++
	for b.size > b.opts.MaxObservations {
		b.early.Add(1)
		b.release(b.queue.Front())
	}
}

// wasReleased reports whether a trace was released recently: an observation of it
// comes late.
func (b *TraceBuffer) wasReleased(id trace.TraceID) bool {
	_, now := b.released[0][id]
	_, before := b.released[1][id]
	return now || before
}

// Flush releases the traces that are complete.
func (b *TraceBuffer) Flush(now time.Time) {
	if now.Sub(b.rotated) > b.opts.Wait {
		b.released[1], b.released[0], b.rotated = b.released[0], map[trace.TraceID]struct{}{}, now
	}
	for e := b.queue.Front(); e != nil && now.Sub(e.Value.(*bufferedTrace).last) >= b.opts.Wait; e = b.queue.Front() {
		b.release(e)
	}
}

// Close releases all traces.
func (b *TraceBuffer) Close() {
	for e := b.queue.Front(); e != nil; e = b.queue.Front() {
		b.release(e)
	}
}

func (b *TraceBuffer) release(e *list.Element) {
	t := b.queue.Remove(e).(*bufferedTrace)
	delete(b.traces, t.id)
	b.size -= len(t.observations)
	b.released[0][t.id] = struct{}{}
	b.opts.Done(t.observations)
}

// Counts returns how many traces were released incomplete because the buffer was
// full, and how many traces had an observation after they were released.
func (b *TraceBuffer) Counts() (early, late uint64) { return b.early.Load(), b.late.Load() }
