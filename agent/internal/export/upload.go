// SPDX-License-Identifier: Apache-2.0

package export

import (
	"context"

	"go.opentelemetry.io/otel/exporters/otlp/otlptrace"
	"go.opentelemetry.io/otel/sdk/instrumentation"
	"go.opentelemetry.io/otel/sdk/resource"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	tracepb "go.opentelemetry.io/proto/otlp/trace/v1"
)

// uploader is a span exporter on OpenTelemetry's OTLP client. It does what
// otlptrace.Exporter does, at a quarter of the cost: that one makes three
// objects of each attribute, which protobuf's reflection then turns into bytes.
// This one writes the bytes.
type uploader struct {
	client otlptrace.Client
	buffer []byte // a batch; here to be used again
}

func newUploader(ctx context.Context, client otlptrace.Client) (*uploader, error) {
	return &uploader{client: client}, client.Start(ctx)
}

// ExportSpans sends one batch. It is for one goroutine.
func (u *uploader) ExportSpans(ctx context.Context, batch []sdktrace.ReadOnlySpan) error {
	u.buffer = u.buffer[:0]
	var upload []*tracepb.ResourceSpans
	for _, spans := range byOrigin(batch) {
		from := len(u.buffer)
		u.buffer = appendResourceSpans(u.buffer, spans)
		// The client wants messages. What protobuf keeps of fields that it
		// does not know, it writes as it is: so the whole message passes as
		// an unknown part of an empty one.
		message := &tracepb.ResourceSpans{}
		message.ProtoReflect().SetUnknown(u.buffer[from:])
		upload = append(upload, message)
	}
	return u.client.UploadTraces(ctx, upload)
}

// Shutdown closes the connection.
func (u *uploader) Shutdown(ctx context.Context) error { return u.client.Stop(ctx) }

// byOrigin groups spans by their resource and scope.
func byOrigin(batch []sdktrace.ReadOnlySpan) (groups [][]sdktrace.ReadOnlySpan) {
	type origin struct {
		resource *resource.Resource // of a provider, which has but one
		scope    instrumentation.Scope
	}
	index := map[origin]int{}
	for _, s := range batch {
		o := origin{s.Resource(), s.InstrumentationScope()}
		i, known := index[o]
		if !known {
			i = len(groups)
			index[o] = i
			groups = append(groups, nil)
		}
		groups[i] = append(groups[i], s)
	}
	return groups
}
