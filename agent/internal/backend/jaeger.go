// SPDX-License-Identifier: Apache-2.0

package backend

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"go.opentelemetry.io/otel/trace"
)

// jaeger reads from Jaeger's query API.
type jaeger struct {
	base   string
	client *http.Client
}

// NewJaeger returns the Jaeger whose UI is at the URL.
func NewJaeger(baseURL string, client *http.Client) (Source, error) {
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
		return nil, fmt.Errorf("%w; if that is because of the limit of %d, lower --limit or --typical", err, q.Limit)
	case err != nil:
		return nil, err
	}
	return latest(traces, q.Limit), nil
}
