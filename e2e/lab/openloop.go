// SPDX-License-Identifier: Apache-2.0

package lab

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"runtime"
	"time"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"

	"github.com/layertrace/layertrace/e2e/sandbox"
)

// OpenLoop describes requests that are sent at a rate, whatever the responses do: a
// request that is due is sent although earlier ones have no response yet, on a
// connection of its own if all others are busy.
type OpenLoop struct {
	// URL is requested by GET, Requests times in sum.
	URL      string
	Requests int
	// Rate is the number of requests per second, evenly spaced.
	Rate float64
	// Dial connects; nil for the caller's own network.
	Dial func(ctx context.Context, network, address string) (net.Conn, error)
}

// OpenLoopResult is the result of an OpenLoop, by request in the order of sending.
type OpenLoopResult struct {
	// Latencies are from when a request was due to the end of its response. A
	// stall, also one of the sender, shows in every request that it delayed.
	Latencies []time.Duration
	// Late is how long after it was due a request was sent: what the sender itself
	// adds to its latency.
	Late []time.Duration
}

// maxInFlight limits the requests without a response. A mesh that reaches it does not
// carry the rate, and its latencies would only grow.
const maxInFlight = 2000

// SendOpenLoop sends the load from the client node, to the front page unless it has a
// URL.
func (l *Lab) SendOpenLoop(ctx context.Context, load OpenLoop) (OpenLoopResult, error) {
	if load.URL == "" {
		load.URL = FrontPage()
	}
	load.Dial = l.network.nodes[ClientNode].DialContext
	return SendOpenLoop(ctx, load)
}

// SendOpenLoop sends the load and waits for all responses. It ends with an error at
// the first request that fails or has a status other than 200.
func SendOpenLoop(ctx context.Context, load OpenLoop) (result OpenLoopResult, err error) {
	if load.Rate <= 0 || load.Requests <= 0 {
		return result, fmt.Errorf("send load: %d requests at %g per second: want more than 0", load.Requests, load.Rate)
	}
	transport := &http.Transport{DialContext: load.Dial, MaxIdleConnsPerHost: maxInFlight}
	defer transport.CloseIdleConnections()
	client := &http.Client{Transport: transport, Timeout: 30 * time.Second}

	result.Latencies = make([]time.Duration, load.Requests)
	result.Late = make([]time.Duration, load.Requests)
	group, sending := errgroup.WithContext(ctx)
	group.SetLimit(maxInFlight)
	// The runtime's timers are up to a millisecond late, a thread that sleeps in
	// the kernel some tens of microseconds.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	start := time.Now()
	for i := range load.Requests {
		due := start.Add(time.Duration(float64(i) / load.Rate * float64(time.Second)))
		if sleepUntil(sending, due) != nil {
			break // a request failed, or ctx ended
		}
		sent := group.TryGo(func() error {
			result.Late[i] = time.Since(due)
			if _, err := sandbox.Get(sending, client, load.URL); err != nil {
				return fmt.Errorf("request %d of %d: %w", i+1, load.Requests, err)
			}
			result.Latencies[i] = time.Since(due)
			return nil
		})
		if !sent {
			err = fmt.Errorf("%d requests without a response at %g requests/s: the mesh does not carry this rate", maxInFlight, load.Rate)
			break
		}
	}
	if err := errors.Join(group.Wait(), err, ctx.Err()); err != nil {
		return OpenLoopResult{}, fmt.Errorf("send load: %w", err)
	}
	return result, nil
}

// sleepUntil sleeps in the kernel until a time, and at most 20 ms longer than ctx.
func sleepUntil(ctx context.Context, at time.Time) error {
	for {
		left := time.Until(at)
		if left <= 0 || ctx.Err() != nil {
			return ctx.Err()
		}
		pause := unix.NsecToTimespec(min(left, 20*time.Millisecond).Nanoseconds())
		// A signal interrupts it; the loop computes what is left.
		_ = unix.Nanosleep(&pause, nil)
	}
}
