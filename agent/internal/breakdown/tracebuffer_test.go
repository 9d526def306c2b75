// SPDX-License-Identifier: Apache-2.0

package breakdown

import (
	"testing"
	"time"

	"go.opentelemetry.io/otel/trace"

	"github.com/layertrace/layertrace/internal/observe"
	"github.com/layertrace/layertrace/internal/tracecontext"
)

func observation(id byte) (o observe.Observation) {
	o.Context.TraceID = tracecontext.TraceID{id}
	return o
}

func seen(id byte) *observe.Observation {
	o := observation(id)
	return &o
}

// room is the memory of n traces of one observation.
func room(n int) int {
	o := observation(1)
	p := pack(&o, new([]byte))
	return n * (bytesOfTrace + p.size())
}

// unpacked returns what a released trace has.
func unpacked(t *BufferedTrace) []observe.Observation { return new(Unpacker).Unpack(t) }

func TestTraceBuffer(t *testing.T) {
	var done [][]observe.Observation
	b := NewTraceBuffer(TraceBufferOptions{Wait: time.Second, MaxBytes: room(4), MaxOfTrace: 4, MaxPutOff: time.Minute, MaxHeld: time.Hour, Done: func(t *BufferedTrace) { done = append(done, unpacked(t)) }})
	at := time.Unix(1000, 0)
	expect := func(what string, want ...byte) {
		t.Helper()
		var got []byte
		for _, s := range done {
			got = append(got, s[0].Context.TraceID[0], byte(len(s)))
		}
		if string(got) != string(want) {
			t.Errorf("%s: traces and sizes %v, want %v", what, got, want)
		}
		done = nil
	}
	b.Add(seen(1), at)
	b.Add(seen(2), at.Add(100*time.Millisecond))
	b.Add(seen(1), at.Add(900*time.Millisecond))
	b.Flush(at.Add(1050 * time.Millisecond))
	expect("nothing waited long enough")
	b.Flush(at.Add(1100 * time.Millisecond))
	expect("one second after its last observation", 2, 1)
	b.Flush(at.Add(1900 * time.Millisecond))
	expect("the other", 1, 2)
	b.Add(seen(1), at.Add(2*time.Second))
	if early, late := b.Counts(); early != 0 || late != 1 {
		t.Errorf("%d early, %d late, want 0 and 1", early, late)
	}
	for id := byte(3); id < 7; id++ {
		b.Add(seen(id), at.Add(2*time.Second))
	}
	expect("the fifth observation has no room", 1, 1)
	if early, _ := b.Counts(); early != 1 {
		t.Errorf("%d early, want 1", early)
	}
	b.Close()
	expect("the end", 3, 1, 4, 1, 5, 1, 6, 1)
	if len(b.traces) != 0 || b.size != 0 {
		t.Errorf("%d traces and %d bytes are left", len(b.traces), b.size)
	}
}

// The events of a request that takes 20 s, in their order: the inner hop ends at once,
// the outer is reported open after 2 s and 10 s, and ends at 20 s. Both are split together.
func TestOpenExchangeHoldsItsTrace(t *testing.T) {
	var done [][]observe.Observation
	b := NewTraceBuffer(TraceBufferOptions{
		Wait: 5 * time.Second, MaxBytes: room(8), MaxOfTrace: 8, MaxHolds: 2, HoldTime: time.Minute, MaxPutOff: time.Minute, MaxHeld: time.Hour,
		Done: func(t *BufferedTrace) { done = append(done, unpacked(t)) },
	})
	start := time.Unix(1000, 0)
	inner, outer := observation(1), observation(1)
	inner.Interface, inner.Request.First = 7, 1_000_000
	outer.Interface, outer.Request.First = 8, 500_000
	open := outer
	open.Flags = observe.FlagStillOpen | observe.FlagNoResponse
	for second := range 27 {
		now := start.Add(time.Duration(second) * time.Second)
		switch second {
		case 0:
			b.Add(&inner, now)
		case 2, 10:
			b.Hold(&open, now)
		case 20:
			b.Add(&outer, now)
		}
		b.Flush(now)
		if want := second >= 25; (len(done) == 1) != want || len(done) > 1 {
			t.Fatalf("after %d s: %d traces were split", second, len(done))
		}
	}
	if len(done[0]) != 2 {
		t.Errorf("the trace was split with %d observations, want 2", len(done[0]))
	}
	if b.holds != 0 || b.held.front != nil || len(b.traces) != 0 {
		t.Errorf("%d holds and %d traces are left", b.holds, len(b.traces))
	}
}

