// SPDX-License-Identifier: Apache-2.0

// Package verify proves the injectors: what they say that a fault took is held
// against how much longer the client had to wait than without a fault.
package verify

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/layertrace/layertrace/e2e/faults"
	"github.com/layertrace/layertrace/e2e/faults/front"
	"github.com/layertrace/layertrace/e2e/faults/inject"
)

// Row is one injected fault.
type Row struct {
	Case     faults.Case
	Injected time.Duration
	// Extra is by how much the client waited longer than the median without a
	// fault.
	Extra time.Duration
	Err   error
}

// Off is the difference between both.
func (r Row) Off() time.Duration { return r.Extra - r.Injected }

// Run injects each case so many times and tells what came of it, a row each.
func Run(ctx context.Context, b *inject.Bench, c *front.Client, load *front.Load, cases []faults.Case, rows func(Row)) error {
	usual := map[bool]map[string]time.Duration{}
	for _, on := range []bool{false, true} {
		load.Set(on)
		var err error
		if usual[on], err = typical(ctx, c); err != nil {
			return err
		}
	}
	defer load.Set(false)
	for _, one := range cases {
		load.Set(one.Load)
		row := Row{Case: one}
		trace := front.NewTraceID()
		var took time.Duration
		row.Injected, row.Err = b.Inject(ctx, one, inject.Request{TraceID: trace, Send: func(ctx context.Context) (err error) {
			took, err = c.Get(ctx, trace, one.Version, true)
			return err
		}})
		row.Extra = took - usual[one.Load][one.Version]
		rows(row)
		if row.Err != nil && !errors.Is(row.Err, inject.ErrMissed) {
			return row.Err
		}
		// So that every other request has no fault, here as well.
		if _, err := c.Get(ctx, front.NewTraceID(), one.Version, true); err != nil {
			return err
		}
	}
	return nil
}

// typical is the median time of a front page, by the version of reviews.
func typical(ctx context.Context, c *front.Client) (map[string]time.Duration, error) {
	medians := map[string]time.Duration{}
	for _, version := range faults.Versions {
		var all []time.Duration
		for range 30 {
			took, err := c.Get(ctx, front.NewTraceID(), version, true)
			if err != nil {
				return nil, fmt.Errorf("measure requests without a fault: %w", err)
			}
			all = append(all, took)
		}
		slices.Sort(all[10:]) // the first ones open connections
		medians[version] = all[10:][10]
	}
	return medians, nil
}
