// SPDX-License-Identifier: Apache-2.0

package behind

import (
	"net"
	"os"
	"os/exec"
	"runtime"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
)

// space is a network namespace of the test's own.
type space struct {
	handle netns.NsHandle
	nl     *netlink.Handle
}

func newSpace(t *testing.T) *space {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root to make a network namespace")
	}
	s := &space{}
	made := make(chan error)
	go func() {
		runtime.LockOSThread() // never unlocked: the thread ends, the handle keeps the namespace
		var err error
		s.handle, err = netns.New()
		made <- err
	}()
	if err := <-made; err != nil {
		t.Fatal(err)
	}
	var err error
	if s.nl, err = netlink.NewHandleAt(s.handle); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		s.nl.Close()
		if err := s.handle.Close(); err != nil {
			t.Error(err)
		}
	})
	return s
}

// do runs fn on a thread in the namespace that ends with it.
func (s *space) do(t *testing.T, fn func() error) {
	t.Helper()
	ended := make(chan error)
	go func() {
		runtime.LockOSThread()
		err := netns.Set(s.handle)
		if err == nil {
			err = fn()
		}
		ended <- err
	}()
	if err := <-ended; err != nil {
		t.Fatal(err)
	}
}

// pair connects the namespace to a pod's and returns the index of its end; the
// pod's end is eth0, or the name itself where there is one already.
func (s *space) pair(t *testing.T, name string, pod *space) int {
	t.Helper()
	peer := "eth0"
	if _, err := pod.nl.LinkByName(peer); err == nil {
		peer = name
	}
	attrs := netlink.NewLinkAttrs()
	attrs.Name = name
	if err := s.nl.LinkAdd(&netlink.Veth{LinkAttrs: attrs, PeerName: peer, PeerNamespace: netlink.NsFd(pod.handle)}); err != nil {
		t.Fatal(err)
	}
	pod.up(t, peer)
	return s.up(t, name)
}

func (s *space) up(t *testing.T, name string) int {
	t.Helper()
	link, err := s.nl.LinkByName(name)
	if err == nil {
		err = s.nl.LinkSetUp(link)
	}
	if err != nil {
		t.Fatal(err)
	}
	return link.Attrs().Index
}

func (s *space) address(t *testing.T, name, cidr string) {
	t.Helper()
	link, err := s.nl.LinkByName(name)
	if err != nil {
		t.Fatal(err)
	}
	addr, err := netlink.ParseAddr(cidr)
	if err == nil {
		err = s.nl.AddrAdd(link, addr)
	}
	if err != nil {
		t.Fatal(err)
	}
}

func (s *space) bridge(t *testing.T, name, cidr string) int {
	t.Helper()
	attrs := netlink.NewLinkAttrs()
	attrs.Name = name
	if err := s.nl.LinkAdd(&netlink.Bridge{LinkAttrs: attrs}); err != nil {
		t.Fatal(err)
	}
	s.address(t, name, cidr)
	return s.up(t, name)
}

// port connects a pod with an address to a bridge.
func (s *space) port(t *testing.T, name string, bridge int, pod *space, cidr string) int {
	t.Helper()
	index := s.pair(t, name, pod)
	link, err := s.nl.LinkByIndex(index)
	if err == nil {
		err = s.nl.LinkSetMasterByIndex(link, bridge)
	}
	if err != nil {
		t.Fatal(err)
	}
	pod.address(t, "eth0", cidr)
	return index
}

func (s *space) route(t *testing.T, index int, destination, via string, table int) {
	t.Helper()
	_, dst, err := net.ParseCIDR(destination)
	if err != nil {
		t.Fatal(err)
	}
	r := &netlink.Route{LinkIndex: index, Dst: dst, Table: table, Scope: netlink.SCOPE_LINK}
	if via != "" {
		r.Gw, r.Scope = net.ParseIP(via), netlink.SCOPE_UNIVERSE
	}
	if err := s.nl.RouteAdd(r); err != nil {
		t.Fatalf("route to %s: %v", destination, err)
	}
}

// talk connects to an address of a pod over TCP, so that the kernel resolves it
// and the bridge learns it.
func (s *space) talk(t *testing.T, pod *space, ip string) {
	t.Helper()
	var listener net.Listener
	pod.do(t, func() (err error) {
		listener, err = net.Listen("tcp", net.JoinHostPort(ip, "0"))
		return err
	})
	defer listener.Close()
	s.do(t, func() error {
		conn, err := net.DialTimeout("tcp", listener.Addr().String(), time.Minute)
		if err != nil {
			return err
		}
		return conn.Close()
	})
}

// process starts a process in the namespace, which ends with the test, and
// returns its ID.
func (s *space) process(t *testing.T) int {
	t.Helper()
	cmd := exec.Command("cat")
	input, err := cmd.StdinPipe() // cat ends when it is closed
	if err != nil {
		t.Fatal(err)
	}
	s.do(t, cmd.Start)
	t.Cleanup(func() {
		_ = input.Close()
		if err := cmd.Wait(); err != nil {
			t.Error(err)
		}
	})
	return cmd.Process.Pid
}
