// SPDX-License-Identifier: Apache-2.0

package probe

import (
	"fmt"
	"net"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/layertrace/layertrace/internal/observe"
)

// newLoopback captures at the sockets of this process, and makes loopback work
// in its network namespace.
func newLoopback(t *testing.T) *kernel {
	t.Helper()
	return newLoopbackOf(t, ownCgroup(t))
}

// newLoopbackOf captures at the sockets of these cgroups.
func newLoopbackOf(t *testing.T, cgroups ...string) *kernel {
	t.Helper()
	lo, err := netlink.LinkByName("lo")
	must(t, err)
	must(t, netlink.LinkSetUp(lo))
	return newKernel(t, Options{Sockets: true, SocketCgroups: cgroups})
}

// connect returns both ends of a connection over loopback, until the test ends.
func connect(t *testing.T) (client, server *net.TCPConn) {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	defer listener.Close()
	dialled, err := net.Dial("tcp", listener.Addr().String())
	must(t, err)
	t.Cleanup(func() { dialled.Close() })
	accepted, err := listener.Accept()
	must(t, err)
	t.Cleanup(func() { accepted.Close() })
	return dialled.(*net.TCPConn), accepted.(*net.TCPConn)
}

// receiveRequest has the server read a whole request with a trace context, which
// it does not answer yet.
func receiveRequest(t *testing.T, client, server *net.TCPConn) {
	t.Helper()
	pass(t, client, server, tracedRequest(0))
}

// tracedRequest is a request with a trace context.
func tracedRequest(i int) string {
	return fmt.Sprintf("GET /%d HTTP/1.1\r\ntraceparent: 00-%s-%s-01\r\n\r\n", i, traceID(i), spanID(i))
}

// onlyAtClient returns what was given out of the client's socket: one exchange.
func onlyAtClient(t *testing.T, k *kernel) (only observe.Observation) {
	t.Helper()
	clients := 0
	for _, x := range k.exchanges() {
		if x.Socket.Client {
			clients++
			only = x
		}
	}
	if clients != 1 {
		t.Fatalf("%d exchanges at the client's socket, want 1", clients)
	}
	return only
}

// poll waits until something is so, for ten seconds at most.
func poll(t *testing.T, what string, isSo func() bool) {
	t.Helper()
	for deadline := time.Now().Add(10 * time.Second); !isSo(); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("not in ten seconds: %s", what)
		}
	}
}

// tcpInfo is what the kernel says of a connection.
func tcpInfo(t *testing.T, conn *net.TCPConn) (info *unix.TCPInfo) {
	t.Helper()
	control(t, conn, func(fd int) (err error) {
		info, err = unix.GetsockoptTCPInfo(fd, unix.IPPROTO_TCP, unix.TCP_INFO)
		return err
	})
	return info
}

// control does something with the socket of a connection.
func control(t *testing.T, conn *net.TCPConn, do func(fd int) error) {
	t.Helper()
	raw, err := conn.SyscallConn()
	must(t, err)
	var failed error
	must(t, raw.Control(func(fd uintptr) { failed = do(int(fd)) }))
	must(t, failed)
}
