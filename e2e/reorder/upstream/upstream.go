// SPDX-License-Identifier: Apache-2.0

// Package upstream is a server that keeps every request head as it stood on the
// wire, by HTTP/1.1 and HTTP/2 on the same port. It parses them with nothing
// that would sort, join or rename header fields.
package upstream

import (
	"bufio"
	"fmt"
	"net"
	"net/netip"
	"sync"

	"golang.org/x/net/http2"

	"github.com/layertrace/layertrace/e2e/reorder/proxy"
)

// Field is a header field: name and value. In HTTP/2 pseudo headers are fields.
type Field struct{ Name, Value string }

// Head is one request head.
type Head struct {
	Protocol proxy.Protocol
	// RequestLine is HTTP/1.1's first line, without its CRLF.
	RequestLine string
	// Fields stand in wire order, names in the case in which they came.
	Fields []Field
}

// Answer is what a request gets.
type Answer int

// Answers.
const (
	OK          Answer = iota // 200
	Unavailable               // 503
	Reset                     // HTTP/1.1: the connection closes; HTTP/2: RST_STREAM
)

// Server is a running upstream.
type Server struct {
	listener net.Listener
	handlers sync.WaitGroup

	mu      sync.Mutex
	heads   []Head            // that came and were not taken
	answers []Answer          // for the next requests; then OK
	conns   map[net.Conn]bool // open
}

// Start listens on a free port of 127.0.0.1. The caller calls Close.
func Start() (*Server, error) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, fmt.Errorf("listen for the upstream: %w", err)
	}
	return Serve(listener), nil
}

// Serve takes connections from listener, which it closes in the end. The
// caller calls Close.
func Serve(listener net.Listener) *Server {
	s := &Server{listener: listener, conns: map[net.Conn]bool{}}
	s.handlers.Add(1)
	go s.accept()
	return s
}

// Address is where it listens.
func (s *Server) Address() netip.AddrPort {
	return s.listener.Addr().(*net.TCPAddr).AddrPort()
}

// Close ends all connections and waits for their end.
func (s *Server) Close() {
	_ = s.listener.Close() // has nothing to flush
	s.mu.Lock()
	for conn := range s.conns {
		_ = conn.Close()
	}
	s.conns = nil
	s.mu.Unlock()
	s.handlers.Wait()
}

// Expect says what the next requests get; those behind them get OK.
func (s *Server) Expect(answers ...Answer) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.answers = answers
}

func (s *Server) nextAnswer() Answer {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.answers) == 0 {
		return OK
	}
	answer := s.answers[0]
	s.answers = s.answers[1:]
	return answer
}

// Take returns the request heads that came since it was called last, in their
// order. A head is there before its request is answered.
func (s *Server) Take() []Head {
	s.mu.Lock()
	defer s.mu.Unlock()
	heads := s.heads
	s.heads = nil
	return heads
}

func (s *Server) keep(head Head) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.heads = append(s.heads, head)
}

func (s *Server) accept() {
	defer s.handlers.Done()
	for {
		conn, err := s.listener.Accept()
		if err != nil {
			return // Close
		}
		s.mu.Lock()
		if s.conns == nil { // Close came in between
			_ = conn.Close()
		} else {
			s.conns[conn] = true
			s.handlers.Add(1)
			go s.serve(conn)
		}
		s.mu.Unlock()
	}
}

func (s *Server) serve(conn net.Conn) {
	defer s.handlers.Done()
	defer func() {
		_ = conn.Close()
		s.mu.Lock()
		delete(s.conns, conn)
		s.mu.Unlock()
	}()
	r := bufio.NewReader(conn)
	preface, err := r.Peek(len("PRI "))
	if err != nil {
		return // the proxy closed the connection
	}
	if string(preface) == http2.ClientPreface[:len(preface)] {
		s.serveHTTP2(r, conn)
	} else {
		s.serveHTTP1(r, conn)
	}
}
