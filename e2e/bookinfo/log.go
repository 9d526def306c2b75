// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"strings"
	"sync"
	"time"

	"github.com/layertrace/layertrace/e2e/lab/app"
)

// logFile writes one JSON line per request. Lines are buffered until Close,
// so that logging does not slow the application down.
type logFile struct {
	mu   sync.Mutex
	file *os.File
	buf  *bufio.Writer
	enc  *json.Encoder
	err  error
}

func openLog(path string) (*logFile, error) {
	if path == "" {
		return nil, errors.New("give --log FILE")
	}
	f, err := os.Create(path)
	if err != nil {
		return nil, err
	}
	buf := bufio.NewWriterSize(f, 1<<20)
	return &logFile{file: f, buf: buf, enc: json.NewEncoder(buf)}, nil
}

// Add logs a request as it came in, and returns its trace ID.
func (l *logFile) Add(role string, r *http.Request) (traceID string) {
	record := app.Request{
		Time: time.Now(), Role: role, Path: r.URL.Path, Peer: r.RemoteAddr,
		Headers: map[string]string{},
	}
	if local, ok := r.Context().Value(http.LocalAddrContextKey).(net.Addr); ok {
		record.Local = local.String()
	}
	for _, name := range traceHeaders {
		if value := r.Header.Get(name); value != "" {
			record.Headers[strings.ToLower(name)] = value
		}
	}
	record.TraceID, record.SpanID = app.TraceIDs(record.Headers)
	l.mu.Lock()
	defer l.mu.Unlock()
	l.err = errors.Join(l.err, l.enc.Encode(record))
	return record.TraceID
}

// Close writes what is buffered and tells of any line that was lost.
func (l *logFile) Close() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if err := errors.Join(l.err, l.buf.Flush(), l.file.Close()); err != nil {
		return fmt.Errorf("write the request log: %w", err)
	}
	return nil
}
