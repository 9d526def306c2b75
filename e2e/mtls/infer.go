// SPDX-License-Identifier: Apache-2.0

package mtls

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"time"

	"github.com/layertrace/layertrace/e2e/lab"
	"github.com/layertrace/layertrace/e2e/measure"
	"github.com/layertrace/layertrace/e2e/sandbox"
	"github.com/layertrace/layertrace/internal/observe"
)

// inferSettled is the time without news after which nothing more is inferred: agents report a
// plain exchange up to 3 s after its end, and look at it after 4.5 s.
const inferSettled = 8 * time.Second

// inferred waits until agents have inferred what they can, and returns of how many plain
// exchanges they could not.
func inferred(ctx context.Context, l *lab.Lab) (not int, err error) {
	last, since := 0, time.Now()
	err = sandbox.Await(ctx, "the agents to infer the last exchanges", time.Minute, 500*time.Millisecond, func(ctx context.Context) error {
		given := 0
		not = 0
		for _, node := range lab.Nodes {
			if node == lab.ClientNode {
				continue
			}
			metrics, err := l.AgentMetrics(ctx, node)
			if err != nil {
				return err
			}
			given += int(metrics[`layertrace_encrypted_exchanges_total{join="inferred"}`])
			not += int(metrics["layertrace_encrypted_not_inferred_total"])
		}
		if given+not != last {
			last, since = given+not, time.Now()
		}
		if time.Since(since) < inferSettled {
			return fmt.Errorf("%d exchanges were inferred and %d not %v ago", given, not, time.Since(since).Round(time.Second))
		}
		return nil
	})
	return not, err
}

// Explained is what `layertrace explain` makes of traces with inferred exchanges, by what Jaeger
// has of them.
type Explained struct {
	// Traces are those that were explained, High those of them whose verdict has high
	// confidence.
	Traces int `json:"traces"`
	High   int `json:"high_confidence"`
	// Spans are the spans of encrypted exchanges in these traces, Unmarked those of them whose
	// attribute layertrace.join is not inferred.
	Spans    int `json:"spans"`
	Unmarked int `json:"unmarked_spans"`
}

// maxExplained is the number of traces that are explained.
const maxExplained = 20

// explainInferred explains traces of a stopped run that have inferred exchanges.
func explainInferred(ctx context.Context, l *lab.Lab, run *lab.Run) (*Explained, error) {
	all, err := measure.ReadExchanges(l, run)
	if err != nil {
		return nil, err
	}
	inferred := map[string]bool{}
	for _, observations := range all {
		for _, o := range observations {
			if o.Join == observe.JoinInferred {
				inferred[o.Context.TraceID.String()] = true
			}
		}
	}
	var e Explained
	ids := slices.Sorted(maps.Keys(inferred))
	ids = ids[:min(len(ids), maxExplained)]
	if len(ids) == 0 {
		return &e, nil
	}
	for _, id := range ids {
		trace, err := l.Jaeger.Trace(ctx, id)
		if err != nil {
			return nil, err
		}
		for _, s := range trace.Spans {
			if join, encrypted := s.Tags["layertrace.join"]; encrypted {
				e.Spans++
				if join != string(observe.JoinInferred) {
					e.Unmarked++
				}
			}
		}
	}
	out, err := l.Layertrace(ctx, append([]string{"explain", "--json", "--jaeger", lab.JaegerURL()}, ids...)...)
	if err != nil {
		return nil, err
	}
	for decoder := json.NewDecoder(bytes.NewReader(out)); ; e.Traces++ {
		var report struct {
			Verdict struct {
				Confidence string `json:"confidence"`
			} `json:"verdict"`
		}
		if err := decoder.Decode(&report); errors.Is(err, io.EOF) {
			return &e, nil
		} else if err != nil || report.Verdict.Confidence == "" {
			return nil, fmt.Errorf("read report %d of layertrace explain --json: %w", e.Traces+1, errors.Join(err, errNoConfidence))
		}
		if report.Verdict.Confidence == "high" {
			e.High++
		}
	}
}

var errNoConfidence = errors.New("no verdict.confidence")
