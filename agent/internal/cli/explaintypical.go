// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"context"
	"fmt"
	"slices"
	"time"

	"go.opentelemetry.io/otel/trace"

	"github.com/layertrace/layertrace/agent/internal/explain"
	"github.com/layertrace/layertrace/agent/internal/tracestore"
)

// beginning is what a trace has in common with those that are typical for it:
// service and operation of its first span.
type beginning struct{ service, operation string }

// baselines finds typical traces for those that are explained.
type baselines struct {
	source    tracestore.Store
	most      int
	last      time.Duration
	explained []tracestore.Trace
	asked     map[trace.TraceID]bool
	found     map[beginning][]tracestore.Trace // by start
}

// of returns the traces that one, or a group of one beginning, is compared with,
// or a note on why there are none. The report is worth something without them.
// They are the latest before it, or before the last of the group: what lies
// between them was met by the same chances. What makes them slow may last, so
// later ones count only where there are too few.
func (b *baselines) of(ctx context.Context, group ...tracestore.Trace) ([]tracestore.Trace, string) {
	if b.most == 0 {
		return nil, ""
	}
	t := slices.MaxFunc(group, func(a, b tracestore.Trace) int { return a.Start().Compare(b.Start()) })
	key := beginningOf(group[0])
	if key.service == "" {
		return nil, "No typical traces: the trace has no span of a proxy or an application, so nobody knows what to search for."
	}
	found, done := b.found[key]
	if !done {
		var err error
		if found, err = b.search(ctx, key); err != nil {
			return nil, fmt.Sprintf("No typical traces: %v.", err)
		}
		b.found[key] = found
	}
	later, _ := slices.BinarySearchFunc(found, t.Start(), func(f tracestore.Trace, at time.Time) int { return f.Start().Compare(at) })
	first := max(later-b.most, 0)
	return found[first:min(first+b.most, len(found))], ""
}

// search gets, once for each beginning, the traces before the last of those that
// are explained, and behind it where there are too few.
func (b *baselines) search(ctx context.Context, key beginning) ([]tracestore.Trace, error) {
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
	typical := []tracestore.Trace{}
	known := map[trace.TraceID]bool{}
	for _, window := range [][2]time.Time{{first.Add(-b.last), latest}, {latest, latest.Add(b.last)}} {
		if len(typical) >= b.most {
			break
		}
		traces, err := b.source.Search(ctx, tracestore.Query{
			Service: key.service, Operation: key.operation,
			// Baseline ones may lie between the explained ones.
			From: window[0], To: window[1], Limit: b.most + 3*len(b.explained),
		})
		if err != nil {
			return nil, err
		}
		for _, t := range traces {
			if !b.asked[t.ID] && !known[t.ID] && beginningOf(t) == key {
				known[t.ID] = true
				typical = append(typical, t)
			}
		}
	}
	slices.SortStableFunc(typical, func(a, b tracestore.Trace) int { return a.Start().Compare(b.Start()) })
	return typical, nil
}

func beginningOf(t tracestore.Trace) beginning {
	service, operation := explain.Root(t)
	return beginning{service, operation}
}
