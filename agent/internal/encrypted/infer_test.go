// SPDX-License-Identifier: Apache-2.0

package encrypted

import (
	"cmp"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/layertrace/layertrace/internal/observe"
)

// Without any record, the plain exchanges in the pods find most encrypted ones, at all points
// of their side, marked, and hardly ever a wrong one; with records, nothing is given twice.
func TestInfer(t *testing.T) {
	for _, test := range []struct {
		name        string
		set         func(*world)
		connections int
		least, most float64 // shares of the legs: joined at least, wrong at most
	}{
		{"one after the other", func(*world) {}, 1, 0.9, 0},
		{"in parallel", func(*world) {}, 64, 0.8, 0},
		{"redirected to the server's proxy", func(w *world) { w.seen.redirected = true }, 64, 0.8, 0},
		{"equal sizes in parallel", func(w *world) { w.equal = true }, 64, 0.2, 0.01},
		{"rough in parallel", func(w *world) { w.rough = true }, 64, 0.5, 0.01},
	} {
		t.Run(test.name, func(t *testing.T) {
			w := newWorld(3, test.connections, 100*time.Millisecond, func(w *world) { w.sockets = true; test.set(w) })
			right, wrong, points := w.infer(t, false)
			legs := float64(len(w.legs))
			t.Logf("%d legs: %d right, %d wrong at %d points", len(w.legs), right, wrong, points)
			if float64(right) < test.least*legs || float64(wrong) > test.most*legs {
				t.Errorf("%d legs: %d right, %d wrong", len(w.legs), right, wrong)
			}
			if points != 2*(right+wrong) {
				t.Errorf("%d points of %d exchanges", points, right+wrong)
			}
		})
	}
}

func (w *world) infer(t *testing.T, records bool) (right, wrong, points int) {
	t.Helper()
	b := newBench()
	b.opts.Source, b.opts.Infer, b.infer = w.seen, w.seen, newInferrer(w.seen)
	slices.SortFunc(w.legs, func(a, b observe.Observation) int { return cmp.Compare(a.Response.Last, b.Response.Last) })
	b.now = uint64(10 * time.Second)
	if records {
		slices.SortStableFunc(w.records, func(a, b arrival) int { return cmp.Compare(a.at, b.at) })
		b.until(w.records[len(w.records)-1].at)
		for i := range w.records {
			b.receive(w.records[i].record)
		}
	}
	b.until(b.now + uint64(2*time.Second)) // plain exchanges are reported when they are idle
	for i := range w.legs {
		if !b.AddPlain(&w.legs[i]) {
			t.Fatal("full")
		}
	}
	b.until(b.now + uint64(6*time.Second))
	seen := map[string]int{}
	for i := range b.out {
		o := &b.out[i]
		if o.Join != observe.JoinInferred {
			continue
		}
		points++
		w.inferred = append(w.inferred, *o)
		if o.Path != "/leg" || o.Status != 200 {
			t.Fatalf("%+v", o)
		}
		if o.Socket != nil {
			continue
		}
		if id := fmt.Sprint(o.Context.SpanID); seen[id] == 0 {
			seen[id]++
		} else {
			t.Errorf("span %s is given twice", id)
		}
		if o.Request.First == w.truth[o.Context.SpanID] {
			right++
		} else {
			wrong++
		}
	}
	return right, wrong, points
}

// What may be an alert at the end of a connection is no part of an exchange, which is flagged.
func TestInferredEnd(t *testing.T) {
	w := newWorld(3, 1, 100*time.Millisecond, func(w *world) { w.sockets = true })
	alert := func(m *observe.TurnMessage) {
		m.Records, m.Alerts, m.RecordBytes, m.Bytes = m.Records+1, m.Alerts+1, m.RecordBytes+alertLength, m.Bytes+alertLength+recordHeader
		m.LastLarge, m.Last = m.Last, m.Last+5*ms
	}
	type end struct {
		observe.Key
		at   int
		last uint64
	}
	ends := map[end]bool{} // without the alert
	for key, points := range w.seen.turns {
		for at, turns := range points {
			t := &turns[len(turns)-1]
			if t.Flags&observe.TurnTLS12 != 0 {
				continue // its alerts are marked
			}
			t.Flags |= observe.TurnClosed
			t.Flags &^= observe.TurnOpen
			ends[end{key, at.networkInterface, t.Response.Last}] = true
			alert(&t.Request)
			alert(&t.Response)
		}
	}
	w.infer(t, false)
	given := 0
	for i := range w.inferred {
		o := &w.inferred[i]
		if o.Flags&observe.FlagEndGuessed == 0 || o.Socket != nil {
			continue
		}
		given++
		if !ends[end{o.Key, o.Interface, o.Response.Last}] || o.Request.Last > o.Response.Last {
			t.Errorf("at %d: request until %d, response until %d, which is not the end without the alert", o.Interface, o.Request.Last, o.Response.Last)
		}
	}
	if given == 0 {
		t.Error("no exchange has a guessed end")
	}
}

// What has a record is not inferred too.
func TestRecordsComeFirst(t *testing.T) {
	w := newWorld(3, 4, 200*time.Millisecond, func(w *world) { w.sockets = true })
	if right, wrong, _ := w.infer(t, true); right != 0 || wrong != 0 {
		t.Errorf("%d and %d of %d were inferred beside their records", right, wrong, len(w.legs))
	}
}
