// SPDX-License-Identifier: Apache-2.0

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

// Request is a request as an application received it: a line of its log.
type Request struct {
	Time    time.Time `json:"time"`
	Role    string    `json:"role"`
	TraceID string    `json:"trace_id"`
	SpanID  string    `json:"span_id"`
	// Headers are the received trace headers, with names in lower case.
	Headers map[string]string `json:"headers"`
	// Peer and Local are the ends of the application's connection, ip:port.
	Peer  string `json:"peer"`
	Local string `json:"local"`
	Path  string `json:"path"`
}

// TraceIDs returns the trace and span ID in trace headers (names in lower case), in
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

// ReadRequests reads the log of one application.
func ReadRequests(path string) ([]Request, error) {
	requests, err := ReadLines[Request](path, false)
	if err != nil {
		return nil, fmt.Errorf("read request log: %w", err)
	}
	return requests, nil
}

// ReadLines reads a file with a JSON value per line. When its writer was killed,
// cutOff permits an incomplete last line.
func ReadLines[T any](path string, cutOff bool) ([]T, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	var values []T
	for lines := json.NewDecoder(f); ; {
		var value T
		err := lines.Decode(&value)
		if errors.Is(err, io.EOF) || cutOff && errors.Is(err, io.ErrUnexpectedEOF) {
			return values, nil
		}
		if err != nil {
			return nil, fmt.Errorf("%s, line %d: %w", path, len(values)+1, err)
		}
		values = append(values, value)
	}
}
