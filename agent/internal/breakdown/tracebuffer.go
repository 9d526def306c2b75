// SPDX-License-Identifier: Apache-2.0

package breakdown

import (
	"cmp"
	"sync/atomic"
	"time"

	"go.opentelemetry.io/otel/trace"

	"github.com/layertrace/layertrace/internal/observe"
)

// TraceBufferOptions of a TraceBuffer. All but Busy and KeepRequests are required.
type TraceBufferOptions struct {
	// Wait is the time after its last observation when a trace is complete.
	Wait time.Duration
	// MaxBytes bounds the memory of the buffer. When it is full, the trace that has waited
	// longest is released incomplete.
	MaxBytes int
	// MaxOfTrace bounds the observations of one trace: whoever sends requests chooses
	// their trace ID. Those above are counted and left out.
	MaxOfTrace int
	// MaxPutOff is the time after its first observation from which on further ones do not
	// put off the release of a trace any more, and MaxHeld the same for open exchanges.
	MaxPutOff, MaxHeld time.Duration
	// MaxHolds bounds the exchanges that are known to be open, at about 200 bytes each.
	// One above does not hold its trace.
	MaxHolds int
	// HoldTime is the time after its last report when an open exchange holds its trace
	// no longer.
	HoldTime time.Duration
	// Done takes a trace that is released.
	Done func(*BufferedTrace)
	// Busy reports whether Done should take none for now: complete traces wait on, as long as
	// there is room for them. nil: it never does.
	Busy func() bool
	// KeepRequests also keeps what a request is called, for those who show it: method, path,
	// status, and whether it has a trace context.
	KeepRequests bool
}

const (
	// bytesOfTrace is the memory of a trace without its observations: itself, its places in
	// the list and the table, and its ID among those that were released.
	bytesOfTrace = 192
	// maxReleased is the number of traces that are known as released at most, twice.
	maxReleased = 65536
)

// TraceBuffer collects observations by trace. A trace with an exchange that is known to
// be open is held: without its late hops, the time of an application would contain that
// of its children. It is for one goroutine; others may read Counts.
type TraceBuffer struct {
	opts   TraceBufferOptions
	traces map[trace.TraceID]*BufferedTrace
	queue  traceList // without holds, longest waiting first
	held   traceList // with holds, the first to expire first
	size   int       // bytes, of traces that have observations
	holds  int
	began  time.Time // when the first came, from which times are counted

	scratch []byte // of pack

	early, late, leftOut, holdsFull, holdsExpired atomic.Uint64
	// released has the traces that were released within the last Wait, and within
	// the one before.
	released [2]map[trace.TraceID]struct{}
	rotated  time.Time
}

// BufferedTrace is what a node saw of a trace.
type BufferedTrace struct {
	id         trace.TraceID
	packed     []packed
	requests   []requestName // of packed, with KeepRequests
	size       int           // bytes
	since      time.Duration // when it began to wait in its list
	last       time.Duration // of the last observation, or the last report of an open exchange
	in         *traceList
	prev, next *BufferedTrace // in the list
	holds      map[hold]struct{}
	putOff     bool // it has since
	cut        bool // some observations were left out
	again      bool // released before
}

// traceList is a list of traces, each of which is in one list at a time.
type traceList struct{ front, back *BufferedTrace }

// pushBack makes a trace the last of the list, whichever it was in.
func (l *traceList) pushBack(t *BufferedTrace) {
	t.remove()
	t.in, t.prev = l, l.back
	if l.back == nil {
		l.front = t
	} else {
		l.back.next = t
	}
	l.back = t
}

// remove takes the trace out of its list, if it is in one.
func (t *BufferedTrace) remove() {
	l := t.in
	if l == nil {
		return
	}
	if t.prev == nil {
		l.front = t.next
	} else {
		t.prev.next = t.next
	}
	if t.next == nil {
		l.back = t.prev
	} else {
		t.next.prev = t.prev
	}
	t.in, t.prev, t.next = nil, nil, nil
}

// Len is the number of its observations.
func (t *BufferedTrace) Len() int { return len(t.packed) }

// Cut reports whether some observations were left out, so that what seems to be a hop's own
// time may be another hop's.
func (t *BufferedTrace) Cut() bool { return t.cut }

// Again reports whether observations of the trace were released before, so that these may be
// late ones of the same requests.
func (t *BufferedTrace) Again() bool { return t.again }

// hold identifies an open exchange of a trace by what its preliminary report and the
// whole have in common.
type hold struct {
	observe.Key
	networkInterface int
	direction        observe.Direction
	cookie           uint64
	client           bool
	first            uint64
}

func holdOf(o *observe.Observation) hold {
	h := hold{Key: o.Key, networkInterface: o.Interface, direction: o.Direction, first: o.Request.First}
	if o.Socket != nil {
		h.cookie, h.client = o.Socket.Cookie, o.Socket.Client
	}
	return h
}

// NewTraceBuffer returns an empty TraceBuffer.
func NewTraceBuffer(opts TraceBufferOptions) *TraceBuffer {
	b := &TraceBuffer{opts: opts, traces: map[trace.TraceID]*BufferedTrace{}}
	b.released[0], b.released[1] = map[trace.TraceID]struct{}{}, map[trace.TraceID]struct{}{}
	return b
}

