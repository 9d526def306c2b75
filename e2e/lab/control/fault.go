// SPDX-License-Identifier: Apache-2.0

// Package control is how the fault laboratory tells an application of the lab
// what to do to one request, and learns what the application did: HTTP on a
// Unix socket. The application's own clock says how long it took.
package control

import "time"

// Fault is what an application does to the requests of one trace.
type Fault struct {
	// TraceID is the trace, 32 lower-case hex digits.
	TraceID string `json:"trace_id"`
	// Sleep is how long the application waits before it answers.
	Sleep time.Duration `json:"sleep_ns,omitempty"`
	// Hold is how long it leaves bytes in its sockets' receive queues. That is
	// done to all connections: whose bytes they are is not known before they
	// are read. The report has the trace's own.
	Hold time.Duration `json:"hold_ns,omitempty"`
	// PadResponse makes the answer longer by so many bytes of white space,
	// which the asking application drops.
	PadResponse int `json:"pad_response,omitempty"`
	// PadRequests gives requests to a service, by its name, a body of so many
	// bytes.
	PadRequests map[string]int `json:"pad_requests,omitempty"`
}

// Report is what an application did to the requests of the trace.
type Report struct {
	// Requests is how many there were.
	Requests int `json:"requests"`
	// Slept and Held are how long it really was, in sum.
	Slept time.Duration `json:"slept_ns"`
	Held  time.Duration `json:"held_ns"`
}
