// SPDX-License-Identifier: Apache-2.0

// Package sandbox runs programs in network namespaces and cgroups of their own,
// and removes all of it, including what a killed run left.
package sandbox

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"runtime"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

// namespaceDir has a file per named network namespace: `ip netns` lists them, and
// a later run finds those of a killed one.
const namespaceDir = "/run/netns"

// Namespace is a named network namespace.
type Namespace struct {
	// Name is the name in /run/netns.
	Name   string
	handle netns.NsHandle
}

// NewNamespace creates a network namespace with its loopback device up. It fails
// when the name is taken.
func NewNamespace(name string) (*Namespace, error) {
	if err := shareNamespaceDir(); err != nil {
		return nil, fmt.Errorf("create network namespace %s: %w", name, err)
	}
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

// shareNamespaceDir makes namespaceDir a shared mount point, as `ip netns add`
// does (iproute2, ip/ipnetns.c). If the first `ip netns add` did it later, its
// recursive bind mount would cover the mounts made here, and their files could
// not be removed. The lock keeps two programs from doing it at once.
func shareNamespaceDir() error {
	if err := os.MkdirAll(namespaceDir, 0o755); err != nil {
		return err
	}
	dir, err := os.Open(namespaceDir)
	if err != nil {
		return err
	}
	defer dir.Close()
	if err := unix.Flock(int(dir.Fd()), unix.LOCK_EX); err != nil {
		return &os.PathError{Op: "lock", Path: namespaceDir, Err: err}
	}
	share := func() error { return unix.Mount("", namespaceDir, "none", unix.MS_SHARED|unix.MS_REC, "") }
	if err = share(); errors.Is(err, unix.EINVAL) { // not a mount point
		if err = unix.Mount(namespaceDir, namespaceDir, "none", unix.MS_BIND|unix.MS_REC, ""); err == nil {
			err = share()
		}
	}
	if err != nil {
		return &os.PathError{Op: "share mounts below", Path: namespaceDir, Err: err}
	}
	return nil
}

// FD returns the open file descriptor of the namespace, which stays the
// Namespace's.
func (s *Namespace) FD() int { return int(s.handle) }

// Netlink returns a netlink handle that acts in the namespace; close it.
func (s *Namespace) Netlink() (*netlink.Handle, error) {
	nl, err := netlink.NewHandleAt(s.handle)
	if err != nil {
		return nil, fmt.Errorf("open netlink in %s: %w", s.Name, err)
	}
	return nl, nil
}

// Do runs fn on a thread in the namespace. Sockets and child processes of fn
// belong to the namespace; goroutines that fn starts do not.
func (s *Namespace) Do(fn func() error) error {
	return onOwnThread(func() error {
		if err := netns.Set(s.handle); err != nil {
			return fmt.Errorf("enter network namespace %s: %w", s.Name, err)
		}
		return fn()
	})
}

// DoOnce is Do on a thread that ends with fn: fn may change the thread for good.
func (s *Namespace) DoOnce(fn func() error) error {
	return onLastThread(func() error {
		if err := netns.Set(s.handle); err != nil {
			return fmt.Errorf("enter network namespace %s: %w", s.Name, err)
		}
		return fn()
	})
}

// DialContext connects from inside the namespace. address must hold an IP
// address: other threads, outside the namespace, resolve names.
func (s *Namespace) DialContext(ctx context.Context, network, address string) (conn net.Conn, err error) {
	err = s.Do(func() error {
		conn, err = new(net.Dialer).DialContext(ctx, network, address)
		return err
	})
	return conn, err
}

// Get requests a URL from inside the namespace, on a connection of its own.
func (s *Namespace) Get(ctx context.Context, url string) ([]byte, error) {
	client := &http.Client{Transport: &http.Transport{DialContext: s.DialContext, DisableKeepAlives: true}}
	return Get(ctx, client, url)
}

// Get returns the body of a response with status 200. Any other status is an
// error.
func Get(ctx context.Context, client *http.Client, url string) ([]byte, error) {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return nil, err
	}
	response, err := client.Do(request)
	if err != nil {
		return nil, err
	}
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	if err == nil && response.StatusCode != http.StatusOK {
		err = fmt.Errorf("%s: %s: %.200s", url, response.Status, body)
	}
	return body, err
}

// Listen listens for TCP inside the namespace.
func (s *Namespace) Listen(address string) (listener net.Listener, err error) {
	err = s.Do(func() error {
		listener, err = net.Listen("tcp4", address)
		return err
	})
	return listener, err
}

// Delete removes the namespace's name. The kernel frees the namespace, and every
// link in it, when its last process has ended.
func (s *Namespace) Delete() error {
	return errors.Join(s.handle.Close(), deleteName(s.Name))
}

// DeleteNamespaces removes every namespace whose name begins with prefix, and
// returns how many there were.
func DeleteNamespaces(prefix string) (int, error) {
	paths, err := filepath.Glob(filepath.Join(namespaceDir, prefix+"*"))
	if err != nil {
		return 0, fmt.Errorf("list network namespaces: %w", err)
	}
	var errs []error
	for _, path := range paths {
		errs = append(errs, deleteName(filepath.Base(path)))
	}
	return len(paths), errors.Join(errs...)
}

