// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"context"
	"net"
	"runtime"
	"testing"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
)

// space is a network namespace of the test's own.
type space struct {
	t      *testing.T
	handle netns.NsHandle
	links  *netlink.Handle
}

func newSpace(t *testing.T) *space {
	t.Helper()
	s := &space{t: t}
	s.onThread(func() error {
		var err error
		s.handle, err = netns.New()
		return err
	})
	var err error
	if s.links, err = netlink.NewHandleAt(s.handle); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		s.links.Close()
		if err := s.handle.Close(); err != nil {
			t.Error(err)
		}
	})
	return s
}

// onThread calls do on a thread that ends with it.
func (s *space) onThread(do func() error) {
	s.t.Helper()
	done := make(chan error)
	go func() {
		runtime.LockOSThread() // never unlocked
		done <- do()
	}()
	if err := <-done; err != nil {
		s.t.Fatal(err)
	}
}

// inside calls do in the namespace. Sockets and processes that it makes stay
// there.
func (s *space) inside(do func() error) {
	s.t.Helper()
	s.onThread(func() error {
		if err := netns.Set(s.handle); err != nil {
			return err
		}
		return do()
	})
}

// dial is a DialContext that connects from inside.
func (s *space) dial(ctx context.Context, network, address string) (conn net.Conn, err error) {
	s.inside(func() error {
		conn, err = (&net.Dialer{}).DialContext(ctx, network, address)
		return nil
	})
	return conn, err
}

// pair puts a veth pair between two namespaces and returns the first's end.
func pair(a *space, name, address string, b *space, peer, peerAddress string) int {
	a.t.Helper()
	err := a.links.LinkAdd(&netlink.Veth{
		LinkAttrs: netlink.LinkAttrs{Name: name}, PeerName: peer, PeerNamespace: netlink.NsFd(b.handle),
	})
	if err != nil {
		a.t.Fatal(err)
	}
	a.up(name, address)
	b.up(peer, peerAddress)
	link, err := a.links.LinkByName(name)
	if err != nil {
		a.t.Fatal(err)
	}
	return link.Attrs().Index
}

func (s *space) up(name, address string) {
	s.t.Helper()
	link, err := s.links.LinkByName(name)
	if err != nil {
		s.t.Fatal(err)
	}
	addr, err := netlink.ParseAddr(address)
	if err != nil {
		s.t.Fatal(err)
	}
	if err := s.links.AddrAdd(link, addr); err != nil {
		s.t.Fatal(err)
	}
	if err := s.links.LinkSetUp(link); err != nil {
		s.t.Fatal(err)
	}
}
