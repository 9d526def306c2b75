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

	clients []*Client
	rate    float64
	cancel  context.CancelFunc
	group   sync.WaitGroup
}

// NewLoad returns load of rate requests per second in sum, over the clients in
// turn, each of which has one request on its way at a time. It is off.
func NewLoad(rate float64, clients ...*Client) *Load { return &Load{clients: clients, rate: rate} }

// Set turns the load on or off. On, it returns when each client has had its
// first answer; off, when the last one has come.
func (l *Load) Set(on bool) {
	switch {
	case on && l.cancel == nil:
		var ctx context.Context
		ctx, l.cancel = context.WithCancel(context.Background())
		var first sync.WaitGroup
		for i, c := range l.clients {
			first.Go(func() { l.send(c) })
			l.group.Go(func() { l.run(ctx, c, i) })
		}
		first.Wait()
	case !on && l.cancel != nil:
		l.cancel()
		l.group.Wait()
		l.cancel = nil
	}
}

// run sends one client's requests, at times between those of the others.
func (l *Load) run(ctx context.Context, c *Client, i int) {
	step := time.Duration(float64(time.Second) / l.rate)
	next := time.Now().Add(time.Duration(i) * step)
	timer := time.NewTimer(time.Until(next))
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-timer.C:
			l.send(c)
			next = next.Add(time.Duration(len(l.clients)) * step)
			timer.Reset(time.Until(next))
		}
	}
}

func (l *Load) send(c *Client) {
	l.Sent.Add(1)
	if _, err := c.Get(context.Background(), NewTraceID(), "", false); err != nil {
		l.Failed.Add(1)
	}
}

// Close closes the clients.
func (l *Load) Close() {
	l.Set(false)
	for _, c := range l.clients {
		c.Close()
	}
}
