// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"context"
	"fmt"
	"time"

	"github.com/layertrace/layertrace/agent/internal/explain"
	"github.com/layertrace/layertrace/agent/internal/tracestore"
)

// compare reads the traces of a service and writes what makes some of them slow.
func (f *explainFlags) compare(ctx context.Context, source tracestore.Store, out output) error {
	q := tracestore.Query{Service: f.service, Operation: f.operation, Limit: f.limit}
	when, advice := "", "correct --service"
	if f.file == "" {
		q.To = time.Now()
		q.From = q.To.Add(-f.last)
		when, advice = fmt.Sprintf(" in the last %v", f.last), "correct --service, or look back further with --last"
	}
	traces, err := source.Search(ctx, q)
	if err != nil {
		return err
	}
	if len(traces) == 0 {
		what := "service " + f.service
		if f.operation != "" {
			what, advice = fmt.Sprintf("operation %q of %s", f.operation, what), advice+" or --operation"
		}
		return fmt.Errorf("%s has no trace with %s%s: %s", source.Name(), what, when, advice)
	}
	c := explain.Compare(f.service, traces, f.slowQuantile)
	return out.comparison(&c)
}
