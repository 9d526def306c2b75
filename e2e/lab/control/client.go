// SPDX-License-Identifier: Apache-2.0

package control

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"time"
)

// Client arms and disarms faults in one application.
type Client struct{ http *http.Client }

// NewClient returns a client of the application at a Unix socket; close it.
func NewClient(socket string) *Client {
	dial := func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "unix", socket)
	}
	return &Client{&http.Client{Timeout: 10 * time.Second, Transport: &http.Transport{DialContext: dial}}}
}

// Close closes idle connections.
func (c *Client) Close() { c.http.CloseIdleConnections() }

// Arm makes the application do something to the requests of a trace.
func (c *Client) Arm(ctx context.Context, f Fault) error {
	body, err := json.Marshal(f)
	if err != nil {
		return fmt.Errorf("arm a fault: %w", err)
	}
	if _, err := c.do(ctx, http.MethodPut, body); err != nil {
		return fmt.Errorf("arm a fault: %w", err)
	}
	return nil
}

// Disarm ends the fault and tells what it did.
func (c *Client) Disarm(ctx context.Context) (r Report, err error) {
	body, err := c.do(ctx, http.MethodDelete, nil)
	if err == nil {
		err = json.Unmarshal(body, &r)
	}
	if err != nil {
		return r, fmt.Errorf("disarm a fault: %w", err)
	}
	return r, nil
}

func (c *Client) do(ctx context.Context, method string, body []byte) ([]byte, error) {
	request, err := http.NewRequestWithContext(ctx, method, "http://application/fault", bytes.NewReader(body))
	if err != nil {
		return nil, err
	}
	response, err := c.http.Do(request)
	if err != nil {
		return nil, err
	}
	defer response.Body.Close()
	answer, err := io.ReadAll(response.Body)
	if err != nil {
		return nil, err
	}
	if response.StatusCode/100 != 2 {
		return nil, fmt.Errorf("the application says %s: %s", response.Status, answer)
	}
	return answer, nil
}
