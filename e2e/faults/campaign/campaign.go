// SPDX-License-Identifier: Apache-2.0

// Package campaign runs the fault laboratory: one request for each case that
// was drawn, requests without a fault between them, and, a batch at a time, what
// layertrace says of them.
package campaign

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/layertrace/layertrace/e2e/faults"
	"github.com/layertrace/layertrace/e2e/faults/inject"
	"github.com/layertrace/layertrace/e2e/lab/jaeger"
)

// Campaign is what is needed for it.
type Campaign struct {
	Session   *inject.Session
	Jaeger    *jaeger.Client
	Explainer Explainer
	Seed      uint64
	// Batch is how many cases are made before their traces are explained.
	Batch    int
	Progress func(format string, args ...any)

	// Again is how many cases were made again, LeftOut how many could not be.
	Again, LeftOut int
}

// attempts is how often a case is tried whose fault misses its request, or is
// not all that was wrong with it. Layertrace has no say in that.
const attempts = 5

// Run makes the cases and returns what came of them, with verdicts. A case that
// could not be made is left out, and said.
func (c *Campaign) Run(ctx context.Context, cases []faults.Case) (results []faults.Result, err error) {
	defer c.Session.Load.Set(false)
	if err := c.Session.WarmUp(ctx); err != nil {
		return nil, err
	}
	done := 0
	for batch := range slices.Chunk(slices.Clone(cases), c.Batch) {
		// Turning load on and off takes time: once for a batch.
		slices.SortStableFunc(batch, func(a, b faults.Case) int { return order(a) - order(b) })
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

func order(c faults.Case) int {
	if c.Load {
		return 1
	}
	return 0
}

// errUnsound is what is wrong with a request that something else made slow too.
var errUnsound = errors.New("the client waited for something else as well")

// make makes the cases of a batch.
func (c *Campaign) make(ctx context.Context, batch []faults.Case) (made []faults.Result, err error) {
	for _, one := range batch {
		result, err := c.one(ctx, one)
		switch {
		case errors.Is(err, inject.ErrMissed), errors.Is(err, errUnsound):
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

func (c *Campaign) one(ctx context.Context, one faults.Case) (faults.Result, error) {
	for attempt := 1; ; attempt++ {
		m, err := c.Session.Make(ctx, one)
		if err == nil && !m.Sound() {
			err = fmt.Errorf("%v: %w: %v beside %v", one, errUnsound, m.Off(), m.Injected)
		}
		again := errors.Is(err, inject.ErrMissed) || errors.Is(err, errUnsound)
		if !again || attempt == attempts {
			return faults.NewResult(one, m.TraceID, m.Injected, m.Client, c.Seed), err
		}
		c.Again++
	}
}

// judge adds what layertrace says, when Jaeger has the traces.
func (c *Campaign) judge(ctx context.Context, made []faults.Result) error {
	var ids []string
	for _, r := range made {
		ids = append(ids, r.TraceID)
	}
	if err := c.settled(ctx, ids); err != nil {
		return err
	}
	verdicts, err := c.Explainer.Explain(ctx, ids)
	if err != nil {
		return err
	}
	for i := range made {
		verdict, ok := verdicts[made[i].TraceID]
		if !ok {
			return fmt.Errorf("layertrace explain says nothing of trace %s", made[i].TraceID)
		}
		made[i].Judge(verdict)
	}
	return nil
}
