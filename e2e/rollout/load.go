// SPDX-License-Identifier: Apache-2.0

package rollout

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"sync"
	"sync/atomic"
	"time"
)

// load sends requests from the client's application all the time and keeps
// what failed.
type load struct {
	stop context.CancelFunc
	done sync.WaitGroup

	sent, failed atomic.Int64
	first        atomic.Pointer[error]
}

// every is the pause between two requests of one sender: all together they
// leave most of a core to what is being configured.
const every = 20 * time.Millisecond

// startLoad starts two senders: one with a connection that it keeps, which a
// new listener configuration drains, one with a connection per request. Call
// end.
func (r *rollout) startLoad(ctx context.Context) *load {
	l := &load{}
	ctx, l.stop = context.WithCancel(ctx)
	kept := &http.Client{
		Timeout:   r.client.HTTP.Timeout,
		Transport: &http.Transport{DialContext: r.client.Space.DialContext},
	}
	for _, client := range []*http.Client{kept, r.client.HTTP} {
		l.done.Go(func() {
			defer client.CloseIdleConnections()
			l.send(ctx, r, client)
		})
	}
	return l
}

func (l *load) send(ctx context.Context, r *rollout, client *http.Client) {
	tick := time.NewTicker(every)
	defer tick.Stop()
	for continued := false; ; continued = !continued {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		// A request that was begun is ended: it would fail by our doing.
		err := r.send(context.WithoutCancel(ctx), client, "load", continued)
		l.sent.Add(1)
		if err != nil {
			l.failed.Add(1)
			l.first.CompareAndSwap(nil, &err)
		}
	}
}

// end stops the load. The error says how many requests failed, and how the
// first did.
func (l *load) end() error {
	l.stop()
	l.done.Wait()
	if l.sent.Load() == 0 {
		return errors.New("no request was sent: the load tested nothing")
	}
	if first := l.first.Load(); first != nil {
		return fmt.Errorf("%d of %d requests failed meanwhile, the first: %w", l.failed.Load(), l.sent.Load(), *first)
	}
	return nil
}

// underLoad runs do while requests are sent, none of which may fail.
func (r *rollout) underLoad(ctx context.Context, do func(context.Context) error) error {
	l := r.startLoad(ctx)
	err := do(ctx)
	failed := l.end()
	r.options.Progress("  %d requests meanwhile, %d failed", l.sent.Load(), l.failed.Load())
	return errors.Join(err, failed)
}
