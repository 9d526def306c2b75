// SPDX-License-Identifier: Apache-2.0

package tracestore

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"slices"
	"strings"
	"time"

	semconv "go.opentelemetry.io/otel/semconv/v1.43.0"
	"go.opentelemetry.io/otel/trace"
	commonpb "go.opentelemetry.io/proto/otlp/common/v1"
	tracepb "go.opentelemetry.io/proto/otlp/trace/v1"
	"google.golang.org/protobuf/encoding/protojson"

	"github.com/layertrace/layertrace/agent/internal/span"
)

// file is a store that reads a file once, at the first query.
type file struct {
	name    string
	open    func() (io.ReadCloser, error)
	order   []trace.TraceID // as in the file
	records map[trace.TraceID][]span.Stored
}

// NewFile returns the store of a file of OTLP JSON, with one object or one per line, as
// the OpenTelemetry Collector's file exporter writes it, or of a file that the UI of
// Jaeger, Zipkin or Grafana saved.
func NewFile(path string) Store {
	return &file{name: path, open: func() (io.ReadCloser, error) { return os.Open(path) }}
}

// NewReader returns the store of the content of a file. The name is for messages.
func NewReader(name string, r io.Reader) Store {
	return &file{name: name, open: func() (io.ReadCloser, error) { return io.NopCloser(r), nil }}
}

// Name returns the file's name.
func (f *file) Name() string { return f.name }

// Trace returns one trace.
func (f *file) Trace(_ context.Context, id trace.TraceID) (Trace, error) {
	if err := f.load(); err != nil {
		return Trace{}, err
	}
	records, ok := f.records[id]
	if !ok {
		return Trace{}, fmt.Errorf("%s: %w as %s", f.name, ErrNotFound, id)
	}
	return assemble(id, records), nil
}

// Search returns the traces that match, latest first.
func (f *file) Search(_ context.Context, q Query) ([]Trace, error) {
	if err := f.load(); err != nil {
		return nil, err
	}
	var traces []Trace
	for _, id := range f.order {
		if !slices.ContainsFunc(f.records[id], q.matches) {
			continue
		}
		t := assemble(id, f.records[id])
		if q.includes(&t) {
			traces = append(traces, t)
		}
	}
	return latest(traces, q.Limit), nil
}

// matches reports whether a span is of the service and operation.
func (q *Query) matches(r span.Stored) bool {
	return r.Service == q.Service && (q.Operation == "" || r.Name == q.Operation)
}

// load reads the file.
func (f *file) load() error {
	if f.records != nil {
		return nil
	}
	in, err := f.open()
	if err != nil {
		return fmt.Errorf("open the traces: %w; correct --file", err)
	}
	defer in.Close()
	all := &file{records: map[trace.TraceID][]span.Stored{}}
	if err := readObjects(in, func(read ...span.Stored) {
		for _, s := range read {
			all.add(s)
		}
	}); err != nil {
		return fmt.Errorf("read %s: %w", f.name, err)
	}
	f.order, f.records = all.order, all.records
	return nil
}

// add adds a span to its trace.
func (f *file) add(s span.Stored) {
	if _, known := f.records[s.TraceID]; !known {
		f.order = append(f.order, s.TraceID)
	}
	f.records[s.TraceID] = append(f.records[s.TraceID], s)
}

// readObjects reads the JSON objects of a file, on one or several lines each, and passes
// on their spans.
func readObjects(in io.Reader, take func(...span.Stored)) error {
	objects := json.NewDecoder(in)
	for n := 1; ; n++ {
		var object json.RawMessage
		err := objects.Decode(&object)
		switch {
		case err == io.EOF && n == 1:
			return errors.New("the file is empty")
		case err == io.EOF:
			return nil
		case errors.Is(err, io.ErrUnexpectedEOF):
			return fmt.Errorf("object %d is truncated: is the file still being written?", n)
		case err != nil:
			return fmt.Errorf("object %d is not JSON (%w): the Collector's file exporter must use format json without compression", n, err)
		}
		if err := readObject(object, take); err != nil {
			return fmt.Errorf("object %d: %w", n, err)
		}
	}
}

