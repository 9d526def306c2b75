// SPDX-License-Identifier: Apache-2.0

// Package netspace makes named network namespaces and runs code in them. The
// names stand in /run/netns, where `ip netns` finds them and a later run of the
// lab finds what a killed one left behind.
package sandbox

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"strings"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
)

const namespaceDir = "/run/netns"

// Space is one named network namespace.
type Namespace struct {
	// Name is the name in /run/netns.
	Name   string
	handle netns.NsHandle
}

// Create makes a network namespace with its loopback device up. It fails when
// the name is taken.
func NewNamespace(name string) (*Namespace, error) {
	var handle netns.NsHandle
	err := onOwnThread(func() (err error) {
		handle, err = netns.NewNamed(name)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("create network namespace %s: %w", name, err)
	}
	s := &Namespace{Name: name, handle: handle}
	nl, err := s.Netlink()
	if err != nil {
		return nil, errors.Join(err, s.Delete())
	}
	defer nl.Close()
	lo, err := nl.LinkByName("lo")
	if err == nil {
		err = nl.LinkSetUp(lo)
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("set up lo in %s: %w", name, err), s.Delete())
	}
	return s, nil
}

// FD is the open file descriptor of the namespace; it stays Space's own.
func (s *Namespace) FD() int { return int(s.handle) }

// Netlink returns a netlink handle that acts in the namespace; close it.
func (s *Namespace) Netlink() (*netlink.Handle, error) {
	nl, err := netlink.NewHandleAt(s.handle)
	if err != nil {
		return nil, fmt.Errorf("open netlink in %s: %w", s.Name, err)
	}
	return nl, nil
}

// Do runs fn on a thread that is in the namespace. What fn starts (sockets,
// child processes) belongs to the namespace; goroutines that fn starts do not.
func (s *Namespace) Do(fn func() error) error {
	return onOwnThread(func() error {
		if err := netns.Set(s.handle); err != nil {
			return fmt.Errorf("enter network namespace %s: %w", s.Name, err)
		}
		return fn()
	})
}

// DoOnce runs fn as Do does, on a thread that ends with it: fn may change the
// thread for good.
func (s *Namespace) DoOnce(fn func() error) error {
	done := make(chan error, 1)
	go func() {
		runtime.LockOSThread() // and never unlocked
		if err := netns.Set(s.handle); err != nil {
			done <- fmt.Errorf("enter network namespace %s: %w", s.Name, err)
			return
		}
		done <- fn()
	}()
	return <-done
}

// DialContext connects from inside the namespace. address must hold an IP
// address: a name would be resolved by other threads, outside the namespace.
func (s *Namespace) DialContext(ctx context.Context, network, address string) (conn net.Conn, err error) {
	err = s.Do(func() error {
		conn, err = new(net.Dialer).DialContext(ctx, network, address)
		return err
	})
	return conn, err
}

// Delete removes the namespace's name; the kernel frees it, and every link in
// it, once no process is in it any more.
func (s *Namespace) Delete() error {
	err := errors.Join(s.handle.Close(), netns.DeleteNamed(s.Name))
	if err != nil {
		return fmt.Errorf("delete network namespace %s: %w", s.Name, err)
	}
	return nil
}

// DeleteAll removes every namespace whose name begins with prefix, and returns
// how many there were.
func DeleteNamespaces(prefix string) (int, error) {
	names, err := filepath.Glob(filepath.Join(namespaceDir, prefix+"*"))
	if err != nil {
		return 0, fmt.Errorf("list network namespaces: %w", err)
	}
	var errs []error
	for _, path := range names {
		name := strings.TrimPrefix(path, namespaceDir+"/")
		// A run that died between making the file and mounting on it leaves
		// a plain file, which cannot be unmounted.
		if err := netns.DeleteNamed(name); err != nil {
			if rmErr := os.Remove(path); rmErr != nil && !errors.Is(rmErr, os.ErrNotExist) {
				errs = append(errs, fmt.Errorf("delete network namespace %s: %w", name, err))
			}
		}
	}
	return len(names), errors.Join(errs...)
}

