// SPDX-License-Identifier: Apache-2.0

package inject

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/layertrace/layertrace/e2e/faults"
	"github.com/layertrace/layertrace/e2e/faults/front"
)

// Session makes cases one after the other, and requests without a fault between
// them.
type Session struct {
	Bench  *Bench
	Client *front.Client
	Load   *front.Load

	typical front.Typical
	plain   int
}

// Made is a case that was made.
type Made struct {
	TraceID string
	// Injected is what the fault took from the request, Client how long the
	// client waited, Usual how long it does without a fault.
	Injected, Client, Usual time.Duration
}

// Off is by how much the client waited longer than the fault accounts for.
func (m Made) Off() time.Duration { return m.Client - m.Usual - m.Injected }

// Sound tells whether the fault is what was wrong with the request: something
// else, as a machine that was busy with other things, took less than 1 ms or a
// quarter of the fault.
func (m Made) Sound() bool {
	return m.Client >= m.Injected && m.Off() <= max(time.Millisecond, m.Injected/4)
}

type usual struct {
	version string
	load    bool
}

// WarmUp opens connections and learns what is usual, without and with load.
func (s *Session) WarmUp(ctx context.Context) error {
	for _, load := range []bool{true, false} {
		if err := s.Plain(ctx, load, 10*len(faults.Versions)); err != nil {
			return err
		}
	}
	return nil
}

// Plain sends requests without a fault, and leaves the load as it is then.
func (s *Session) Plain(ctx context.Context, load bool, requests int) error {
	s.Load.Set(load)
	for range requests {
		if err := s.without(ctx, load); err != nil {
			return err
		}
	}
	return nil
}

// without sends a request without a fault that no case is made of.
func (s *Session) without(ctx context.Context, load bool) error {
	s.plain++
	return s.plainOf(ctx, front.NewTraceID(), usual{faults.Versions[s.plain%len(faults.Versions)], load})
}

func (s *Session) plainOf(ctx context.Context, traceID string, of usual) error {
	took, err := s.Client.Get(ctx, traceID, of.version, true)
	s.typical.Add(of, took)
	return err
}

// Make makes a request of a case.
func (s *Session) Make(ctx context.Context, c faults.Case) (m Made, err error) {
	s.Load.Set(c.Load)
	m = Made{TraceID: front.NewTraceID(), Usual: s.typical.Median(usual{c.Version, c.Load})}
	m.Injected, err = s.Bench.Inject(ctx, c, Request{
		TraceID: m.TraceID,
		Send: func(ctx context.Context) (err error) {
			m.Client, err = s.Client.Get(ctx, m.TraceID, c.Version, true)
			return err
		},
		Plain: func(ctx context.Context, traceID string) error {
			return s.plainOf(ctx, traceID, usual{c.Version, c.Load})
		},
	})
	if c.Kind.Layer() == faults.RelayNetwork {
		err = errors.Join(err, s.heal(ctx, c.Version))
	}
	return m, err
}

// heal lets connections that have seen losses send as much at once as before:
// what they would be slow with is no fault that the next case knows of.
func (s *Session) heal(ctx context.Context, version string) error {
	for range 4 {
		if _, err := s.Client.Get(ctx, front.NewTraceID(), version, false); err != nil {
			return fmt.Errorf("after a loss: %w", err)
		}
	}
	return nil
}
