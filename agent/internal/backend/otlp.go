// SPDX-License-Identifier: Apache-2.0

package backend

import (
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"math"
	"strings"
	"time"

	"go.opentelemetry.io/otel/trace"
	commonpb "go.opentelemetry.io/proto/otlp/common/v1"
	tracepb "go.opentelemetry.io/proto/otlp/trace/v1"
)

// readOTLP hands over the spans of an OTLP message that was read as protobuf's
// JSON.
func readOTLP(data *tracepb.TracesData, take func(trace.TraceID, ...record)) error {
	for _, resource := range data.GetResourceSpans() {
		about := attributesOf(resource.GetResource().GetAttributes())
		for _, scope := range resource.GetScopeSpans() {
			for _, s := range scope.GetSpans() {
				r, id, err := recordOf(s)
				if err != nil {
					return fmt.Errorf("span %q: %w", s.GetName(), err)
				}
				r.scope, r.resource, r.service = scope.GetScope().GetName(), about, about.text(keyService)
				take(id, r)
			}
		}
	}
	return nil
}

func recordOf(s *tracepb.Span) (record, trace.TraceID, error) {
	r := record{name: s.GetName(), attributes: attributesOf(s.GetAttributes())}
	if kind := s.GetKind(); kind != tracepb.Span_SPAN_KIND_UNSPECIFIED {
		r.kind = strings.ToLower(strings.TrimPrefix(kind.String(), "SPAN_KIND_"))
	}
	start, end := s.GetStartTimeUnixNano(), s.GetEndTimeUnixNano()
	if start > math.MaxInt64 || end > math.MaxInt64 {
		return r, trace.TraceID{}, fmt.Errorf("its time is none: %d to %d", start, end)
	}
	r.start, r.duration = time.Unix(0, int64(start)), time.Duration(int64(end)-int64(start))
	var id trace.TraceID
	if !readID(id[:], s.GetTraceId()) {
		return r, id, fmt.Errorf("traceId has no %d hex digits", 2*len(id))
	}
	if !readID(r.id[:], s.GetSpanId()) {
		return r, id, fmt.Errorf("spanId has no %d hex digits", 2*len(r.id))
	}
	if len(s.GetParentSpanId()) > 0 && !readID(r.parent[:], s.GetParentSpanId()) {
		return r, id, fmt.Errorf("parentSpanId has no %d hex digits", 2*len(r.parent))
	}
	return r, id, nil
}

// readID reads an ID, and says whether it could. OTLP writes IDs in hex where
// protobuf's JSON has base64. Hex digits are base64 too, so protobuf's reader
// took them for that: writing the bytes back gives the digits.
func readID(id, read []byte) bool {
	if len(read) == len(id) { // it was base64
		copy(id, read)
		return true
	}
	digits := base64.StdEncoding.EncodeToString(read)
	if len(digits) != 2*len(id) {
		return false
	}
	_, err := hex.Decode(id, []byte(digits))
	return err == nil
}

func attributesOf(list []*commonpb.KeyValue) attributes {
	a := make(attributes, len(list))
	for _, kv := range list {
		switch v := kv.GetValue().GetValue().(type) {
		case *commonpb.AnyValue_StringValue:
			a[kv.GetKey()] = v.StringValue
		case *commonpb.AnyValue_IntValue:
			a[kv.GetKey()] = v.IntValue
		case *commonpb.AnyValue_DoubleValue:
			a[kv.GetKey()] = v.DoubleValue
		case *commonpb.AnyValue_BoolValue:
			a[kv.GetKey()] = v.BoolValue
		case *commonpb.AnyValue_ArrayValue:
			texts := []string{}
			for _, each := range v.ArrayValue.GetValues() {
				texts = append(texts, each.GetStringValue())
			}
			a[kv.GetKey()] = texts
		}
	}
	return a
}
