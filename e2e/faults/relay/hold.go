// SPDX-License-Identifier: Apache-2.0

package relay

import (
	"container/heap"
	"time"
)

// held is a packet with the time at which it goes on; of two with the same time
// the one that came first.
type held struct {
	due   time.Time
	order uint64
	raw   []byte
}

// waiting is a heap of held packets.
type waiting []held

// Len, Less, Swap, Push and Pop make it a heap.
func (w waiting) Len() int { return len(w) }

// Less orders by time, then by arrival.
func (w waiting) Less(i, j int) bool {
	if w[i].due.Equal(w[j].due) {
		return w[i].order < w[j].order
	}
	return w[i].due.Before(w[j].due)
}

// Swap exchanges two packets.
func (w waiting) Swap(i, j int) { w[i], w[j] = w[j], w[i] }

// Push adds a packet.
func (w *waiting) Push(x any) { *w = append(*w, x.(held)) }

// Pop removes the last packet.
func (w *waiting) Pop() any {
	last := (*w)[len(*w)-1]
	*w = (*w)[:len(*w)-1]
	return last
}

// due removes and returns the packets whose time has come, and says when the
// next one's does; zero when none waits.
func (w *waiting) due(now time.Time) (ready [][]byte, next time.Time) {
	for w.Len() > 0 && !(*w)[0].due.After(now) {
		ready = append(ready, heap.Pop(w).(held).raw)
	}
	if w.Len() > 0 {
		next = (*w)[0].due
	}
	return ready, next
}
