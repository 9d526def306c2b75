// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/url"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/layertrace/layertrace/e2e/peer/ask"
)

// serve serves until SIGTERM.
func serve(address string) error {
	// Without keep-alive probes: there may be very many idle connections.
	config := net.ListenConfig{KeepAlive: -1}
	listener, err := config.Listen(context.Background(), "tcp4", address)
	if err != nil {
		return fmt.Errorf("listen: %w", err)
	}
	go func() {
		<-terminated()
		_ = listener.Close() // ends Accept
	}()
	endless := &endlessResponses{}
	for {
		conn, err := listener.Accept()
		if errors.Is(err, net.ErrClosed) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("accept: %w", err)
		}
		go func() {
			if kept := answer(conn, endless); !kept {
				_ = conn.Close() // the client has gone
			}
		}()
	}
}

// endlessResponses has the connections whose responses never end. Nothing reads from
// them or writes to them any more, and no goroutine waits for them.
type endlessResponses struct {
	sync.Mutex
	conns []net.Conn
}

func (e *endlessResponses) add(conn net.Conn) {
	e.Lock()
	defer e.Unlock()
	e.conns = append(e.conns, conn)
}

// answer answers the requests on a connection in turn. kept is true if the last
// response never ends: then the connection stays open.
func answer(conn net.Conn, endless *endlessResponses) (kept bool) {
	buffer := make([]byte, 4096)
	for {
		var request []byte
		for !bytes.Contains(request, []byte("\r\n\r\n")) {
			n, err := conn.Read(buffer)
			if err != nil {
				return false
			}
			request = append(request, buffer[:n]...)
		}
		target, err := url.Parse(strings.Fields(string(request))[1])
		if err != nil {
			return false
		}
		if target.Path == ask.Endless {
			if _, err := conn.Write([]byte(chunkedHead + "5\r\nfirst\r\n")); err != nil {
				return false
			}
			endless.add(conn)
			return true
		}
		if target.Path == ask.Upload {
			if err := readLate(conn, target, request); err != nil {
				return false
			}
		}
		if err := respond(conn, target); err != nil {
			return false
		}
	}
}

// readLate waits, and then reads the rest of a request, of which this part was read.
func readLate(conn net.Conn, target *url.URL, part []byte) error {
	head, body, _ := bytes.Cut(part, []byte("\r\n\r\n"))
	length := 0
	for line := range bytes.Lines(head) {
		name, value, _ := bytes.Cut(bytes.TrimSpace(line), []byte(": "))
		if bytes.EqualFold(name, []byte("content-length")) {
			length, _ = strconv.Atoi(string(value)) // 0: nothing to read
		}
	}
	time.Sleep(waitOf(target)) // the slow reader
	_, err := io.CopyN(io.Discard, conn, int64(length-len(body)))
	return err
}

// waitOf returns the query's wait_ms, 0 if absent.
func waitOf(target *url.URL) time.Duration {
	ms, _ := strconv.Atoi(target.Query().Get("wait_ms"))
	return time.Duration(ms) * time.Millisecond
}

const (
	lengthHead  = "HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n"
	chunkedHead = "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
)

// respond responds to one request, by its path and the query's values n and wait.
func respond(conn net.Conn, target *url.URL) error {
	number := func(name string) int {
		n, _ := strconv.Atoi(target.Query().Get(name)) // 0 if absent
		return n
	}
	wait := waitOf(target)
	write := func(format string, args ...any) error {
		_, err := fmt.Fprintf(conn, format, args...)
		return err
	}
	switch target.Path {
	case ask.Pause: // the head at once, the body later
		if err := write(lengthHead, 2); err != nil {
			return err
		}
		time.Sleep(wait)
		return write("ok")
	case ask.Events:
		if err := write(chunkedHead); err != nil {
			return err
		}
		for range number("n") {
			time.Sleep(wait)
			if err := write("8\r\ndata: a\n\r\n"); err != nil {
				return err
			}
		}
		return write("0\r\n\r\n")
	case ask.Upload: // it has waited
		return write(lengthHead+"ok", 2)
	case ask.Bulk, ask.Long: // one write, however long
		body := bytes.Repeat([]byte("x"), number("n"))
		_, err := conn.Write(append(fmt.Appendf(nil, lengthHead, len(body)), body...))
		return err
	default: // think, then respond
		time.Sleep(wait)
		return write(lengthHead+"ok", 2)
	}
}
