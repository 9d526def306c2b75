// SPDX-License-Identifier: Apache-2.0

package backend

import (
	"context"
	"fmt"
	"io"
	"os"
	"slices"

	"go.opentelemetry.io/otel/trace"
)

// file has the traces of a file. It is read once, when first asked.
type file struct {
	name    string
	open    func() (io.ReadCloser, error)
	order   []trace.TraceID // as in the file
	records map[trace.TraceID][]record
}

// NewFile returns the traces in a file of OTLP JSON, one object or one a line,
// as the OpenTelemetry Collector's file exporter writes it, or in one that
// Jaeger's UI saved.
func NewFile(path string) Source {
	return &file{name: path, open: func() (io.ReadCloser, error) { return os.Open(path) }}
}

// NewReader returns the traces in what r reads, in the form of a file. The name
// is for messages.
func NewReader(name string, r io.Reader) Source {
	return &file{name: name, open: func() (io.ReadCloser, error) { return io.NopCloser(r), nil }}
}

// Name returns the file's.
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
		if at := t.Start(); (q.From.IsZero() || !at.Before(q.From)) && (q.To.IsZero() || !at.After(q.To)) {
			traces = append(traces, t)
		}
	}
	return latest(traces, q.Limit), nil
}

// matches says whether a span is the one that is searched.
func (q *Query) matches(r record) bool {
	return r.service == q.Service && (q.Operation == "" || r.name == q.Operation)
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
	records := map[trace.TraceID][]record{}
	if err := readObjects(in, func(id trace.TraceID, r ...record) {
		if _, known := records[id]; !known {
			f.order = append(f.order, id)
		}
		records[id] = append(records[id], r...)
	}); err != nil {
		return fmt.Errorf("read %s: %w", f.name, err)
	}
	f.records = records
	return nil
}