// deleteName unmounts a namespace and removes its file. A run that died between
// the two leaves a plain file, which is not mounted.
func deleteName(name string) error {
	path := filepath.Join(namespaceDir, name)
	err := unmount(path)
	if err == nil {
		err = os.Remove(path)
	}
	if errors.Is(err, unix.EBUSY) {
		err = removeCovered(path)
	}
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("delete network namespace %s: %w", name, err)
	}
	return nil
}

// removeCovered removes the file of a namespace that is also mounted below a
// later mount of namespaceDir (see shareNamespaceDir). It works in a mount
// namespace of its own, where it can unmount whatever covers the file: removing
// a file detaches what other mount namespaces have mounted on it.
func removeCovered(path string) error {
	return onLastThread(func() error {
		if err := unix.Unshare(unix.CLONE_NEWNS); err != nil {
			return fmt.Errorf("make a mount namespace: %w", err)
		}
		if err := unix.Mount("", "/", "none", unix.MS_PRIVATE|unix.MS_REC, ""); err != nil {
			return fmt.Errorf("make mounts private: %w", err)
		}
		for {
			if err := unmount(path); err != nil {
				return err
			}
			err := os.Remove(path)
			if !errors.Is(err, unix.EBUSY) {
				return err
			}
			if unix.Unmount(namespaceDir, unix.MNT_DETACH) != nil {
				return err // nothing covers it
			}
		}
	})
}

// unmount detaches everything that is mounted on a path.
func unmount(path string) error {
	for {
		switch err := unix.Unmount(path, unix.MNT_DETACH); {
		case errors.Is(err, unix.EINVAL): // not a mount point, or no longer
			return nil
		case err != nil:
			return &os.PathError{Op: "unmount", Path: path, Err: err}
		}
	}
}

// onOwnThread runs fn with the thread locked and restores the thread's network
// namespace. When that fails, the thread stays locked: it ends with its
// goroutine, so that no other goroutine runs in the wrong namespace.
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

// onLastThread runs fn on a thread that ends with it.
func onLastThread(fn func() error) error {
	done := make(chan error, 1)
	go func() {
		runtime.LockOSThread() // never unlocked
		done <- fn()
	}()
	return <-done
}

// AddBridge makes a bridge with an address such as 10.0.0.1/24.
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

// AddPair makes a veth pair: name is a port of s's bridge, and its peer is eth0
// with an address in inner.
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

// AddRoutedPair makes a veth pair without bridge: name has an address in s, which routes,
// and its peer is eth0 with addresses in inner.
func (s *Namespace) AddRoutedPair(name, address string, inner *Namespace, addresses ...string) error {
	nl, err := s.Netlink()
	if err != nil {
		return err
	}
	defer nl.Close()
	attrs := netlink.NewLinkAttrs()
	attrs.Name = name
	veth := &netlink.Veth{LinkAttrs: attrs, PeerName: "eth0", PeerNamespace: netlink.NsFd(inner.FD())}
	if err := nl.LinkAdd(veth); err != nil {
		return fmt.Errorf("add veth %s in %s: %w", name, s.Name, err)
	}
	if err := s.configure(nl, name, address); err != nil {
		return err
	}
	peer, err := inner.Netlink()
	if err != nil {
		return err
	}
	defer peer.Close()
	for _, one := range addresses {
		if err := inner.configure(peer, "eth0", one); err != nil {
			return err
		}
	}
	return nil
}

// Sysctl sets values of the namespace below /proc/sys/net/ipv4.
func (s *Namespace) Sysctl(values map[string]string) error {
	return s.Do(func() error {
		for name, value := range values {
			if err := os.WriteFile("/proc/sys/net/ipv4/"+name, []byte(value), 0); err != nil {
				return fmt.Errorf("configure %s: %w", s.Name, err)
			}
		}
		return nil
	})
}

// Configure gives a link its address, if any, and brings it up.
func (s *Namespace) Configure(name, address string) error {
	nl, err := s.Netlink()
	if err != nil {
		return err
	}
	defer nl.Close()
	return s.configure(nl, name, address)
}

// configure gives a link its address, if any, and brings it up.
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

// AddAddress gives an interface one more address, such as 10.0.0.2/24.
func (s *Namespace) AddAddress(name, address string) error {
	nl, err := s.Netlink()
	if err != nil {
		return err
	}
	defer nl.Close()
	return s.configure(nl, name, address)
}

// AddLocalPrefix makes all addresses of a prefix such as 10.0.0.0/16 the namespace's own: it
// responds to them at an interface, and programs can bind to each.
func (s *Namespace) AddLocalPrefix(name, prefix string) error {
	nl, err := s.Netlink()
	if err != nil {
		return err
	}
	defer nl.Close()
	_, dst, err := net.ParseCIDR(prefix)
	var link netlink.Link
	if err == nil {
		link, err = nl.LinkByName(name)
	}
	if err == nil {
		err = nl.RouteAdd(&netlink.Route{
			LinkIndex: link.Attrs().Index, Dst: dst, Type: unix.RTN_LOCAL, Table: unix.RT_TABLE_LOCAL, Scope: netlink.SCOPE_HOST,
		})
	}
	if err != nil {
		return fmt.Errorf("add prefix %s to %s in %s: %w", prefix, name, s.Name, err)
	}
	return nil
}

// AddRoute routes a destination such as 10.1.0.0/24 via a router.
func (s *Namespace) AddRoute(destination, via string) error {
	return s.route((*netlink.Handle).RouteAdd, destination, via)
}

// ReplaceRoute routes a destination via another router from now on.
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
