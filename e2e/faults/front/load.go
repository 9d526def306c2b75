// SPDX-License-Identifier: Apache-2.0

package front

import (
	"context"
	"sync"
	"sync/atomic"
	"time"
)

// Load is requests that nobody samples, on their way beside the one that
// matters. They are counted, and so are those that failed.
type Load struct {
	Sent, Failed atomic.Int64

	client *Client
	rate   float64
	cancel context.CancelFunc
	group  sync.WaitGroup
}

// NewLoad returns load of rate requests per second, over the connections that
// the client has. It is off.
func NewLoad(c *Client, rate float64) *Load { return &Load{client: c, rate: rate} }

// Set turns the load on or off. Off, it returns when the last answer has come.
func (l *Load) Set(on bool) {
	switch {
	case on && l.cancel == nil:
		var ctx context.Context
		ctx, l.cancel = context.WithCancel(context.Background())
		l.group.Go(func() { l.run(ctx) })
	case !on && l.cancel != nil:
		l.cancel()
		l.group.Wait()
		l.cancel = nil
	}
}

func (l *Load) run(ctx context.Context) {
	tick := time.NewTicker(time.Duration(float64(time.Second) / l.rate))
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
			l.group.Go(l.send)
		}
	}
}

func (l *Load) send() {
	l.Sent.Add(1)
	if _, err := l.client.Get(context.Background(), NewTraceID(), "", false); err != nil {
		l.Failed.Add(1)
	}
}
