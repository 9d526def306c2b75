// SPDX-License-Identifier: Apache-2.0

package explain

import (
	"context"
	"fmt"
	"reflect"
	"slices"
	"testing"
	"time"

	"go.opentelemetry.io/otel/trace"

	"github.com/layertrace/layertrace/agent/internal/span"
	"github.com/layertrace/layertrace/agent/internal/tracestore"
)

// listed is a store that returns all of its traces from every search.
type listed []tracestore.Trace

func (l listed) Trace(_ context.Context, id trace.TraceID) (tracestore.Trace, error) {
	for _, t := range l {
		if t.ID == id {
			return t, nil
		}
	}
	return tracestore.Trace{}, tracestore.ErrNotFound
}
func (l listed) Search(context.Context, tracestore.Query) ([]tracestore.Trace, error) { return l, nil }
func (l listed) Name() string                                                         { return "a list" }

func traceAt(id byte, operation string) tracestore.Trace {
	return tracestore.Trace{ID: trace.TraceID{id}, Spans: []span.Span{{
		ID: trace.SpanID{id}, Name: operation, Service: "gateway", Start: time.Unix(int64(id), 0),
	}}}
}

// The baseline of a trace is the latest traces before it with the same root operation
// that are not explained themselves; of a group, those before its last trace. Later
// traces only count if there are too few.
func TestBaselineIsTheTracesBefore(t *testing.T) {
	store := listed{}
	for id := byte(1); id <= 9; id++ {
		store = append(store, traceAt(id, "GET /"))
	}
	store = append(store, traceAt(10, "POST /"), traceAt(3, "GET /"))
	for _, test := range []struct{ group, want []byte }{
		{[]byte{7}, []byte{4, 5, 6}},
		{[]byte{2}, []byte{1, 3, 4}},
		{[]byte{7, 2}, []byte{4, 5, 6}},
	} {
		groups := [][]trace.TraceID{{{2}}, {{7}}, {}}
		for _, id := range test.group {
			groups[2] = append(groups[2], trace.TraceID{id})
		}
		s, err := Select(t.Context(), store, groups, BaselineOptions{Traces: 3, Last: time.Minute})
		if err != nil {
			t.Fatal(err)
		}
		baseline, _, note := s.baseline(t.Context(), s.Groups[2]...)
		var got []byte
		for _, one := range baseline {
			got = append(got, one.ID[0])
		}
		if !slices.Equal(got, test.want) || note != "" {
			t.Errorf("the baseline of %v is %v, want %v (%s)", test.group, got, test.want, note)
		}
	}
}

// Commas join traces into groups; repeated IDs are skipped in a group, and single.
func TestParseTraceIDs(t *testing.T) {
	id := func(n byte) string { return fmt.Sprintf("%032x", n) }
	for _, test := range []struct {
		args     []string
		want     [][]byte
		together bool
	}{
		{[]string{id(1), id(2)[16:], id(1)}, [][]byte{{1}, {2}}, false},
		{[]string{id(1) + ","}, [][]byte{{1}}, true},
		{[]string{id(1) + "," + id(2) + "," + id(1), id(2) + "," + id(3), id(3)}, [][]byte{{1, 2}, {2, 3}}, true},
		{nil, nil, false},
	} {
		groups, together, err := ParseTraceIDs(test.args)
		var got [][]byte
		for _, group := range groups {
			var ids []byte
			for _, id := range group {
				ids = append(ids, id[15])
			}
			got = append(got, ids)
		}
		if err != nil || together != test.together || !reflect.DeepEqual(got, test.want) {
			t.Errorf("%v: %v, together %v, %v; want %v", test.args, got, together, err, test.want)
		}
	}
	if _, _, err := ParseTraceIDs([]string{id(1) + ",xyz"}); err == nil {
		t.Error("xyz is accepted as a trace ID")
	}
}
