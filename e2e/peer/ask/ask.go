// SPDX-License-Identifier: Apache-2.0

// Package ask is what peer shares with those who run it: the requests to send, and the
// lines that it writes.
package ask

import (
	"bufio"
	"bytes"
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"os"
	"time"
)

// Paths of the server. Pause, Events and Quick wait for wait_ms milliseconds, Events
// before each of its n events, Upload before it reads the body of the request; Bulk and Long
// have a body of n bytes. A response to Endless never ends.
const (
	Pause   = "/pause"
	Events  = "/events"
	Bulk    = "/bulk"
	Long    = "/long"
	Upload  = "/upload"
	Quick   = "/quick"
	Endless = "/endless"
)

// Request is a request to send.
type Request struct {
	TraceID string `json:"trace_id"`
	// Path has the query.
	Path string `json:"path"`
	// Body is the number of bytes in the body of the request.
	Body int `json:"body,omitempty"`
	// ReadAfter is how long the client reads no more than the head of the response.
	ReadAfter time.Duration `json:"read_after_ns,omitempty"`
	// Window is the size of the socket's receive buffer; 0 for the kernel's.
	Window int `json:"window,omitempty"`
}

// Event is a line that the client writes, one before each request and one after it.
type Event struct {
	TraceID string    `json:"trace_id,omitempty"`
	Path    string    `json:"path"`
	Start   time.Time `json:"start"`
	// Took is the time from Start until the whole response was read; 0 before that.
	Took  time.Duration `json:"took_ns,omitempty"`
	Bytes int64         `json:"bytes,omitempty"`
	// Open is the number of connections with endless responses.
	Open int `json:"open,omitempty"`
}

// NewTraceID returns a random trace ID.
func NewTraceID() string {
	id := make([]byte, 16)
	_, _ = rand.Read(id) // it never fails
	return hex.EncodeToString(id)
}

// SpanID returns the span ID in the request of a trace.
func SpanID(traceID string) string { return traceID[16:] }

// Head returns a request.
func Head(traceID, path string) []byte {
	return fmt.Appendf(nil, "GET %s HTTP/1.1\r\nhost: server\r\ntraceparent: 00-%s-%s-01\r\n\r\n", path, traceID, SpanID(traceID))
}

// UploadHead returns the head of a request with a body.
func UploadHead(traceID, path string, body int) []byte {
	return fmt.Appendf(nil, "POST %s HTTP/1.1\r\nhost: server\r\ntraceparent: 00-%s-%s-01\r\ncontent-length: %d\r\n\r\n", path, traceID, SpanID(traceID), body)
}

// ReadEvents reads what a client has written to a file so far.
func ReadEvents(path string) (events []Event, err error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	data = data[:bytes.LastIndexByte(data, '\n')+1] // a line may be cut
	for lines := bufio.NewScanner(bytes.NewReader(data)); lines.Scan(); {
		var e Event
		if err := json.Unmarshal(lines.Bytes(), &e); err != nil {
			return nil, fmt.Errorf("read %s: %w", path, err)
		}
		events = append(events, e)
	}
	return events, nil
}
