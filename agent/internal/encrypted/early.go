// SPDX-License-Identifier: Apache-2.0

package encrypted

import (
	"math"
	"slices"
	"time"

	"github.com/layertrace/layertrace/agent/internal/accesslog"
	"github.com/layertrace/layertrace/internal/observe"
)

// A record can be early as a whole. When a request begins, Envoy reads the wall clock, and right
// after that the monotonic clock, from which it counts all times of the record. If its thread
// loses the CPU between the two, all of them are early by that pause. The clock of the node
// is right, and nothing else shows the pause: at the sender of the request, the window ends
// before the response had passed. At the receiver only the end of the window is early, which
// rules next to nothing out.
//
// So a record that has waited in vain, by a clock that is known to be right, is joined with
// the only exchange that no other record has, if both sizes are equal and one pause explains
// the times at all capture points. A record that is late by as much could be about another
// exchange: with that in reach there is no join either. Nor is there one where its own exchange
// may have been overwritten: if no turn before it is known. A point at which the record fits in
// time bounds the pause like the others.

// maxPause is the longest pause. A CPU limit stops a thread for up to 100 ms (cpu.cfs_period_us).
const maxPause = 100 * time.Millisecond

// pause has the bounds of a pause in ns, exact to clockError. A negative pause would make a
// record late.
type pause struct{ least, most int64 }

func (p pause) possible() bool { return p.least <= p.most }

// and returns the bounds that both have.
func (p pause) and(o pause) pause { return pause{max(p.least, o.least), min(p.most, o.most)} }

// joinEarly joins a record at the points at which nothing has its times.
func (j *Joiner) joinEarly(w *waiting) {
	if w.Side == accesslog.SideServer || w.final() || w.doubted || len(j.evidence.offsets) != 1 || !j.evidence.proven(w.Peer) {
		return
	}
	win := windowOf(&w.Record, j.evidence.offsets[0].ns)
	if win.from == 0 || win.to == 0 {
		return
	}
	turns, err := j.pull(j.turns[:0], w, win.from, win.to, far)
	j.turns = turns
	if err != nil {
		return
	}
	defer func() { w.candidates = w.candidates[:0] }()
	common, without := pause{math.MinInt64, math.MaxInt64}, false
	for at, own := range byPoint(turns) {
		if !j.isOwn(w, &own[0]) {
			continue
		}
		if !isWhole(own, win.from) {
			return
		}
		several := false
		if slices.Contains(w.given, at) {
			common = common.and(j.pauseInTime(w, own, win))
		} else if found, more := j.findEarly(w, own, candidate{at: at, window: win, early: true}); found != nil {
			w.candidates = append(w.candidates, *found)
			common = common.and(found.pause)
		} else {
			several, without = more, true
		}
		if several || !common.possible() {
			w.best.better(outcome{StateAmbiguous, ReasonClock})
			return
		}
	}
	for i := range w.candidates {
		c := &w.candidates[i]
		c.window.to += uint64(common.most)
		if j.evidence.take(w, c) {
			j.give(w, c)
		}
	}
	w.missing = without
}

// isWhole reports whether no turn of a point since a time is missing.
func isWhole(own []observe.Turn, since uint64) bool {
	for i := 1; i < len(own); i++ {
		if own[i].Number != own[i-1].Number+1 {
			return false
		}
	}
	return own[0].Number == 0 || end(&own[0]) < since
}

// pauseInTime returns the pauses with which a record is about the exchange that it was given
// at a point, whose turns are all known; none is possible if there is no such exchange.
func (j *Joiner) pauseInTime(w *waiting, own []observe.Turn, win window) pause {
	for _, want := range j.evidence.wants(&w.Record, true) {
		q := j.requestFor(win, &want, own)
		if x := find(own, &q); x.fit == fitExact {
			first := int(x.turns[0].Number - own[0].Number)
			return q.pauseOf(&x, own[:first], own[first+len(x.turns):])
		}
	}
	return pause{1, 0}
}

// findEarly returns the exchange of a record that is early among all turns of a point around its
// window, and whether several may be meant.
func (j *Joiner) findEarly(w *waiting, own []observe.Turn, c candidate) (found *candidate, several bool) {
	for _, want := range j.evidence.wants(&w.Record, true) {
		q := j.requestFor(c.window, &want, own)
		if c.exchange = find(own, &q); !want.comparable || c.fit != fitNone && !j.evidence.isTaken(w, &c) {
			continue // it is no matter of the clock
		}
		for x, p := range q.early(own) {
			one := c
			one.exchange, one.pause = x, p
			switch {
			case j.evidence.isTaken(w, &one) || found != nil && found.same(one):
			case found != nil || x.fit != fitExact || p.least <= 0:
				several = true
			default:
				one.turns = slices.Clone(x.turns) // the buffer is used again
				found = &one
			}
		}
	}
	if found == nil || several {
		return nil, found != nil
	}
	return found, false
}

// early visits the exchanges of which the record may be if its clock was off by up to maxPause
// in either direction, with that pause. No turn is missing. The fit is fitTime if sizes are unknown.
func (q *request) early(own []observe.Turn) func(yield func(exchange, pause) bool) {
	return func(yield func(exchange, pause) bool) {
		for first := range own {
			for n := 1; first+n <= len(own) && n <= maxTurns; n++ {
				run := own[first : first+n]
				if begin(&run[n-1]) > end(&run[0])+(q.to-q.from)+2*clockError {
					break // longer than the record
				}
				x := exchange{turns: run, open: run[n-1].Flags&observe.TurnOpen != 0, fit: fitTime, overhead: q.overhead}
				if run[0].Flags&observe.TurnMiddle == 0 && comparable(run) {
					x.fit = fitExact
					if !q.matchSizes(&x) {
						continue
					}
				}
				p := q.pauseOf(&x, own[:first], own[first+n:])
				if p.possible() && p.least <= int64(maxPause) && p.most >= -int64(maxPause) && !yield(x, p) {
					return
				}
			}
		}
	}
}

// pauseOf returns the pauses with which all bytes of an exchange are within the window, and
// nothing of its neighbours is.
func (q *request) pauseOf(x *exchange, before, after []observe.Turn) pause {
	p := pause{int64(x.last()) - int64(q.to), int64(x.first(0)) - int64(q.from)}
	if response := x.first(1); response != 0 && q.first != 0 {
		p.least = max(p.least, int64(response)-int64(q.first))
	}
	if n := len(before); n > 0 {
		p.least = max(p.least, int64(end(&before[n-1]))-int64(q.from))
	}
	if len(after) > 0 {
		p.most = min(p.most, int64(begin(&after[0]))-int64(q.to))
	}
	return pause{p.least - clockError, p.most + clockError}
}
