// SPDX-License-Identifier: Apache-2.0

package export

import (
	"context"
	"fmt"
	"log/slog"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"time"

	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/exporters/otlp/otlptrace"
	"go.opentelemetry.io/otel/exporters/otlp/otlptrace/otlptracegrpc"
	"go.opentelemetry.io/otel/exporters/otlp/otlptrace/otlptracehttp"
	coltracepb "go.opentelemetry.io/proto/otlp/collector/trace/v1"
	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/encoding"
	grpcproto "google.golang.org/grpc/encoding/proto"
	"google.golang.org/grpc/mem"
	"google.golang.org/protobuf/proto"
)

// Timeouts and retries. A batch is retried until batchTimeout ends, so a receiver
// that restarts costs nothing; meanwhile new spans queue up.
const (
	// attemptTimeout limits one request.
	attemptTimeout = 10 * time.Second
	// batchTimeout limits all attempts of one batch.
	batchTimeout = time.Minute
	// firstRetry and maxRetry limit the pause between two attempts. maxRetry is
	// also the longest time that a receiver's return goes unnoticed.
	firstRetry = 500 * time.Millisecond
	maxRetry   = 5 * time.Second
)

// OTLPOptions describe the receiver.
type OTLPOptions struct {
	// HTTP selects OTLP over HTTP; the default is gRPC.
	HTTP bool
	// Endpoint is HOST:PORT for gRPC, a URL for HTTP.
	Endpoint string
	// Insecure turns TLS off for gRPC. With HTTP the URL's scheme decides.
	Insecure bool
	// Headers are added to each request.
	Headers map[string]string
	// Log gets a line when the receiver goes away and when it is back.
	Log *slog.Logger
}

// NewClient returns a client for a Queue, or to send spans as they were received. It does
// not connect yet: a receiver that is down now is treated like one that goes down later.
func NewClient(ctx context.Context, opts OTLPOptions) (otlptrace.Client, error) {
	// receiverLog reports failed attempts, and the queue counts lost spans.
	otel.SetErrorHandler(otel.ErrorHandlerFunc(func(err error) { opts.Log.Debug("opentelemetry", "error", err) }))
	log := &receiverLog{log: opts.Log, endpoint: opts.Endpoint}
	newClient := grpcClient
	if opts.HTTP {
		newClient = httpClient
	}
	client, err := newClient(opts, log)
	if err == nil {
		err = client.Start(ctx)
	}
	if err != nil {
		return nil, fmt.Errorf("set up OTLP export to %s: %w", opts.Endpoint, err)
	}
	return client, nil
}

func grpcClient(opts OTLPOptions, log *receiverLog) (otlptrace.Client, error) {
	options := []otlptracegrpc.Option{
		otlptracegrpc.WithEndpoint(opts.Endpoint),
		otlptracegrpc.WithHeaders(opts.Headers),
		otlptracegrpc.WithTimeout(batchTimeout),
		otlptracegrpc.WithRetry(otlptracegrpc.RetryConfig{
			Enabled: true, InitialInterval: firstRetry, MaxInterval: maxRetry, MaxElapsedTime: batchTimeout,
		}),
		otlptracegrpc.WithDialOption(
			grpc.WithUnaryInterceptor(log.unary),
			grpc.WithDefaultCallOptions(grpc.ForceCodecV2(newCodec())),
			// gRPC's default backoff grows to two minutes, during which no attempt
			// reaches a receiver that is back.
			grpc.WithConnectParams(grpc.ConnectParams{
				Backoff: backoff.Config{
					BaseDelay: firstRetry, Multiplier: backoff.DefaultConfig.Multiplier,
					Jitter: backoff.DefaultConfig.Jitter, MaxDelay: maxRetry,
				},
				MinConnectTimeout: maxRetry,
			})),
	}
	if opts.Insecure {
		options = append(options, otlptracegrpc.WithInsecure())
	}
	return otlptracegrpc.NewClient(options...), nil
}

// codec is gRPC's own for Protobuf but for the memory of what is sent. gRPC takes a buffer of
// 1 MiB for each message of more than 32 KiB and clears it: with batches of 100 to 180 KB that
// was a fifth of the agent's CPU at 1 % sampled, and a cache of others that was overwritten.
type codec struct {
	encoding.CodecV2
	buffers buffers
}

func newCodec() *codec { return &codec{CodecV2: encoding.GetCodecV2(grpcproto.Name)} }

