// SPDX-License-Identifier: Apache-2.0

package export

// Encoding spans for OTLP.
//
// OpenTelemetry's SDK makes the spans and its OTLP client sends and retries them;
// only the encoder in between is ours. otlptrace.Exporter makes three objects of
// each attribute, which protobuf's reflection then turns into bytes: for a batch
// of 512 interface spans, 54 allocations per span and three to four times the CPU
// time of this file, which makes one allocation per span. With every request
// sampled that was most of what an agent cost
// (docs/decisions/012-own-upload.md). TestUploadIsThatOfOpenTelemetry compares
// what a receiver gets from both.

import (
	"context"
	"math"
	"slices"
	"strings"
	"unicode/utf8"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/exporters/otlp/otlptrace"
	"go.opentelemetry.io/otel/sdk/instrumentation"
	"go.opentelemetry.io/otel/sdk/resource"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	tracepb "go.opentelemetry.io/proto/otlp/trace/v1"
	"google.golang.org/protobuf/encoding/protowire"
)

// uploader is a span exporter on OpenTelemetry's OTLP client.
type uploader struct {
	client otlptrace.Client
	buffer []byte // of one batch, reused for the next
}

// ExportSpans sends one batch. It must not be called concurrently.
func (u *uploader) ExportSpans(ctx context.Context, batch []sdktrace.ReadOnlySpan) error {
	u.buffer = u.buffer[:0]
	var upload []*tracepb.ResourceSpans
	for _, spans := range byOrigin(batch) {
		from := len(u.buffer)
		u.buffer = appendResourceSpans(u.buffer, spans)
		// The client takes messages, not bytes. Protobuf writes fields that it
		// does not know as they are, so the encoded message is passed as the
		// unknown fields of an empty one.
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
		resource *resource.Resource // each provider has its own
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

// Field numbers of opentelemetry/proto/trace/v1/trace.proto and
// opentelemetry/proto/common/v1/common.proto.
const (
	resourceSpansResource   = 1
	resourceSpansScopeSpans = 2
	resourceSpansSchemaURL  = 3

	resourceAttributes = 1

	scopeSpansScope     = 1
	scopeSpansSpans     = 2
	scopeSpansSchemaURL = 3

	scopeName    = 1
	scopeVersion = 2

	spanTraceID           = 1
	spanID                = 2
	spanParentID          = 4
	spanName              = 5
	spanKind              = 6
	spanStart             = 7
	spanEnd               = 8
	spanAttributes        = 9
	spanDroppedAttributes = 10
	spanFlags             = 16

	keyValueKey   = 1
	keyValueValue = 2

	anyValueString = 1
	anyValueBool   = 2
	anyValueInt    = 3
	anyValueDouble = 4
	anyValueArray  = 5

	arrayValueValues = 1
)

// Bits of Span.flags above those of the W3C trace flags.
const (
	flagHasIsRemote = 0x100
	flagIsRemote    = 0x200
)

// appendResourceSpans appends the content of a ResourceSpans message. There is at
// least one span, and all have the resource and scope of the first.
func appendResourceSpans(b []byte, spans []sdktrace.ReadOnlySpan) []byte {
	origin, scope := spans[0].Resource(), spans[0].InstrumentationScope()
	b, message := openMessage(b, resourceSpansResource)
	for _, kv := range origin.Attributes() {
		b = appendAttribute(b, resourceAttributes, kv)
	}
	b = closeMessage(b, message)
	b = appendString(b, resourceSpansSchemaURL, origin.SchemaURL())

	b, scopeSpans := openMessage(b, resourceSpansScopeSpans)
	b, message = openMessage(b, scopeSpansScope)
	b = appendString(b, scopeName, scope.Name)
	b = closeMessage(appendString(b, scopeVersion, scope.Version), message)
	b = appendString(b, scopeSpansSchemaURL, scope.SchemaURL)
	for _, s := range spans {
		b = appendSpan(b, s)
	}
	return closeMessage(b, scopeSpans)
}

// appendSpan appends a span as an element of ScopeSpans.spans. It writes no events,
// links, status and trace state: the agent's spans have none.
func appendSpan(b []byte, s sdktrace.ReadOnlySpan) []byte {
	b, span := openMessage(b, scopeSpansSpans)
	trace, id := s.SpanContext().TraceID(), s.SpanContext().SpanID()
	b = appendBytes(b, spanTraceID, trace[:])
	b = appendBytes(b, spanID, id[:])
	if parent := s.Parent().SpanID(); parent.IsValid() {
		b = appendBytes(b, spanParentID, parent[:])
	}
	b = appendString(b, spanName, s.Name())
	b = appendVarint(b, spanKind, uint64(s.SpanKind())) // the same numbers
	b = appendFixed64(b, spanStart, uint64(max(0, s.StartTime().UnixNano())))
	b = appendFixed64(b, spanEnd, uint64(max(0, s.EndTime().UnixNano())))
	for _, kv := range s.Attributes() {
		b = appendAttribute(b, spanAttributes, kv)
	}
	if n := s.DroppedAttributes(); n > 0 {
		b = appendVarint(b, spanDroppedAttributes, uint64(n))
	}
	flags := uint32(s.SpanContext().TraceFlags()) | flagHasIsRemote
	if s.Parent().IsRemote() {
		flags |= flagIsRemote
	}
	b = protowire.AppendFixed32(protowire.AppendTag(b, spanFlags, protowire.Fixed32Type), flags)
	return closeMessage(b, span)
}

// appendAttribute appends a KeyValue as the field of a message.
func appendAttribute(b []byte, field protowire.Number, kv attribute.KeyValue) []byte {
	b, pair := openMessage(b, field)
	b = appendString(b, keyValueKey, string(kv.Key))
	b, value := openMessage(b, keyValueValue)
	b = appendValue(b, kv.Value)
	return closeMessage(closeMessage(b, value), pair)
}

// appendValue appends the content of an AnyValue. Types that the agent does not
// use are sent as text.
func appendValue(b []byte, v attribute.Value) []byte {
	switch v.Type() {
	case attribute.BOOL:
		return appendVarint(b, anyValueBool, protowire.EncodeBool(v.AsBool()))
	case attribute.INT64:
		return appendVarint(b, anyValueInt, uint64(v.AsInt64()))
	case attribute.FLOAT64:
		return appendFixed64(b, anyValueDouble, math.Float64bits(v.AsFloat64()))
	case attribute.STRING:
		return appendString(b, anyValueString, v.AsString())
	case attribute.STRINGSLICE:
		b, array := openMessage(b, anyValueArray)
		for _, text := range v.AsStringSlice() {
			var value int
			b, value = openMessage(b, arrayValueValues)
			b = closeMessage(appendString(b, anyValueString, text), value)
		}
		return closeMessage(b, array)
	default:
		return appendString(b, anyValueString, v.String())
	}
}

func appendVarint(b []byte, field protowire.Number, v uint64) []byte {
	return protowire.AppendVarint(protowire.AppendTag(b, field, protowire.VarintType), v)
}

func appendFixed64(b []byte, field protowire.Number, v uint64) []byte {
	return protowire.AppendFixed64(protowire.AppendTag(b, field, protowire.Fixed64Type), v)
}

func appendBytes(b []byte, field protowire.Number, v []byte) []byte {
	return protowire.AppendBytes(protowire.AppendTag(b, field, protowire.BytesType), v)
}

// appendString appends text and replaces bytes that are not UTF-8: an interface's
// name can have them, and a receiver would refuse the whole batch.
func appendString(b []byte, field protowire.Number, v string) []byte {
	if !utf8.ValidString(v) {
		v = strings.ToValidUTF8(v, string(utf8.RuneError))
	}
	return protowire.AppendString(protowire.AppendTag(b, field, protowire.BytesType), v)
}

// openMessage begins a field that is a message. What is appended until
// closeMessage is its content. One byte is reserved for the length, which comes
// before the content: enough up to 127.
func openMessage(b []byte, field protowire.Number) (_ []byte, length int) {
	b = append(protowire.AppendTag(b, field, protowire.BytesType), 0)
	return b, len(b) - 1
}

// closeMessage writes the length of a message at the offset that openMessage
// returned, and moves the content when the length takes more than one byte.
func closeMessage(b []byte, length int) []byte {
	n := uint64(len(b) - length - 1)
	if n < 0x80 {
		b[length] = byte(n)
		return b
	}
	return slices.Replace(b, length, length+1, protowire.AppendVarint(nil, n)...)
}
