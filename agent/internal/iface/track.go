// SPDX-License-Identifier: Apache-2.0

package iface

import (
	"context"

	"github.com/vishvananda/netlink"
)

// present handles a link that is there, new or known.
func (w *Watcher) present(ctx context.Context, link netlink.Link) {
	attrs := link.Attrs()
	now := Interface{Index: attrs.Index, Name: attrs.Name, LinkKind: linkKindOf(link)}
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
	default: // the new name changes the kind, or matches no more
		w.emit(ctx, Event{Removed, before})
		if now.Kind == "" {
			delete(w.known, now.Index)
			return
		}
		w.emit(ctx, Event{Added, now})
	}
	w.known[now.Index] = now
}

// gone handles a link that is no longer there.
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
