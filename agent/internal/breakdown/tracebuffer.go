// SPDX-License-Identifier: Apache-2.0

package breakdown

import (
	"container/list"
	"sync/atomic"
	"time"

	"go.opentelemetry.io/otel/trace"

	"github.com/layertrace/layertrace/internal/observe"
)

// TraceBufferOptions of a TraceBuffer. All are needed.
type TraceBufferOptions struct {
	// Wait is how long after its last observation a trace is taken to be whole.
	Wait time.Duration
	// MaxObservations that are kept, some 400 bytes each. When there are more, the
	// trace that waits longest goes on as it is.
	MaxObservations int
	// Done takes the observations of one trace.
	Done func([]observe.Observation)
}

// TraceBuffer collects observations by trace. It is for one goroutine; counts can be
// read by others.
type TraceBuffer struct {
	opts   TraceBufferOptions
	traces map[trace.TraceID]*list.Element
	queue  *list.List // of *group, the one that waits longest first
	kept   int

	early, late atomic.Uint64
	recent      [2]map[trace.TraceID]struct{} // went on within the last Wait, and before
	turned      time.Time
}

type group struct {
	id           trace.TraceID
	observations []observe.Observation
	last         time.Time
}

// NewTraceBuffer returns an empty TraceBuffer.
func NewTraceBuffer(opts TraceBufferOptions) *TraceBuffer {
	g := &TraceBuffer{opts: opts, traces: map[trace.TraceID]*list.Element{}, queue: list.New()}
	g.recent[0], g.recent[1] = map[trace.TraceID]struct{}{}, map[trace.TraceID]struct{}{}
	return g
}

// Add takes a observation, now.
func (g *TraceBuffer) Add(s observe.Observation, now time.Time) {
	id := trace.TraceID(s.Context.TraceID)
	if e, ok := g.traces[id]; ok {
		found := e.Value.(*group)
		found.observations, found.last = append(found.observations, s), now
		g.queue.MoveToBack(e)
	} else {
		if g.went(id) {
			g.late.Add(1)
		}
		g.traces[id] = g.queue.PushBack(&group{id, []observe.Observation{s}, now})
	}
	g.kept++
	for g.kept > g.opts.MaxObservations {
		g.early.Add(1)
		g.release(g.queue.Front())
	}
}

// went reports whether a trace went on a short time ago, without this observation.
func (g *TraceBuffer) went(id trace.TraceID) bool {
	_, now := g.recent[0][id]
	_, before := g.recent[1][id]
	return now || before
}

// Flush lets those go on that have critical.
func (g *TraceBuffer) Flush(now time.Time) {
	if now.Sub(g.turned) > g.opts.Wait {
		g.recent[1], g.recent[0], g.turned = g.recent[0], map[trace.TraceID]struct{}{}, now
	}
	for e := g.queue.Front(); e != nil && now.Sub(e.Value.(*group).last) >= g.opts.Wait; e = g.queue.Front() {
		g.release(e)
	}
}

// Close lets all go on.
func (g *TraceBuffer) Close() {
	for e := g.queue.Front(); e != nil; e = g.queue.Front() {
		g.release(e)
	}
}

func (g *TraceBuffer) release(e *list.Element) {
	found := g.queue.Remove(e).(*group)
	delete(g.traces, found.id)
	g.kept -= len(found.observations)
	g.recent[0][found.id] = struct{}{}
	g.opts.Done(found.observations)
}

// Counts returns how many traces went on before their time for want of room, and
// how many observations came when their trace had gone on already.
func (g *TraceBuffer) Counts() (early, late uint64) { return g.early.Load(), g.late.Load() }
