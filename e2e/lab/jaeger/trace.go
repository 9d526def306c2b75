// SPDX-License-Identifier: Apache-2.0

package jaeger

import "time"

// Trace is a trace as Jaeger's query API gives it.
type Trace struct {
	// ID is the trace ID in lower-case hex.
	ID    string
	Spans []Span
}

// Span is one span of a trace.
type Span struct {
	// ID and Parent are span IDs in lower-case hex; Parent is empty at a root.
	ID, Parent string
	// Name is the operation, Service the service.name of its resource.
	Name, Service string
	Start         time.Time
	Duration      time.Duration
	// Tags are the attributes, values as JSON gave them.
	Tags map[string]any
}

// Kind returns the span's kind: client, server, internal or "".
func (s Span) Kind() string {
	kind, _ := s.Tags["span.kind"].(string)
	return kind
}

// End is when the span ended.
func (s Span) End() time.Time { return s.Start.Add(s.Duration) }

type wireTrace struct {
	TraceID string `json:"traceID"`
	Spans   []struct {
		SpanID        string `json:"spanID"`
		OperationName string `json:"operationName"`
		ProcessID     string `json:"processID"`
		StartTime     int64  `json:"startTime"`
		Duration      int64  `json:"duration"`
		References    []struct {
			RefType string `json:"refType"`
			SpanID  string `json:"spanID"`
		} `json:"references"`
		Tags []struct {
			Key   string `json:"key"`
			Value any    `json:"value"`
		} `json:"tags"`
	} `json:"spans"`
	Processes map[string]struct {
		ServiceName string `json:"serviceName"`
	} `json:"processes"`
}

func (w wireTrace) trace() Trace {
	t := Trace{ID: w.TraceID}
	for _, s := range w.Spans {
		span := Span{
			ID: s.SpanID, Name: s.OperationName, Service: w.Processes[s.ProcessID].ServiceName,
			Start:    time.UnixMicro(s.StartTime),
			Duration: time.Duration(s.Duration) * time.Microsecond,
			Tags:     map[string]any{},
		}
		for _, ref := range s.References {
			if ref.RefType == "CHILD_OF" {
				span.Parent = ref.SpanID
			}
		}
		for _, tag := range s.Tags {
			span.Tags[tag.Key] = tag.Value
		}
		t.Spans = append(t.Spans, span)
	}
	return t
}
