// SPDX-License-Identifier: Apache-2.0

package cost

import (
	"bytes"
	"fmt"
	"io"
	"net"
	"net/netip"
)

// server answers every request without looking at it: the less the upstream
// does, the less it disturbs.
type server struct{ listener net.Listener }

// serve answers HTTP/1.1 requests without a body with an answer.
func serve(answer string) (*server, error) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, fmt.Errorf("listen for the upstream: %w", err)
	}
	go func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return // closed
			}
			go reply(conn, answer)
		}
	}()
	return &server{listener}, nil
}

func reply(conn net.Conn, answer string) {
	defer conn.Close()
	buffer := make([]byte, 64<<10)
	size := 0
	for {
		n, err := conn.Read(buffer[size:])
		if err != nil {
			return // the proxy closed the connection
		}
		size += n
		// Without pipelining an empty line at the end is that of the one request.
		if bytes.HasSuffix(buffer[:size], []byte("\r\n\r\n")) {
			size = 0
			if _, err := io.WriteString(conn, answer); err != nil {
				return
			}
		}
	}
}

func (s *server) address() netip.AddrPort { return s.listener.Addr().(*net.TCPAddr).AddrPort() }

func (s *server) close() { _ = s.listener.Close() }
