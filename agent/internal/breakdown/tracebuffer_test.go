// SPDX-License-Identifier: Apache-2.0

package breakdown

import (
	"testing"
	"time"

	"github.com/layertrace/layertrace/internal/observe"
	"github.com/layertrace/layertrace/internal/tracecontext"
)

func observation(id byte) (o observe.Observation) {
	o.Context.TraceID = tracecontext.TraceID{id}
	return o
}

func TestTraceBuffer(t *testing.T) {
	var done [][]observe.Observation
	b := NewTraceBuffer(TraceBufferOptions{Wait: time.Second, MaxObservations: 4, Done: func(o []observe.Observation) { done = append(done, o) }})
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
	b.Add(observation(1), at)
	b.Add(observation(2), at.Add(100*time.Millisecond))
	b.Add(observation(1), at.Add(900*time.Millisecond))
	b.Flush(at.Add(1050 * time.Millisecond))
	expect("nothing waited long enough")
	b.Flush(at.Add(1100 * time.Millisecond))
	expect("one second after its last observation", 2, 1)
	b.Flush(at.Add(1900 * time.Millisecond))
	expect("the other", 1, 2)
	b.Add(observation(1), at.Add(2*time.Second))
	if early, late := b.Counts(); early != 0 || late != 1 {
		t.Errorf("%d early, %d late, want 0 and 1", early, late)
	}
	for id := byte(3); id < 7; id++ {
		b.Add(observation(id), at.Add(2*time.Second))
	}
	expect("the fifth observation has no room", 1, 1)
	if early, _ := b.Counts(); early != 1 {
		t.Errorf("%d early, want 1", early)
	}
	b.Close()
	expect("the end", 3, 1, 4, 1, 5, 1, 6, 1)
	if len(b.traces) != 0 || b.size != 0 {
		t.Errorf("%d traces and %d observations are left", len(b.traces), b.size)
	}
}
