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

// AwaitReady is Await for a process that has to become ready. When the process
// ends first, AwaitReady gives up, and the error has its last lines.
func AwaitReady(ctx context.Context, p *Process, limit, interval time.Duration, ready func(context.Context) error) error {
	ctx, giveUp := context.WithCancel(ctx)
	defer giveUp()
	return Await(ctx, p.Name(), limit, interval, func(ctx context.Context) error {
		if err := p.Running(); err != nil {
			giveUp()
			return err
		}
		return ready(ctx)
	})
}
