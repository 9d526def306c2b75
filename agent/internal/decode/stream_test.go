// SPDX-License-Identifier: Apache-2.0

package decode

import (
	"math/rand/v2"
	"testing"
)

// TestStreamAgainstModel adds random segments of a stream whose bytes are known, and
// compares what is delivered with a list of the bytes and of the times at which each
// passed first.
func TestStreamAgainstModel(t *testing.T) {
	const start, length = uint32(0xfffffff0), 200
	random := rand.New(rand.NewPCG(1, 2))
	content := make([]byte, length)
	for i := range content {
		content[i] = byte(i)
	}
	for range 500 {
		var s stream
		s.start(start)
		var passed [length]uint64
		delivered, high := 0, 0
		for now := uint64(1); delivered < length; now++ {
			at := random.IntN(length)
			size := 1 + random.IntN(min(40, length-at))
			unseen, filled := 0, 0
			for i := at; i < at+size; i++ {
				if passed[i] == 0 {
					passed[i] = now
					unseen++
					if i < high {
						filled++
					}
				}
			}
			want := repeated
			switch {
			case at == high:
				want = inOrder
			case at > high:
				want = ahead
			case filled > 0:
				want = filling
			}
			high = max(high, at+size)
			if got := s.add(piece{seq: start + uint32(at), size: uint32(size), data: content[at : at+size], time: now}); got != want {
				t.Fatalf("add(%d, %d) = %v, want %v", at, size, got, want)
			}
			for s.ready() != nil {
				p := s.take()
				for i, b := range p.data {
					if int(b) != delivered+i || p.time != passed[delivered+i] {
						t.Fatalf("byte %d is %d of time %d, want time %d", delivered+i, b, p.time, passed[delivered+i])
					}
				}
				delivered += len(p.data)
			}
			if delivered < length && passed[delivered] != 0 {
				t.Fatalf("byte %d passed and is not delivered", delivered)
			}
		}
		if s.held != 0 || len(s.waiting) != 0 {
			t.Fatalf("%d bytes are held after the end", s.held)
		}
	}
}

// TestMemoryIsBounded: a stream whose first byte is missing does not grow forever.
func TestMemoryIsBounded(t *testing.T) {
	c := newTalk(t, Options{})
	c.handshake()
	c.client(get)
	segment := string(make([]byte, 1<<16-100))
	for i := range 4 * maxHeld / len(segment) {
		c.serverAt(1+i*len(segment), segment)
		for _, connection := range c.d.connections {
			if held := connection.toClient.held; held > maxHeld+len(segment) {
				t.Fatalf("%d bytes are held", held)
			}
		}
	}
	c.count("reassembly_full", 1)
}
