// SPDX-License-Identifier: Apache-2.0

package reorder

import "slices"

// Outcome says what Front made of a header list.
type Outcome uint8

// Outcomes of Front.
const (
	Malformed Outcome = iota // not a header list
	Absent                   // no trace context
	InFront                  // where it should be already
	Moved
)

// class is a group of headers; smaller ones stand further in front.
type class uint8

const (
	head  class = iota // pseudo headers, and host where it leads
	trace              // the trace context
	state              // tracestate: goes right behind the last traceparent
	rest
)

// Lists orders header lists. It keeps its buffers from one to the next, so that
// a request makes no garbage.
type Lists struct {
	names   *Names
	entries []entry
	order   []int32
	out     []byte
}

// NewLists returns one that puts the headers of these names in front.
func NewLists(names *Names) *Lists { return &Lists{names: names} }

// Front returns the header list (see entries) with the trace context right behind
// the pseudo headers and a leading host. Within the three groups the order is
// kept, repeated headers included, but for tracestate: it goes right behind the
// last traceparent, and without one it is an ordinary header.
//
// A list without a trace context is left as it is. When the outcome is not Moved the result is nil. It is valid until the next
// call; pairs is never written to.
func (l *Lists) Front(pairs []byte) ([]byte, Outcome) {
	if !l.read(pairs) {
		return nil, Malformed
	}
	lastParent, traced := l.classify(pairs)
	if !traced {
		return nil, Absent
	}
	if l.sort(lastParent) {
		return nil, InFront
	}
	return l.write(pairs), Moved
}

// classify sets the class of each entry. It returns the index of the last
// traceparent or -1, without which none is of class state, and whether there is
// a trace context at all.
func (l *Lists) classify(pairs []byte) (lastParent int, traced bool) {
	lastParent = -1
	states := false
	leading := true // nothing but pseudo headers and host so far
	for i := range l.entries {
		e := &l.entries[i]
		name := pairs[e.at : e.at+e.name]
		e.class = rest
		switch {
		case len(name) > 0 && name[0] == ':', leading && equalFold(name, "host"):
			e.class = head
		case equalFold(name, tracestate):
			e.class, states = state, true
		case l.names.has(name):
			e.class, traced = trace, true
			if equalFold(name, traceparent) {
				lastParent = i
			}
		}
		leading = leading && e.class == head
	}
	if states && lastParent < 0 {
		traced = l.ordinaryStates() || traced
	}
	return lastParent, traced
}

// ordinaryStates is for lists without a traceparent: there tracestate is a header
// as any other. It returns whether it was configured as one to move.
func (l *Lists) ordinaryStates() bool {
	c := rest
	if l.names.Has(tracestate) {
		c = trace
	}
	for i := range l.entries {
		if l.entries[i].class == state {
			l.entries[i].class = c
		}
	}
	return c == trace
}

// sort fills the order in which the entries should stand and reports whether
// they already do.
func (l *Lists) sort(lastParent int) bool {
	l.order = l.order[:0]
	for _, c := range [...]class{head, trace, rest} {
		for i := range l.entries {
			if l.entries[i].class != c {
				continue
			}
			l.order = append(l.order, int32(i))
			if i == lastParent {
				l.appendStates()
			}
		}
	}
	return slices.IsSorted(l.order)
}

func (l *Lists) appendStates() {
	for i := range l.entries {
		if l.entries[i].class == state {
			l.order = append(l.order, int32(i))
		}
	}
}
