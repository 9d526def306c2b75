// SPDX-License-Identifier: Apache-2.0

package export

import (
	"context"
	"fmt"
	"net/http"
	"net/url"
	"strings"

	"go.opentelemetry.io/otel/exporters/otlp/otlptrace/otlptracehttp"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
)

func newHTTP(ctx context.Context, opts OTLPOptions, a *attempts) (sdktrace.SpanExporter, error) {
	endpoint, err := tracesURL(opts.Endpoint)
	if err != nil {
		return nil, err
	}
	return newUploader(ctx, otlptracehttp.NewClient(
		otlptracehttp.WithEndpointURL(endpoint),
		otlptracehttp.WithHeaders(opts.Headers),
		otlptracehttp.WithTimeout(batchTimeout),
		otlptracehttp.WithRetry(otlptracehttp.RetryConfig{
			Enabled: true, InitialInterval: firstRetry, MaxInterval: maxRetry, MaxElapsedTime: batchTimeout,
		}),
		otlptracehttp.WithHTTPClient(&http.Client{
			Timeout:   attemptTimeout,
			Transport: &roundTripper{attempts: a, next: http.DefaultTransport.(*http.Transport).Clone()},
		})))
}

// tracesURL adds the standard path to a URL without one (OTLP specification,
// "Endpoint URLs for OTLP/HTTP").
func tracesURL(endpoint string) (string, error) {
	u, err := url.Parse(endpoint)
	if err != nil {
		return "", fmt.Errorf("read the endpoint: %w", err)
	}
	if strings.Trim(u.Path, "/") == "" {
		u.Path = "/v1/traces"
	}
	return u.String(), nil
}

// roundTripper reports each attempt.
type roundTripper struct {
	attempts *attempts
	next     http.RoundTripper
}

// RoundTrip marks an error of the transport, such as a refused connection, as
// temporary: the exporter retries only those.
func (t *roundTripper) RoundTrip(r *http.Request) (*http.Response, error) {
	response, err := t.next.RoundTrip(r)
	if err != nil {
		t.attempts.done(err)
		return nil, temporary{err}
	}
	if response.StatusCode >= http.StatusMultipleChoices {
		t.attempts.done(fmt.Errorf("the receiver answers %s", response.Status))
	} else {
		t.attempts.done(nil)
	}
	return response, nil
}

type temporary struct{ error }

// Temporary is what net/url asks for.
func (temporary) Temporary() bool { return true }

// Unwrap gives the transport's error.
func (t temporary) Unwrap() error { return t.error }
