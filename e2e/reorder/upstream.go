// SPDX-License-Identifier: Apache-2.0

package reorder

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"net"
	"net/netip"
	"net/textproto"
	"strconv"
	"strings"
	"sync"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
)

// Field is a header field. HTTP/2 pseudo headers are fields, too.
type Field struct{ Name, Value string }

// Head is a request head.
type Head struct {
	Protocol Protocol
	// RequestLine is HTTP/1.1's first line, without its CRLF.
	RequestLine string
	// Fields are in wire order, with names in the case of the wire.
	Fields []Field
}

// responseKind is the response to a request.
type responseKind int

const (
	responseOK          responseKind = iota // 200
	responseUnavailable                     // 503
	responseReset                           // HTTP/1.1: the connection closes; HTTP/2: RST_STREAM
)

// Upstream is a server that records every request head as it was on the wire, over
// HTTP/1.1 and HTTP/2 on the same port. It parses them without a library that would
// sort, join or rename header fields.
type Upstream struct {
	listener net.Listener
	handlers sync.WaitGroup

	mu        sync.Mutex
	heads     []Head            // received since the last Take
	responses []responseKind    // to the next requests; then responseOK
	conns     map[net.Conn]bool // open
}

// startUpstream starts an upstream on a free port of 127.0.0.1. Call Close.
func startUpstream() (*Upstream, error) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, fmt.Errorf("listen for the upstream: %w", err)
	}
	return ServeUpstream(listener), nil
}

// ServeUpstream starts an upstream on a listener. Call Close, which also closes the
// listener.
func ServeUpstream(listener net.Listener) *Upstream {
	s := &Upstream{listener: listener, conns: map[net.Conn]bool{}}
	s.handlers.Add(1)
	go s.accept()
	return s
}

// Address returns the address of the upstream.
func (s *Upstream) Address() netip.AddrPort {
	return s.listener.Addr().(*net.TCPAddr).AddrPort()
}

// Close closes all connections and waits for their handlers.
func (s *Upstream) Close() {
	_ = s.listener.Close() // nothing to flush
	s.mu.Lock()
	for conn := range s.conns {
		_ = conn.Close()
	}
	s.conns = nil
	s.mu.Unlock()
	s.handlers.Wait()
}

// setResponses sets the responses to the next requests; later ones get responseOK.
func (s *Upstream) setResponses(responses ...responseKind) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.responses = responses
}

func (s *Upstream) nextResponse() responseKind {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.responses) == 0 {
		return responseOK
	}
	response := s.responses[0]
	s.responses = s.responses[1:]
	return response
}

// Take returns the request heads received since the last call, in order. A head is
// there before its request has a response.
func (s *Upstream) Take() []Head {
	s.mu.Lock()
	defer s.mu.Unlock()
	heads := s.heads
	s.heads = nil
	return heads
}

func (s *Upstream) keep(head Head) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.heads = append(s.heads, head)
}

func (s *Upstream) accept() {
	defer s.handlers.Done()
	for {
		conn, err := s.listener.Accept()
		if err != nil {
			return // Close
		}
		s.mu.Lock()
		if s.conns == nil { // closed meanwhile
			_ = conn.Close()
		} else {
			s.conns[conn] = true
			s.handlers.Add(1)
			go s.serve(conn)
		}
		s.mu.Unlock()
	}
}

func (s *Upstream) serve(conn net.Conn) {
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

// serveHTTP1 handles requests until the connection ends.
func (s *Upstream) serveHTTP1(r *bufio.Reader, conn net.Conn) {
	for {
		head, err := readHead(r)
		if err != nil {
			return // the proxy closed the connection
		}
		if _, err := io.CopyN(io.Discard, r, head.bodyLength()); err != nil {
			return
		}
		s.keep(head)
		status := "200 OK"
		switch s.nextResponse() {
		case responseUnavailable:
			status = "503 Service Unavailable"
		case responseReset:
			return
		}
		if _, err := fmt.Fprintf(conn, "HTTP/1.1 %s\r\ncontent-length: 0\r\n\r\n", status); err != nil {
			return
		}
	}
}

// readHead reads the lines up to the empty line.
func readHead(r *bufio.Reader) (Head, error) {
	head := Head{Protocol: HTTP1}
	for {
		line, err := r.ReadString('\n')
		if err != nil {
			return Head{}, err
		}
		line = strings.TrimSuffix(line, "\r\n")
		switch {
		case line == "":
			return head, nil
		case head.RequestLine == "":
			head.RequestLine = line
		default:
			name, value, _ := strings.Cut(line, ":")
			head.Fields = append(head.Fields, Field{name, textproto.TrimString(value)})
		}
	}
}

// bodyLength returns content-length; requests here have no other framing.
func (h Head) bodyLength() int64 {
	for _, f := range h.Fields {
		if f.Name == "content-length" {
			n, _ := strconv.ParseInt(f.Value, 10, 64) // Envoy writes numbers only
			return n
		}
	}
	return 0
}

// http2Window is the flow control window in bytes: larger than the body of any
// request here, so that it needs no update.
const http2Window = 1 << 24

// serveHTTP2 handles requests until the connection ends (RFC 9113). It decodes the
// fields of a header block in order.
func (s *Upstream) serveHTTP2(r io.Reader, conn net.Conn) {
	preface := make([]byte, len(http2.ClientPreface))
	if _, err := io.ReadFull(r, preface); err != nil || string(preface) != http2.ClientPreface {
		return
	}
	framer := http2.NewFramer(conn, r)
	framer.ReadMetaHeaders = hpack.NewDecoder(4096, nil)
	if framer.WriteSettings(http2.Setting{ID: http2.SettingInitialWindowSize, Val: http2Window}) != nil ||
		framer.WriteWindowUpdate(0, http2Window) != nil {
		return
	}
	for {
		frame, err := framer.ReadFrame()
		if err != nil {
			return // the proxy closed the connection
		}
		if err := s.handleFrame(framer, frame); err != nil {
			return
		}
	}
}

func (s *Upstream) handleFrame(framer *http2.Framer, frame http2.Frame) error {
	ended := false
	switch f := frame.(type) {
	case *http2.SettingsFrame:
		if !f.IsAck() {
			return framer.WriteSettingsAck()
		}
	case *http2.PingFrame:
		if !f.IsAck() {
			return framer.WritePing(true, f.Data)
		}
	case *http2.MetaHeadersFrame:
		head := Head{Protocol: HTTP2}
		for _, field := range f.Fields {
			head.Fields = append(head.Fields, Field{field.Name, field.Value})
		}
		s.keep(head)
		ended = f.StreamEnded()
	case *http2.DataFrame:
		ended = f.StreamEnded()
	}
	if !ended {
		return nil
	}
	return s.respondHTTP2(framer, frame.Header().StreamID)
}

func (s *Upstream) respondHTTP2(framer *http2.Framer, stream uint32) error {
	status := "200"
	switch s.nextResponse() {
	case responseUnavailable:
		status = "503"
	case responseReset:
		return framer.WriteRSTStream(stream, http2.ErrCodeInternal)
	}
	var block bytes.Buffer
	if err := hpack.NewEncoder(&block).WriteField(hpack.HeaderField{Name: ":status", Value: status}); err != nil {
		return err
	}
	return framer.WriteHeaders(http2.HeadersFrameParam{
		StreamID: stream, BlockFragment: block.Bytes(), EndHeaders: true, EndStream: true,
	})
}
