// SPDX-License-Identifier: Apache-2.0

package faults

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"fmt"
	"io"
	"net"
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	"github.com/layertrace/layertrace/e2e/lab"
)

// Client requests front pages from the client node, with trace contexts of its own:
// the fault laboratory knows a trace ID before it sends the request. Close it.
type Client struct {
	tracer lab.Tracer
	http   *http.Client
}

// NewClient returns a client with one connection that writes the trace context in the
// tracer's format.
func NewClient(l *lab.Lab, tracer lab.Tracer) *Client {
	return &Client{tracer, &http.Client{Timeout: 30 * time.Second, Transport: &http.Transport{
		DialContext: func(ctx context.Context, network, address string) (net.Conn, error) {
			return l.NodeNamespace(lab.ClientNode).DialContext(ctx, network, address)
		},
		MaxConnsPerHost: 1, MaxIdleConnsPerHost: 1,
	}}}
}

// Close closes idle connections.
func (c *Client) Close() { c.http.CloseIdleConnections() }

func newTraceID() string { return randomHex(16) }

func randomHex(bytes int) string {
	b := make([]byte, bytes)
	_, _ = rand.Read(b) // it never fails
	return hex.EncodeToString(b)
}

// Get requests the front page, with a version of reviews ("" for any), and returns how
// long the response took.
func (c *Client) Get(ctx context.Context, traceID, version string, sampled bool) (time.Duration, error) {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, lab.FrontPage(), nil)
	if err != nil {
		return 0, err
	}
	c.trace(request.Header, traceID, sampled)
	if version != "" {
		request.Header.Set(lab.PodHeader, version)
	}
	start := time.Now()
	response, err := c.http.Do(request)
	if err != nil {
		return 0, fmt.Errorf("request the front page: %w", err)
	}
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	if err != nil {
		return 0, fmt.Errorf("read the front page: %w", err)
	}
	took := time.Since(start)
	if response.StatusCode != http.StatusOK {
		return 0, fmt.Errorf("request the front page: %s: %.200s", response.Status, body)
	}
	return took, nil
}

func (c *Client) trace(header http.Header, traceID string, sampled bool) {
	flag := "0"
	if sampled {
		flag = "1"
	}
	span := randomHex(8)
	if c.tracer == lab.OpenTelemetry {
		header.Set("traceparent", fmt.Sprintf("00-%s-%s-0%s", traceID, span, flag))
		return
	}
	header.Set("x-b3-traceid", traceID)
	header.Set("x-b3-spanid", span)
	header.Set("x-b3-sampled", flag)
}

// Load sends unsampled requests in the background. It counts them, and those that
// failed.
type Load struct {
	Sent, Failed atomic.Int64

	clients []*Client
	rate    float64
	cancel  context.CancelFunc
	group   sync.WaitGroup
}

// NewLoad returns a load of rate requests per second in sum, over the clients in turn,
// each of which has one request in flight at a time. The load is off.
func NewLoad(rate float64, clients ...*Client) *Load { return &Load{clients: clients, rate: rate} }

// Set turns the load on or off. On, it returns after the first response of each client;
// off, after the last response.
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

// run sends the requests of one client, offset from those of the others.
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
	if _, err := c.Get(context.Background(), newTraceID(), "", false); err != nil {
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
