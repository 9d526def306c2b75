// SPDX-License-Identifier: Apache-2.0

package export

import (
	"context"
	"fmt"
	"log/slog"
	"time"

	"go.opentelemetry.io/otel"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
)

// Times of the delivery. A batch is tried again until batchTimeout is over, so
// a receiver that restarts costs nothing; meanwhile new spans queue up.
const (
	// attemptTimeout bounds one request.
	attemptTimeout = 10 * time.Second
	// batchTimeout bounds all attempts of one batch.
	batchTimeout = time.Minute
	// firstRetry and maxRetry bound the pause between two attempts; maxRetry
	// is also how long a returned receiver may go unnoticed.
	firstRetry = 500 * time.Millisecond
	maxRetry   = 5 * time.Second
)

// OTLPOptions say where spans go.
type OTLPOptions struct {
	// HTTP chooses OTLP over HTTP, else it is gRPC.
	HTTP bool
	// Endpoint is HOST:PORT for gRPC, a URL for HTTP.
	Endpoint string
	// Insecure means gRPC without TLS. With HTTP the URL's scheme decides.
	Insecure bool
	// Headers go with each request.
	Headers map[string]string
	// Log takes a line when the receiver goes away and when it is back.
	Log *slog.Logger
}

// NewOTLP returns an exporter. It does not connect yet: a receiver that is
// away now is as good as one that goes away later.
func NewOTLP(ctx context.Context, opts OTLPOptions) (sdktrace.SpanExporter, error) {
	// Each failed attempt is logged by attempts, each lost span is counted.
	otel.SetErrorHandler(otel.ErrorHandlerFunc(func(err error) { opts.Log.Debug("opentelemetry", "error", err) }))
	a := &attempts{log: opts.Log, endpoint: opts.Endpoint}
	create := newGRPC
	if opts.HTTP {
		create = newHTTP
	}
	exporter, err := create(ctx, opts, a)
	if err != nil {
		return nil, fmt.Errorf("set up OTLP export to %s: %w", opts.Endpoint, err)
	}
	return exporter, nil
}
