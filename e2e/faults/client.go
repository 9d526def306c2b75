// SPDX-License-Identifier: Apache-2.0

package faults

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
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
	// Sent, if set, is called with the trace ID of each request before it is sent.
	Sent func(traceID string)

	tracer lab.Tracer
	http   *http.Client
}

// NewClient returns a client with one connection that writes the trace context in the
// tracer's format.
func NewClient(l *lab.Lab, tracer lab.Tracer) *Client {
	return &Client{tracer: tracer, http: &http.Client{Timeout: 100 * time.Second, Transport: &http.Transport{
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

// Page is a page to request.
type Page struct {
	TraceID string
	// Version is a version of reviews ("" for any), or PlainVersion for the page of
	// the pods without sidecars.
	Version string
	Sampled bool
	// Report requests the slow endpoint.
	Report bool
	// Foreign is the trace ID of a second context, in the format that is not the
	// mesh's; "" for none.
	Foreign string
	// Churn makes everyone use new connections.
	Churn bool
	// MayFail accepts a response that fails.
	MayFail bool
}

// ErrFailed is returned when a request got no answer or one that is not 200: a busy
// machine may keep a proxy from connecting in time.
var ErrFailed = errors.New("the request failed")

// Useless reports whether a request says nothing about its fault: it has to be repeated.
func Useless(err error) bool { return errors.Is(err, ErrMissed) || errors.Is(err, ErrFailed) }

// Get requests a page and returns how long the response took.
func (c *Client) Get(ctx context.Context, p Page) (time.Duration, error) {
	url := lab.FrontPage()
	if p.Version == PlainVersion {
		url = lab.PlainPage()
	}
	if p.Report {
		url += "/report"
	}
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return 0, err
	}
	if c.Sent != nil {
		c.Sent(p.TraceID)
	}
	span := c.trace(request.Header, p)
	if p.Version != "" && p.Version != PlainVersion {
		request.Header.Set(lab.PodHeader, p.Version)
	}
	if p.Churn {
		request.Header.Set("X-Lab-Close", "1")
		request.Close = true
	}
	start := time.Now()
	response, err := c.http.Do(request)
	if err != nil {
		if p.MayFail {
			return time.Since(start), nil
		}
		return 0, fmt.Errorf("%w: %s: %w", ErrFailed, url, err)
	}
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	took := time.Since(start)
	if p.Version == PlainVersion && p.Sampled {
		// Without proxies, only the client says that there was a request.
		own := lab.Span{ID: span, Name: "GET /shelf", Service: "client", Start: start, Duration: took}
		if err := lab.PostSpan(ctx, c.http, lab.InfraIP, own, p.TraceID); err != nil {
			return took, err
		}
	}
	switch {
	case p.MayFail:
		return took, nil
	case err != nil:
		return 0, fmt.Errorf("%w: read %s: %w", ErrFailed, url, err)
	case response.StatusCode != http.StatusOK:
		return 0, fmt.Errorf("%w: %s: %s: %.200s", ErrFailed, url, response.Status, body)
	}
	return took, nil
}

// trace sets the trace headers, and returns the span ID.
func (c *Client) trace(header http.Header, p Page) (span string) {
	flag := "0"
	if p.Sampled {
		flag = "1"
	}
	span = randomHex(8)
	w3c, b3 := p.Foreign, p.TraceID
	if c.tracer == lab.OpenTelemetry {
		w3c, b3 = p.TraceID, p.Foreign
	}
	if w3c != "" {
		header.Set("traceparent", fmt.Sprintf("00-%s-%s-0%s", w3c, span, flag))
	}
	if b3 != "" {
		header.Set("x-b3-traceid", b3)
		header.Set("x-b3-spanid", span)
		header.Set("x-b3-sampled", flag)
	}
	return span
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
	if _, err := c.Get(context.Background(), Page{TraceID: newTraceID()}); err != nil {
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
