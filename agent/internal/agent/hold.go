// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"sync/atomic"
	"time"

	"github.com/layertrace/layertrace/internal/observe"
)

const (
	// holdLimit is how many exchanges wait for a name at most, some 200 bytes each.
	holdLimit = 8192
	// holdTime is how long one waits at most.
	holdTime = 10 * time.Second
	// holdInterval is the time between two looks whether the names are there.
	holdInterval = time.Second
)

// hold keeps exchanges whose names may be known soon: those of the first
// seconds of an agent that follows a cluster, and those of the first seconds of
// a pod, whose address is written into its status when it already speaks. The
// capture does not wait meanwhile.
type hold struct {
	unsettled func(*observe.Observation) bool
	waiting   []held
	held      atomic.Uint64 // all that had to wait
	full      atomic.Uint64 // those that would have, but there were too many
}

type held struct {
	exchange observe.Observation
	until    time.Time
}

// keep takes an exchange that has to wait.
func (h *hold) keep(x *observe.Observation, now time.Time) bool {
	switch {
	case !h.unsettled(x):
		return false
	case len(h.waiting) >= holdLimit:
		h.full.Add(1)
		return false
	}
	h.held.Add(1)
	h.waiting = append(h.waiting, held{*x, now.Add(holdTime)})
	return true
}

// release calls pass with those that need not wait any longer.
func (h *hold) release(now time.Time, pass func(*observe.Observation)) {
	left := h.waiting[:0]
	for i := range h.waiting {
		w := &h.waiting[i]
		if now.Before(w.until) && h.unsettled(&w.exchange) {
			left = append(left, *w)
			continue
		}
		pass(&w.exchange)
	}
	clear(h.waiting[len(left):])
	if h.waiting = left; len(left) == 0 {
		h.waiting = nil // a burst's memory is not kept
	}
}

// releaseAll ends all waiting.
func (h *hold) releaseAll(pass func(*observe.Observation)) {
	for i := range h.waiting {
		pass(&h.waiting[i].exchange)
	}
	h.waiting = nil
}
