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
	"strings"
	"time"

	"go.opentelemetry.io/otel/trace"

	"github.com/layertrace/layertrace/agent/internal/span"
)

// jaeger reads from Jaeger's query API.
type jaeger struct {
	base   string
	client *http.Client
}

// NewJaeger returns the Jaeger whose UI is at the URL.
func NewJaeger(baseURL string, client *http.Client) (Store, error) {
	u, err := url.Parse(baseURL)
	if err != nil || u.Host == "" || u.Scheme != "http" && u.Scheme != "https" {
		return nil, fmt.Errorf("%q is no URL of Jaeger: give --jaeger as http://HOST:16686", baseURL)
	}
	u.RawQuery, u.Fragment = "", ""
	return &jaeger{base: strings.TrimRight(u.String(), "/"), client: client}, nil
}

// Name returns "Jaeger at URL".
func (j *jaeger) Name() string {
	u, err := url.Parse(j.base)
	if err != nil {
		return "Jaeger"
	}
	return "Jaeger at " + u.Redacted()
}

// raw asks for the spans as they were sent. Else Jaeger gives new span IDs to
// servers that share one with their client, and puts what came under the shared
// one, our spans too, under the new.
const raw = "raw=true"

// Trace returns one trace.
func (j *jaeger) Trace(ctx context.Context, id trace.TraceID) (Trace, error) {
	traces, err := j.get(ctx, "/api/traces/"+id.String()+"?"+raw)
	if err != nil {
		return Trace{}, err
	}
	for i := range traces {
		if traces[i].ID == id {
			return traces[i], nil
		}
	}
	return Trace{}, fmt.Errorf("%s: %w as %s", j.Name(), ErrNotFound, id)
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
	traces, err := j.get(ctx, "/api/traces?"+values.Encode()+"&"+raw)
	switch {
	case errors.Is(err, errRefused) && q.Limit > 0: // a store in memory wants less than it can hold
		return nil, fmt.Errorf("%w; if that is because of the limit of %d, lower --limit or --baseline", err, q.Limit)
	case err != nil:
		return nil, err
	}
	return latest(traces, q.Limit), nil
}

// errRefused says that Jaeger understood and did not want to.
var errRefused = errors.New("refused")

// jaegerAnswer is what Jaeger's query API answers with, errors included.
type jaegerAnswer struct {
	Data   []jaegerTrace `json:"data"`
	Errors []struct {
		Code int    `json:"code"`
		Msg  string `json:"msg"`
	} `json:"errors"`
}

// get asks for traces.
func (j *jaeger) get(ctx context.Context, path string) ([]Trace, error) {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, j.base+path, nil)
	if err != nil {
		return nil, fmt.Errorf("ask Jaeger: %w; correct --jaeger", err)
	}
	request.Header.Set("Accept", "application/json")
	response, err := j.client.Do(request)
	switch {
	case ctx.Err() != nil:
		return nil, fmt.Errorf("%s did not answer in time: %w", j.Name(), ctx.Err())
	case err != nil:
		return nil, fmt.Errorf("%s cannot be reached: %w; say with --jaeger where its UI is, or read a file with --file", j.Name(), errors.Unwrap(err))
	}
	defer response.Body.Close()
	return j.read(ctx, response)
}

// read returns the traces in an answer. Only JSON in Jaeger's form says that it
// is Jaeger that knows no such trace: any web server answers with 404.
func (j *jaeger) read(ctx context.Context, response *http.Response) ([]Trace, error) {
	var answer jaegerAnswer
	lines := json.NewDecoder(response.Body)
	lines.UseNumber()
	err := lines.Decode(&answer)
	isJaeger := err == nil && (answer.Data != nil || len(answer.Errors) > 0)
	switch {
	case ctx.Err() != nil:
		return nil, fmt.Errorf("%s did not answer in time: %w", j.Name(), ctx.Err())
	case isJaeger && response.StatusCode == http.StatusNotFound:
		return nil, nil
	case isJaeger && response.StatusCode != http.StatusOK && len(answer.Errors) > 0:
		return nil, fmt.Errorf("%s %w: %s (%s)", j.Name(), errRefused, answer.Errors[0].Msg, response.Status)
	case response.StatusCode != http.StatusOK:
		return nil, fmt.Errorf("%s answers %s%s: is this the address of its UI? Correct --jaeger", j.Name(), response.Status, location(response))
	case errors.Is(err, io.ErrUnexpectedEOF):
		return nil, fmt.Errorf("the answer of %s is cut off: try again", j.Name())
	case !isJaeger && err == nil:
		return nil, nil // {"data":null}: a search without a result
	case err != nil:
		return nil, fmt.Errorf("%s does not answer with traces, but with %s: is this the address of its UI? Correct --jaeger", j.Name(), content(response))
	}
	traces := make([]Trace, 0, len(answer.Data))
	for i := range answer.Data {
		id, records, err := answer.Data[i].read()
		if err != nil {
			return nil, fmt.Errorf("read what %s answers: %w", j.Name(), err)
		}
		traces = append(traces, assemble(id, records))
	}
	return traces, nil
}

// content names what was sent instead of JSON.
func content(response *http.Response) string {
	kind, _, _ := strings.Cut(response.Header.Get("Content-Type"), ";")
	switch kind {
	case "text/html":
		return "a web page"
	case "", "application/json":
		return "something else"
	}
	return kind
}

// location says where a redirect leads that was not followed.
func location(response *http.Response) string {
	if to := response.Header.Get("Location"); to != "" {
		return " (to " + to + ")"
	}
	return ""
}

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

func (tags jaegerTags) attributes() span.Attributes {
	a := make(span.Attributes, len(tags))
	for _, tag := range tags {
		a[tag.Key] = tag.Value
	}
	return a
}

// read returns the trace's ID and its spans.
func (t *jaegerTrace) read() (trace.TraceID, []span.Stored, error) {
	id, err := ParseTraceID(t.TraceID)
	if err != nil {
		return id, nil, err
	}
	resources := make(map[string]span.Attributes, len(t.Processes))
	for name, process := range t.Processes {
		resources[name] = process.Tags.attributes()
	}
	records := make([]span.Stored, len(t.Spans))
	for i := range t.Spans {
		s := &t.Spans[i]
		r := &records[i]
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
