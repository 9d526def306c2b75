// SPDX-License-Identifier: Apache-2.0

package jaeger

import (
	"context"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"time"
)

// Client reads from Jaeger's query API.
type Client struct {
	base string
	http *http.Client
}

// NewClient returns a client of the query API at ip that connects by dial.
func NewClient(ip string, dial func(ctx context.Context, network, address string) (net.Conn, error)) *Client {
	return &Client{
		base: "http://" + net.JoinHostPort(ip, strconv.Itoa(QueryPort)),
		http: &http.Client{Timeout: 20 * time.Second, Transport: &http.Transport{DialContext: dial}},
	}
}

// Close closes idle connections.
func (c *Client) Close() { c.http.CloseIdleConnections() }

// Services returns the names of all services that have sent spans.
func (c *Client) Services(ctx context.Context) ([]string, error) {
	var names []string
	return names, c.get(ctx, "/api/services", &names)
}

// Trace returns one trace; one without spans when Jaeger does not know it.
func (c *Client) Trace(ctx context.Context, traceID string) (Trace, error) {
	traces, err := c.traces(ctx, "/api/traces/"+url.PathEscape(traceID))
	if err != nil || len(traces) == 0 {
		return Trace{ID: traceID}, err
	}
	return traces[0], nil
}

func (c *Client) traces(ctx context.Context, path string) ([]Trace, error) {
	var data []wireTrace
	if err := c.get(ctx, path, &data); err != nil {
		return nil, err
	}
	traces := make([]Trace, len(data))
	for i, t := range data {
		traces[i] = t.trace()
	}
	return traces, nil
}

func (c *Client) get(ctx context.Context, path string, data any) error {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, c.base+path, nil)
	if err != nil {
		return fmt.Errorf("ask Jaeger: %w", err)
	}
	response, err := c.http.Do(request)
	if err != nil {
		return fmt.Errorf("ask Jaeger: %w", err)
	}
	defer response.Body.Close()
	if response.StatusCode == http.StatusNotFound {
		return nil
	}
	if response.StatusCode != http.StatusOK {
		return fmt.Errorf("ask Jaeger: %s: %s", path, response.Status)
	}
	body := struct {
		Data any `json:"data"`
	}{data}
	if err := json.NewDecoder(response.Body).Decode(&body); err != nil {
		return fmt.Errorf("read Jaeger's answer to %s: %w", path, err)
	}
	return nil
}
