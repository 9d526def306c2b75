// SPDX-License-Identifier: Apache-2.0

package wire

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/textproto"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"
)

// upstream is a TCP server that keeps every request head as it stood on the
// wire. It answers 200, but 503 to the first request of each path that begins
// with /retry.
type upstream struct {
	address string
	heads   chan string // in the order of arrival, CRLFs and all
	refused sync.Map    // request lines that were answered with 503 once
}

func startUpstream(t *testing.T) *upstream {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatalf("listen for the upstream: %v", err)
	}
	t.Cleanup(func() { _ = listener.Close() })
	u := &upstream{address: listener.Addr().String(), heads: make(chan string, 64)}
	go func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return // closed by Cleanup
			}
			go u.serve(conn)
		}
	}()
	return u
}

func (u *upstream) serve(conn net.Conn) {
	defer conn.Close()
	r := bufio.NewReader(conn)
	for {
		head, err := readHead(r)
		if err != nil {
			return // the proxy closed the connection
		}
		u.heads <- head
		if _, err := io.CopyN(io.Discard, r, bodyLength(head)); err != nil {
			return
		}
		status := "200 OK"
		if line, _, _ := strings.Cut(head, "\r\n"); strings.Contains(line, " /retry") {
			if _, again := u.refused.LoadOrStore(line, true); !again {
				status = "503 Service Unavailable"
			}
		}
		if _, err := fmt.Fprintf(conn, "HTTP/1.1 %s\r\ncontent-length: 0\r\n\r\n", status); err != nil {
			return
		}
	}
}

// next returns the next request head that came.
func (u *upstream) next(t *testing.T) string {
	t.Helper()
	select {
	case head := <-u.heads:
		return head
	case <-time.After(10 * time.Second):
		t.Fatal("no request came to the upstream within 10 s")
		return ""
	}
}

func readHead(r *bufio.Reader) (string, error) {
	var head strings.Builder
	for {
		line, err := r.ReadString('\n')
		if err != nil {
			return "", err
		}
		head.WriteString(line)
		if line == "\r\n" {
			return head.String(), nil
		}
	}
}

func bodyLength(head string) int64 {
	for _, f := range fields(head) {
		if f[0] == "content-length" {
			n, _ := strconv.ParseInt(f[1], 10, 64) // Envoy writes numbers only
			return n
		}
	}
	return 0
}

// fields returns the header fields of a request head in wire order, names as
// they stood there.
func fields(head string) [][2]string {
	lines := strings.Split(strings.TrimSuffix(head, "\r\n\r\n"), "\r\n")
	var list [][2]string
	for _, line := range lines[1:] {
		name, value, _ := strings.Cut(line, ":")
		list = append(list, [2]string{name, textproto.TrimString(value)})
	}
	return list
}

// names returns the names of the header fields in wire order.
func names(head string) []string {
	var list []string
	for _, f := range fields(head) {
		list = append(list, f[0])
	}
	return list
}
