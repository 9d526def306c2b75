// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"net"
	"net/http"
	"time"
)

// recorder is a TCP server that keeps the bytes of request heads as they
// came, before any HTTP library has seen them.
type recorder struct {
	listener net.Listener
	heads    chan []byte
}

func listen(address string) (*recorder, error) {
	listener, err := net.Listen("tcp", address)
	if err != nil {
		return nil, fmt.Errorf("listen for the clients: %w", err)
	}
	r := &recorder{listener: listener, heads: make(chan []byte, 16)}
	go r.accept()
	return r, nil
}

func (r *recorder) accept() {
	for {
		conn, err := r.listener.Accept()
		if err != nil {
			return // closed
		}
		go r.serve(conn)
	}
}

// serve records the first request of the connection and answers it. A head
// that breaks off is not recorded; the client then fails and says so.
func (r *recorder) serve(conn net.Conn) {
	defer func() { _ = conn.Close() }()
	_ = conn.SetDeadline(time.Now().Add(time.Minute))
	var seen bytes.Buffer
	request, err := http.ReadRequest(bufio.NewReader(io.TeeReader(conn, &seen)))
	if err != nil {
		return
	}
	head, _, _ := bytes.Cut(seen.Bytes(), []byte("\r\n\r\n"))
	head = append(bytes.Clone(head), "\r\n\r\n"...)
	if request.Header.Get("Expect") != "" {
		_, _ = io.WriteString(conn, "HTTP/1.1 100 Continue\r\n\r\n")
	}
	_, _ = io.Copy(io.Discard, request.Body)
	r.heads <- head
	_, _ = io.WriteString(conn, "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok")
}

// next returns the head of the one request that a client just made.
func (r *recorder) next() ([]byte, error) {
	select {
	case head := <-r.heads:
		return head, nil
	case <-time.After(10 * time.Second):
		return nil, fmt.Errorf("the client was done, but no request came")
	}
}
