// SPDX-License-Identifier: Apache-2.0

// Package campaign runs the fault laboratory: some requests for each case that
// was drawn, requests without a fault before each batch of cases, and what
// layertrace says of them.
package matrix

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"iter"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/layertrace/layertrace/e2e/faults"
	"github.com/layertrace/layertrace/e2e/lab"
	"github.com/layertrace/layertrace/e2e/sandbox"
	"github.com/layertrace/layertrace/internal/observe"
)

// Campaign is what is needed for it.
type Runner struct {
	Session   *faults.Session
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
	Again, Skipped int
	// Unsound is how many requests waited for something else as well, by what
	// the client saw. They count: it is for explain to tell chance from cause.
	Unsound int
}

// attempts is how often a case is tried whose fault misses its request.
const attempts = 3

// Run makes the cases and returns what came of them, with verdicts. A case that
// could not be made is left out, and said.
func (c *Runner) Run(ctx context.Context, cases []faults.Case) (results []Result, err error) {
	defer c.Session.Load.Set(false)
	done := 0
	for batch := range c.batches(cases) {
		made, err := c.runBatch(ctx, batch)
		if err != nil {
			return results, err
		}
		if err := c.judge(ctx, made); err != nil {
			return results, err
		}
		results = append(results, made...)
		done += len(batch)
		score := NewScore(results)
		c.Progress("%d of %d cases: %d of %d faults found, %d of %d blamed without one", done, len(cases),
			score.Accuracy.Part, score.Accuracy.Of, score.FalseBlame.Part, score.FalseBlame.Of)
	}
	return results, nil
}

