// SPDX-License-Identifier: Apache-2.0

package tracestore

import (
	"fmt"

	"go.opentelemetry.io/otel/trace"
	tracepb "go.opentelemetry.io/proto/otlp/trace/v1"
	"google.golang.org/protobuf/proto"

	"github.com/layertrace/layertrace/agent/internal/span"
)

// Received has what was read from agents that keep their spans. It is bounded.
type Received struct {
	all                   file
	limit, spans, dropped int
}

// NewReceived returns an empty Received of up to limit spans.
func NewReceived(limit int) *Received {
	return &Received{all: file{records: map[trace.TraceID][]span.Stored{}}, limit: limit}
}

// Add adds the spans of an encoded TracesData message. Those above the limit are dropped.
func (r *Received) Add(encoded []byte) error {
	var data tracepb.TracesData
	if err := proto.Unmarshal(encoded, &data); err != nil {
		return fmt.Errorf("not OTLP's TracesData: %w", err)
	}
	return readOTLP(&data, func(read ...span.Stored) {
		for _, s := range read {
			if r.spans >= r.limit {
				r.dropped++
				continue
			}
			r.spans++
			r.all.add(s)
		}
	})
}

// Dropped returns the number of spans above the limit.
func (r *Received) Dropped() int { return r.dropped }

// Traces returns all traces, in the order in which their first spans came.
func (r *Received) Traces() []Trace {
	traces := make([]Trace, len(r.all.order))
	for i, id := range r.all.order {
		traces[i] = assemble(id, r.all.records[id])
	}
	return traces
}
