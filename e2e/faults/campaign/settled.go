// SPDX-License-Identifier: Apache-2.0

package campaign

import (
	"context"
	"fmt"
	"time"

	"github.com/layertrace/layertrace/e2e/sandbox"
)

// quiet is how long no span has to come for a trace to be complete: Envoys send
// theirs every half second; agents once an exchange was idle for less, but they
// look for such a second later at most, and hold spans for up to another.
const quiet = 3500 * time.Millisecond

// settled waits until Jaeger has all spans of the traces. How many there are
// depends on what agents make of a request, so: until no more come.
func (c *Campaign) settled(ctx context.Context, ids []string) error {
	last, since := 0, time.Now()
	return sandbox.Await(ctx, "all spans in Jaeger", 30*time.Second, 300*time.Millisecond, func(ctx context.Context) error {
		count := 0
		for _, id := range ids {
			trace, err := c.Jaeger.Trace(ctx, id)
			if err != nil {
				return err
			}
			if len(trace.Spans) == 0 {
				since = time.Now()
				return fmt.Errorf("no spans of trace %s", id)
			}
			count += len(trace.Spans)
		}
		if count != last {
			last, since = count, time.Now()
		}
		if time.Since(since) < quiet {
			return fmt.Errorf("%d spans, and more may come", count)
		}
		return nil
	})
}
