// SPDX-License-Identifier: Apache-2.0

package wire

import (
	"bufio"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// send writes one request by hand, so that the order of its headers is known,
// and fails unless the answer is 200. what is method and path.
func send(t *testing.T, address, what string, headers [][2]string, body string) {
	t.Helper()
	conn, err := net.Dial("tcp", address)
	if err != nil {
		t.Fatalf("connect to Envoy: %v", err)
	}
	defer conn.Close()
	if err := conn.SetDeadline(time.Now().Add(30 * time.Second)); err != nil {
		t.Fatal(err)
	}
	var request strings.Builder
	fmt.Fprintf(&request, "%s HTTP/1.1\r\nhost: wire.test\r\n", what)
	for _, h := range headers {
		fmt.Fprintf(&request, "%s: %s\r\n", h[0], h[1])
	}
	if body != "" {
		fmt.Fprintf(&request, "content-length: %d\r\n", len(body))
	}
	request.WriteString("\r\n" + body)
	if _, err := conn.Write([]byte(request.String())); err != nil {
		t.Fatalf("send %s: %v", what, err)
	}
	answer, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil {
		t.Fatalf("read the answer to %s: %v", what, err)
	}
	_ = answer.Body.Close()
	if answer.StatusCode != http.StatusOK {
		t.Fatalf("%s was answered with %s", what, answer.Status)
	}
}

// buildModule builds the filter as make wasm does and returns its path.
func buildModule(t *testing.T) string {
	t.Helper()
	out := filepath.Join(t.TempDir(), "layertrace.wasm")
	if text, err := exec.Command("go", "run", "../build", "-o", out).CombinedOutput(); err != nil {
		t.Fatalf("build the module: %v\n%s", err, text)
	}
	return out
}

// port returns the port of host:port.
func port(t *testing.T, address string) int {
	t.Helper()
	a, err := netip.ParseAddrPort(address)
	if err != nil {
		t.Fatal(err)
	}
	return int(a.Port())
}
