// SPDX-License-Identifier: Apache-2.0

package iface

import (
	"context"
	"errors"
	"log/slog"
	"os"
	"runtime"
	"sync/atomic"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
)

// namespace is a network namespace of the test's own.
type namespace struct {
	t      *testing.T
	handle netns.NsHandle
	links  *netlink.Handle

	overruns atomic.Int32 // of the watcher, as it logs them
}

// Handle counts the overruns that the watcher tells about.
func (n *namespace) Handle(_ context.Context, r slog.Record) error {
	r.Attrs(func(a slog.Attr) bool {
		if err, ok := a.Value.Any().(error); ok && errors.Is(err, errOverrun) {
			n.overruns.Add(1)
		}
		return true
	})
	return nil
}

// Enabled, WithAttrs and WithGroup make the namespace a log handler.
func (n *namespace) Enabled(context.Context, slog.Level) bool { return true }
func (n *namespace) WithAttrs([]slog.Attr) slog.Handler       { return n }
func (n *namespace) WithGroup(string) slog.Handler            { return n }

func newNamespace(t *testing.T) *namespace {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root to make a network namespace")
	}
	n := &namespace{t: t}
	made := make(chan error)
	go func() {
		runtime.LockOSThread() // never unlocked: the thread ends, the handle keeps the namespace
		var err error
		n.handle, err = netns.New()
		made <- err
	}()
	if err := <-made; err != nil {
		t.Fatal(err)
	}
	var err error
	if n.links, err = netlink.NewHandleAt(n.handle); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		n.links.Close()
		if err := n.handle.Close(); err != nil {
			t.Error(err)
		}
	})
	return n
}

// watch runs a watcher in the namespace until the test ends.
func (n *namespace) watch(s Selector) <-chan Event {
	n.t.Helper()
	w := NewWatcher(s, slog.New(n))
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() {
		runtime.LockOSThread()
		if err := netns.Set(n.handle); err != nil {
			ended <- err
			return
		}
		ended <- w.Run(ctx)
	}()
	n.t.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil {
			n.t.Error(err)
		}
		if _, open := <-w.Events(); open {
			n.t.Error("Events is open behind Run")
		}
	})
	return w.Events()
}

func (n *namespace) add(link netlink.Link) {
	n.t.Helper()
	if err := n.links.LinkAdd(link); err != nil {
		n.t.Fatal(err)
	}
}

func (n *namespace) link(name string) netlink.Link {
	n.t.Helper()
	l, err := n.links.LinkByName(name)
	if err != nil {
		n.t.Fatal(err)
	}
	return l
}

func veth(name, peer string) *netlink.Veth {
	return &netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: name}, PeerName: peer}
}

// next returns the next event.
func next(t *testing.T, events <-chan Event) Event {
	t.Helper()
	select {
	case e, open := <-events:
		if !open {
			t.Fatal("the watcher ended")
		}
		return e
	case <-time.After(10 * time.Second):
		t.Fatal("no event came")
		return Event{}
	}
}

func expect(t *testing.T, events <-chan Event, change Change, name string, kind Kind) Event {
	t.Helper()
	e := next(t, events)
	if e.Change != change || e.Interface.Name != name || e.Interface.Kind != kind {
		t.Fatalf("got %+v, want change %d of %s as %s", e, change, name, kind)
	}
	return e
}
