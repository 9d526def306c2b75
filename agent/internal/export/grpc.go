// SPDX-License-Identifier: Apache-2.0

package export

import (
	"context"

	"go.opentelemetry.io/otel/exporters/otlp/otlptrace/otlptracegrpc"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
)

func newGRPC(ctx context.Context, opts OTLPOptions, a *attempts) (sdktrace.SpanExporter, error) {
	options := []otlptracegrpc.Option{
		otlptracegrpc.WithEndpoint(opts.Endpoint),
		otlptracegrpc.WithHeaders(opts.Headers),
		otlptracegrpc.WithTimeout(batchTimeout),
		otlptracegrpc.WithRetry(otlptracegrpc.RetryConfig{
			Enabled: true, InitialInterval: firstRetry, MaxInterval: maxRetry, MaxElapsedTime: batchTimeout,
		}),
		otlptracegrpc.WithDialOption(
			grpc.WithUnaryInterceptor(a.unary),
			// gRPC's own pause grows to two minutes, in which no attempt
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
	return newUploader(ctx, otlptracegrpc.NewClient(options...))
}

// unary bounds and reports one attempt.
func (a *attempts) unary(ctx context.Context, method string, request, reply any,
	conn *grpc.ClientConn, invoke grpc.UnaryInvoker, opts ...grpc.CallOption,
) error {
	ctx, cancel := context.WithTimeout(ctx, attemptTimeout)
	defer cancel()
	err := invoke(ctx, method, request, reply, conn, opts...)
	a.done(err)
	return err
}
