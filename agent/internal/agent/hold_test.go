// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"testing"
	"time"

	"github.com/layertrace/layertrace/internal/observe"
)

func TestHold(t *testing.T) {
	waits := map[int]bool{7: true, 8: true}
	h := hold{unsettled: func(x *observe.Observation) bool { return waits[x.Interface] }}
	start := time.Unix(1000, 0)
	var passed []int
	pass := func(x *observe.Observation) { passed = append(passed, x.Interface) }
	expect := func(what string, want ...int) {
		t.Helper()
		if len(passed) != len(want) {
			t.Errorf("%s: %v were passed on, want %v", what, passed, want)
			return
		}
		for i := range want {
			if passed[i] != want[i] {
				t.Errorf("%s: %v were passed on, want %v", what, passed, want)
			}
		}
		passed = nil
	}
	for _, ifindex := range []int{7, 8, 7, 9} {
		x := newExchange(ifindex, 0)
		if kept := h.keep(&x, start); kept != waits[ifindex] {
			t.Errorf("kept one of %d: %v", ifindex, kept)
		}
	}
	h.release(start.Add(time.Second), pass)
	expect("nothing is known")
	waits[7] = false
	h.release(start.Add(2*time.Second), pass)
	expect("7 is known", 7, 7)
	h.release(start.Add(holdTime), pass)
	expect("time is up", 8)
	if h.waiting != nil || h.held.Load() != 3 {
		t.Errorf("%d wait, %d did", len(h.waiting), h.held.Load())
	}
	x := newExchange(8, 0)
	for range holdLimit {
		h.keep(&x, start)
	}
	if h.keep(&x, start) || h.full.Load() != 1 {
		t.Errorf("more than %d wait; %d did not", holdLimit, h.full.Load())
	}
	h.releaseAll(pass)
	if len(passed) != holdLimit || len(h.waiting) != 0 {
		t.Errorf("%d were passed on at the end, %d wait", len(passed), len(h.waiting))
	}
}
