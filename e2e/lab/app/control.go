// SPDX-License-Identifier: Apache-2.0

// Package app is what the lab and its applications share: the log of requests, and
// the control protocol, HTTP on a Unix socket, by which the fault laboratory makes
// an application slow for one trace. The application measures with its own clock
// for how long it was slow.
package app

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"net"
	"net/http"
	"os"
	"sync"
	"time"
)

// Fault is what an application does to the requests of one trace.
type Fault struct {
	// TraceID is the trace, 32 lower-case hex digits.
	TraceID string `json:"trace_id"`
	// Sleep is how long the application waits before it responds.
	Sleep time.Duration `json:"sleep_ns,omitempty"`
	// Hold is how long it leaves bytes in the receive queues of its sockets, of
	// all of them: the trace is unknown before the bytes are read. The report
	// has only the time of the trace.
	Hold time.Duration `json:"hold_ns,omitempty"`
	// Pause is how long the application waits in its response, after the head has
	// been sent. With Events it is spread: each event is sent after an equal part of
	// it, in a response without Content-Length.
	Pause  time.Duration `json:"pause_ns,omitempty"`
	Events int           `json:"events,omitempty"`
	// Reset makes it reset the connection in the middle of the response's body, after
	// the pause.
	Reset bool `json:"reset,omitempty"`
	// ReadBodyAfter is how long it leaves the body of the request unread.
	ReadBodyAfter time.Duration `json:"read_body_after_ns,omitempty"`
	// ReadCallsAfter are how long it leaves the responses of services unread, by name.
	ReadCallsAfter map[string]time.Duration `json:"read_calls_after_ns,omitempty"`
	// PadResponse is how many bytes of white space are appended to the response.
	// The calling application drops them.
	PadResponse int `json:"pad_response,omitempty"`
	// PadRequests are the sizes of the bodies of requests to services, by name.
	PadRequests map[string]int `json:"pad_requests,omitempty"`
}

// Report is what an application did to the requests of the trace.
type Report struct {
	// Requests is the number of requests.
	Requests int `json:"requests"`
	// Slept, Held, Paused and Unread are the measured times, in sum: before the
	// response, with bytes held back, in the response, and with a body unread.
	Slept  time.Duration `json:"slept_ns"`
	Held   time.Duration `json:"held_ns"`
	Paused time.Duration `json:"paused_ns"`
	Unread time.Duration `json:"unread_ns"`
}

// State is the armed faults of an application, one per trace, and their reports. The
// zero value is ready.
type State struct {
	mu    sync.Mutex
	armed map[string]*armedFault
	// holds has the hold of the next request, by the peer of its connection.
	holds map[string]time.Duration
}

type armedFault struct {
	fault  Fault
	report Report
}

// Arm arms a fault, and resets the report of its trace.
func (s *State) Arm(f Fault) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.armed == nil {
		s.armed, s.holds = map[string]*armedFault{}, map[string]time.Duration{}
	}
	f.PadRequests, f.ReadCallsAfter = maps.Clone(f.PadRequests), maps.Clone(f.ReadCallsAfter)
	s.armed[f.TraceID] = &armedFault{fault: f}
}

// Disarm ends the fault of a trace and returns its report.
func (s *State) Disarm(traceID string) (r Report) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if a := s.armed[traceID]; a != nil {
		r = a.report
		delete(s.armed, traceID)
	}
	if len(s.armed) == 0 {
		clear(s.holds)
	}
	return r
}

// Begin counts a request of a trace from peer, and returns the fault to apply to
// it; an empty one when no fault is for the trace.
func (s *State) Begin(traceID, peer string) Fault {
	s.mu.Lock()
	defer s.mu.Unlock()
	held := s.holds[peer]
	delete(s.holds, peer)
	a := s.armed[traceID]
	if traceID == "" || a == nil {
		return Fault{}
	}
	a.report.Requests++
	a.report.Held += held
	return a.fault
}

// Slept adds to the time that requests of the trace had to wait.
func (s *State) Slept(traceID string, d time.Duration) {
	s.add(traceID, func(r *Report) { r.Slept += d })
}

// Paused adds to the time for which responses of the trace paused.
func (s *State) Paused(traceID string, d time.Duration) {
	s.add(traceID, func(r *Report) { r.Paused += d })
}

