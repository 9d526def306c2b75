// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"context"
	"fmt"
	"time"

	"github.com/layertrace/layertrace/agent/internal/backend"
	"github.com/layertrace/layertrace/agent/internal/explain"
	"go.opentelemetry.io/otel/trace"
)

// beginning is what a trace has in common with those that are typical for it:
// service and operation of its first span.
type beginning struct{ service, operation string }

// baselines finds typical traces, once for each beginning.
type baselines struct {
	source    backend.Source
	most      int
	last      time.Duration
	explained []backend.Trace
	asked     map[trace.TraceID]bool
	found     map[beginning][]backend.Trace
}

// of returns the traces that a trace is compared with, or a note on why there
// are none. The report is worth something without them.
func (b *baselines) of(ctx context.Context, t backend.Trace) ([]backend.Trace, string) {
	if b.most == 0 {
		return nil, ""
	}
	key := beginningOf(t)
	if key.service == "" {
		return nil, "No typical traces: the trace has no span of a proxy or an application, so nobody knows what to search for."
	}
	if typical, done := b.found[key]; done {
		return typical, ""
	}
	typical, err := b.search(ctx, key)
	if err != nil {
		return nil, fmt.Sprintf("No typical traces: %v.", err)
	}
	b.found[key] = typical
	return typical, ""
}

// search looks before the first of the explained traces that begin so, as what
// makes one slow may last: behind it only where that gives too few.
func (b *baselines) search(ctx context.Context, key beginning) ([]backend.Trace, error) {
	var first, latest time.Time
	for _, t := range b.explained {
		if beginningOf(t) != key {
			continue
		}
		at := t.Start()
		if first.IsZero() || at.Before(first) {
			first = at
		}
		if at.After(latest) {
			latest = at
		}
	}
	typical := []backend.Trace{}
	known := map[trace.TraceID]bool{}
	for _, window := range [][2]time.Time{{first.Add(-b.last), first}, {first, latest.Add(b.last)}} {
		if len(typical) >= b.most {
			break
		}
		traces, err := b.source.Search(ctx, backend.Query{
			Service: key.service, Operation: key.operation,
			From: window[0], To: window[1], Limit: b.most + len(b.explained),
		})
		if err != nil {
			return nil, err
		}
		for _, t := range traces {
			if len(typical) < b.most && !b.asked[t.ID] && !known[t.ID] && beginningOf(t) == key {
				known[t.ID] = true
				typical = append(typical, t)
			}
		}
	}
	return typical, nil
}

func beginningOf(t backend.Trace) beginning {
	service, operation := explain.Root(t)
	return beginning{service, operation}
}