// readObject reads one object: traces of OTLP, or as Jaeger, Zipkin or Tempo return them.
func readObject(object json.RawMessage, take func(...span.Stored)) error {
	if bytes.HasPrefix(object, []byte("[")) {
		return readZipkinFile(object, take)
	}
	var form struct {
		ResourceSpans json.RawMessage `json:"resourceSpans"`
		Data          json.RawMessage `json:"data"`
		Trace         json.RawMessage `json:"trace"`   // of Tempo
		Batches       json.RawMessage `json:"batches"` // of Tempo, the first version
	}
	if err := json.Unmarshal(object, &form); err != nil {
		return errors.New("not a JSON object with traces")
	}
	switch {
	case form.Data != nil:
		return readJaeger(form.Data, take)
	case form.Trace != nil || form.Batches != nil:
		partial, err := readTempo(object, take)
		if err == nil && partial != "" {
			err = fmt.Errorf("the trace is not whole: %s; save it again, or read it from another store", partial)
		}
		return err
	case form.ResourceSpans == nil && string(bytes.TrimSpace(object)) != "{}":
		return errors.New("not OTLP JSON: it has no resourceSpans")
	}
	var data tracepb.TracesData
	if err := (protojson.UnmarshalOptions{DiscardUnknown: true}).Unmarshal(object, &data); err != nil {
		return fmt.Errorf("not OTLP JSON: %w", err)
	}
	return readOTLP(&data, take)
}

// readJaeger reads the traces of a file that Jaeger's UI saved.
func readJaeger(data json.RawMessage, take func(...span.Stored)) error {
	var traces []jaegerTrace
	values := json.NewDecoder(bytes.NewReader(data))
	values.UseNumber()
	if err := values.Decode(&traces); err != nil {
		return fmt.Errorf("not Jaeger's JSON: %w", err)
	}
	for i := range traces {
		_, stored, err := traces[i].read()
		if err != nil {
			return err
		}
		take(stored...)
	}
	return nil
}

// readOTLP passes on the spans of an OTLP message that was read as protobuf's JSON.
func readOTLP(data *tracepb.TracesData, take func(...span.Stored)) error {
	for _, resource := range data.GetResourceSpans() {
		about := attributesOf(resource.GetResource().GetAttributes())
		for _, scope := range resource.GetScopeSpans() {
			for _, s := range scope.GetSpans() {
				r, err := storedOf(s)
				if err != nil {
					return fmt.Errorf("span %q: %w", s.GetName(), err)
				}
				r.Scope, r.Resource, r.Service = scope.GetScope().GetName(), about, about.Text(string(semconv.ServiceNameKey))
				take(r)
			}
		}
	}
	return nil
}

func storedOf(s *tracepb.Span) (span.Stored, error) {
	r := span.Stored{Span: span.Span{Name: s.GetName()}, Attributes: attributesOf(s.GetAttributes())}
	if kind := s.GetKind(); kind != tracepb.Span_SPAN_KIND_UNSPECIFIED {
		r.Kind = strings.ToLower(strings.TrimPrefix(kind.String(), "SPAN_KIND_"))
	}
	start, end := s.GetStartTimeUnixNano(), s.GetEndTimeUnixNano()
	if start > math.MaxInt64 || end > math.MaxInt64 {
		return r, fmt.Errorf("invalid timestamps: start %d, end %d", start, end)
	}
	r.Start, r.Duration = time.Unix(0, int64(start)), time.Duration(int64(end)-int64(start))
	if !readID(r.TraceID[:], s.GetTraceId()) {
		return r, fmt.Errorf("traceId is not %d hex digits", 2*len(r.TraceID))
	}
	if !readID(r.ID[:], s.GetSpanId()) {
		return r, fmt.Errorf("spanId is not %d hex digits", 2*len(r.ID))
	}
	if len(s.GetParentSpanId()) > 0 && !readID(r.Parent[:], s.GetParentSpanId()) {
		return r, fmt.Errorf("parentSpanId is not %d hex digits", 2*len(r.Parent))
	}
	return r, nil
}

// readID decodes an ID and reports whether it could. OTLP writes IDs in hex, while
// protobuf's JSON has base64. Hex digits are valid base64, so protobuf's reader decoded
// them as that: encoding the bytes again gives the digits.
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

func attributesOf(list []*commonpb.KeyValue) span.Attributes {
	a := make(span.Attributes, len(list))
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

// ReadReceived passes on the spans of an OTLP request of the instrumentation scopes that are
// wanted, and the error of each that cannot be read.
func ReadReceived(resources []*tracepb.ResourceSpans, wanted func(scope string) bool, take func(*span.Stored, error)) {
	for _, resource := range resources {
		var about span.Attributes
		for _, scope := range resource.GetScopeSpans() {
			name := scope.GetScope().GetName()
			if !wanted(name) {
				continue
			}
			if about == nil {
				about = attributesOf(resource.GetResource().GetAttributes())
			}
			for _, s := range scope.GetSpans() {
				stored, err := storedOf(s)
				stored.Scope, stored.Resource, stored.Service = name, about, about.Text(string(semconv.ServiceNameKey))
				take(&stored, err)
			}
		}
	}
}
