// SPDX-License-Identifier: Apache-2.0

package testkit

import (
	"os"
	"runtime"
	"testing"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
)

// Namespace is a network namespace, which ends with its test.
type Namespace struct {
	NS    netns.NsHandle
	Links *netlink.Handle

	t testing.TB
}

// NewNamespace makes a namespace. It skips the test without root.
func NewNamespace(t testing.TB) *Namespace {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root to make a network namespace")
	}
	n := &Namespace{t: t}
	err := onThread(func() (err error) { // the handle keeps the namespace
		n.NS, err = netns.New()
		return err
	})
	if err != nil {
		t.Fatalf("make a network namespace: %v", err)
	}
	if n.Links, err = netlink.NewHandleAt(n.NS); err != nil {
		t.Fatalf("open netlink: %v", err)
	}
	t.Cleanup(func() {
		n.Links.Close()
		if err := n.NS.Close(); err != nil {
			t.Error(err)
		}
	})
	return n
}

// Run calls fn on a thread in the namespace. Sockets and processes that it
// creates stay there.
func (n *Namespace) Run(fn func() error) error {
	return onThread(func() error {
		if err := netns.Set(n.NS); err != nil {
			return err
		}
		return fn()
	})
}

// Do is Run, and fails the test on an error.
func (n *Namespace) Do(fn func() error) {
	n.t.Helper()
	if err := n.Run(fn); err != nil {
		n.t.Fatal(err)
	}
}

// onThread calls fn on a thread that ends afterwards.
func onThread(fn func() error) error {
	done := make(chan error)
	go func() {
		runtime.LockOSThread() // never unlocked
		done <- fn()
	}()
	return <-done
}
