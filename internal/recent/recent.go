// SPDX-License-Identifier: Apache-2.0

// Package recent keeps values that are made of few different keys again and again, such
// as the text of an address in every span, so that each is made once.
package recent

import "sync"

// Table has the values of the keys that were used last. It may be used concurrently.
type Table[K comparable, V any] struct {
	make func(K) V
	size int

	mu sync.Mutex
	// A key that is used moves to young. When young is full it becomes old, and what was
	// in old is forgotten: that was not used for size other keys.
	young, old map[K]V
}

// New returns a table of at most twice size values, which are made by a function without
// side effects.
func New[K comparable, V any](size int, from func(K) V) *Table[K, V] {
	return &Table[K, V]{make: from, size: size, young: map[K]V{}, old: map[K]V{}}
}

// Get returns the value of a key.
func (t *Table[K, V]) Get(k K) V {
	t.mu.Lock()
	defer t.mu.Unlock()
	v, ok := t.young[k]
	if ok {
		return v
	}
	if v, ok = t.old[k]; !ok {
		v = t.make(k)
	}
	if len(t.young) >= t.size {
		t.young, t.old = t.old, t.young
		clear(t.young) // keeps its memory
	}
	t.young[k] = v
	return v
}
