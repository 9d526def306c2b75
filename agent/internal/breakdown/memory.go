// SPDX-License-Identifier: Apache-2.0

package breakdown

import (
	"go.opentelemetry.io/otel/trace"

	"github.com/layertrace/layertrace/internal/observe"
)

// Splitter splits traces, one after the other, into the same memory: an agent splits thousands
// per second, and garbage of several KB for each would be most of its work.
type Splitter struct{ memory memory }

// Split is the function Split. The result is valid until the next call.
func (s *Splitter) Split(observations []observe.Observation, parents map[trace.SpanID]trace.SpanID) *Tree {
	s.memory.reset()
	return split(&s.memory, observations, parents)
}

// memory is what the parts of a tree are taken from.
type memory struct {
	hops      []Hop
	segments  []Segment
	waypoints []waypoint
	steps     []step
}

// maxMemory is how many parts of a kind stay for the next trace.
const maxMemory = 2048

// reset makes all of the memory free.
func (m *memory) reset() {
	reset(&m.hops)
	reset(&m.segments)
	reset(&m.waypoints)
	reset(&m.steps)
}

func reset[T any](m *[]T) {
	if cap(*m) > maxMemory {
		*m = nil
	}
	clear(*m) // no pointers stay
	*m = (*m)[:0]
}

// take returns an empty slice with room for n. Parts that were taken before stay valid.
func take[T any](m *[]T, n int) []T {
	from := len(*m)
	if from+n > cap(*m) {
		*m, from = make([]T, 0, max(2*cap(*m), n, 16)), 0
	}
	*m = (*m)[:from+n]
	return (*m)[from : from : from+n]
}
