// SPDX-License-Identifier: Apache-2.0

package explain

import (
	"testing"
	"time"

	"github.com/layertrace/layertrace/agent/internal/backend"
	"go.opentelemetry.io/otel/trace"
)

func TestRoot(t *testing.T) {
	span := func(id, parent byte, name string, start int64) backend.Span {
		return backend.Span{ID: trace.SpanID{id}, Parent: trace.SpanID{parent}, Service: "s", Name: name, Start: time.Unix(start, 0)}
	}
	for _, test := range []struct {
		name  string
		spans []backend.Span
		want  string
	}{
		{"a beginning, behind its child by another clock", []backend.Span{span(2, 1, "child", 1), span(1, 0, "root", 2)}, "root"},
		{"client and server share an ID", []backend.Span{span(1, 0, "root", 1), span(2, 1, "client", 2), span(2, 1, "server", 3)}, "root"},
		{"cut off", []backend.Span{span(3, 2, "child", 3), span(2, 9, "first", 1), span(4, 9, "later", 2)}, "first"},
		{"its own parent", []backend.Span{span(1, 1, "root", 2), span(2, 1, "child", 1)}, "root"},
		{"a circle", []backend.Span{span(1, 2, "late", 2), span(2, 1, "early", 1)}, "early"},
		{"nothing", nil, ""},
	} {
		if _, got := Root(backend.Trace{Spans: test.spans}); got != test.want {
			t.Errorf("%s: got %q, want %q", test.name, got, test.want)
		}
	}
}
