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
	// resyncInterval bounds how long a lost netlink message can matter.
	resyncInterval = 30 * time.Second
	// resubscribeDelay keeps a broken netlink from turning into a busy loop.
	resubscribeDelay = 200 * time.Millisecond
	// receiveBuffer holds the messages of some thousand links that change at
	// once; an overrun (ENOBUFS) beyond it costs a new subscription and a list.
	receiveBuffer = 1 << 20
)

// Watcher follows the selected interfaces of one network namespace.
type Watcher struct {
	selector Selector
	log      *slog.Logger
	known    map[int]Interface
	events   chan Event
	listed   chan struct{}
	first    sync.Once
}

// NewWatcher returns a watcher that does nothing until Run.
func NewWatcher(selector Selector, log *slog.Logger) *Watcher {
	return &Watcher{selector: selector, log: log, known: map[int]Interface{}, events: make(chan Event), listed: make(chan struct{})}
}

// Events gives the changes in order; it is closed when Run returns. A reader
// must keep reading until then.
func (w *Watcher) Events() <-chan Event { return w.events }

// Listed is closed when a reader of Events has got all interfaces that were
// there at the start.
func (w *Watcher) Listed() <-chan struct{} { return w.listed }

// Run reports the interfaces that are there and then each change until ctx is
// done. It works in the network namespace of the calling thread and returns an
// error when netlink cannot be used at all.
func (w *Watcher) Run(ctx context.Context) error {
	defer close(w.events)
	for works := false; ctx.Err() == nil; {
		err := w.follow(ctx)
		works = works || errors.Is(err, errOverrun)
		if err != nil && !works {
			return fmt.Errorf("follow network interfaces: %w", err)
		}
		if err != nil {
			w.log.Info("subscribing to network interfaces again", "reason", err)
		}
		wait(ctx, resubscribeDelay)
	}
	return nil
}

// errOverrun: messages came faster than they were read (ENOBUFS), some are
// lost. The list behind the next subscription makes up for it.
var errOverrun = errors.New("the kernel's message queue overran")

// follow subscribes, lists, and handles messages until the subscription ends
// (overrun) or ctx is done. Listing behind the subscription misses nothing: a
// change between the two comes twice, which changes nothing.
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
				w.log.Warn("cannot list interfaces; trying again", "error", err)
			}
		}
	}
}

// handle applies one message. Messages of the AF_BRIDGE family tell about
// bridge ports: a DELLINK there means "left the bridge", not "is gone".
func (w *Watcher) handle(ctx context.Context, u netlink.LinkUpdate) {
	if u.Family == unix.AF_BRIDGE {
		return
	}
	if u.Header.Type == unix.RTM_DELLINK {
		w.gone(ctx, u.Attrs().Index)
		return
	}
	w.present(ctx, u.Link)
}

// resync compares everything with what is there now.
func (w *Watcher) resync(ctx context.Context) error {
	links, err := list()
	if err != nil {
		return err
	}
	seen := map[int]bool{}
	for _, link := range links {
		seen[link.Attrs().Index] = true
		w.present(ctx, link)
	}
	for index := range w.known {
		if !seen[index] {
			w.gone(ctx, index)
		}
	}
	return nil
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
