// SPDX-License-Identifier: Apache-2.0

// Package await waits for conditions by asking again and again.
package await

import (
	"context"
	"fmt"
	"time"
)

// Until calls ready every interval until it returns nil. When ctx is done or
// limit has passed first, the error names what was waited for and ready's last
// answer.
func Until(ctx context.Context, what string, limit, interval time.Duration, ready func(context.Context) error) error {
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
