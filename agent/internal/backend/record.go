// SPDX-License-Identifier: Apache-2.0

package backend

import (
	"time"

	"go.opentelemetry.io/otel/trace"
)

// scopeName is the instrumentation scope of layertrace's spans.
const scopeName = "github.com/layertrace/layertrace"

// keyDerived is on the spans that tell a layer's time: they were computed from
// other spans, so they say nothing new.
const keyDerived = "layertrace.layer"

// record is a stored span before anybody knows what it tells.
type record struct {
	id, parent          trace.SpanID
	name, service, kind string
	start               time.Time
	duration            time.Duration
	scope               string
	attributes          attributes
	resource            attributes
}

// ours says whether layertrace made the span.
func (r *record) ours() bool { return r.scope == scopeName }

// derived says whether the span was computed from others.
func (r *record) derived() bool {
	_, ok := r.attributes[keyDerived]
	return ok
}

// other is the record as a span that somebody else made.
func (r *record) other() Span {
	return Span{
		ID: r.id, Parent: r.parent, Name: r.name, Service: r.service, Kind: r.kind,
		Start: r.start, Duration: max(r.duration, 0),
	}
}
