// SPDX-License-Identifier: Apache-2.0

package tracestore

import (
	"context"
	"encoding/json"
	"fmt"
	"net/url"
	"strconv"
	"strings"
	"time"

	semconv "go.opentelemetry.io/otel/semconv/v1.43.0"
	"go.opentelemetry.io/otel/trace"

	"github.com/layertrace/layertrace/agent/internal/span"
)

// zipkin is a store that uses Zipkin's API, version 2 (https://zipkin.io/zipkin-api/).
type zipkin struct{ *remote }

// Trace returns one trace.
func (z *zipkin) Trace(ctx context.Context, id trace.TraceID) (Trace, error) {
	var spans []zipkinSpan
	found, err := z.json(ctx, "/api/v2/trace/"+id.String(), &spans)
	if err != nil {
		return Trace{}, err
	}
	stored, err := readZipkin(spans)
	if err != nil {
		return Trace{}, z.unreadable(err)
	}
	if !found || len(stored) == 0 || stored[0].TraceID != id {
		return Trace{}, z.notFound(id)
	}
	return assemble(id, stored), nil
}

// Search returns the traces that match, latest first. Zipkin counts in ms: the window is
// widened to whole ones, and what begins outside of it is left out here.
func (z *zipkin) Search(ctx context.Context, q Query) ([]Trace, error) {
	values := url.Values{"serviceName": {q.Service}}
	if q.Operation != "" {
		values.Set("spanName", q.Operation)
	}
	to := q.To
	if to.IsZero() {
		to = time.Now()
	}
	end := to.UnixMilli() + 1
	values.Set("endTs", strconv.FormatInt(end, 10))
	lookback := end
	if !q.From.IsZero() {
		lookback = max(end-q.From.UnixMilli(), 1)
	}
	values.Set("lookback", strconv.FormatInt(lookback, 10))
	if q.Limit > 0 {
		values.Set("limit", strconv.Itoa(q.Limit))
	}
	var lists [][]zipkinSpan
	if err := z.search(ctx, "/api/v2/traces?"+values.Encode(), &lists); err != nil {
		return nil, err
	}
	var traces []Trace
	for _, list := range lists {
		stored, err := readZipkin(list)
		if err != nil {
			return nil, z.unreadable(err)
		}
		if len(stored) == 0 {
			continue
		}
		if t := assemble(stored[0].TraceID, stored); q.includes(&t) {
			traces = append(traces, t)
		}
	}
	return latest(traces, q.Limit), nil
}

// zipkinSpan is a span in Zipkin's JSON, version 2, without the fields that are not used.
type zipkinSpan struct {
	TraceID   string         `json:"traceId"`
	ID        string         `json:"id"`
	ParentID  string         `json:"parentId"`
	Kind      string         `json:"kind"`
	Name      string         `json:"name"`
	Timestamp int64          `json:"timestamp"` // µs
	Duration  int64          `json:"duration"`  // µs
	Local     zipkinEndpoint `json:"localEndpoint"`
	Tags      zipkinTags     `json:"tags"`
}

type zipkinEndpoint struct {
	ServiceName string `json:"serviceName"`
}

// zipkinTags are texts. Where a span comes by way of an OpenTelemetry Collector, numbers
// and lists were made text, and the resource's attributes are among those of the span.
type zipkinTags map[string]string

// keyServiceCase is the tag with a service's name as it was: Zipkin has names in lower
// case. An OpenTelemetry Collector can write it (docs/zipkin.md).
const keyServiceCase = "layertrace.service.name"

// readZipkin returns the spans of a trace, or of several.
func readZipkin(spans []zipkinSpan) ([]span.Stored, error) {
	stored := make([]span.Stored, len(spans))
	for i := range spans {
		var err error
		if stored[i], err = spans[i].read(); err != nil {
			return nil, err
		}
	}
	return stored, nil
}

func (s *zipkinSpan) read() (r span.Stored, err error) {
	if r.TraceID, err = ParseTraceID(s.TraceID); err != nil {
		return r, err
	}
	if r.ID, err = trace.SpanIDFromHex(pad(s.ID, 16)); err != nil {
		return r, fmt.Errorf("span ID %q of trace %s: %w", s.ID, r.TraceID, err)
	}
	r.Parent, _ = trace.SpanIDFromHex(pad(s.ParentID, 16)) // invalid: none
	tags := make(span.Attributes, len(s.Tags)+1)
	for key, value := range s.Tags {
		tags[key] = value
	}
	r.Service = s.Local.ServiceName
	if name := tags.Text(keyServiceCase); strings.EqualFold(name, r.Service) {
		r.Service = name
	} else if node := tags.Text(string(semconv.HostNameKey)); strings.EqualFold(node, r.Service) {
		r.Service = node // an unknown service has its node's name
	}
	if r.Service != "" {
		tags[string(semconv.ServiceNameKey)] = r.Service
	}
	r.Attributes, r.Resource = tags, tags // their keys differ
	r.Name, r.Kind, r.Scope = s.Name, strings.ToLower(s.Kind), scopeOf(tags)
	if r.Kind == "" {
		r.Kind = tags.Text("span.kind") // what Zipkin has no kind for
	}
	r.Start, r.Duration = time.UnixMicro(s.Timestamp), time.Duration(s.Duration)*time.Microsecond
	return r, nil
}

// readZipkinFile reads what Zipkin's UI saves, the spans of a trace, or what its API
// returns of a search, a list of these.
func readZipkinFile(list json.RawMessage, take func(...span.Stored)) error {
	var elements []json.RawMessage
	if err := json.Unmarshal(list, &elements); err != nil || len(elements) == 0 {
		return fmt.Errorf("not Zipkin's JSON: an empty list")
	}
	for _, element := range elements {
		spans := make([]zipkinSpan, 1)
		to := any(&spans)
		if element[0] == '{' {
			to = &spans[0]
		}
		if err := json.Unmarshal(element, to); err != nil {
			return fmt.Errorf("not Zipkin's JSON: %w", err)
		}
		stored, err := readZipkin(spans)
		if err != nil {
			return err
		}
		take(stored...)
	}
	return nil
}
