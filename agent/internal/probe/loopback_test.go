// SPDX-License-Identifier: Apache-2.0

package probe

import (
	"net"
	"testing"

	"github.com/vishvananda/netlink"
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
