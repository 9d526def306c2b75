// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"time"
)

// traceHeaders are passed on from a request to those made for it.
var traceHeaders = []string{
	"X-Request-Id", "Traceparent", "Tracestate", "B3",
	"X-B3-Traceid", "X-B3-Spanid", "X-B3-Parentspanid", "X-B3-Sampled", "X-B3-Flags",
}

// routeHeaders are passed on as well: the lab's Envoys send a request to the pod
// that the header names, if it is behind the service.
var routeHeaders = []string{"X-Lab-Pod"}

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
			// A request with a body leaves in one piece.
			WriteBufferSize: 64 << 10,
		},
	}}
}

// get asks another service on behalf of the request in; with pad, by POST and a
// body of so many bytes.
func (c *client) get(in *http.Request, call call, pad int) (json.RawMessage, error) {
	url := fmt.Sprintf("http://%s:9080%s", call.service, call.path)
	method, body := http.MethodGet, io.Reader(nil)
	if pad > 0 {
		method, body = http.MethodPost, bytes.NewReader(make([]byte, pad))
	}
	out, err := http.NewRequestWithContext(in.Context(), method, url, body)
	if err != nil {
		return nil, err
	}
	for _, name := range slices.Concat(traceHeaders, routeHeaders) {
		if values := in.Header[name]; len(values) > 0 {
			out.Header[name] = values
		}
	}
	response, err := c.http.Do(out)
	if err != nil {
		return nil, err
	}
	defer response.Body.Close()
	answer, err := io.ReadAll(response.Body)
	if err != nil {
		return nil, err
	}
	if response.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("status %s: %s", response.Status, answer)
	}
	return bytes.TrimSpace(answer), nil
}
