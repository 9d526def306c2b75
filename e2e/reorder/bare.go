// SPDX-License-Identifier: Apache-2.0

package reorder

import (
	"bytes"
	"fmt"
	"io"
	"net"
	"net/netip"
	"strings"
)

// HTTP/1.1 on bare sockets, on both sides of proxies whose cost is measured: it takes little
// CPU time beside them.

// CostUpstream sends a response to each request without a body, which it does not parse. Close
// it.
type CostUpstream struct{ listener net.Listener }

// StartCostUpstream starts a CostUpstream on a port of the loopback interface.
func StartCostUpstream(response string) (*CostUpstream, error) {
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
			go answer(conn, response)
		}
	}()
	return &CostUpstream{listener}, nil
}

// Address returns where it listens.
func (u *CostUpstream) Address() netip.AddrPort { return u.listener.Addr().(*net.TCPAddr).AddrPort() }

// Close ends it; open connections end with their other side.
func (u *CostUpstream) Close() error { return u.listener.Close() }

func answer(conn net.Conn, response string) {
	defer conn.Close()
	buffer := make([]byte, 64<<10)
	size := 0
	for {
		n, err := conn.Read(buffer[size:])
		if err != nil {
			return // the proxy closed the connection
		}
		size += n
		// Without pipelining, an empty line at the end is the end of the request.
		if bytes.HasSuffix(buffer[:size], []byte("\r\n\r\n")) {
			size = 0
			if _, err := io.WriteString(conn, response); err != nil {
				return
			}
		}
	}
}

// Exchange sends a request and reads the response, which must have the status 200 and end
// with body after its head. The response must fit into buffer.
func Exchange(conn net.Conn, request, body string, buffer []byte) error {
	if _, err := io.WriteString(conn, request); err != nil {
		return err
	}
	size := 0
	for {
		n, err := conn.Read(buffer[size:])
		if err != nil {
			return fmt.Errorf("read the response: %w", err)
		}
		size += n
		response := string(buffer[:size])
		ok := strings.HasPrefix(response, "HTTP/1.1 200 ")
		switch {
		case ok && strings.HasSuffix(response, "\r\n\r\n"+body):
			return nil
		case size == len(buffer), !ok && strings.Contains(response, "\r\n\r\n"):
			return fmt.Errorf("response %.60q", response)
		}
	}
}
