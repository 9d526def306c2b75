// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"context"
	"slices"
	"testing"
	"time"

	"go.opentelemetry.io/otel/trace"

	"github.com/layertrace/layertrace/agent/internal/tracestore"
)

// listed is a source that has some traces, whatever is asked.
type listed []tracestore.Trace

func (l listed) Trace(context.Context, trace.TraceID) (tracestore.Trace, error) {
	return tracestore.Trace{}, tracestore.ErrNotFound
}
func (l listed) Search(context.Context, tracestore.Query) ([]tracestore.Trace, error) { return l, nil }
func (l listed) Name() string                                                         { return "a list" }

func traceAt(id byte, operation string) tracestore.Trace {
	return tracestore.Trace{ID: trace.TraceID{id}, Spans: []tracestore.Span{{
		ID: trace.SpanID{id}, Name: operation, Service: "gateway", Start: time.Unix(int64(id), 0),
	}}}
}

// A trace is compared with the latest before it that begin alike and are not
// explained themselves, a group with the latest before its last; with later ones
// only for want of others.
func TestTypicalTracesAreThoseBefore(t *testing.T) {
	source := listed{}
	for id := byte(1); id <= 9; id++ {
		source = append(source, traceAt(id, "GET /"))
	}
	source = append(source, traceAt(10, "POST /"), traceAt(3, "GET /"))
	explained := []tracestore.Trace{traceAt(2, "GET /"), traceAt(7, "GET /")}
	b := &baselines{
		source: source, most: 3, last: time.Minute, explained: explained,
		asked: map[trace.TraceID]bool{{2}: true, {7}: true}, found: map[beginning][]tracestore.Trace{},
	}
	for _, test := range []struct{ group, want []byte }{
		{[]byte{7}, []byte{4, 5, 6}},
		{[]byte{2}, []byte{1, 3, 4}},
		{[]byte{7, 2}, []byte{4, 5, 6}},
	} {
		var group []tracestore.Trace
		for _, id := range test.group {
			group = append(group, traceAt(id, "GET /"))
		}
		typical, note := b.of(t.Context(), group...)
		var got []byte
		for _, one := range typical {
			got = append(got, one.ID[0])
		}
		if !slices.Equal(got, test.want) || note != "" {
			t.Errorf("%v is compared with %v, want %v (%s)", test.group, got, test.want, note)
		}
	}
}
