// SPDX-License-Identifier: Apache-2.0

package backend

import (
	"fmt"

	"go.opentelemetry.io/otel/trace"
)

// assemble makes a trace of its records.
//
// A span of layertrace has an ID that stands for the exchange and the capture
// point, so the ID alone tells that it was stored twice. Others are duplicates
// only if they are the same in all: where Zipkin's headers are used, the client
// and the server share one span ID.
func assemble(id trace.TraceID, records []record) Trace {
	t := Trace{ID: id}
	ours := map[trace.SpanID]bool{}
	others := map[Span]bool{}
	for i := range records {
		r := &records[i]
		switch {
		case r.derived():
		case r.ours():
			if ours[r.id] {
				t.Duplicates++
				continue
			}
			ours[r.id] = true
			s, err := sighting(id, r)
			if err != nil {
				t.Unreadable = append(t.Unreadable, fmt.Sprintf("span %s (%s): %v", r.id, r.name, err))
				continue
			}
			t.Sightings = append(t.Sightings, s)
		default:
			o := r.other()
			if others[o] {
				t.Duplicates++
				continue
			}
			others[o] = true
			t.Spans = append(t.Spans, o)
		}
	}
	return t
}
