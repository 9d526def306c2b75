// SPDX-License-Identifier: Apache-2.0

// Package requestlog is the log that the lab's applications write: which
// requests they received, with the trace headers as they came.
package app

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"time"
)

// Request is a request as an application received it: one line of its log.
type Request struct {
	Time    time.Time `json:"time"`
	Role    string    `json:"role"`
	TraceID string    `json:"trace_id"`
	SpanID  string    `json:"span_id"`
	// Headers are the trace headers that came, names in lower case.
	Headers map[string]string `json:"headers"`
	// Peer and Local are the ends of the application's connection, ip:port.
	Peer  string `json:"peer"`
	Local string `json:"local"`
	Path  string `json:"path"`
}

// IDs takes trace and span ID from trace headers (names in lower case), as
// lower-case hex with the trace ID padded to 32 digits; empty without context.
func TraceIDs(headers map[string]string) (traceID, spanID string) {
	if parts := strings.Split(headers["traceparent"], "-"); len(parts) >= 4 {
		return parts[1], parts[2]
	}
	traceID, spanID = headers["x-b3-traceid"], headers["x-b3-spanid"]
	if traceID == "" || spanID == "" {
		return "", ""
	}
	if len(traceID) == 16 {
		traceID = "0000000000000000" + traceID
	}
	return strings.ToLower(traceID), strings.ToLower(spanID)
}

// Read reads the log of one application.
func ReadRequests(path string) ([]Request, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("read request log: %w", err)
	}
	defer f.Close()
	var requests []Request
	for lines := json.NewDecoder(f); ; {
		var r Request
		if err := lines.Decode(&r); errors.Is(err, io.EOF) {
			return requests, nil
		} else if err != nil {
			return nil, fmt.Errorf("read request log %s, line %d: %w", path, len(requests)+1, err)
		}
		requests = append(requests, r)
	}
}