// onOwnThread runs fn with the thread locked and puts the thread's network
// namespace back. When that fails the thread stays locked, so that it ends with
// its goroutine and no other goroutine runs in the wrong namespace.
func onOwnThread(fn func() error) error {
	done := make(chan error, 1)
	go func() {
		runtime.LockOSThread()
		before, err := netns.Get()
		if err != nil {
			done <- fmt.Errorf("open the thread's network namespace: %w", err)
			return
		}
		defer before.Close()
		err = fn()
		if back := netns.Set(before); back != nil {
			done <- errors.Join(err, fmt.Errorf("return to network namespace: %w", back))
			return
		}
		runtime.UnlockOSThread()
		done <- err
	}()
	return <-done
}

// AddBridge makes a bridge with an address, as 10.0.0.1/24.
func (s *Namespace) AddBridge(name, address string) error {
	nl, err := s.Netlink()
	if err != nil {
		return err
	}
	defer nl.Close()
	attrs := netlink.NewLinkAttrs()
	attrs.Name = name
	if err := nl.LinkAdd(&netlink.Bridge{LinkAttrs: attrs}); err != nil {
		return fmt.Errorf("add bridge %s in %s: %w", name, s.Name, err)
	}
	return s.configure(nl, name, address)
}

// AddPair makes a veth pair: name, a port of s's bridge, and eth0 with an
// address in inner.
func (s *Namespace) AddPair(name, bridge string, inner *Namespace, address string) error {
	nl, err := s.Netlink()
	if err != nil {
		return err
	}
	defer nl.Close()
	br, err := nl.LinkByName(bridge)
	if err != nil {
		return fmt.Errorf("find bridge %s in %s: %w", bridge, s.Name, err)
	}
	attrs := netlink.NewLinkAttrs()
	attrs.Name, attrs.MasterIndex = name, br.Attrs().Index
	veth := &netlink.Veth{LinkAttrs: attrs, PeerName: "eth0", PeerNamespace: netlink.NsFd(inner.FD())}
	if err := nl.LinkAdd(veth); err != nil {
		return fmt.Errorf("add veth %s in %s: %w", name, s.Name, err)
	}
	if err := s.configure(nl, name, ""); err != nil {
		return err
	}
	peer, err := inner.Netlink()
	if err != nil {
		return err
	}
	defer peer.Close()
	return inner.configure(peer, "eth0", address)
}

// configure gives a link its address, if any, and sets it up.
func (s *Namespace) configure(nl *netlink.Handle, name, address string) error {
	link, err := nl.LinkByName(name)
	if err == nil && address != "" {
		var addr *netlink.Addr
		if addr, err = netlink.ParseAddr(address); err == nil {
			err = nl.AddrAdd(link, addr)
		}
	}
	if err == nil {
		err = nl.LinkSetUp(link)
	}
	if err != nil {
		return fmt.Errorf("configure %s in %s: %w", name, s.Name, err)
	}
	return nil
}

// AddRoute sends what goes to destination, as 10.1.0.0/24, via a router.
func (s *Namespace) AddRoute(destination, via string) error {
	return s.route((*netlink.Handle).RouteAdd, destination, via)
}

// ReplaceRoute sends it via another router from now on.
func (s *Namespace) ReplaceRoute(destination, via string) error {
	return s.route((*netlink.Handle).RouteReplace, destination, via)
}

func (s *Namespace) route(do func(*netlink.Handle, *netlink.Route) error, destination, via string) error {
	nl, err := s.Netlink()
	if err != nil {
		return err
	}
	defer nl.Close()
	_, dst, err := net.ParseCIDR(destination)
	if err == nil {
		err = do(nl, &netlink.Route{Dst: dst, Gw: net.ParseIP(via)})
	}
	if err != nil {
		return fmt.Errorf("route %s via %s in %s: %w", destination, via, s.Name, err)
	}
	return nil
}
