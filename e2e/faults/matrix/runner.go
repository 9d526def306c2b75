// SPDX-License-Identifier: Apache-2.0

// Package matrix runs cases with faults in the lab, gets layertrace's verdicts on their
// traces, and compares them with the faults: its result is a confusion matrix.
package matrix

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"iter"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/layertrace/layertrace/e2e/faults"
	"github.com/layertrace/layertrace/e2e/lab"
	"github.com/layertrace/layertrace/internal/observe"
)

// Runner runs cases.
type Runner struct {
	Session   *faults.Session
	Jaeger    *lab.JaegerClient
	Explainer Explainer
	Seed      uint64
	// Batch is how many cases run before their traces are explained.
	Batch int
	// Requests is the number of requests per case, with the same fault.
	Requests int
	Progress func(format string, args ...any)
	// Wrong is called with each result that is not right, while Jaeger has its
	// traces; nil for nothing.
	Wrong func(context.Context, Result) error
	// Settle waits until agents have made all spans of a batch; nil where they need nothing
	// for that but the packets.
	Settle func(context.Context) error

	// Again counts requests that were repeated because the fault missed them or they
	// failed, Skipped the cases for which that always happened.
	Again, Skipped int
	// Unsound counts requests that another cause delayed as well, by the client's
	// measurement. They count: explain has to distinguish chance from cause.
	Unsound int

	mu sync.Mutex // for the counts
}

// Run runs the cases and returns their results with verdicts. It skips a case whose
// fault always misses or whose requests always fail, and reports that.
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
		c.Progress("%d of %d cases: %d of %d faults found, %d of %d blamed without a fault", done, len(cases),
			score.Accuracy.Part, score.Accuracy.Of, score.FalseBlame.Part, score.FalseBlame.Of)
	}
	return results, nil
}

// batches returns batches of cases with the same traffic and similar durations: the
// requests before a batch are its baseline, and concurrent cases wait for the longest.
func (c *Runner) batches(cases []faults.Case) iter.Seq[[]faults.Case] {
	ordered := slices.Clone(cases)
	slices.SortStableFunc(ordered, func(a, b faults.Case) int {
		if by := cmp.Compare(batchOrder(a), batchOrder(b)); by != 0 || a.Kind.Concurrent() == 1 {
			return by
		}
		return cmp.Compare(a.Magnitude, b.Magnitude)
	})
	return func(yield func([]faults.Case) bool) {
		for len(ordered) > 0 {
			n := 1
			for n < min(len(ordered), c.Batch) && batchOrder(ordered[n]) == batchOrder(ordered[0]) {
				n++
			}
			if !yield(ordered[:n]) {
				return
			}
			ordered = ordered[n:]
		}
	}
}

// batchOrder is the same for cases that may be in one batch.
func batchOrder(c faults.Case) string {
	return fmt.Sprintf("%03d %v", c.Kind.Concurrent(), c.Traffic())
}

// baselineRequests is how many requests without a fault before its first request a
// case is compared with. So many precede each batch, and one each of its requests.
const baselineRequests = 75

// connectRequests open connections after the load was turned on or off.
const connectRequests = 15

// runBatch runs the cases of a batch.
func (c *Runner) runBatch(ctx context.Context, batch []faults.Case) (made []Result, err error) {
	if err := c.Session.Plain(ctx, batch[0].Traffic(), connectRequests+baselineRequests); err != nil {
		return nil, err
	}
	run := c.inTurn
	if batch[0].Kind.Concurrent() > 1 {
		run = c.together
	}
	taken, err := run(ctx, batch)
	if err != nil {
		return nil, err
	}
	c.Session.Load.Set(false)
	for i, one := range batch {
		if err := taken[i].useless; err != nil {
			c.Skipped++
			c.Progress("skipped after %d attempts: %v: %v", faults.Attempts, one, err)
			continue
		}
		made = append(made, NewResult(one, taken[i].samples, c.Seed))
	}
	return made, nil
}

// taken are the samples of a case. useless is why there are none: a fault always missed
// its request, or the request always failed.
type taken struct {
	samples []Sample
	useless error
}

// inTurn sends the requests of cases one after the other.
func (c *Runner) inTurn(ctx context.Context, batch []faults.Case) ([]taken, error) {
	all := make([]taken, len(batch))
	for i, one := range batch {
		for range one.Kind.Requests(c.Requests) {
			// The baseline comes from requests at the same time.
			if err := c.Session.Plain(ctx, one.Traffic(), 1); err != nil {
				return nil, err
			}
			sample, err := c.sample(ctx, one)
			if faults.Useless(err) {
				all[i].useless = err
				break
			}
			if err != nil {
				return nil, err
			}
			all[i].samples = append(all[i].samples, sample)
		}
	}
	return all, nil
}

