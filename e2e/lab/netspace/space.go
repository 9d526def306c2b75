// SPDX-License-Identifier: Apache-2.0

// Package netspace makes named network namespaces and runs code in them. The
// names stand in /run/netns, where `ip netns` finds them and a later run of the
// lab finds what a killed one left behind.
package netspace

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

const directory = "/run/netns"

// Space is one named network namespace.
type Space struct {
	// Name is the name in /run/netns.
	Name   string
	handle netns.NsHandle
}

// Create makes a network namespace with its loopback device up. It fails when
// the name is taken.
func Create(name string) (*Space, error) {
	var handle netns.NsHandle
	err := onOwnThread(func() (err error) {
		handle, err = netns.NewNamed(name)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("create network namespace %s: %w", name, err)
	}
	s := &Space{Name: name, handle: handle}
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
func (s *Space) FD() int { return int(s.handle) }

// Netlink returns a netlink handle that acts in the namespace; close it.
func (s *Space) Netlink() (*netlink.Handle, error) {
	nl, err := netlink.NewHandleAt(s.handle)
	if err != nil {
		return nil, fmt.Errorf("open netlink in %s: %w", s.Name, err)
	}
	return nl, nil
}

// Do runs fn on a thread that is in the namespace. What fn starts (sockets,
// child processes) belongs to the namespace; goroutines that fn starts do not.
func (s *Space) Do(fn func() error) error {
	return onOwnThread(func() error {
		if err := netns.Set(s.handle); err != nil {
			return fmt.Errorf("enter network namespace %s: %w", s.Name, err)
		}
		return fn()
	})
}

// DoOnce runs fn as Do does, on a thread that ends with it: fn may change the
// thread for good.
func (s *Space) DoOnce(fn func() error) error {
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
func (s *Space) DialContext(ctx context.Context, network, address string) (conn net.Conn, err error) {
	err = s.Do(func() error {
		conn, err = new(net.Dialer).DialContext(ctx, network, address)
		return err
	})
	return conn, err
}

// Delete removes the namespace's name; the kernel frees it, and every link in
// it, once no process is in it any more.
func (s *Space) Delete() error {
	err := errors.Join(s.handle.Close(), netns.DeleteNamed(s.Name))
	if err != nil {
		return fmt.Errorf("delete network namespace %s: %w", s.Name, err)
	}
	return nil
}

// DeleteAll removes every namespace whose name begins with prefix, and returns
// how many there were.
func DeleteAll(prefix string) (int, error) {
	names, err := filepath.Glob(filepath.Join(directory, prefix+"*"))
	if err != nil {
		return 0, fmt.Errorf("list network namespaces: %w", err)
	}
	var errs []error
	for _, path := range names {
		name := strings.TrimPrefix(path, directory+"/")
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
