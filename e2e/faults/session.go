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

// Session makes cases one after the other, and requests without a fault between
// them.
type Session struct {
	Injector *Injector
	Client   *Client
	Load     *Load

	baseline baseline
	plain    int
}

// Made is a case that was made.
type Injection struct {
	TraceID string
	// Injected is what the fault took from the request, Client how long the
	// client waited, Usual how long it does without a fault.
	Injected, Client, Baseline time.Duration
}

// Off is by how much the client waited longer than the fault accounts for.
func (m Injection) Unexplained() time.Duration { return m.Client - m.Baseline - m.Injected }

// Sound tells whether the fault is what was wrong with the request: something
// else, as a machine that was busy with other things, took less than 1 ms or a
// quarter of the fault.
func (m Injection) Sound() bool {
	return m.Client >= m.Injected && m.Unexplained() <= max(time.Millisecond, m.Injected/4)
}

type baselineKey struct {
	version string
	load    bool
}

// WarmUp opens connections and learns what is usual, without and with load.
func (s *Session) WarmUp(ctx context.Context) error {
	for _, load := range []bool{true, false} {
		if err := s.Plain(ctx, load, 10*len(Versions)); err != nil {
			return err
		}
	}
	return nil
}

// Plain sends requests without a fault, and leaves the load as it is then.
func (s *Session) Plain(ctx context.Context, load bool, requests int) error {
	s.Load.Set(load)
	for range requests {
		if err := s.sendPlain(ctx, load); err != nil {
			return err
		}
	}
	return nil
}

// without sends a request without a fault that no case is made of.
func (s *Session) sendPlain(ctx context.Context, load bool) error {
	s.plain++
	return s.sendPlainOf(ctx, newTraceID(), baselineKey{Versions[s.plain%len(Versions)], load})
}

func (s *Session) sendPlainOf(ctx context.Context, traceID string, of baselineKey) error {
	took, err := s.Client.Get(ctx, traceID, of.version, true)
	s.baseline.add(of, took)
	return err
}

// Make makes a request of a case.
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

// heal lets connections that have seen losses send as much at once as before:
// what they would be slow with is no fault that the next case knows of.
func (s *Session) heal(ctx context.Context, version string) error {
	for range 4 {
		if _, err := s.Client.Get(ctx, newTraceID(), version, false); err != nil {
			return fmt.Errorf("after a loss: %w", err)
		}
	}
	return nil
}

// Typical keeps how long requests without a fault took lately, by what they
// asked for. The zero value is ready.
type baseline struct{ recent map[any][]time.Duration }

// recently is how many of the latest count.
const baselineSize = 15

// Add adds a request.
func (t *baseline) add(of any, took time.Duration) {
	if t.recent == nil {
		t.recent = map[any][]time.Duration{}
	}
	all := append(t.recent[of], took)
	t.recent[of] = all[max(0, len(all)-baselineSize):]
}

// Median is that of the latest requests, 0 without any.
func (t *baseline) median(of any) time.Duration {
	return stats.Median(t.recent[of])
}
