// SPDX-License-Identifier: Apache-2.0

// Command bookinfo is one service of the Bookinfo application, chosen by --role:
// productpage calls details and reviews once each, reviews-v2 and reviews-v3 call
// ratings, and reader calls store. It copies the trace headers of a request to the
// requests it makes for it, as every application in a mesh has to, and logs the headers
// of each request it receives, for the lab's ground truth. The fault laboratory makes
// it slow through a control socket.
package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/signal"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/layertrace/layertrace/e2e/lab/app"
)

func main() {
	if err := run(); err != nil {
		fmt.Fprintln(os.Stderr, "bookinfo:", err)
		os.Exit(1)
	}
}

func run() error {
	role := flag.String("role", "", "productpage, details, reviews-v1, reviews-v2, reviews-v3, ratings, reader or store")
	listen := flag.String("listen", ":9080", "address to serve on")
	logFile := flag.String("log", "", "file for one JSON line per request received")
	socket := flag.String("control", "", "Unix socket on which to take faults (none)")
	addresses := hosts{}
	flag.Var(addresses, "host", "NAME=IP:PORT of a service to call (repeatable)")
	flag.Parse()

	log, err := openLog(*logFile)
	if err != nil {
		return err
	}
	faults := &app.State{}
	handler, err := newHandler(*role, addresses, log, faults)
	if err != nil {
		return errors.Join(err, log.Close())
	}

	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	defer stop()
	listener, err := new(net.ListenConfig).Listen(ctx, "tcp", *listen)
	if err != nil {
		return errors.Join(err, log.Close())
	}
	server := &http.Server{Handler: handler, ReadHeaderTimeout: 10 * time.Second, ConnContext: app.ConnContext}
	served := make(chan error, 2)
	if *socket != "" {
		control, err := app.ListenUnix(*socket)
		if err != nil {
			return errors.Join(err, listener.Close(), log.Close())
		}
		defer control.Close()
		listener = faults.Listen(listener)
		go func() { served <- faults.Serve(control) }()
	}
	go func() { served <- server.Serve(listener) }()

	select {
	case err = <-served:
	case <-ctx.Done():
		limit, cancel := context.WithTimeout(context.Background(), 5*time.Second)
		defer cancel()
		err = server.Shutdown(limit)
		if errors.Is(err, context.DeadlineExceeded) {
			err = server.Close()
		}
	}
	return errors.Join(err, log.Close())
}

// hosts has the addresses of the services to call, in place of DNS.
type hosts map[string]string

func (h hosts) String() string { return "" }

// Set adds one NAME=IP:PORT.
func (h hosts) Set(value string) error {
	name, address, found := strings.Cut(value, "=")
	if !found {
		return fmt.Errorf("%q is not NAME=IP:PORT", value)
	}
	if _, _, err := net.SplitHostPort(address); err != nil {
		return err
	}
	h[name] = address
	return nil
}

// logFile writes one JSON line per request. It buffers them until Close, so that
// logging does not slow the application down.
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

// Add logs a request as received, and returns its trace ID.
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

// Close writes the buffered lines. A lost line is an error.
func (l *logFile) Close() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if err := errors.Join(l.err, l.buf.Flush(), l.file.Close()); err != nil {
		return fmt.Errorf("write the request log: %w", err)
	}
	return nil
}
