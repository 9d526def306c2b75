// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"context"
	"errors"
	"fmt"

	"github.com/layertrace/layertrace/agent/internal/backend"
	"github.com/layertrace/layertrace/agent/internal/explain"
	"go.opentelemetry.io/otel/trace"
)

// explain reads the traces and typical ones, and writes a report on each.
func (f *explainFlags) explain(ctx context.Context, source backend.Source, args []string, out output) error {
	var traces []backend.Trace
	asked := map[trace.TraceID]bool{}
	for _, arg := range args {
		id, err := backend.ParseTraceID(arg)
		if err != nil {
			return err
		}
		if asked[id] {
			continue
		}
		asked[id] = true
		t, err := source.Trace(ctx, id)
		switch {
		case errors.Is(err, backend.ErrNotFound):
			return fmt.Errorf("%w; it may be on its way still, older than what is kept, or not sampled", err)
		case err != nil:
			return err
		}
		traces = append(traces, t)
	}
	b := baselines{source: source, most: f.typical, last: f.typicalLast, explained: traces, asked: asked, found: map[beginning][]backend.Trace{}}
	var reports []*explain.Report
	for _, t := range traces {
		typical, note := b.of(ctx, t)
		r := explain.Explain(t, typical)
		if note != "" {
			r.Notes = append(r.Notes, note)
		}
		reports = append(reports, &r)
	}
	return out.reports(reports)
}
