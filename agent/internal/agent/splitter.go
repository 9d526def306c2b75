// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"sync"
	"sync/atomic"
	"time"

	"github.com/layertrace/layertrace/agent/internal/breakdown"
)

const (
	// maxUnsplit is the maximum number of observations in traces that wait to be split. When
	// half of them do, further ones stay in the trace buffer.
	maxUnsplit = 32768
	// splitTurn is the time for which the splitter works without a rest, and splitRest
	// that for which others have its CPU then, unless half of maxUnsplit waits.
	splitTurn = time.Millisecond
	splitRest = 200 * time.Microsecond
	// splitPause is how long the splitter waits before it looks again whether the reader of
	// the ring, or the sender of spans, has caught up.
	splitPause = time.Millisecond
)

// splitter splits traces on a goroutine of its own: those that take exchanges never wait for
// it. It has a bounded queue; traces that find it full are counted and not split. It leaves its
// CPU to the reader of the ring and to the sender of spans while much waits for them: an exchange
// that finds the ring full is lost, and a span that finds the queue full; a trace can wait.
type splitter struct {
	split func(*breakdown.BufferedTrace)
	// Whether so much waits in the ring, or in the queue of spans, that its reader or sender needs
	// the CPU; nil: never.
	ringCrowded, queueCrowded func() bool
	working                   progress

	mu      sync.Mutex // guards the rest
	change  *sync.Cond // of waiting, size and closing
	waiting []*breakdown.BufferedTrace
	size    int  // observations
	patient bool // add waits for room
	closing bool // nothing comes any more
	refused atomic.Uint64
	done    chan struct{}
}

// newSplitter returns a splitter that keeps traces until run splits them.
func newSplitter(split func(*breakdown.BufferedTrace)) *splitter {
	s := &splitter{split: split, done: make(chan struct{})}
	s.change = sync.NewCond(&s.mu)
	return s
}

// busy reports whether more traces should wait elsewhere, while there is room for some more.
func (s *splitter) busy() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.size > maxUnsplit/2
}

// add queues a trace.
func (s *splitter) add(t *breakdown.BufferedTrace) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for s.size > 0 && s.size+t.Len() > maxUnsplit {
		if !s.patient {
			s.refused.Add(1)
			return
		}
		s.change.Wait()
	}
	s.waiting = append(s.waiting, t)
	s.size += t.Len()
	s.change.Broadcast()
}

// run splits traces until close.
func (s *splitter) run() {
	defer close(s.done)
	turn := time.Duration(0)
	for {
		s.mu.Lock()
		for len(s.waiting) == 0 && !s.closing {
			s.change.Wait()
		}
		some, closing := s.waiting, s.closing
		s.waiting = nil
		s.mu.Unlock()
		for i := range some {
			began := time.Now()
			s.working.begin()
			s.split(some[i])
			s.working.end()
			n := some[i].Len()
			some[i] = nil
			s.mu.Lock()
			s.size -= n
			many := s.size > maxUnsplit/2 || s.patient
			s.change.Broadcast()
			s.mu.Unlock()
			if turn += time.Since(began); turn > splitTurn && !many {
				time.Sleep(splitRest)
				turn = 0
			}
			for s.yields() {
				time.Sleep(splitPause)
				turn = 0
			}
		}
		if closing && len(some) == 0 { // nothing is added after closing
			return
		}
	}
}

// yields reports whether the reader of the ring or the sender of spans needs the CPU. Traces
// wait as long as the trace buffer has room: only what it has none for makes the queue longer
// than busy lets it be.
func (s *splitter) yields() bool {
	if (s.ringCrowded == nil || !s.ringCrowded()) && (s.queueCrowded == nil || !s.queueCrowded()) {
		return false
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	return !s.patient && s.size < maxUnsplit/4*3
}

// close lets flush add the last traces, which wait for room, and returns when all are split.
func (s *splitter) close(flush func()) {
	s.mu.Lock()
	s.patient = true
	s.mu.Unlock()
	flush()
	s.mu.Lock()
	s.closing = true
	s.mu.Unlock()
	s.change.Broadcast()
	<-s.done
}
