// SPDX-License-Identifier: Apache-2.0

package explain

import (
	"testing"
	"time"

	"go.opentelemetry.io/otel/trace"

	"github.com/layertrace/layertrace/agent/internal/tracestore"
)

func TestRoot(t *testing.T) {
	span := func(id, parent byte, name string, start int64) tracestore.Span {
		return tracestore.Span{ID: trace.SpanID{id}, Parent: trace.SpanID{parent}, Service: "s", Name: name, Start: time.Unix(start, 0)}
	}
	for _, test := range []struct {
		name  string
		spans []tracestore.Span
		want  string
	}{
		{"a beginning, behind its child by another clock", []tracestore.Span{span(2, 1, "child", 1), span(1, 0, "root", 2)}, "root"},
		{"client and server share an ID", []tracestore.Span{span(1, 0, "root", 1), span(2, 1, "client", 2), span(2, 1, "server", 3)}, "root"},
		{"cut off", []tracestore.Span{span(3, 2, "child", 3), span(2, 9, "first", 1), span(4, 9, "later", 2)}, "first"},
		{"its own parent", []tracestore.Span{span(1, 1, "root", 2), span(2, 1, "child", 1)}, "root"},
		{"a circle", []tracestore.Span{span(1, 2, "late", 2), span(2, 1, "early", 1)}, "early"},
		{"nothing", nil, ""},
	} {
		if _, got := Root(tracestore.Trace{Spans: test.spans}); got != test.want {
			t.Errorf("%s: got %q, want %q", test.name, got, test.want)
		}
	}
}
