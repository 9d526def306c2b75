// SPDX-License-Identifier: Apache-2.0

// Package campaign runs the fault laboratory: some requests for each case that
// was drawn, requests without a fault before each batch of cases, and what
// layertrace says of them.
package campaign

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"slices"

	"github.com/layertrace/layertrace/e2e/faults"
	"github.com/layertrace/layertrace/e2e/faults/inject"
	"github.com/layertrace/layertrace/e2e/lab"
)

// Campaign is what is needed for it.
type Campaign struct {
	Session   *inject.Session
	Jaeger    *lab.JaegerClient
	Explainer Explainer
	Seed      uint64
	// Batch is how many cases are made before their traces are explained.
	Batch int
	// Requests are made for each case, with the same fault.
	Requests int
	Progress func(format string, args ...any)

	// Again is how many requests were made again because the fault missed them,
	// LeftOut how many cases could not be made.
	Again, LeftOut int
	// Unsound is how many requests waited for something else as well, by what
	// the client saw. They count: it is for explain to tell chance from cause.
	Unsound int
}

// attempts is how often a case is tried whose fault misses its request.
const attempts = 3

// Run makes the cases and returns what came of them, with verdicts. A case that
// could not be made is left out, and said.
func (c *Campaign) Run(ctx context.Context, cases []faults.Case) (results []faults.Result, err error) {
	defer c.Session.Load.Set(false)
	done := 0
	for batch := range c.batches(cases) {
		made, err := c.make(ctx, batch)
		if err != nil {
			return results, err
		}
		if err := c.judge(ctx, made); err != nil {
			return results, err
		}
		results = append(results, made...)
		done += len(batch)
		score := faults.Add(results)
		c.Progress("%d of %d cases: %d of %d faults found, %d of %d blamed without one", done, len(cases),
			score.Accuracy.Part, score.Accuracy.Of, score.FalseBlame.Part, score.FalseBlame.Of)
	}
	return results, nil
}

// batches are of cases with load or without, since what is usual differs: the
// requests before a batch are what its requests are compared with.
func (c *Campaign) batches(cases []faults.Case) iter.Seq[[]faults.Case] {
	ordered := slices.Clone(cases)
	slices.SortStableFunc(ordered, func(a, b faults.Case) int { return order(a) - order(b) })
	first := slices.IndexFunc(ordered, func(c faults.Case) bool { return c.Load })
	if first < 0 {
		first = len(ordered)
	}
	return func(yield func([]faults.Case) bool) {
		for _, half := range [][]faults.Case{ordered[:first], ordered[first:]} {
			for batch := range slices.Chunk(half, c.Batch) {
				if !yield(batch) {
					return
				}
			}
		}
	}
}

func order(c faults.Case) int {
	if c.Load {
		return 1
	}
	return 0
}

// typical is how many requests without a fault, those before a case's first, the
// case is compared with: so many come before each batch, and one before each of
// its requests.
const typical = 75

// connect opens connections after the load was turned on or off.
const connect = 15

// make makes the cases of a batch.
func (c *Campaign) make(ctx context.Context, batch []faults.Case) (made []faults.Result, err error) {
	if err := c.Session.Plain(ctx, batch[0].Load, connect+typical); err != nil {
		return nil, err
	}
	for _, one := range batch {
		result, err := c.one(ctx, one)
		switch {
		case errors.Is(err, inject.ErrMissed):
			c.LeftOut++
			c.Progress("left out, after %d attempts: %v", attempts, err)
		case err != nil:
			return nil, err
		default:
			made = append(made, result)
		}
	}
	c.Session.Load.Set(false)
	return made, nil
}

// one makes the requests of a case.
func (c *Campaign) one(ctx context.Context, one faults.Case) (faults.Result, error) {
	requests := make([]faults.Request, c.Requests)
	for i := range requests {
		// What is usual is known from requests at the same time.
		err := c.Session.Plain(ctx, one.Load, 1)
		if err != nil {
			return faults.Result{}, err
		}
		if requests[i], err = c.request(ctx, one); err != nil {
			return faults.Result{}, err
		}
	}
	return faults.NewResult(one, requests, c.Seed), nil
}

func (c *Campaign) request(ctx context.Context, one faults.Case) (r faults.Request, err error) {
	for range attempts {
		var m inject.Made
		if m, err = c.Session.Make(ctx, one); !errors.Is(err, inject.ErrMissed) {
			if !m.Sound() {
				c.Unsound++
			}
			return faults.Request{TraceID: m.TraceID, Injected: m.Injected, Client: m.Client, ClientOff: m.Off()}, err
		}
		c.Again++
	}
	return r, err
}

// judge adds what layertrace says, when Jaeger has the traces.
func (c *Campaign) judge(ctx context.Context, made []faults.Result) error {
	var ids []string
	var groups, singles [][]string
	for _, r := range made {
		ids = append(ids, r.TraceIDs...)
		groups = append(groups, r.TraceIDs)
		for _, id := range r.TraceIDs {
			singles = append(singles, []string{id})
		}
	}
	if err := c.settled(ctx, ids); err != nil {
		return err
	}
	verdicts, err := c.Explainer.Explain(ctx, slices.Concat(groups, singles))
	if err != nil {
		return err
	}
	if len(verdicts) != len(groups)+len(singles) {
		return fmt.Errorf("layertrace explain says something of %d groups of traces, not of %d", len(verdicts), len(groups)+len(singles))
	}
	alone := verdicts[len(groups):]
	for i := range made {
		made[i].Judge(verdicts[i])
		for n := range made[i].TraceIDs {
			made[i].JudgeSingle(n, alone[0])
			alone = alone[1:]
		}
	}
	return nil
}
