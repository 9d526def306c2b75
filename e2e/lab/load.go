// SPDX-License-Identifier: Apache-2.0

package lab

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"slices"
	"strconv"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/layertrace/layertrace/e2e/sandbox"
	"github.com/layertrace/layertrace/internal/stats"
)

// FrontPage returns the URL of the front page at the ingress gateway.
func FrontPage() string {
	for _, pod := range Pods {
		if pod.Gateway {
			return "http://" + net.JoinHostPort(pod.IP, strconv.Itoa(GatewayPort)) + "/productpage"
		}
	}
	panic("the lab has no gateway")
}

// PlainPage returns the URL of the reader, a plain pod.
func PlainPage() string {
	return "http://" + net.JoinHostPort(PlainPods[0].IP, strconv.Itoa(AppPort)) + "/shelf"
}

// Send sends load from the client node, to the front page unless load has a URL.
func (l *Lab) Send(ctx context.Context, load Load) (LoadResult, error) {
	if load.URL == "" {
		load.URL = FrontPage()
	}
	load.Dial = l.network.nodes[ClientNode].DialContext
	return SendLoad(ctx, load)
}

// Load describes the requests to send.
type Load struct {
	// URL is requested by GET, Requests times in sum, over Connections keep-alive
	// connections (default 8).
	URL         string
	Requests    int
	Connections int
	// Rate is the number of requests per second, evenly spaced; 0 for as many as
	// the connections carry.
	Rate float64
	// Dial connects; nil for the caller's own network.
	Dial func(ctx context.Context, network, address string) (net.Conn, error)
	// Progress is called every second with the number of responses so far.
	Progress func(done int)
}

// LoadResult is the result of a Load.
type LoadResult struct {
	// Elapsed is the time from the first request to the last response.
	Elapsed time.Duration
	// Latencies has the latency of every request, ascending.
	Latencies []time.Duration
}

// PerSecond returns the responses per second.
func (r LoadResult) PerSecond() float64 { return float64(len(r.Latencies)) / r.Elapsed.Seconds() }

// Quantile returns the latency that a share q (0 to 1) of the requests stayed
// below; 0 without requests.
func (r LoadResult) Quantile(q float64) time.Duration {
	return stats.Quantile(r.Latencies, q)
}

// SendLoad sends the load and waits for all responses. It ends with an error at the
// first request that fails or has a status other than 200.
func SendLoad(ctx context.Context, load Load) (LoadResult, error) {
	connections := load.Connections
	if connections == 0 {
		connections = 8
	}
	transport := &http.Transport{
		DialContext: load.Dial, MaxConnsPerHost: connections, MaxIdleConnsPerHost: connections,
	}
	defer transport.CloseIdleConnections()
	client := &http.Client{Transport: transport, Timeout: 30 * time.Second}

	latencies := make([]time.Duration, load.Requests)
	var next, done atomic.Int64
	start := time.Now()
	group, ctx := errgroup.WithContext(ctx)
	for range connections {
		group.Go(func() error {
			for {
				i := int(next.Add(1)) - 1
				if i >= load.Requests {
					return nil
				}
				// Latency counts from when the request was due, so that a
				// stall shows in every request it delayed.
				began, err := load.due(ctx, start, i)
				if err == nil {
					_, err = sandbox.Get(ctx, client, load.URL)
				}
				if err != nil {
					return fmt.Errorf("request %d of %d: %w", i+1, load.Requests, err)
				}
				latencies[i] = time.Since(began)
				done.Add(1)
			}
		})
	}
	stop := reportEverySecond(load.Progress, &done)
	err := group.Wait()
	stop()
	if err != nil {
		return LoadResult{}, fmt.Errorf("send load: %w", err)
	}
	elapsed := time.Since(start)
	slices.Sort(latencies)
	return LoadResult{Elapsed: elapsed, Latencies: latencies}, nil
}

// due waits until request i is due and returns that time.
func (l Load) due(ctx context.Context, start time.Time, i int) (time.Time, error) {
	if l.Rate <= 0 {
		return time.Now(), ctx.Err()
	}
	at := start.Add(time.Duration(float64(i) / l.Rate * float64(time.Second)))
	timer := time.NewTimer(time.Until(at))
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return at, ctx.Err()
	case <-timer.C:
		return at, nil
	}
}

// reportEverySecond calls progress every second until stop is called.
func reportEverySecond(progress func(int), done *atomic.Int64) (stop func()) {
	if progress == nil {
		return func() {}
	}
	quit := make(chan struct{})
	finished := make(chan struct{})
	go func() {
		defer close(finished)
		tick := time.NewTicker(time.Second)
		defer tick.Stop()
		for {
			select {
			case <-quit:
				return
			case <-tick.C:
				progress(int(done.Load()))
			}
		}
	}()
	return func() { close(quit); <-finished }
}
