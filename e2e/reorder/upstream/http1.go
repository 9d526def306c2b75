// SPDX-License-Identifier: Apache-2.0

package upstream

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/textproto"
	"strconv"
	"strings"

	"github.com/layertrace/layertrace/e2e/reorder/proxy"
)

// serveHTTP1 answers requests until the connection ends.
func (s *Server) serveHTTP1(r *bufio.Reader, conn net.Conn) {
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
		switch s.nextAnswer() {
		case Unavailable:
			status = "503 Service Unavailable"
		case Reset:
			return
		}
		if _, err := fmt.Fprintf(conn, "HTTP/1.1 %s\r\ncontent-length: 0\r\n\r\n", status); err != nil {
			return
		}
	}
}

// readHead reads the lines up to the empty one.
func readHead(r *bufio.Reader) (Head, error) {
	head := Head{Protocol: proxy.HTTP1}
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

// bodyLength is content-length; requests here have no other framing.
func (h Head) bodyLength() int64 {
	for _, f := range h.Fields {
		if f.Name == "content-length" {
			n, _ := strconv.ParseInt(f.Value, 10, 64) // Envoy writes numbers only
			return n
		}
	}
	return 0
}
