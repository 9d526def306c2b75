// SPDX-License-Identifier: Apache-2.0

package probe

import (
	"io"
	"net"
	"os"
	"path/filepath"
	"syscall"
	"testing"
)

// Who only looks at what has come, as Envoy's listeners do with a connection's
// first bytes, has not read it: neither a request nor a response.
func TestPeekIsNoRead(t *testing.T) {
	if !inNamespace(t) {
		return
	}
	k := newLoopback(t)
	client, server := connect(t)

	const rounds = 3
	var requestRead, responseRead [rounds]uint64
	for i := range rounds {
		requestRead[i] = pass(t, client, server, tracedRequest(i))
		responseRead[i] = pass(t, server, client, ok200)
	}
	got := k.exchanges()
	if len(got) != 2*rounds {
		t.Fatalf("%d exchanges, want %d", len(got), 2*rounds)
	}
	for _, x := range got {
		for i := range rounds {
			if x.Context.TraceID.String() != traceID(i) {
				continue
			}
			begun, handed := requestRead[i], x.Request.App
			if x.Socket.Client {
				begun, handed = responseRead[i], x.Response.App
			}
			if handed.First < begun {
				t.Errorf("round %d, client %v: read from %d on, but nobody did before %d", i, x.Socket.Client, handed.First, begun)
			}
		}
	}
}

// pass sends a message, peeks at it and then reads it. It returns when the
// reading began, in ns of CLOCK_MONOTONIC.
func pass(t *testing.T, from, to net.Conn, message string) uint64 {
	t.Helper()
	_, err := io.WriteString(from, message)
	must(t, err)
	raw, err := to.(*net.TCPConn).SyscallConn()
	must(t, err)
	buffer := make([]byte, len(message))
	must(t, raw.Read(func(fd uintptr) bool {
		n, _, err := syscall.Recvfrom(int(fd), buffer, syscall.MSG_PEEK|syscall.MSG_DONTWAIT)
		return err == nil && n == len(message) || err != nil && err != syscall.EAGAIN
	}))
	if string(buffer) != message {
		t.Fatalf("peeked %q, want %q", buffer, message)
	}
	now := monotonic(t)
	_, err = io.ReadFull(to, buffer)
	must(t, err)
	return now
}

// ownCgroup puts this process into a cgroup of its own until the test ends.
func ownCgroup(t *testing.T) string {
	t.Helper()
	group := newCgroup(t)
	must(t, joinCgroup(group))
	t.Cleanup(func() {
		if err := joinCgroup(filepath.Dir(group)); err != nil {
			t.Error(err)
		}
	})
	return group
}

// joinCgroup puts this process into a cgroup.
func joinCgroup(dir string) error {
	return os.WriteFile(filepath.Join(dir, "cgroup.procs"), []byte("0"), 0)
}
