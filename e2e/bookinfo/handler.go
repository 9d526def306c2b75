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

// role is what a service answers with and whom it asks.
type role struct {
	answer map[string]any
	calls  []call
}

type call struct{ service, path string }

var roles = map[string]role{
	"productpage": {
		answer: map[string]any{"title": "The Comedy of Errors"},
		calls:  []call{{"details", "/details/0"}, {"reviews", "/reviews/0"}},
	},
	"details":    {answer: map[string]any{"id": 0, "author": "William Shakespeare", "year": 1595, "pages": 200}},
	"ratings":    {answer: map[string]any{"id": 0, "Reviewer1": 5, "Reviewer2": 4}},
	"reviews-v1": {answer: reviews("v1")},
	"reviews-v2": {answer: reviews("v2"), calls: []call{{"ratings", "/ratings/0"}}},
	"reviews-v3": {answer: reviews("v3"), calls: []call{{"ratings", "/ratings/0"}}},
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
		// The fault laboratory may have made the request long.
		if _, err := io.Copy(io.Discard, r.Body); err != nil {
			return // the client has gone
		}
		trace := log.Add(name, r)
		fault := faults.Begin(trace, r.RemoteAddr)
		sleep(faults, fault)
		answer := map[string]any{"service": name}
		for key, value := range role.answer {
			answer[key] = value
		}
		for _, c := range role.calls {
			part, err := client.get(r, c, fault.PadRequests[c.service])
			if err != nil {
				http.Error(w, fmt.Sprintf("call %s: %v", c.service, err), http.StatusBadGateway)
				return
			}
			answer[c.service] = part
		}
		write(w, r, answer, fault.PadResponse)
	}), nil
}

// sleep does what the fault wants before the answer, and says how long it was.
func sleep(faults *app.State, fault app.Fault) {
	if fault.Sleep <= 0 {
		return
	}
	start := time.Now()
	time.Sleep(fault.Sleep)
	faults.Slept(fault.TraceID, time.Since(start))
}

// write answers, with pad bytes of white space behind: who embeds the answer
// drops them.
func write(w http.ResponseWriter, r *http.Request, answer map[string]any, pad int) {
	body, err := json.Marshal(answer)
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	body = append(body, '\n')
	body = append(body, bytes.Repeat([]byte{' '}, pad)...)
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Content-Length", strconv.Itoa(len(body)))
	// An error here means that the client has gone; it has noticed itself.
	if pad > 0 {
		_ = app.Whole(w, r, body)
		return
	}
	_, _ = w.Write(body)
}

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
