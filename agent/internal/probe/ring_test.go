// SPDX-License-Identifier: Apache-2.0

package probe

import (
	"context"
	"testing"
	"time"

	"github.com/cilium/ebpf/ringbuf"

	"github.com/layertrace/layertrace/internal/observe"
)

// exchanges makes the programs write n records.
func exchanges(k *kernel, n int) {
	for i := range n {
		c := newConnection(uint16(20000 + i))
		k.receive(c.request(get + traceparent + end))
		k.receive(c.response(ok200))
		k.receive(c.request(get + traceparent + end)) // ends the one before
	}
}

// The ring buffer is read at intervals, and earlier when a quarter of it, or enough for a
// wakeup, is full.
func TestRead(t *testing.T) {
	for _, test := range []struct {
		name      string
		ring      int
		interval  time.Duration
		exchanges int
	}{
		{"after the interval", 64 << 10, 50 * time.Millisecond, 1},
		{"when a quarter is full", 64 << 10, time.Hour, 100},
		{"when there is enough for a wakeup", 4 << 20, time.Hour, 500},
	} {
		t.Run(test.name, func(t *testing.T) {
			k := newKernel(t, Options{RingBytes: test.ring, ReadInterval: test.interval})
			ctx, stop := context.WithCancel(context.Background())
			ended := make(chan error, 1)
			read := make(chan struct{}, 1)
			go func() {
				ended <- k.probe.read(ctx, func([]observe.Observation) {
					select {
					case read <- struct{}{}:
					default:
					}
				})
			}()
			exchanges(k, test.exchanges)
			select {
			case <-read:
			case <-time.After(10 * time.Second):
				t.Error("nothing was read")
			}
			stop()
			if err := <-ended; err != nil {
				t.Error(err)
			}
		})
	}
}

// A turn of the reader ends after a while, and the next one begins anew.
func TestTurn(t *testing.T) {
	var turn turn
	for range 2 {
		for n := 1; ; n++ {
			if !turn.over() {
				continue
			}
			if n < sliceSize || time.Since(turn.began) <= maxTurn {
				t.Errorf("a turn of %d records in %v is over", n, time.Since(turn.began))
			}
			break
		}
		turn.end()
	}
}

// A wait ends for each of its reasons, also for those of before it. Nothing is left of them for
// the next one, which lasts for its interval.
func TestWait(t *testing.T) {
	const ring, short = 64 << 10, 20 * time.Millisecond
	for _, test := range []struct {
		name           string
		before, during func(k *kernel, stop func())
	}{
		{"records before it", func(k *kernel, _ func()) { exchanges(k, 60) }, nil},
		{"records during it", nil, func(k *kernel, _ func()) { exchanges(k, 60) }},
		{"done before it", func(_ *kernel, stop func()) { stop() }, nil},
		{"done during it", nil, func(_ *kernel, stop func()) { stop() }},
	} {
		t.Run(test.name, func(t *testing.T) {
			k := newKernel(t, Options{RingBytes: ring})
			r := k.probe.reader
			ctx, stop := context.WithCancel(t.Context())
			defer stop()
			context.AfterFunc(ctx, r.interrupt)
			if test.before != nil {
				test.before(k, stop)
			}
			ended := make(chan error, 1)
			go func() { ended <- r.wait(ctx, time.Hour) }()
			if test.during != nil {
				test.during(k, stop)
			}
			select {
			case err := <-ended:
				if err != nil {
					t.Fatal(err)
				}
			case <-time.After(10 * time.Second):
				t.Fatal("the wait does not end")
			}
			if n := r.AvailableBytes(); (n >= ring/4) == (ctx.Err() != nil) {
				t.Errorf("%d bytes, %v", n, ctx.Err())
			}
			if ctx.Err() != nil {
				return
			}
			for record := (ringbuf.Record{}); r.AvailableBytes() > 0; {
				must(t, r.ReadInto(&record))
			}
			began := time.Now()
			if err := r.wait(ctx, short); err != nil || time.Since(began) < short {
				t.Errorf("the next wait: %v after %v, want nil after %v", err, time.Since(began), short)
			}
		})
	}
}

// What is written between the reader's look at the ring and its end is read, such as by the last
// sweep of an agent.
func TestReadAtTheEnd(t *testing.T) {
	k := newKernel(t, Options{})
	ctx, stop := context.WithCancel(t.Context())
	records, passes := 0, 0
	err := k.probe.reader.read(ctx, time.Hour, func([]byte) { records++ }, func() {
		if passes++; passes == 1 {
			exchanges(k, 3)
			stop()
		}
	})
	if err != nil || records != 3 {
		t.Errorf("%d records, %v, want 3", records, err)
	}
}