func TestHoldsAreBounded(t *testing.T) {
	var done []observe.Observation
	b := NewTraceBuffer(TraceBufferOptions{
		Wait: time.Second, MaxBytes: room(3), MaxOfTrace: 3, MaxHolds: 2, HoldTime: time.Minute, MaxPutOff: time.Minute, MaxHeld: time.Hour,
		Done: func(t *BufferedTrace) { done = append(done, unpacked(t)...) },
	})
	at := time.Unix(1000, 0)
	for id := byte(1); id <= 3; id++ {
		o := observation(id)
		b.Hold(&o, at)
		b.Hold(&o, at) // again: the same hold
	}
	if full, expired := b.HoldCounts(); full != 2 || expired != 0 || b.holds != 2 {
		t.Errorf("%d had no room, %d expired, %d hold", full, expired, b.holds)
	}
	other := observation(1)
	other.Interface = 9
	b.Add(&other, at)
	b.Flush(at.Add(59 * time.Second))
	if len(done) != 0 {
		t.Errorf("split while it was held: %v", done)
	}
	b.Flush(at.Add(60 * time.Second))
	if _, expired := b.HoldCounts(); len(done) != 1 || expired != 2 || b.holds != 0 || len(b.traces) != 0 {
		t.Errorf("%d observations, %d expired, %d hold, %d traces", len(done), expired, b.holds, len(b.traces))
	}
	// A full buffer releases held traces last. A whole that is dropped ends its hold.
	done = nil
	held, dropped := observation(4), observation(5)
	b.Hold(&held, at)
	b.Hold(&dropped, at)
	b.Drop(&dropped, at)
	rest := observation(4)
	rest.Interface = 9
	b.Add(&rest, at)
	for id := byte(6); id <= 8; id++ {
		b.Add(seen(id), at)
	}
	early, _ := b.Counts()
	if len(done) != 1 || done[0].Context.TraceID[0] != 6 || b.holds != 1 || early == 0 {
		t.Errorf("released %v early (%d), %d hold", done, early, b.holds)
	}
}

// A trace ID on ever more exchanges: the trace is released after MaxPutOff, with as many
// observations as it may have. The others are counted.
func TestTraceIsNotPutOffForEver(t *testing.T) {
	var sizes []int
	b := NewTraceBuffer(TraceBufferOptions{
		Wait: time.Second, MaxBytes: room(100), MaxOfTrace: 10, MaxPutOff: 5 * time.Second, MaxHolds: 9, HoldTime: 2 * time.Second, MaxHeld: 8 * time.Second,
		Done: func(done *BufferedTrace) {
			if done.Len() == 10 && !done.Cut() {
				t.Error("a trace with left out observations is not marked")
			}
			sizes = append(sizes, done.Len())
		},
	})
	at := time.Unix(1000, 0)
	for range 60 { // 6 s, ten each second
		at = at.Add(100 * time.Millisecond)
		b.Add(seen(1), at)
		b.Flush(at)
	}
	if len(sizes) != 1 || sizes[0] != 10 || b.LeftOut() != 60-10-b.sizeOf(1) {
		t.Errorf("released %v, %d left out", sizes, b.LeftOut())
	}
	b.Close()
	// An exchange that is reported to be open again and again.
	sizes = nil
	open, other := observation(2), observation(2)
	other.Interface = 9
	b.Add(&other, at)
	for i := 0; i < 120 && len(sizes) == 0; i++ {
		at = at.Add(100 * time.Millisecond)
		b.Hold(&open, at)
		b.Flush(at)
	}
	if _, expired := b.HoldCounts(); len(sizes) != 1 || sizes[0] != 1 || expired != 1 {
		t.Errorf("released %v, %d holds expired", sizes, expired)
	}
}

// Complete traces stay in the buffer while nothing takes them, until it is full.
func TestBufferKeepsTracesWhileDoneIsBusy(t *testing.T) {
	busy, done := true, 0
	b := NewTraceBuffer(TraceBufferOptions{
		Wait: time.Second, MaxBytes: room(3), MaxOfTrace: 3, MaxPutOff: time.Minute, MaxHolds: 2, HoldTime: time.Second, MaxHeld: time.Hour,
		Done: func(*BufferedTrace) { done++ }, Busy: func() bool { return busy },
	})
	at := time.Unix(1000, 0)
	for id := byte(1); id <= 3; id++ {
		b.Add(seen(id), at)
	}
	open := observation(3)
	b.Hold(&open, at)
	at = at.Add(time.Hour)
	if b.Flush(at); done != 0 {
		t.Errorf("%d traces released while what takes them is busy", done)
	}
	b.Add(seen(4), at)
	if early, _ := b.Counts(); early != 0 || done != 1 {
		t.Errorf("%d traces released, %d early, want the first, which is complete: there is no room", done, early)
	}
	busy = false
	at = at.Add(time.Second)
	if b.Flush(at); done != 4 || len(b.traces) != 0 {
		t.Errorf("%d traces released, %d left", done, len(b.traces))
	}
}

// sizeOf is the number of observations that a trace has in the buffer.
func (b *TraceBuffer) sizeOf(id byte) uint64 {
	if t, ok := b.traces[trace.TraceID{id}]; ok {
		return uint64(t.Len())
	}
	return 0
}

// What a request is called is kept on demand only, and takes memory of the buffer.
func TestKeepRequests(t *testing.T) {
	for _, keep := range []bool{false, true} {
		var done []observe.Observation
		b := NewTraceBuffer(TraceBufferOptions{
			Wait: time.Second, MaxBytes: 1 << 20, MaxOfTrace: 4, MaxPutOff: time.Minute, MaxHeld: time.Hour, KeepRequests: keep,
			Done: func(t *BufferedTrace) { done = unpacked(t) },
		})
		o := observation(1)
		o.Method, o.Path, o.Status, o.Context.Format = "GET", "/a", 404, tracecontext.FormatB3
		b.Add(&o, time.Unix(1000, 0))
		if kept := b.size - room(1); keep != (kept > 0) {
			t.Errorf("keep %t: %d bytes more", keep, kept)
		}
		b.Close()
		want := requestName{}
		if keep {
			want = requestName{"GET", "/a", 404, tracecontext.FormatB3}
		}
		if got := nameOf(&done[0]); got != want {
			t.Errorf("keep %t: %+v, want %+v", keep, got, want)
		}
		if b.size != 0 {
			t.Errorf("%d bytes are left", b.size)
		}
	}
}