// Add takes an observation that arrives now. It keeps what layers are made of.
func (b *TraceBuffer) Add(o *observe.Observation, now time.Time) {
	t := b.trace(trace.TraceID(o.Context.TraceID))
	if t.again && len(t.packed) == 0 {
		b.late.Add(1)
	}
	if len(t.packed) < b.opts.MaxOfTrace {
		b.keep(t, pack(o, &b.scratch))
		if b.opts.KeepRequests {
			b.keepRequest(t, o)
		}
	} else {
		b.leftOut.Add(1)
		t.cut = true
	}
	b.unhold(t, o)
	if len(t.holds) == 0 {
		b.putOff(&b.queue, t, now)
	}
	for b.size > b.opts.MaxBytes {
		oldest := cmp.Or(b.queue.front, b.held.front)
		if oldest.in == &b.held || b.time(now)-oldest.last < b.opts.Wait { // else it only waits for the splitter
			b.early.Add(1)
		}
		b.release(oldest)
	}
}

func (b *TraceBuffer) keep(t *BufferedTrace, p packed) {
	before := t.size
	if len(t.packed) == 0 {
		t.size = bytesOfTrace
	}
	t.packed = append(t.packed, p)
	t.size += p.size()
	b.size += t.size - before
}

func (b *TraceBuffer) keepRequest(t *BufferedTrace, o *observe.Observation) {
	r := nameOf(o)
	t.requests = append(t.requests, r)
	t.size += r.size()
	b.size += r.size()
}

// Hold keeps the trace of an exchange that is reported to be open now. The hold ends
// with Add or Drop of the whole, or after HoldTime.
func (b *TraceBuffer) Hold(o *observe.Observation, now time.Time) {
	id := trace.TraceID(o.Context.TraceID)
	if !id.IsValid() {
		return
	}
	h := holdOf(o)
	if t, ok := b.traces[id]; !ok || !t.has(h) {
		if b.holds >= b.opts.MaxHolds {
			b.holdsFull.Add(1)
			return
		}
		b.holds++
	}
	t := b.trace(id)
	if t.holds == nil {
		t.holds = map[hold]struct{}{}
	}
	t.holds[h] = struct{}{}
	b.putOff(&b.held, t, now)
}

// Drop ends the hold of an exchange whose whole is not added.
func (b *TraceBuffer) Drop(o *observe.Observation, now time.Time) {
	t, ok := b.traces[trace.TraceID(o.Context.TraceID)]
	if !ok {
		return
	}
	if b.unhold(t, o); len(t.holds) == 0 {
		b.putOff(&b.queue, t, now)
	}
}

func (b *TraceBuffer) unhold(t *BufferedTrace, o *observe.Observation) {
	if h := holdOf(o); t.has(h) {
		delete(t.holds, h)
		b.holds--
	}
}

func (t *BufferedTrace) has(h hold) bool {
	_, ok := t.holds[h]
	return ok
}

// trace returns the trace with an ID, a new one if necessary.
func (b *TraceBuffer) trace(id trace.TraceID) *BufferedTrace {
	if t, ok := b.traces[id]; ok {
		return t
	}
	t := &BufferedTrace{id: id, again: b.wasReleased(id)}
	b.traces[id] = t
	b.queue.pushBack(t)
	return t
}

// putOff makes a trace the last of a list, where it waits from now on. A trace that has waited
// there for too long keeps its place: it is released without those that still come.
func (b *TraceBuffer) putOff(to *traceList, t *BufferedTrace, now time.Time) {
	longest := b.opts.MaxPutOff
	if to == &b.held {
		longest = b.opts.MaxHeld
	}
	at := b.time(now)
	if t.in != to || !t.putOff {
		t.putOff, t.since = true, at
	} else if at-t.since >= longest {
		return
	}
	t.last = at
	to.pushBack(t)
}

// time returns a time as that since the first.
func (b *TraceBuffer) time(now time.Time) time.Duration {
	if b.began.IsZero() {
		b.began = now
	}
	return now.Sub(b.began)
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
		b.rotate()
		b.rotated = now
	}
	at := b.time(now)
	for t := b.queue.front; t != nil && at-t.last >= b.opts.Wait && !b.isBusy(); t = b.queue.front {
		b.release(t)
	}
	for t := b.held.front; t != nil && at-t.last >= b.opts.HoldTime && !b.isBusy(); t = b.held.front {
		b.holdsExpired.Add(uint64(len(t.holds)))
		b.release(t)
	}
}

func (b *TraceBuffer) isBusy() bool { return b.opts.Busy != nil && b.opts.Busy() }

// Close releases all traces.
func (b *TraceBuffer) Close() {
	for _, l := range []*traceList{&b.queue, &b.held} {
		for l.front != nil {
			b.release(l.front)
		}
	}
}

// rotate makes the traces that were released recently those of before.
func (b *TraceBuffer) rotate() {
	b.released[1], b.released[0] = b.released[0], b.released[1]
	clear(b.released[0]) // keeps its memory
}

func (b *TraceBuffer) release(t *BufferedTrace) {
	t.remove()
	b.holds -= len(t.holds)
	delete(b.traces, t.id)
	b.size -= t.size
	if len(t.packed) == 0 {
		return
	}
	if len(b.released[0]) >= maxReleased { // forget the oldest
		b.rotate()
	}
	b.released[0][t.id] = struct{}{}
	b.opts.Done(t)
}

// Counts returns how many traces were released incomplete because the buffer was
// full, and how many traces had an observation after they were released.
func (b *TraceBuffer) Counts() (early, late uint64) { return b.early.Load(), b.late.Load() }

// LeftOut returns how many observations were left out because their trace had too many.
func (b *TraceBuffer) LeftOut() uint64 { return b.leftOut.Load() }

// HoldCounts returns how many open exchanges did not hold their trace because too many
// others did, and how many holds ended by time.
func (b *TraceBuffer) HoldCounts() (full, expired uint64) {
	return b.holdsFull.Load(), b.holdsExpired.Load()
}
