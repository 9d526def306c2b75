// SPDX-License-Identifier: Apache-2.0

package truth

import (
	"fmt"

	"github.com/layertrace/layertrace/e2e/lab"
)

// Trace is all hops of one trace, in the order of the access logs.
type Trace []Hop

// LastTraceThrough returns the last trace in which the pod sent a request.
func LastTraceThrough(hops []Hop, pod string) (Trace, error) {
	var id string
	for _, hop := range hops {
		if hop.From.Name == pod {
			id = hop.TraceID
		}
	}
	if id == "" {
		return nil, fmt.Errorf("no trace through %s among %d requests", pod, len(hops))
	}
	return TraceOf(hops, id), nil
}

// TraceOf returns the hops of one trace.
func TraceOf(hops []Hop, id string) (trace Trace) {
	for _, hop := range hops {
		if hop.TraceID == id {
			trace = append(trace, hop)
		}
	}
	return trace
}

// ID returns the trace ID in lower-case hex.
func (t Trace) ID() string { return t[0].TraceID }

// EnvoySpans is how many spans the Envoys make of the trace: one at each end
// of each hop.
func (t Trace) EnvoySpans() int { return 2 * len(t) }

// InterfaceSpans returns the names of the spans that the agents should make of
// the trace, with how many there should be of each.
func (t Trace) InterfaceSpans() map[string]int {
	names := map[string]int{}
	for _, hop := range t {
		for _, point := range lab.Path(hop.From, hop.To) {
			names[point.Name]++
		}
	}
	return names
}

// Spans is the number of all spans of the trace.
func (t Trace) Spans() int {
	total := t.EnvoySpans()
	for _, n := range t.InterfaceSpans() {
		total += n
	}
	return total
}
