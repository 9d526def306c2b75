// SPDX-License-Identifier: Apache-2.0

package jaeger

import (
	"context"
	"fmt"
	"time"

	"github.com/layertrace/layertrace/e2e/lab/await"
)

// CompleteTrace waits until Jaeger has count spans of a trace; spans come from
// many senders, each in its own time. After limit the error tells how many
// there are.
func (c *Client) CompleteTrace(ctx context.Context, traceID string, count int, limit time.Duration) (trace Trace, err error) {
	what := fmt.Sprintf("trace %s in Jaeger", traceID)
	err = await.Until(ctx, what, limit, 100*time.Millisecond, func(ctx context.Context) error {
		var err error
		trace, err = c.Trace(ctx, traceID)
		if err == nil && len(trace.Spans) < count {
			err = fmt.Errorf("%d of %d spans", len(trace.Spans), count)
		}
		return err
	})
	return trace, err
}
