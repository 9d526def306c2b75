// SPDX-License-Identifier: Apache-2.0

package reorder

import (
	"bufio"
	"context"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"time"

	"github.com/layertrace/layertrace/e2e/reorder/golden"
)

// send writes a case's request by hand, so that the order of its headers is
// known, and fails unless the answer is 200.
func send(ctx context.Context, to netip.AddrPort, c golden.Case) error {
	conn, err := (&net.Dialer{}).DialContext(ctx, "tcp", to.String())
	if err != nil {
		return fmt.Errorf("connect to Envoy: %w", err)
	}
	defer conn.Close()
	stop := context.AfterFunc(ctx, func() { _ = conn.Close() })
	defer stop()
	if err := conn.SetDeadline(time.Now().Add(time.Minute)); err != nil {
		return fmt.Errorf("connect to Envoy: %w", err)
	}
	if _, err := conn.Write([]byte(request(c))); err != nil {
		return fmt.Errorf("send to Envoy: %w", err)
	}
	answer, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil {
		return fmt.Errorf("read Envoy's answer: %w", err)
	}
	defer answer.Body.Close()
	if answer.StatusCode != http.StatusOK {
		return fmt.Errorf("answer of Envoy: %s", answer.Status)
	}
	return nil
}

func request(c golden.Case) string {
	method := "GET"
	if c.Setup.Body > 0 {
		method = "POST"
	}
	var b strings.Builder
	fmt.Fprintf(&b, "%s /%s HTTP/1.1\r\nhost: wire.test\r\n", method, c.Name)
	for _, f := range c.Client {
		fmt.Fprintf(&b, "%s: %s\r\n", f.Name, f.Value)
	}
	if c.Setup.Body > 0 {
		fmt.Fprintf(&b, "content-length: %d\r\n", c.Setup.Body)
	}
	b.WriteString("\r\n" + strings.Repeat("b", c.Setup.Body))
	return b.String()
}
