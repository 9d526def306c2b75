// SPDX-License-Identifier: Apache-2.0

package iface

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

const (
	// resyncInterval bounds the effect of a lost netlink message.
	resyncInterval = 30 * time.Second
	// resubscribeDelay avoids a busy loop on a broken netlink socket.
	resubscribeDelay = 200 * time.Millisecond
	// receiveBuffer holds the messages of some thousand links that change at
	// once. An overrun (ENOBUFS) costs a new subscription and a list.
	receiveBuffer = 1 << 20
)

// Event is one change of one selected interface.
type Event struct {
	Change    Change
	Interface Interface
}

// Change is what happened to an interface.
type Change uint8

// Changes, in the order in which they can happen to an interface.
const (
	// Added: the interface is present and selected.
	Added Change = iota
	// Renamed: it has a new name or passes on other packets, and its kind is the same.
	Renamed
	// Removed: it is gone or no longer selected.
	Removed
)

// Watcher watches the selected interfaces of one network namespace.
type Watcher struct {
	selector Selector
	log      *slog.Logger
	known    map[int]Interface
	kinds    map[int]string // of all links, by index
	parents  map[int]bool   // of macvlan links
	events   chan Event
	listed   chan struct{}
	first    sync.Once
}

// NewWatcher returns a watcher that is idle until Run.
func NewWatcher(selector Selector, log *slog.Logger) *Watcher {
	return &Watcher{selector: selector, log: log, known: map[int]Interface{}, kinds: map[int]string{}, parents: map[int]bool{}, events: make(chan Event), listed: make(chan struct{})}
}

// Events returns the changes in order. The channel is closed when Run returns;
// read it until then.
func (w *Watcher) Events() <-chan Event { return w.events }

// Listed is closed after the reader of Events has received all interfaces
// present at the start.
func (w *Watcher) Listed() <-chan struct{} { return w.listed }

// Run reports the present interfaces and then each change until ctx is done. It
// works in the network namespace of the calling thread, and returns an error
// if netlink has not worked at all.
func (w *Watcher) Run(ctx context.Context) error {
	defer close(w.events)
	for works := false; ctx.Err() == nil; {
		err := w.follow(ctx)
		works = works || errors.Is(err, errOverrun)
		if err != nil && !works {
			return fmt.Errorf("watch network interfaces: %w", err)
		}
		if err != nil {
			w.log.Info("subscribing to network interfaces again", "reason", err)
		}
		wait(ctx, resubscribeDelay)
	}
	return nil
}

// errOverrun: messages arrived faster than they were read (ENOBUFS), and some
// are lost. The list after the next subscription corrects that.
var errOverrun = errors.New("the kernel's message queue overran")

// follow subscribes, lists, and handles messages until the subscription ends
// (overrun) or ctx is done. A change between subscription and list is seen
// twice, which is harmless; none is missed.
func (w *Watcher) follow(ctx context.Context) error {
	updates, done := make(chan netlink.LinkUpdate, 64), make(chan struct{})
	err := netlink.LinkSubscribeWithOptions(updates, done, netlink.LinkSubscribeOptions{
		ReceiveBufferSize: receiveBuffer,
		ErrorCallback: func(err error) {
			if ctx.Err() == nil {
				w.log.Debug("netlink", "error", err)
			}
		},
	})
	if err != nil {
		close(done)
		return fmt.Errorf("subscribe to RTNLGRP_LINK: %w", err)
	}
	defer drain(updates)
	defer close(done)

	if err := w.resync(ctx); err != nil {
		return err
	}
	w.first.Do(func() { close(w.listed) })
	ticker := time.NewTicker(resyncInterval)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case update, ok := <-updates:
			if !ok {
				return errOverrun
			}
			w.handle(ctx, update)
		case <-ticker.C:
			if err := w.resync(ctx); err != nil {
				w.log.Warn("cannot list interfaces; retrying", "error", err)
			}
		}
	}
}

// resync compares all known interfaces with the present ones.
func (w *Watcher) resync(ctx context.Context) error {
	links, err := list()
	if err == nil {
		w.compare(ctx, links)
	}
	return err
}

// compare handles all links that are present.
func (w *Watcher) compare(ctx context.Context, links []netlink.Link) {
	seen := map[int]bool{}
	clear(w.kinds)
	clear(w.parents)
	for _, link := range links { // first, as a port can come before its master
		w.kinds[link.Attrs().Index] = link.Type()
		if isMacvlan(link) {
			w.parents[link.Attrs().ParentIndex] = true
		}
	}
	for _, link := range links {
		seen[link.Attrs().Index] = true
		w.present(ctx, link)
	}
	for index := range w.known {
		if !seen[index] {
			w.gone(ctx, index)
		}
	}
}

// handle applies one message. Messages of the AF_BRIDGE family are about bridge
// ports: their DELLINK means that a link left the bridge.
func (w *Watcher) handle(ctx context.Context, u netlink.LinkUpdate) {
	if u.Family == unix.AF_BRIDGE {
		return
	}
	if u.Header.Type == unix.RTM_DELLINK {
		delete(w.kinds, u.Attrs().Index)
		w.gone(ctx, u.Attrs().Index)
		return
	}
	w.kinds[u.Attrs().Index] = u.Type()
	if isMacvlan(u.Link) {
		w.addParent(ctx, u.Attrs().ParentIndex)
	}
	w.present(ctx, u.Link)
}

// addParent notes that a link has macvlan links on it. That it has none any more is seen by
// the next list.
func (w *Watcher) addParent(ctx context.Context, index int) {
	w.parents[index] = true
	if i, ok := w.known[index]; ok && !i.PassesOn {
		i.PassesOn = true
		w.known[index] = i
		w.emit(ctx, Event{Renamed, i})
	}
}

// present handles a new or known link that is present.
func (w *Watcher) present(ctx context.Context, link netlink.Link) {
	attrs := link.Attrs()
	now := Interface{Index: attrs.Index, Name: attrs.Name, LinkKind: linkKindOf(link, w.kinds[attrs.MasterIndex])}
	now.PassesOn = attrs.MasterIndex != 0 || w.parents[attrs.Index] || !isNodesOwn(now.LinkKind) || takesForOthers(link)
	now.Kind = w.selector.Kind(now.Name, now.LinkKind)
	before, known := w.known[now.Index]
	switch {
	case !known && now.Kind == "":
		return
	case !known:
		w.emit(ctx, Event{Added, now})
	case now == before:
		return
	case now.Kind == before.Kind:
		w.emit(ctx, Event{Renamed, now})
	default: // the new name changes the kind, or no longer matches
		w.emit(ctx, Event{Removed, before})
		if now.Kind == "" {
			delete(w.known, now.Index)
			return
		}
		w.emit(ctx, Event{Added, now})
	}
	w.known[now.Index] = now
}

// gone handles a link that no longer exists.
func (w *Watcher) gone(ctx context.Context, index int) {
	if i, ok := w.known[index]; ok {
		delete(w.known, index)
		w.emit(ctx, Event{Removed, i})
	}
}

func (w *Watcher) emit(ctx context.Context, e Event) {
	select {
	case w.events <- e:
	case <-ctx.Done():
	}
}

// drain lets the sender of a closed subscription finish.
func drain(updates <-chan netlink.LinkUpdate) {
	go func() {
		for range updates {
		}
	}()
}

func wait(ctx context.Context, d time.Duration) {
	select {
	case <-ctx.Done():
	case <-time.After(d):
	}
}