// batches are of cases with load or without, since what is usual differs: the
// requests before a batch are what its requests are compared with.
func (c *Runner) batches(cases []faults.Case) iter.Seq[[]faults.Case] {
	ordered := slices.Clone(cases)
	slices.SortStableFunc(ordered, func(a, b faults.Case) int { return loadOrder(a) - loadOrder(b) })
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

func loadOrder(c faults.Case) int {
	if c.Load {
		return 1
	}
	return 0
}

// typical is how many requests without a fault, those before a case's first, the
// case is compared with: so many come before each batch, and one before each of
// its requests.
const baselineRequests = 75

// connect opens connections after the load was turned on or off.
const connectRequests = 15

// make makes the cases of a batch.
func (c *Runner) runBatch(ctx context.Context, batch []faults.Case) (made []Result, err error) {
	if err := c.Session.Plain(ctx, batch[0].Load, connectRequests+baselineRequests); err != nil {
		return nil, err
	}
	for _, one := range batch {
		result, err := c.runCase(ctx, one)
		switch {
		case errors.Is(err, faults.ErrMissed):
			c.Skipped++
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
func (c *Runner) runCase(ctx context.Context, one faults.Case) (Result, error) {
	requests := make([]Sample, c.Requests)
	for i := range requests {
		// What is usual is known from requests at the same time.
		err := c.Session.Plain(ctx, one.Load, 1)
		if err != nil {
			return Result{}, err
		}
		if requests[i], err = c.sample(ctx, one); err != nil {
			return Result{}, err
		}
	}
	return NewResult(one, requests, c.Seed), nil
}

func (c *Runner) sample(ctx context.Context, one faults.Case) (r Sample, err error) {
	for range attempts {
		var m faults.Injection
		if m, err = c.Session.Make(ctx, one); !errors.Is(err, faults.ErrMissed) {
			if !m.Sound() {
				c.Unsound++
			}
			return Sample{TraceID: m.TraceID, Injected: m.Injected, Client: m.Client, ClientOff: m.Unexplained()}, err
		}
		c.Again++
	}
	return r, err
}

// judge adds what layertrace says, when Jaeger has the traces.
func (c *Runner) judge(ctx context.Context, made []Result) error {
	var ids []string
	var groups, singles [][]string
	for _, r := range made {
		ids = append(ids, r.TraceIDs...)
		groups = append(groups, r.TraceIDs)
		for _, id := range r.TraceIDs {
			singles = append(singles, []string{id})
		}
	}
	if err := c.awaitSpans(ctx, ids); err != nil {
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

// Explainer tells what layertrace says of groups of traces, in their order.
type Explainer interface {
	Explain(ctx context.Context, groups [][]string) ([]Verdict, error)
}

// Command is the Explainer that runs `layertrace explain`.
type ExplainCommand struct{ Lab *lab.Lab }

// Explain runs it once for all groups.
func (c ExplainCommand) Explain(ctx context.Context, groups [][]string) ([]Verdict, error) {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Minute)
	defer cancel()
	args := []string{"explain", "--json", "--baseline", strconv.Itoa(baselineRequests), "--jaeger", lab.JaegerURL()}
	for _, ids := range groups {
		args = append(args, strings.Join(ids, ",")+",") // one trace is a group, too
	}
	out, err := c.Lab.Layertrace(ctx, args...)
	if err != nil {
		return nil, err
	}
	return parseReports(out)
}

// parse reads one JSON report per group.
func parseReports(out []byte) (verdicts []Verdict, err error) {
	for decoder := json.NewDecoder(bytes.NewReader(out)); ; {
		var r explainReport
		err := decoder.Decode(&r)
		if errors.Is(err, io.EOF) {
			return verdicts, nil
		}
		if err == nil && (len(r.TraceIDs) == 0 || r.Verdict.Layer == "") {
			err = errors.New("a report without trace_ids or verdict.layer")
		}
		if err != nil {
			return nil, fmt.Errorf("read the answer of layertrace explain --json, report %d: %w", len(verdicts)+1, err)
		}
		verdicts = append(verdicts, r.verdict())
	}
}

// report is what is needed of a report.
type explainReport struct {
	TraceIDs     []string `json:"trace_ids"`
	Total        int64    `json:"slow_total_ns"`
	Unattributed int64    `json:"unattributed_ns"`
	Verdict      struct {
		Layer      observe.Layer   `json:"layer"`
		Place      string          `json:"location"`
		Queue      string          `json:"queue"`
		Excess     int64           `json:"excess_ns"`
		Covers     []observe.Layer `json:"merged_layers"`
		Confidence string          `json:"confidence"`
	} `json:"verdict"`
}

func (r explainReport) verdict() Verdict {
	return Verdict{
		Layer: r.Verdict.Layer, Location: r.Verdict.Place, Queue: r.Verdict.Queue, MergedLayers: r.Verdict.Covers, Confidence: r.Verdict.Confidence,
		Excess: time.Duration(r.Verdict.Excess), Unattributed: time.Duration(r.Unattributed), Total: time.Duration(r.Total),
	}
}

// quiet is how long no span has to come for a trace to be complete: Envoys send
// theirs every half second; agents once an exchange was idle for less, but they
// look for such a second later at most, and hold spans for up to another.
const settleTime = 3500 * time.Millisecond

// settled waits until Jaeger has all spans of the traces. How many there are
// depends on what agents make of a request, so: until no more come.
func (c *Runner) awaitSpans(ctx context.Context, ids []string) error {
	last, since := 0, time.Now()
	return sandbox.Await(ctx, "all spans in Jaeger", 30*time.Second, 300*time.Millisecond, func(ctx context.Context) error {
		count := 0
		for _, id := range ids {
			trace, err := c.Jaeger.Trace(ctx, id)
			if err != nil {
				return err
			}
			if len(trace.Spans) == 0 {
				since = time.Now()
				return fmt.Errorf("no spans of trace %s", id)
			}
			count += len(trace.Spans)
		}
		if count != last {
			last, since = count, time.Now()
		}
		if time.Since(since) < settleTime {
			return fmt.Errorf("%d spans, and more may come", count)
		}
		return nil
	})
}