// Marshal encodes a message into memory that is used again when it has been sent.
func (c *codec) Marshal(v any) (mem.BufferSlice, error) {
	message, ok := v.(proto.Message)
	if !ok {
		return nil, fmt.Errorf("encode a request: %T is no message of Protobuf", v)
	}
	buffer := c.buffers.Get(proto.Size(message))
	encoded, err := proto.MarshalOptions{UseCachedSize: true}.MarshalAppend((*buffer)[:0], message)
	if err != nil {
		c.buffers.Put(buffer)
		return nil, fmt.Errorf("encode a request: %w", err)
	}
	*buffer = encoded
	return mem.BufferSlice{mem.NewBuffer(buffer, &c.buffers)}, nil
}

// buffers keeps memory for the next messages. It does not clear it, as Marshal writes all of it.
// Memory without use is freed by the second garbage collection.
type buffers struct{ free sync.Pool }

// Get returns a buffer of a length, with any content.
func (b *buffers) Get(length int) *[]byte {
	if buffer, ok := b.free.Get().(*[]byte); ok && cap(*buffer) >= length {
		*buffer = (*buffer)[:length]
		return buffer
	}
	buffer := make([]byte, length)
	return &buffer
}

// Put takes a buffer back.
func (b *buffers) Put(buffer *[]byte) { b.free.Put(buffer) }

func httpClient(opts OTLPOptions, log *receiverLog) (otlptrace.Client, error) {
	endpoint, err := tracesURL(opts.Endpoint)
	if err != nil {
		return nil, err
	}
	return otlptracehttp.NewClient(
		otlptracehttp.WithEndpointURL(endpoint),
		otlptracehttp.WithHeaders(opts.Headers),
		otlptracehttp.WithTimeout(batchTimeout),
		otlptracehttp.WithRetry(otlptracehttp.RetryConfig{
			Enabled: true, InitialInterval: firstRetry, MaxInterval: maxRetry, MaxElapsedTime: batchTimeout,
		}),
		otlptracehttp.WithHTTPClient(&http.Client{
			Timeout:   attemptTimeout,
			Transport: &roundTripper{log: log, next: http.DefaultTransport.(*http.Transport).Clone()},
		})), nil
}

// tracesURL adds the standard path to a URL that has none (OTLP specification,
// "Endpoint URLs for OTLP/HTTP").
func tracesURL(endpoint string) (string, error) {
	u, err := url.Parse(endpoint)
	if err != nil {
		return "", fmt.Errorf("parse the endpoint: %w", err)
	}
	if strings.Trim(u.Path, "/") == "" {
		u.Path = "/v1/traces"
	}
	return u.String(), nil
}

// receiverLog logs once when the receiver goes away and once when it is back,
// however many attempts fail in between.
type receiverLog struct {
	log      *slog.Logger
	endpoint string
	mu       sync.Mutex
	failing  time.Time // zero: the last attempt succeeded
}

func (r *receiverLog) attempted(err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	switch {
	case err != nil && r.failing.IsZero():
		r.failing = time.Now()
		r.log.Warn("cannot deliver spans; queueing and retrying", "endpoint", r.endpoint, "error", err)
	case err == nil && !r.failing.IsZero():
		r.log.Info("delivering spans again", "endpoint", r.endpoint, "away_for", time.Since(r.failing).Round(time.Millisecond))
		r.failing = time.Time{}
	}
}

// unary limits and reports one attempt over gRPC.
func (r *receiverLog) unary(ctx context.Context, method string, request, reply any,
	conn *grpc.ClientConn, invoke grpc.UnaryInvoker, opts ...grpc.CallOption,
) error {
	ctx, cancel := context.WithTimeout(ctx, attemptTimeout)
	defer cancel()
	err := throttled(invoke(ctx, method, request, reply, conn, opts...))
	if response, ok := reply.(*coltracepb.ExportTraceServiceResponse); ok && err == nil {
		reportPartial(ctx, response)
	}
	r.attempted(advise(err))
	return err
}

// roundTripper reports each attempt over HTTP.
type roundTripper struct {
	log  *receiverLog
	next http.RoundTripper
}

// RoundTrip marks an error of the transport, such as a refused connection, as
// temporary: OpenTelemetry's client retries only those.
func (t *roundTripper) RoundTrip(r *http.Request) (*http.Response, error) {
	response, err := t.next.RoundTrip(r)
	if err != nil {
		t.log.attempted(err)
		return nil, temporary{err}
	}
	throttleHTTP(response, time.Now())
	if response.StatusCode >= http.StatusMultipleChoices {
		t.log.attempted(fmt.Errorf("the receiver responded %s", response.Status))
	} else {
		readPartial(r.Context(), response)
		t.log.attempted(nil)
	}
	return response, nil
}

type temporary struct{ error }

// Temporary is the method that net/url checks.
func (temporary) Temporary() bool { return true }

// Unwrap returns the transport's error.
func (t temporary) Unwrap() error { return t.error }
