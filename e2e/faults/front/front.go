// SPDX-License-Identifier: Apache-2.0

// Package front asks for front pages from the client node, with trace contexts
// of its own: so the fault laboratory knows a request before it is sent.
package front

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"fmt"
	"io"
	"net"
	"net/http"
	"time"

	"github.com/layertrace/layertrace/e2e/lab"
)

// Client sends requests; close it.
type Client struct {
	tracer lab.Tracer
	http   *http.Client
}

// New returns a client in the lab's client node that has one connection and
// writes the trace context as the tracer does.
func New(l *lab.Lab, tracer lab.Tracer) *Client {
	return &Client{tracer, &http.Client{Timeout: 30 * time.Second, Transport: &http.Transport{
		DialContext: func(ctx context.Context, network, address string) (net.Conn, error) {
			return l.NodeNamespace(lab.ClientNode).DialContext(ctx, network, address)
		},
		MaxConnsPerHost: 1, MaxIdleConnsPerHost: 1,
	}}}
}

// Close closes idle connections.
func (c *Client) Close() { c.http.CloseIdleConnections() }

// NewTraceID makes a trace ID.
func NewTraceID() string { return id(16) }

func id(bytes int) string {
	b := make([]byte, bytes)
	_, _ = rand.Read(b) // it never fails
	return hex.EncodeToString(b)
}

// Get asks for the front page, with a version of reviews ("" for any), and
// returns how long the answer took.
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
		return 0, fmt.Errorf("ask for the front page: %w", err)
	}
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	if err != nil {
		return 0, fmt.Errorf("read the front page: %w", err)
	}
	took := time.Since(start)
	if response.StatusCode != http.StatusOK {
		return 0, fmt.Errorf("ask for the front page: %s: %.200s", response.Status, body)
	}
	return took, nil
}

func (c *Client) trace(header http.Header, traceID string, sampled bool) {
	flag := "0"
	if sampled {
		flag = "1"
	}
	span := id(8)
	if c.tracer == lab.OpenTelemetry {
		header.Set("traceparent", fmt.Sprintf("00-%s-%s-0%s", traceID, span, flag))
		return
	}
	header.Set("x-b3-traceid", traceID)
	header.Set("x-b3-spanid", span)
	header.Set("x-b3-sampled", flag)
}
