// SPDX-License-Identifier: Apache-2.0

package export

import (
	"math"

	"go.opentelemetry.io/otel/attribute"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"google.golang.org/protobuf/encoding/protowire"
)

// Field numbers of opentelemetry/proto/trace/v1/trace.proto and
// common/v1/common.proto.
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

// appendResourceSpans appends the content of a ResourceSpans message. All spans,
// at least one, have the resource and the scope of the first.
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

// appendSpan appends a span as an element of ScopeSpans.spans. Events, links,
// status and trace state, which the agent's spans do not have, are not written.
func appendSpan(b []byte, s sdktrace.ReadOnlySpan) []byte {
	b, span := openMessage(b, scopeSpansSpans)
	trace, id := s.SpanContext().TraceID(), s.SpanContext().SpanID()
	b = appendBytes(b, spanTraceID, trace[:])
	b = appendBytes(b, spanID, id[:])
	if parent := s.Parent().SpanID(); parent.IsValid() {
		b = appendBytes(b, spanParentID, parent[:])
	}
	b = appendString(b, spanName, s.Name())
	b = appendVarint(b, spanKind, uint64(s.SpanKind())) // both count from unspecified, 0
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

// appendValue appends the content of an AnyValue. Of the types that the agent
// does not use the text is sent.
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
