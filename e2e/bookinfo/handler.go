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
	"strings"
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
	// Two services without sidecars.
	"reader": {response: map[string]any{"shelf": 0}, calls: []call{{"store", "/books/0"}}},
	"store":  {response: map[string]any{"id": 0, "copies": 3}},
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
	client, rough := newClient(addresses), &rough{}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		trace := log.Add(name, r)
		if r.URL.Path == roughPath {
			rough.serve(w, r)
			return
		}
		fault := faults.Begin(trace, r.RemoteAddr)
		// Until then the server has read no more of the body than its buffer holds.
		wait(fault.ReadBodyAfter, func(d time.Duration) { faults.Unread(trace, d) })
		// The fault laboratory may have padded the request.
		if _, err := io.Copy(io.Discard, r.Body); err != nil {
			return // the client has gone
		}
		wait(fault.Sleep, func(d time.Duration) { faults.Slept(trace, d) })
		work(r)
		response := map[string]any{"service": name}
		for key, value := range role.response {
			response[key] = value
		}
		for _, c := range role.calls {
			part, err := client.get(r, c, fault, faults)
			if err != nil {
				http.Error(w, fmt.Sprintf("call %s: %v", c.service, err), http.StatusBadGateway)
				return
			}
			response[c.service] = part
		}
		write(w, r, response, fault, faults)
	}), nil
}

// reportPath ends the path of requests for a report, which takes longer than other
// requests: a service has fast and slow endpoints.
const (
	reportPath = "/report"
	reportTime = 40 * time.Millisecond
)

func isReport(r *http.Request) bool { return strings.HasSuffix(r.URL.Path, reportPath) }

// work sleeps for the time of the details service's report. It stands for an application
// that waits, and uses no CPU.
func work(r *http.Request) {
	if isReport(r) && strings.HasPrefix(r.URL.Path, "/details/") {
		time.Sleep(reportTime) // the work
	}
}

// wait waits for d, if any, and reports how long it really was.
func wait(d time.Duration, report func(time.Duration)) {
	if d <= 0 {
		return
	}
	start := time.Now()
	time.Sleep(d) // the fault
	report(time.Since(start))
}

// write writes a response with white space at the end, which a caller drops.
func write(w http.ResponseWriter, r *http.Request, response map[string]any, fault app.Fault, faults *app.State) {
	body, err := json.Marshal(response)
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	body = append(body, '\n')
	body = append(body, bytes.Repeat([]byte{' '}, fault.PadResponse)...)
	w.Header().Set("Content-Type", "application/json")
	if r.Header.Get(closeHeader) != "" {
		w.Header().Set("Connection", "close")
	}
	if fault.Events == 0 {
		w.Header().Set("Content-Length", strconv.Itoa(len(body)))
	}
	// An error of writing means that the client has gone.
	switch {
	case fault.Pause > 0:
		_ = writePaused(w, body, fault, faults)
	case fault.PadResponse > 0 && fault.PadResponse <= maxWhole:
		_ = app.Whole(w, r, body)
	default:
		_, _ = w.Write(body)
	}
}

// maxWhole is the length up to which a padded response is sent in one piece.
const maxWhole = 64 << 10

// writePaused sends the head of a response at once, and its body later: after a pause,
// or with events between parts of it.
func writePaused(w http.ResponseWriter, body []byte, fault app.Fault, faults *app.State) error {
	flush := http.NewResponseController(w).Flush
	sent := 0
	if fault.Reset {
		sent = len(body) / 2
		if _, err := w.Write(body[:sent]); err != nil {
			return err
		}
	}
	if err := flush(); err != nil {
		return err
	}
	parts := max(fault.Events, 1)
	for part := range parts {
		wait(fault.Pause/time.Duration(parts), func(d time.Duration) { faults.Paused(fault.TraceID, d) })
		if part == parts-1 {
			break
		}
		// An event is white space, so that the whole is JSON.
		if _, err := w.Write([]byte("\n")); err != nil {
			return err
		}
		if err := flush(); err != nil {
			return err
		}
	}
	if fault.Reset {
		return app.Reset(w)
	}
	_, err := w.Write(body[sent:])
	return err
}

// traceHeaders are copied from a request to the requests made for it.
var traceHeaders = []string{
	"X-Request-Id", "Traceparent", "Tracestate", "B3",
	"X-B3-Traceid", "X-B3-Spanid", "X-B3-Parentspanid", "X-B3-Sampled", "X-B3-Flags",
}

// routeHeaders are copied as well: the lab's Envoys send a request to the pod that
// the header names, if it belongs to the service.
var routeHeaders = []string{"X-Lab-Pod", closeHeader}

// closeHeader makes each application close its connections after the request: the next
// one needs new ones.
const closeHeader = "X-Lab-Close"

type client struct{ http *http.Client }

func newClient(addresses hosts) *client {
	dialer := &net.Dialer{Timeout: 5 * time.Second}
	return &client{http: &http.Client{
		Timeout: time.Minute,
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

// get calls another service for the request in: by GET, or with a padded request by
// POST. It leaves the response unread for the time of the fault.
func (c *client) get(in *http.Request, call call, fault app.Fault, faults *app.State) (json.RawMessage, error) {
	url := fmt.Sprintf("http://%s:9080%s", call.service, call.path)
	if isReport(in) {
		url += reportPath
	}
	method, body := http.MethodGet, io.Reader(nil)
	if pad := fault.PadRequests[call.service]; pad > 0 {
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
	out.Close = in.Header.Get(closeHeader) != ""
	response, err := c.http.Do(out)
	if err != nil {
		return nil, err
	}
	defer response.Body.Close()
	// The transport has read no more of the body than its buffer holds.
	wait(fault.ReadCallsAfter[call.service], func(d time.Duration) { faults.Unread(fault.TraceID, d) })
	data, err := io.ReadAll(response.Body)
	if err != nil {
		return nil, err
	}
	if response.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("status %s: %s", response.Status, data)
	}
	return bytes.TrimSpace(data), nil
}