// together is inTurn with many requests in flight at the same time.
func (c *Runner) together(ctx context.Context, batch []faults.Case) ([]taken, error) {
	group, inGroup := errgroup.WithContext(ctx)
	group.SetLimit(batch[0].Kind.Concurrent())
	var mu sync.Mutex
	all := make([]taken, len(batch))
	for i, one := range batch {
		for range one.Kind.Requests(c.Requests) {
			if err := c.Session.Plain(ctx, one.Traffic(), 1); err != nil {
				return nil, errors.Join(err, group.Wait())
			}
			group.Go(func() error {
				sample, err := c.sample(inGroup, one)
				mu.Lock()
				defer mu.Unlock()
				if faults.Useless(err) {
					all[i].useless = err
					return nil
				}
				all[i].samples = append(all[i].samples, sample)
				return err
			})
		}
	}
	return all, group.Wait()
}

func (c *Runner) sample(ctx context.Context, one faults.Case) (r Sample, err error) {
	for range faults.Attempts {
		var m faults.Injection
		if m, err = c.Session.Make(ctx, one); !faults.Useless(err) {
			if !m.Sound() {
				c.count(&c.Unsound)
			}
			return Sample{TraceID: m.TraceID, Injected: m.Injected, Client: m.Client, ClientOff: m.Unexplained()}, err
		}
		c.count(&c.Again)
	}
	return r, err
}

func (c *Runner) count(n *int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	*n++
}

// judge adds the verdicts, once Jaeger has the traces.
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
	if c.Settle != nil {
		if err := c.Settle(ctx); err != nil {
			return err
		}
	}
	if err := c.Jaeger.AwaitSpans(ctx, ids); err != nil {
		return err
	}
	verdicts, err := c.Explainer.Explain(ctx, slices.Concat(groups, singles))
	if err != nil {
		return err
	}
	if len(verdicts) != len(groups)+len(singles) {
		return fmt.Errorf("layertrace explain reported on %d groups of traces, want %d", len(verdicts), len(groups)+len(singles))
	}
	alone := verdicts[len(groups):]
	for i := range made {
		if made[i].Fault == faults.ResponseReset {
			if made[i].Flags, err = flagsOf(ctx, c.Jaeger, made[i].Location, made[i].TraceIDs); err != nil {
				return err
			}
		}
		made[i].Judge(verdicts[i])
		for n := range made[i].TraceIDs {
			made[i].JudgeSingle(n, alone[0])
			alone = alone[1:]
		}
		if c.Wrong != nil && (made[i].HighButWrong() || made[i].Counts() && !made[i].Right()) {
			if err := c.Wrong(ctx, made[i]); err != nil {
				return err
			}
		}
	}
	return nil
}

// flagsOf returns the flags of layertrace's spans at the interface of a service's pod,
// those that all the traces have.
func flagsOf(ctx context.Context, jaeger *lab.JaegerClient, service string, ids []string) (common []string, err error) {
	for i, id := range ids {
		trace, err := jaeger.Trace(ctx, id)
		if err != nil {
			return nil, err
		}
		var flags []string
		for _, s := range trace.Spans {
			if text, ok := s.Tags["layertrace.flags"].(string); ok && strings.HasPrefix(s.Name, service+"_") {
				var names []string
				if err := json.Unmarshal([]byte(text), &names); err != nil {
					return nil, fmt.Errorf("read the flags of span %s: %w", s.ID, err)
				}
				flags = append(flags, names...)
			}
		}
		if i == 0 {
			common = flags
		}
		common = slices.DeleteFunc(common, func(f string) bool { return !slices.Contains(flags, f) })
	}
	slices.Sort(common)
	return slices.Compact(common), nil
}

// Explainer returns layertrace's verdicts on groups of traces, in order.
type Explainer interface {
	Explain(ctx context.Context, groups [][]string) ([]Verdict, error)
}

// ExplainCommand runs `layertrace explain`.
type ExplainCommand struct{ Lab *lab.Lab }

// Explain runs it once for all groups.
func (c ExplainCommand) Explain(ctx context.Context, groups [][]string) ([]Verdict, error) {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Minute)
	defer cancel()
	args := []string{"explain", "--json", "--baseline", strconv.Itoa(baselineRequests), "--jaeger", lab.JaegerURL()}
	for _, ids := range groups {
		args = append(args, strings.Join(ids, ",")+",") // the comma makes a group of a single trace
	}
	out, err := c.Lab.Layertrace(ctx, args...)
	if err != nil {
		return nil, err
	}
	return parseReports(out)
}

// parseReports decodes one JSON report per group.
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
			return nil, fmt.Errorf("read report %d of layertrace explain --json: %w", len(verdicts)+1, err)
		}
		verdicts = append(verdicts, r.verdict())
	}
}

// explainReport is the part of a report that is used here.
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
