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
	// Tags are the span's attributes, Resource those of its resource, values as
	// JSON gave them.
	Tags, Resource map[string]any
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
		Tags wireTags `json:"tags"`
	} `json:"spans"`
	Processes map[string]struct {
		ServiceName string   `json:"serviceName"`
		Tags        wireTags `json:"tags"`
	} `json:"processes"`
}

type wireTags []struct {
	Key   string `json:"key"`
	Value any    `json:"value"`
}

func (w wireTags) tags() map[string]any {
	tags := map[string]any{}
	for _, tag := range w {
		tags[tag.Key] = tag.Value
	}
	return tags
}

func (w wireTrace) trace() Trace {
	t := Trace{ID: w.TraceID}
	for _, s := range w.Spans {
		process := w.Processes[s.ProcessID]
		span := Span{
			ID: s.SpanID, Name: s.OperationName, Service: process.ServiceName,
			Start:    time.UnixMicro(s.StartTime),
			Duration: time.Duration(s.Duration) * time.Microsecond,
			Tags:     s.Tags.tags(), Resource: process.Tags.tags(),
		}
		for _, ref := range s.References {
			if ref.RefType == "CHILD_OF" {
				span.Parent = ref.SpanID
			}
		}
		t.Spans = append(t.Spans, span)
	}
	return t
}
