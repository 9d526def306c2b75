// SPDX-License-Identifier: Apache-2.0

package sandbox

import (
	"context"
	"fmt"
	"time"
)

// Await calls ready every interval until it returns nil. When ctx ends or limit
// passes first, the error has what was waited for and the last error of ready.
func Await(ctx context.Context, what string, limit, interval time.Duration, ready func(context.Context) error) error {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	tick := time.NewTicker(interval)
	defer tick.Stop()
	for {
		err := ready(ctx)
		if err == nil {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("wait for %s (at most %v): %w: %w", what, limit, ctx.Err(), err)
		case <-tick.C:
		}
	}
}

// AwaitReady is Await for a process to become ready. It fails at once when the
// process ends. The error has the last lines that the process wrote.
func AwaitReady(ctx context.Context, p *Process, limit, interval time.Duration, ready func(context.Context) error) error {
	ctx, giveUp := context.WithCancel(ctx)
	defer giveUp()
	var ended error
	err := Await(ctx, p.Name(), limit, interval, func(ctx context.Context) error {
		if ended = p.Running(); ended != nil {
			giveUp()
			return ended
		}
		return ready(ctx)
	})
	switch {
	case ended != nil:
		return ended
	case err != nil:
		return fmt.Errorf("%w\n%s", err, p.Tail())
	}
	return nil
}
