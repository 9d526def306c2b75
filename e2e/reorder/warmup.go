// SPDX-License-Identifier: Apache-2.0

package reorder

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/layertrace/layertrace/e2e/reorder/golden"
	"github.com/layertrace/layertrace/e2e/reorder/proxy"
	"github.com/layertrace/layertrace/e2e/sandbox"
)

// warmUp sends root requests to the listeners whose filter sets placeholders,
// until it does: it has to see first that the tracer overwrites them.
func (b *Bench) warmUp(ctx context.Context, cases []golden.Case) error {
	done := map[string]bool{}
	for _, placement := range b.placements {
		for _, protocol := range protocols {
			for _, c := range cases {
				name := listenerName(placement, protocol, c.Setup)
				if placement != WasmConnectionManager || c.Setup.NoTracer || c.Setup.Refused || done[name] {
					continue
				}
				done[name] = true
				if err := b.awaitPlaceholders(ctx, placement, protocol, c.Setup); err != nil {
					return fmt.Errorf("%s: %w", name, err)
				}
			}
		}
	}
	return nil
}

func (b *Bench) awaitPlaceholders(ctx context.Context, placement Placement, protocol proxy.Protocol, setup golden.Setup) error {
	const counter = "layertrace_requests_with_placeholders"
	before, err := b.Proxy.Counters(ctx, counter)
	if err != nil {
		return err
	}
	setup.FirstAttempt = ""
	return sandbox.Await(ctx, "the filter to set placeholders", time.Minute, 10*time.Millisecond, func(ctx context.Context) error {
		if _, err := b.Exchange(ctx, placement, protocol, golden.Case{Name: "warm-up", Setup: setup}); err != nil {
			return err
		}
		now, err := b.Proxy.Counters(ctx, counter)
		if err == nil && now == before {
			err = errors.New("none so far")
		}
		return err
	})
}
