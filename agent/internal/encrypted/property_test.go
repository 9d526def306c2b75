// SPDX-License-Identifier: Apache-2.0

package encrypted

import (
	"flag"
	"fmt"
	"testing"
	"time"
)

var seeds = flag.Uint64("seeds", 1, "number of simulated meshes of each kind")

// A simulated mesh that knows the exchange of each record: whatever the clock of the
// proxies, and whatever is lost, doubled, late and reordered, nothing is joined wrongly and
// nothing twice.
func TestNothingIsJoinedWrongly(t *testing.T) {
	for _, kind := range []struct {
		name string
		set  func(*world)
		// least is the share of the records that are joined at least with a right clock.
		least  float64
		length time.Duration
	}{
		{"different sizes", func(*world) {}, 0.999, 250 * time.Millisecond},
		{"equal sizes", func(w *world) { w.equal = true }, 0.999, 250 * time.Millisecond},
		{"equal and short, without a pause", func(w *world) { w.equal, w.busy = true, true }, 0.999, 50 * time.Millisecond},
		{"rough", func(w *world) { w.rough = true }, 0.99, 250 * time.Millisecond},
		{"rough and equal", func(w *world) { w.rough, w.equal = true, true }, 0.99, 250 * time.Millisecond},
	} {
		for i, shift := range []time.Duration{0, time.Millisecond, -time.Millisecond, 5 * time.Millisecond, -5 * time.Millisecond, 20 * time.Millisecond, -20 * time.Millisecond, time.Second, -time.Second} {
			for _, bad := range []bool{false, true} {
				if shift != 0 && bad != (i%2 == 0) && *seeds == 1 {
					continue // every other one
				}
				t.Run(fmt.Sprintf("%s/%v/%v", kind.name, shift, bad), func(t *testing.T) {
					for seed := range *seeds {
						w := newWorld(seed, 8, kind.length, func(w *world) {
							kind.set(w)
							w.shift = int64(shift)
							if bad {
								w.lost, w.doubled, w.late = 0.1, 0.1, 0.2
							}
						})
						got := w.play(t, nil)
						if got.wrong != 0 || got.twice != 0 {
							t.Errorf("seed %d: %d of %d joined wrongly, %d twice: %v", seed, got.wrong, w.joinable, got.twice, got.states)
						}
						if shift == 0 && float64(got.right) < kind.least*float64(w.joinable) {
							t.Errorf("seed %d: %d of %d joined: %v", seed, got.right, w.joinable, got.states)
						}
						if testing.Verbose() && seed == 0 {
							t.Logf("%d records, %d joined (%d exact): %v", w.joinable, got.right, got.exact, got.states)
						}
					}
				})
			}
		}
	}
}

// Proxies are paused between their two clocks now and then, so that records are early as a
// whole: these find their exchange too, unless another one may be meant.
func TestPausedProxies(t *testing.T) {
	for _, kind := range []struct {
		name string
		set  func(*world)
		// least is the share of the records that are joined at least.
		least float64
	}{
		{"different sizes", func(*world) {}, 1},
		{"equal sizes", func(w *world) { w.equal = true }, 1},
		{"rough", func(w *world) { w.rough = true }, 0.99},
		{"half of the records lost", func(w *world) { w.lost = 0.5 }, 0.999},
		{"one in ten late by 2 s", func(w *world) { w.late = 0.1 }, 1},
	} {
		t.Run(kind.name, func(t *testing.T) {
			for seed := range 5 * *seeds {
				w := newWorld(seed, 8, time.Second, func(w *world) {
					kind.set(w)
					w.paused = 0.001
				})
				got := w.play(t, nil)
				if got.wrong != 0 || got.twice != 0 {
					t.Errorf("seed %d: %d of %d joined wrongly, %d twice: %v", seed, got.wrong, w.joinable, got.twice, got.states)
				}
				if float64(got.right) < kind.least*float64(w.joinable) {
					t.Errorf("seed %d: %d of %d joined: %v", seed, got.right, w.joinable, got.states)
				}
			}
		})
	}
}

// With one record in a hundred there is little evidence whether the clock is right.
func TestFewRecords(t *testing.T) {
	for _, shift := range []time.Duration{0, time.Millisecond, -5 * time.Millisecond, time.Second} {
		for seed := range 10 * *seeds {
			w := newWorld(seed, 16, 100*time.Millisecond, func(w *world) {
				w.equal, w.busy, w.shift, w.lost = seed%2 == 0, seed%4 < 2, int64(shift), 0.99
			})
			if got := w.play(t, nil); got.wrong != 0 || got.twice != 0 {
				t.Errorf("seed %d, shift %v: %d of %d joined wrongly, %d twice: %v", seed, shift, got.wrong, w.joinable, got.twice, got.states)
			}
		}
	}
}

// The wall clock is stepped in the middle, and the agent notices it with the next records.
func TestStepOfTheClock(t *testing.T) {
	for _, step := range []time.Duration{5 * time.Millisecond, -5 * time.Millisecond, time.Second, -time.Second} {
		for _, equal := range []bool{false, true} {
			t.Run(fmt.Sprintf("%v/%v", step, equal), func(t *testing.T) {
				at := uint64(10_200 * time.Millisecond)
				w := newWorld(7, 8, 400*time.Millisecond, func(w *world) { w.equal = equal })
				for i := range w.records {
					r := &w.records[i].record
					if begin := uint64(int64(r.Start) - wallOffset); begin > at {
						shift(r, int64(step))
					}
				}
				got := w.play(t, func(b *bench) {
					if b.now > at {
						b.offset = wallOffset + int64(step)
					}
				})
				if got.wrong != 0 || got.twice != 0 {
					t.Errorf("%d of %d joined wrongly, %d twice: %v", got.wrong, w.joinable, got.twice, got.states)
				}
				if !equal && float64(got.right) < 0.99*float64(w.joinable) {
					t.Errorf("%d of %d joined: %v", got.right, w.joinable, got.states)
				}
				t.Logf("%d records, %d joined: %v", w.joinable, got.right, got.states)
			})
		}
	}
}
