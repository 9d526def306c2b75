// SPDX-License-Identifier: Apache-2.0

package probe

import (
	"context"
	"testing"
	"time"
)

// What is in the ring buffer is read at intervals, and before its time when a
// quarter of the ring is full.
func TestRead(t *testing.T) {
	for _, test := range []struct {
		name      string
		interval  time.Duration
		exchanges int
	}{
		{"after the interval", 50 * time.Millisecond, 1},
		{"when a quarter is full", time.Hour, 100},
	} {
		t.Run(test.name, func(t *testing.T) {
			k := newKernel(t, Options{RingBytes: 64 << 10, ReadInterval: test.interval})
			ctx, stop := context.WithCancel(context.Background())
			ended := make(chan error, 1)
			go func() { ended <- k.probe.read(ctx) }()
			for i := range test.exchanges {
				c := newConnection(uint16(20000 + i))
				k.receive(c.request(get + traceparent + end))
				k.receive(c.response(ok200))
				k.receive(c.request(get + traceparent + end)) // ends the one before
			}
			select {
			case <-k.probe.out:
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
