// SPDX-License-Identifier: Apache-2.0

package faults

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/layertrace/layertrace/internal/observe"
	"github.com/layertrace/layertrace/internal/stats"
)

// Session runs cases one after the other, with requests without a fault between them.
type Session struct {
	Injector *Injector
	Client   *Client
	Load     *Load

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
	load    bool
}

// WarmUp opens connections and measures the baseline, without and with load.
func (s *Session) WarmUp(ctx context.Context) error {
	for _, load := range []bool{true, false} {
		if err := s.Plain(ctx, load, 10*len(reviewsVersions)); err != nil {
			return err
		}
	}
	return nil
}

// Plain sends requests without a fault. It turns the load on or off, and leaves it so.
func (s *Session) Plain(ctx context.Context, load bool, requests int) error {
	s.Load.Set(load)
	for range requests {
		if err := s.sendPlain(ctx, load); err != nil {
			return err
		}
	}
	return nil
}

// sendPlain sends a request without a fault for the baseline.
func (s *Session) sendPlain(ctx context.Context, load bool) error {
	s.plain++
	return s.sendPlainOf(ctx, newTraceID(), baselineKey{reviewsVersions[s.plain%len(reviewsVersions)], load})
}

func (s *Session) sendPlainOf(ctx context.Context, traceID string, of baselineKey) error {
	took, err := s.Client.Get(ctx, traceID, of.version, true)
	s.baseline.add(of, took)
	return err
}

// Make runs a case once.
func (s *Session) Make(ctx context.Context, c Case) (m Injection, err error) {
	s.Load.Set(c.Load)
	m = Injection{TraceID: newTraceID(), Baseline: s.baseline.median(baselineKey{c.Version, c.Load})}
	m.Injected, err = s.Injector.Inject(ctx, c, Request{
		TraceID: m.TraceID,
		Send: func(ctx context.Context) (err error) {
			m.Client, err = s.Client.Get(ctx, m.TraceID, c.Version, true)
			return err
		},
		Plain: func(ctx context.Context, traceID string) error {
			return s.sendPlainOf(ctx, traceID, baselineKey{c.Version, c.Load})
		},
	})
	if c.Kind.Layer() == observe.RelayNetwork {
		err = errors.Join(err, s.heal(ctx, c.Version))
	}
	return m, err
}

// heal lets connections recover their congestion windows after losses, which would
// slow the next case down.
func (s *Session) heal(ctx context.Context, version string) error {
	for range 4 {
		if _, err := s.Client.Get(ctx, newTraceID(), version, false); err != nil {
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
