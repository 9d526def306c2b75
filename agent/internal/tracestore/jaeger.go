// SPDX-License-Identifier: Apache-2.0

package tracestore

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"time"

	"go.opentelemetry.io/otel/trace"

	"github.com/layertrace/layertrace/agent/internal/span"
)

// jaeger is a store that uses Jaeger's query API.
type jaeger struct{ *remote }

// raw requests the spans as they were sent. Without it Jaeger gives a server that
// shares its client's span ID a new one, and makes the children of the shared ID, our
// spans among them, children of the new one.
const raw = "raw=true"

// Trace returns one trace.
func (j *jaeger) Trace(ctx context.Context, id trace.TraceID) (Trace, error) {
	traces, err := j.traces(ctx, "/api/traces/"+id.String()+"?"+raw)
	if err != nil {
		return Trace{}, err
	}
	for i := range traces {
		if traces[i].ID == id {
			return traces[i], nil
		}
	}
	return Trace{}, j.notFound(id)
}

// Search returns the traces that match, latest first.
func (j *jaeger) Search(ctx context.Context, q Query) ([]Trace, error) {
	values := url.Values{"service": {q.Service}}
	if q.Operation != "" {
		values.Set("operation", q.Operation)
	}
	for name, at := range map[string]time.Time{"start": q.From, "end": q.To} {
		if !at.IsZero() {
			values.Set(name, strconv.FormatInt(at.UnixMicro(), 10))
		}
	}
	if q.Limit > 0 {
		values.Set("limit", strconv.Itoa(q.Limit))
	}
	traces, err := j.traces(ctx, "/api/traces?"+values.Encode()+"&"+raw)
	switch {
	case errors.Is(err, errRefused) && q.Limit > 0: // an in-memory store refuses limits above its size
		return nil, fmt.Errorf("%w; if the limit of %d is the reason, lower --limit or --baseline", err, q.Limit)
	case err != nil:
		return nil, err
	}
	return latest(traces, q.Limit), nil
}

// jaegerResponse is a response of Jaeger's query API, errors included.
type jaegerResponse struct {
	Data   []jaegerTrace `json:"data"`
	Errors []struct {
		Code int    `json:"code"`
		Msg  string `json:"msg"`
	} `json:"errors"`
}

// traces requests traces.
func (j *jaeger) traces(ctx context.Context, path string) ([]Trace, error) {
	response, err := j.get(ctx, path)
	if err != nil {
		return nil, err
	}
	defer response.Body.Close()
	return j.read(ctx, response)
}

// read returns the traces in a response. A 404 means an unknown trace only with a body
// in Jaeger's format: any web server responds with 404.
func (j *jaeger) read(ctx context.Context, response *http.Response) ([]Trace, error) {
	var body jaegerResponse
	decoder := json.NewDecoder(response.Body)
	decoder.UseNumber()
	err := decoder.Decode(&body)
	isJaeger := err == nil && (body.Data != nil || len(body.Errors) > 0)
	switch {
	case ctx.Err() != nil:
		return nil, j.late(ctx)
	case isJaeger && response.StatusCode == http.StatusNotFound:
		return nil, nil
	case isJaeger && response.StatusCode != http.StatusOK && len(body.Errors) > 0:
		return nil, fmt.Errorf("%s %w: %s (%s)", j.Name(), errRefused, shortened(body.Errors[0].Msg), response.Status)
	case response.StatusCode != http.StatusOK:
		return nil, j.unexpected(response)
	case errors.Is(err, errTooLarge):
		return nil, j.tooLarge()
	case errors.Is(err, io.ErrUnexpectedEOF):
		return nil, j.truncated()
	case !isJaeger && err == nil:
		return nil, nil // {"data":null}: a search without a result
	case err != nil:
		return nil, j.foreign(response)
	}
	traces := make([]Trace, 0, len(body.Data))
	for i := range body.Data {
		id, stored, err := body.Data[i].read()
		if err != nil {
			return nil, j.unreadable(err)
		}
		traces = append(traces, assemble(id, stored))
	}
	return traces, nil
}

// jaegerTrace is a trace in the JSON of Jaeger's query API and of files that its UI
// saves, without the fields that are not used.
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

func (tags jaegerTags) attributes() span.Attributes {
	a := make(span.Attributes, len(tags))
	for _, tag := range tags {
		a[tag.Key] = tag.Value
	}
	return a
}

// read returns the ID and the spans.
func (t *jaegerTrace) read() (trace.TraceID, []span.Stored, error) {
	id, err := ParseTraceID(t.TraceID)
	if err != nil {
		return id, nil, err
	}
	resources := make(map[string]span.Attributes, len(t.Processes))
	for name, process := range t.Processes {
		resources[name] = process.Tags.attributes()
	}
	stored := make([]span.Stored, len(t.Spans))
	for i := range t.Spans {
		s := &t.Spans[i]
		r := &stored[i]
		r.TraceID = id
		r.Attributes, r.Resource = s.Tags.attributes(), resources[s.ProcessID]
		r.Name, r.Service = s.OperationName, t.Processes[s.ProcessID].ServiceName
		r.Kind = r.Attributes.Text("span.kind")
		r.Scope = scopeOf(r.Attributes, r.Resource)
		r.Start = time.UnixMicro(s.StartTime)
		r.Duration = time.Duration(s.Duration) * time.Microsecond
		if r.ID, err = trace.SpanIDFromHex(pad(s.SpanID, 16)); err != nil {
			return id, nil, fmt.Errorf("span ID %q of trace %s: %w", s.SpanID, id, err)
		}
		r.Parent = s.parent(t.TraceID)
	}
	return id, stored, nil
}

// parent returns the ID of the parent span in this trace.
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

// scopeOf returns the instrumentation scope, which Jaeger keeps as a tag of the span or
// of the process.
func scopeOf(sets ...span.Attributes) string {
	for _, set := range sets {
		for _, key := range [...]string{"otel.scope.name", "otel.library.name"} {
			if name := set.Text(key); name != "" {
				return name
			}
		}
	}
	return ""
}
