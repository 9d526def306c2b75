// SPDX-License-Identifier: Apache-2.0

package reorder

import (
	"slices"
	"strings"
)

// class is a group of headers; smaller ones stand further in front.
type class uint8

const (
	head  class = iota // pseudo headers, and host where it leads
	trace              // the trace context
	state              // tracestate: goes right behind the last traceparent
	rest
)

// Front returns headers (name, value) with the trace context right behind the
// pseudo headers and a leading host. Within the three groups the order is kept,
// repeated headers included, but for tracestate: it goes right behind the last
// traceparent, and without one it is an ordinary header. When nothing has to
// move, Front returns headers itself and false; headers is never written to.
func (n *Names) Front(headers [][2]string) ([][2]string, bool) {
	classes, lastParent := n.classify(headers)
	order := make([]int, 0, len(headers))
	appendClass := func(c class) {
		for i := range classes {
			if classes[i] != c {
				continue
			}
			order = append(order, i)
			if i == lastParent {
				order = appendAll(order, classes, state)
			}
		}
	}
	appendClass(head)
	appendClass(trace)
	appendClass(rest)
	if slices.IsSorted(order) {
		return headers, false
	}
	out := make([][2]string, len(order))
	for to, from := range order {
		out[to] = headers[from]
	}
	return out, true
}

// classify returns each header's class, and the index of the last traceparent
// or -1; without one no header is of class state.
func (n *Names) classify(headers [][2]string) ([]class, int) {
	lastParent := -1
	for i, h := range headers {
		if strings.EqualFold(h[0], traceparent) {
			lastParent = i
		}
	}
	classes := make([]class, len(headers))
	leading := true // nothing but pseudo headers and host so far
	for i, h := range headers {
		classes[i] = rest
		switch name := h[0]; {
		case strings.HasPrefix(name, ":"), leading && strings.EqualFold(name, "host"):
			classes[i] = head
		case lastParent >= 0 && strings.EqualFold(name, tracestate):
			classes[i] = state
		case n.Has(name):
			classes[i] = trace
		}
		leading = leading && classes[i] == head
	}
	return classes, lastParent
}

func appendAll(order []int, classes []class, c class) []int {
	for i := range classes {
		if classes[i] == c {
			order = append(order, i)
		}
	}
	return order
}
