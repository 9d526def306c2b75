// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"time"
)

// traceHeaders are passed on from a request to those made for it.
var traceHeaders = []string{
	"X-Request-Id", "Traceparent", "Tracestate", "B3",
	"X-B3-Traceid", "X-B3-Spanid", "X-B3-Parentspanid", "X-B3-Sampled", "X-B3-Flags",
}

type client struct{ http *http.Client }

func newClient(addresses hosts) *client {
	dialer := &net.Dialer{Timeout: 5 * time.Second}
	return &client{http: &http.Client{
		Timeout: 15 * time.Second,
		Transport: &http.Transport{
			DialContext: func(ctx context.Context, network, address string) (net.Conn, error) {
				name, _, err := net.SplitHostPort(address)
				if err != nil {
					return nil, err
				}
				return dialer.DialContext(ctx, network, addresses[name])
			},
			MaxIdleConnsPerHost: 256,
			IdleConnTimeout:     time.Minute,
			DisableCompression:  true,
		},
	}}
}

// get asks another service on behalf of the request in.
func (c *client) get(in *http.Request, call call) (json.RawMessage, error) {
	url := fmt.Sprintf("http://%s:9080%s", call.service, call.path)
	out, err := http.NewRequestWithContext(in.Context(), http.MethodGet, url, nil)
	if err != nil {
		return nil, err
	}
	for _, name := range traceHeaders {
		if values := in.Header[name]; len(values) > 0 {
			out.Header[name] = values
		}
	}
	response, err := c.http.Do(out)
	if err != nil {
		return nil, err
	}
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	if err != nil {
		return nil, err
	}
	if response.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("status %s: %s", response.Status, body)
	}
	return body, nil
}
