// SPDX-License-Identifier: Apache-2.0

package backend

import (
	"fmt"
	"time"

	"go.opentelemetry.io/otel/trace"
)

// jaegerTrace is a trace in the JSON of Jaeger's query API and of what its UI
// saves. Only the fields that are read are here.
type jaegerTrace struct {
	TraceID   string                   `json:"traceID"`
	Spans     []jaegerSpan             `json:"spans"`
	Processes map[string]jaegerProcess `json:"processes"`
}

type jaegerSpan struct {
	SpanID        string            `json:"spanID"`
	ParentSpanID  string            `json:"parentSpanID"` // of old versions
	OperationName string            `json:"operationName"`
	ProcessID     string            `json:"processID"`
	StartTime     int64             `json:"startTime"` // µs
	Duration      int64             `json:"duration"`  // µs
	References    []jaegerReference `json:"references"`
	Tags          jaegerTags        `json:"tags"`
}

type jaegerReference struct {
	RefType string `json:"refType"`
	TraceID string `json:"traceID"`
	SpanID  string `json:"spanID"`
}

type jaegerProcess struct {
	ServiceName string     `json:"serviceName"`
	Tags        jaegerTags `json:"tags"`
}

type jaegerTags []struct {
	Key   string `json:"key"`
	Value any    `json:"value"`
}

func (tags jaegerTags) attributes() attributes {
	a := make(attributes, len(tags))
	for _, tag := range tags {
		a[tag.Key] = tag.Value
	}
	return a
}

// read returns the trace's ID and its spans.
func (t *jaegerTrace) read() (trace.TraceID, []record, error) {
	id, err := ParseTraceID(t.TraceID)
	if err != nil {
		return id, nil, err
	}
	resources := make(map[string]attributes, len(t.Processes))
	for name, process := range t.Processes {
		resources[name] = process.Tags.attributes()
	}
	records := make([]record, len(t.Spans))
	for i := range t.Spans {
		s := &t.Spans[i]
		r := &records[i]
		r.attributes, r.resource = s.Tags.attributes(), resources[s.ProcessID]
		r.name, r.service = s.OperationName, t.Processes[s.ProcessID].ServiceName
		r.kind = r.attributes.text("span.kind")
		r.scope = scopeOf(r.attributes, r.resource)
		r.start = time.UnixMicro(s.StartTime)
		r.duration = time.Duration(s.Duration) * time.Microsecond
		if r.id, err = trace.SpanIDFromHex(pad(s.SpanID, 16)); err != nil {
			return id, nil, fmt.Errorf("span ID %q of trace %s: %w", s.SpanID, id, err)
		}
		r.parent = s.parent(t.TraceID)
	}
	return id, records, nil
}

// parent returns the ID of the span that this one is a child of, in this trace.
func (s *jaegerSpan) parent(traceID string) trace.SpanID {
	text := s.ParentSpanID
	for _, ref := range s.References {
		if ref.RefType == "CHILD_OF" && (ref.TraceID == "" || ref.TraceID == traceID) {
			text = ref.SpanID
			break
		}
	}
	id, _ := trace.SpanIDFromHex(pad(text, 16)) // invalid: none
	return id
}

// scopeOf returns the instrumentation scope, which Jaeger keeps as a tag: of the
// span, or of the process.
func scopeOf(sets ...attributes) string {
	for _, set := range sets {
		for _, key := range [...]string{"otel.scope.name", "otel.library.name"} {
			if name := set.text(key); name != "" {
				return name
			}
		}
	}
	return ""
}
