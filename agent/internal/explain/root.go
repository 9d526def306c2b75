// SPDX-License-Identifier: Apache-2.0

package explain

import (
	"cmp"
	"slices"

	"go.opentelemetry.io/otel/trace"

	"github.com/layertrace/layertrace/agent/internal/tracestore"
)

// Root returns service and operation of the span that the trace begins with, ""
// when it has only spans of layertrace. Between the beginning was not stored, it
// is the earliest span whose parent is missing.
func Root(t tracestore.Trace) (service, operation string) {
	if len(t.Spans) == 0 {
		return "", ""
	}
	stored := map[trace.SpanID]bool{}
	for _, s := range t.Spans {
		stored[s.ID] = true
	}
	// 0: a beginning; 1: its parent is missing; 2: it has a parent.
	rank := func(s tracestore.Span) int {
		switch {
		case !s.Parent.IsValid():
			return 0
		case !stored[s.Parent] || s.Parent == s.ID:
			return 1
		}
		return 2
	}
	root := slices.MinFunc(t.Spans, func(a, b tracestore.Span) int {
		return cmp.Or(cmp.Compare(rank(a), rank(b)), a.Start.Compare(b.Start))
	})
	return root.Service, root.Name
}