// Unread adds to the time for which bodies were left unread.
func (s *State) Unread(traceID string, d time.Duration) {
	s.add(traceID, func(r *Report) { r.Unread += d })
}

func (s *State) add(traceID string, change func(*Report)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if a := s.armed[traceID]; a != nil {
		change(&a.report)
	}
}

// hold returns how long received bytes stay unread at present.
func (s *State) hold() (longest time.Duration) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, a := range s.armed {
		longest = max(longest, a.fault.Hold)
	}
	return longest
}

// held records how long the bytes of peer's next request stayed unread.
func (s *State) held(peer string, d time.Duration) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.armed) > 0 {
		s.holds[peer] += d
	}
}

// Serve serves the control protocol until the listener is closed.
func (s *State) Serve(listener net.Listener) error {
	mux := http.NewServeMux()
	mux.HandleFunc("PUT /fault", func(w http.ResponseWriter, r *http.Request) {
		var f Fault
		decoder := json.NewDecoder(r.Body)
		decoder.DisallowUnknownFields()
		if err := decoder.Decode(&f); err != nil {
			http.Error(w, fmt.Sprintf("read the fault: %v", err), http.StatusBadRequest)
			return
		}
		if f.TraceID == "" {
			http.Error(w, "the fault has no trace_id", http.StatusBadRequest)
			return
		}
		s.Arm(f)
		w.WriteHeader(http.StatusNoContent)
	})
	mux.HandleFunc("DELETE /fault/{trace}", func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		// An error means that the client has gone.
		_ = json.NewEncoder(w).Encode(s.Disarm(r.PathValue("trace")))
	})
	server := &http.Server{Handler: mux, ReadHeaderTimeout: 10 * time.Second}
	if err := server.Serve(listener); !errors.Is(err, net.ErrClosed) {
		return fmt.Errorf("serve the control socket: %w", err)
	}
	return nil
}

// ListenUnix listens on a Unix socket. It replaces one that an earlier process
// left.
func ListenUnix(path string) (net.Listener, error) {
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("replace the control socket: %w", err)
	}
	listener, err := net.Listen("unix", path)
	if err != nil {
		return nil, fmt.Errorf("listen on the control socket (its path can have at most 107 bytes): %w", err)
	}
	return listener, nil
}

// Client arms and disarms faults in one application.
type Client struct{ http *http.Client }

// NewClient returns a client of the application with a control socket; close it.
func NewClient(socket string) *Client {
	dial := func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "unix", socket)
	}
	return &Client{&http.Client{Timeout: 10 * time.Second, Transport: &http.Transport{DialContext: dial}}}
}

// Close closes idle connections.
func (c *Client) Close() { c.http.CloseIdleConnections() }

// Arm arms a fault in the application.
func (c *Client) Arm(ctx context.Context, f Fault) error {
	body, err := json.Marshal(f)
	if err != nil {
		return fmt.Errorf("arm a fault: %w", err)
	}
	if _, err := c.do(ctx, http.MethodPut, "", body); err != nil {
		return fmt.Errorf("arm a fault: %w", err)
	}
	return nil
}

// Disarm ends the fault of a trace and returns its report.
func (c *Client) Disarm(ctx context.Context, traceID string) (r Report, err error) {
	body, err := c.do(ctx, http.MethodDelete, "/"+traceID, nil)
	if err == nil {
		err = json.Unmarshal(body, &r)
	}
	if err != nil {
		return r, fmt.Errorf("disarm a fault: %w", err)
	}
	return r, nil
}

func (c *Client) do(ctx context.Context, method, trace string, body []byte) ([]byte, error) {
	request, err := http.NewRequestWithContext(ctx, method, "http://application/fault"+trace, bytes.NewReader(body))
	if err != nil {
		return nil, err
	}
	response, err := c.http.Do(request)
	if err != nil {
		return nil, err
	}
	defer response.Body.Close()
	body, err = io.ReadAll(response.Body)
	if err != nil {
		return nil, err
	}
	if response.StatusCode/100 != 2 {
		return nil, fmt.Errorf("the application responded %s: %s", response.Status, body)
	}
	return body, nil
}
