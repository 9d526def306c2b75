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
	"strconv"
	"time"

	"github.com/layertrace/layertrace/e2e/lab/app"
)

// role is the response of a service and the services it calls.
type role struct {
	response map[string]any
	calls    []call
}

type call struct{ service, path string }

var roles = map[string]role{
	"productpage": {
		response: map[string]any{"title": "The Comedy of Errors"},
		calls:    []call{{"details", "/details/0"}, {"reviews", "/reviews/0"}},
	},
	"details":    {response: map[string]any{"id": 0, "author": "William Shakespeare", "year": 1595, "pages": 200}},
	"ratings":    {response: map[string]any{"id": 0, "Reviewer1": 5, "Reviewer2": 4}},
	"reviews-v1": {response: reviews("v1")},
	"reviews-v2": {response: reviews("v2"), calls: []call{{"ratings", "/ratings/0"}}},
	"reviews-v3": {response: reviews("v3"), calls: []call{{"ratings", "/ratings/0"}}},
}

func reviews(version string) map[string]any {
	return map[string]any{"id": 0, "version": version, "reviews": []string{
		"An extremely entertaining play by Shakespeare.",
		"Absolutely fun and entertaining.",
	}}
}

func newHandler(name string, addresses hosts, log *logFile, faults *app.State) (http.Handler, error) {
	role, ok := roles[name]
	if !ok {
		return nil, fmt.Errorf("unknown --role %q", name)
	}
	for _, c := range role.calls {
		if addresses[c.service] == "" {
			return nil, fmt.Errorf("role %s calls %s: give --host %s=IP:PORT", name, c.service, c.service)
		}
	}
	client := newClient(addresses)
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		// The fault laboratory may have padded the request.
		if _, err := io.Copy(io.Discard, r.Body); err != nil {
			return // the client has gone
		}
		trace := log.Add(name, r)
		fault := faults.Begin(trace, r.RemoteAddr)
		sleep(faults, fault)
		response := map[string]any{"service": name}
		for key, value := range role.response {
			response[key] = value
		}
		for _, c := range role.calls {
			part, err := client.get(r, c, fault.PadRequests[c.service])
			if err != nil {
				http.Error(w, fmt.Sprintf("call %s: %v", c.service, err), http.StatusBadGateway)
				return
			}
			response[c.service] = part
		}
		write(w, r, response, fault.PadResponse)
	}), nil
}

// sleep sleeps for the time of the fault, and reports how long it really was.
func sleep(faults *app.State, fault app.Fault) {
	if fault.Sleep <= 0 {
		return
	}
	start := time.Now()
	time.Sleep(fault.Sleep)
	faults.Slept(fault.TraceID, time.Since(start))
}

// write writes a response with pad bytes of white space at the end, which a caller
// drops.
func write(w http.ResponseWriter, r *http.Request, response map[string]any, pad int) {
	body, err := json.Marshal(response)
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	body = append(body, '\n')
	body = append(body, bytes.Repeat([]byte{' '}, pad)...)
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Content-Length", strconv.Itoa(len(body)))
	// An error means that the client has gone.
	if pad > 0 {
		_ = app.Whole(w, r, body)
		return
	}
	_, _ = w.Write(body)
}

// traceHeaders are copied from a request to the requests made for it.
var traceHeaders = []string{
	"X-Request-Id", "Traceparent", "Tracestate", "B3",
	"X-B3-Traceid", "X-B3-Spanid", "X-B3-Parentspanid", "X-B3-Sampled", "X-B3-Flags",
}

// routeHeaders are copied as well: the lab's Envoys send a request to the pod that
// the header names, if it belongs to the service.
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
			// Requests with a body are sent in one piece.
			WriteBufferSize: 64 << 10,
		},
	}}
}

// get calls another service for the request in: by GET, or with pad by POST with a
// body of pad bytes.
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
	data, err := io.ReadAll(response.Body)
	if err != nil {
		return nil, err
	}
	if response.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("status %s: %s", response.Status, data)
	}
	return bytes.TrimSpace(data), nil
}
