// SPDX-License-Identifier: Apache-2.0

package export

// Encoding spans for OTLP.
//
// Spans are encoded when they are made, into the memory of their batch: a span that waits
// is some 400 bytes without a pointer. OpenTelemetry's OTLP client sends and retries the
// batches. What lies between, its SDK's spans and otlptrace.Exporter, is not used: the first
// makes eleven objects of a span, the second three of each attribute
// (docs/decisions/012-own-upload.md has the measurement). TestUploadIsThatOfOpenTelemetry
// compares what a receiver gets from both.

import (
	"encoding/binary"
	"math"
	"slices"
	"strings"
	"unicode/utf8"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/trace"
	tracepb "go.opentelemetry.io/proto/otlp/trace/v1"
	"google.golang.org/protobuf/encoding/protowire"

	"github.com/layertrace/layertrace/agent/internal/span"
	"github.com/layertrace/layertrace/internal/recent"
)

// batch has the encoded spans of one request.
type batch struct {
	encoded []byte        // of all spans, in the order in which they came
	spans   []encodedSpan // where each is
	origins []batchOrigin // in the order in which they came
	index   map[*span.Origin]int
}

// encodedSpan is the part of batch.encoded up to end, from the end of the one before.
type encodedSpan struct{ end, origin int }

type batchOrigin struct {
	origin *span.Origin
	size   int // of its encoded spans
}

// newBatch returns a batch with room for some bytes of spans.
func newBatch(room int) *batch {
	return &batch{encoded: make([]byte, 0, room), index: map[*span.Origin]int{}}
}

// reset empties the batch and keeps its memory.
func (b *batch) reset() {
	b.encoded, b.spans = b.encoded[:0], b.spans[:0]
	clear(b.origins)
	b.origins = b.origins[:0]
	clear(b.index)
}

// add adds a span that appendSpan encoded.
func (b *batch) add(o *span.Origin, encoded []byte) {
	i, known := b.index[o]
	if !known {
		i = len(b.origins)
		b.index[o], b.origins = i, append(b.origins, batchOrigin{origin: o})
	}
	b.encoded = append(b.encoded, encoded...)
	b.spans = append(b.spans, encodedSpan{len(b.encoded), i})
	b.origins[i].size += len(encoded)
}

// request makes batches what OpenTelemetry's client takes, one after the other in the same
// memory: a message for each origin. The client takes messages, not bytes. Protobuf writes
// fields that it does not know as they are, so an encoded message is passed as the unknown
// fields of an empty one.
type request struct {
	memory   []byte
	messages []*tracepb.ResourceSpans
	origins  *recent.Table[*span.Origin, encodedOrigin]
}

// encodedOrigin is what comes before the spans of an origin.
type encodedOrigin struct {
	resource []byte // of ResourceSpans
	scope    []byte // of ScopeSpans
}

// maxOrigins is the number of origins that stay encoded, some 500 bytes each.
const maxOrigins = 1024

func newRequest() *request { return &request{origins: recent.New(maxOrigins, encodeOrigin)} }

// of returns the messages of a batch, which are valid until the next call.
func (r *request) of(b *batch) []*tracepb.ResourceSpans {
	size := 0
	for i := range b.origins {
		size += r.sizeOf(&b.origins[i])
	}
	r.memory = slices.Grow(r.memory[:0], size) // now: the messages keep parts of it
	for len(r.messages) < len(b.origins) {
		r.messages = append(r.messages, &tracepb.ResourceSpans{})
	}
	for i := range b.origins {
		from := len(r.memory)
		r.append(b, i)
		r.messages[i].ProtoReflect().SetUnknown(r.memory[from:len(r.memory):len(r.memory)])
	}
	return r.messages[:len(b.origins)]
}

// sizeOf returns the size of an origin and its spans at most.
func (r *request) sizeOf(o *batchOrigin) int {
	encoded := r.origins.Get(o.origin)
	return len(encoded.resource) + len(encoded.scope) + o.size + 1 + binary.MaxVarintLen64 // the tag and length of ScopeSpans
}

// append appends the content of a ResourceSpans message: an origin and its spans.
func (r *request) append(b *batch, origin int) {
	o := &b.origins[origin]
	encoded := r.origins.Get(o.origin)
	to := append(r.memory, encoded.resource...)
	to = protowire.AppendTag(to, resourceSpansScopeSpans, protowire.BytesType)
	to = protowire.AppendVarint(to, uint64(len(encoded.scope)+o.size))
	to = append(to, encoded.scope...)
	from := 0
	for _, s := range b.spans {
		if s.origin == origin {
			to = append(to, b.encoded[from:s.end]...)
		}
		from = s.end
	}
	r.memory = to
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

	spanTraceID    = 1
	spanID         = 2
	spanParentID   = 4
	spanName       = 5
	spanKind       = 6
	spanStart      = 7
	spanEnd        = 8
	spanAttributes = 9
	spanFlagsField = 16

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

func encodeOrigin(o *span.Origin) (encoded encodedOrigin) {
	to, message := openMessage(nil, resourceSpansResource)
	for _, kv := range o.Resource.Attributes() {
		to = appendAttribute(to, resourceAttributes, kv)
	}
	encoded.resource = appendString(closeMessage(to, message), resourceSpansSchemaURL, o.Resource.SchemaURL())

	to, message = openMessage(nil, scopeSpansScope)
	to = closeMessage(appendString(appendString(to, scopeName, o.Scope.Name), scopeVersion, o.Scope.Version), message)
	encoded.scope = appendString(to, scopeSpansSchemaURL, o.Scope.SchemaURL)
	return encoded
}

// spanFlags are those of all spans: sampled (W3C trace context), with a parent that is known
// to be remote.
const spanFlags = uint32(trace.FlagsSampled) | flagHasIsRemote | flagIsRemote

// appendSpan appends a span as an element of ScopeSpans.spans. It writes no events,
// links, status and trace state: the agent's spans have none.
func appendSpan(b []byte, s *span.Finished) []byte {
	b, message := openMessage(b, scopeSpansSpans)
	b = appendBytes(b, spanTraceID, s.TraceID[:])
	b = appendBytes(b, spanID, s.ID[:])
	b = appendBytes(b, spanParentID, s.Parent[:])
	b = appendString(b, spanName, s.Name)
	b = appendVarint(b, spanKind, uint64(tracepb.Span_SPAN_KIND_INTERNAL))
	b = appendFixed64(b, spanStart, uint64(max(0, s.Start)))
	b = appendFixed64(b, spanEnd, uint64(max(0, s.End)))
	for i := range s.Attributes {
		b = appendAttribute(b, spanAttributes, s.Attributes[i])
	}
	b = protowire.AppendFixed32(protowire.AppendTag(b, spanFlagsField, protowire.Fixed32Type), spanFlags)
	return closeMessage(b, message)
}

// appendAttribute appends a KeyValue as the field of a message.
func appendAttribute(b []byte, field protowire.Number, kv attribute.KeyValue) []byte {
	b, pair := openMessage(b, field)
	b = protowire.AppendString(protowire.AppendTag(b, keyValueKey, protowire.BytesType), string(kv.Key)) // ours, so UTF-8
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
	n := len(b) - length - 1
	if more := protowire.SizeVarint(uint64(n)) - 1; more > 0 {
		b = append(b, make([]byte, more)...)
		copy(b[length+1+more:], b[length+1:])
	}
	protowire.AppendVarint(b[:length], uint64(n))
	return b
}
