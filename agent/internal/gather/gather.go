// SPDX-License-Identifier: Apache-2.0

// Package gather keeps what the capture points of this node saw of a trace
// until no more is to be expected, so that it can be split into layers: the
// records of one request leave the kernel at different times, up to the idle
// timeout apart.
package gather

import (
	"container/list"
	"sync/atomic"
	"time"

	"github.com/layertrace/layertrace/agent/internal/layer"
	"go.opentelemetry.io/otel/trace"
)

// Options of a Gatherer. All are needed.
type Options struct {
	// Wait is how long after its last sighting a trace is taken to be whole.
	Wait time.Duration
	// MaxSightings that are kept, some 400 bytes each. When there are more, the
	// trace that waits longest goes on as it is.
	MaxSightings int
	// Done takes the sightings of one trace.
	Done func([]layer.Sighting)
}

// Gatherer collects sightings by trace. It is for one goroutine; counts can be
// read by others.
type Gatherer struct {
	opts   Options
	traces map[trace.TraceID]*list.Element
	queue  *list.List // of *group, the one that waits longest first
	kept   int

	early, late atomic.Uint64
	recent      [2]map[trace.TraceID]struct{} // went on within the last Wait, and before
	turned      time.Time
}

type group struct {
	id        trace.TraceID
	sightings []layer.Sighting
	last      time.Time
}

// New returns an empty Gatherer.
func New(opts Options) *Gatherer {
	g := &Gatherer{opts: opts, traces: map[trace.TraceID]*list.Element{}, queue: list.New()}
	g.recent[0], g.recent[1] = map[trace.TraceID]struct{}{}, map[trace.TraceID]struct{}{}
	return g
}

// Add takes a sighting, now.
func (g *Gatherer) Add(s layer.Sighting, now time.Time) {
	if e, ok := g.traces[s.TraceID]; ok {
		found := e.Value.(*group)
		found.sightings, found.last = append(found.sightings, s), now
		g.queue.MoveToBack(e)
	} else {
		if g.went(s.TraceID) {
			g.late.Add(1)
		}
		g.traces[s.TraceID] = g.queue.PushBack(&group{s.TraceID, []layer.Sighting{s}, now})
	}
	g.kept++
	for g.kept > g.opts.MaxSightings {
		g.early.Add(1)
		g.release(g.queue.Front())
	}
}

// went reports whether a trace went on a short time ago, without this sighting.
func (g *Gatherer) went(id trace.TraceID) bool {
	_, now := g.recent[0][id]
	_, before := g.recent[1][id]
	return now || before
}

// Flush lets those go on that have waited.
func (g *Gatherer) Flush(now time.Time) {
	if now.Sub(g.turned) > g.opts.Wait {
		g.recent[1], g.recent[0], g.turned = g.recent[0], map[trace.TraceID]struct{}{}, now
	}
	for e := g.queue.Front(); e != nil && now.Sub(e.Value.(*group).last) >= g.opts.Wait; e = g.queue.Front() {
		g.release(e)
	}
}

// Close lets all go on.
func (g *Gatherer) Close() {
	for e := g.queue.Front(); e != nil; e = g.queue.Front() {
		g.release(e)
	}
}

func (g *Gatherer) release(e *list.Element) {
	found := g.queue.Remove(e).(*group)
	delete(g.traces, found.id)
	g.kept -= len(found.sightings)
	g.recent[0][found.id] = struct{}{}
	g.opts.Done(found.sightings)
}

// Counts returns how many traces went on before their time for want of room, and
// how many sightings came when their trace had gone on already.
func (g *Gatherer) Counts() (early, late uint64) { return g.early.Load(), g.late.Load() }
