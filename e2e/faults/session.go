// SPDX-License-Identifier: Apache-2.0

package faults

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/layertrace/layertrace/e2e/lab"
	"github.com/layertrace/layertrace/internal/observe"
	"github.com/layertrace/layertrace/internal/stats"
)

// Session runs cases one after the other, with requests without a fault between them.
type Session struct {
	Injector *Injector
	Client   *Client
	Load     *Load
	// Failed counts requests that failed; they were repeated.
	Failed int

	mu       sync.Mutex
	baseline baseline
	plain    int
}

// Injection is the result of a case.
type Injection struct {
	TraceID string
	// Injected is how long the fault held up the request, Client how long the client
	// waited, Baseline how long it waits without a fault.
	Injected, Client, Baseline time.Duration
}

// Unexplained returns how much of the client's wait neither the baseline nor the fault
// explains.
func (m Injection) Unexplained() time.Duration { return m.Client - m.Baseline - m.Injected }

// Sound reports whether the fault explains the client's wait: other causes, such as a
// busy machine, took less than 1 ms or a quarter of the fault.
func (m Injection) Sound() bool {
	return m.Client >= m.Injected && m.Unexplained() <= max(time.Millisecond, m.Injected/4)
}

type baselineKey struct {
	version string
	traffic Traffic
	report  bool
}

// WarmUp opens connections and measures the baseline, without and with load.
func (s *Session) WarmUp(ctx context.Context) error {
	for _, t := range []Traffic{{Load: true}, {Plain: true}, {Mixed: true}, {Churn: true}, {Plain: true, Churn: true}, {}} {
		if err := s.Plain(ctx, t, 10*len(reviewsVersions)); err != nil {
			return err
		}
	}
	return nil
}

// Attempts is how often a request is sent that fails or whose fault misses it.
const Attempts = 5

// Plain sends requests without a fault. It turns the load on or off, and leaves it so.
func (s *Session) Plain(ctx context.Context, t Traffic, requests int) error {
	s.Load.Set(t.Load)
	for range requests {
		var err error
		for range Attempts {
			if err = s.sendPlain(ctx, t); !errors.Is(err, ErrFailed) {
				break
			}
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// sendPlain sends a request without a fault for the baseline. One in three of mixed
// traffic is for the slow endpoint.
func (s *Session) sendPlain(ctx context.Context, t Traffic) error {
	s.plain++
	of := baselineKey{version: reviewsVersions[s.plain%len(reviewsVersions)], traffic: t}
	if t.Mixed {
		of.version, of.report = reviewsVersions[s.plain/3%len(reviewsVersions)], s.plain%3 == 0
	}
	if t.Plain {
		of.version = PlainVersion
	}
	return s.sendPlainOf(ctx, newTraceID(), of)
}

func (s *Session) sendPlainOf(ctx context.Context, traceID string, of baselineKey) error {
	took, err := s.get(ctx, s.Client, Page{
		TraceID: traceID, Version: of.version, Sampled: true, Report: of.report, Churn: of.traffic.Churn,
	})
	if err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.baseline.add(of, took)
	return nil
}

// get counts requests that fail.
func (s *Session) get(ctx context.Context, client *Client, p Page) (time.Duration, error) {
	took, err := client.Get(ctx, p)
	if errors.Is(err, ErrFailed) {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.Failed++
	}
	return took, err
}

// Make runs a case once. Cases of kinds with Concurrent above 1 may run at the same
// time; each then has a connection of its own.
func (s *Session) Make(ctx context.Context, c Case) (m Injection, err error) {
	client := s.Client
	if c.Kind.Concurrent() > 1 {
		client = NewClient(s.Injector.lab, client.tracer)
		defer client.Close()
	} else {
		s.Load.Set(c.Load)
	}
	of := baselineKey{c.Version, c.Traffic(), c.Report}
	page := Page{
		TraceID: newTraceID(), Version: c.Version, Sampled: true, Report: c.Report,
		Churn: c.Kind == ConnectionChurn, MayFail: c.Kind == ResponseReset,
	}
	appTraceID := page.TraceID
	if c.Kind == SeveralContexts {
		page.Foreign = newTraceID()
		if client.tracer != lab.OpenTelemetry {
			appTraceID = page.Foreign // applications prefer traceparent
		}
	}
	m = Injection{TraceID: page.TraceID, Baseline: s.usual(of)}
	m.Injected, err = s.Injector.Inject(ctx, c, Request{
		TraceID: m.TraceID, AppTraceID: appTraceID,
		Send: func(ctx context.Context) (err error) {
			m.Client, err = s.get(ctx, client, page)
			return err
		},
		Plain: func(ctx context.Context, traceID string) error {
			return s.sendPlainOf(ctx, traceID, of)
		},
	})
	if c.Kind.Layer() == observe.RelayNetwork {
		err = errors.Join(err, s.heal(ctx, c.Version))
	}
	return m, err
}

// usual returns how long a request without a fault takes.
func (s *Session) usual(of baselineKey) time.Duration {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.baseline.median(of)
}

// heal lets connections recover their congestion windows after losses, which would
// slow the next case down.
func (s *Session) heal(ctx context.Context, version string) error {
	for range 4 {
		if _, err := s.get(ctx, s.Client, Page{TraceID: newTraceID(), Version: version}); err != nil {
			return fmt.Errorf("recover from a loss: %w", err)
		}
	}
	return nil
}

// baseline has the durations of recent requests without a fault, by key. The zero
// value is ready.
type baseline struct{ recent map[any][]time.Duration }

// baselineSize is how many recent durations count.
const baselineSize = 15

// add adds a request.
func (t *baseline) add(of any, took time.Duration) {
	if t.recent == nil {
		t.recent = map[any][]time.Duration{}
	}
	all := append(t.recent[of], took)
	t.recent[of] = all[max(0, len(all)-baselineSize):]
}

// median returns the median of the recent requests, 0 without any.
func (t *baseline) median(of any) time.Duration {
	return stats.Median(t.recent[of])
}
