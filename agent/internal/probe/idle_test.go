// SPDX-License-Identifier: Apache-2.0

package probe

import (
	"testing"
	"time"

	"github.com/layertrace/layertrace/bpf"
)

// A connection that is kept open without a request is not followed for ever, and
// its next request is captured as the first was.
func TestIdleConnectionIsLetGo(t *testing.T) {
	k := newKernel(t, Options{})
	c := newConnection(40000)
	const idle = 5 * time.Millisecond
	for range 2 {
		k.receive(c.request(get + traceparent + end))
		k.receive(c.response(ok200))
		if k.followed() != 1 {
			t.Fatalf("%d connections are followed, want 1", k.followed())
		}
		poll(t, "the connection to be let go", func() bool {
			must(t, k.probe.sweep(idle, time.Hour))
			return k.followed() == 0
		})
		if got := k.emitted(); len(got) != 1 || got[0].Status != 200 || got[0].Flags != 0 {
			t.Errorf("given out: %+v", got)
		}
		// What belongs to nothing passes by meanwhile.
		k.receive(c.request(get + unsampled + end))
		k.receive(c.response(ok200))
	}
	if k.probe.swept.left {
		t.Error("the sweep goes on without anything to do")
	}
	k.wantCount("segments_late", 0)
}

// What comes late on a connection is counted while it is followed.
func TestLateSegment(t *testing.T) {
	k := newKernel(t, Options{})
	c := newConnection(40000)
	k.receive(c.request(get + traceparent + end))
	k.receive(c.response(ok200))
	must(t, k.probe.sweep(0, time.Hour))
	k.receive(c.response("more"))
	k.wantCount("segments_late", 1)
}

// followed returns how many connections are followed.
func (k *kernel) followed() uint32 {
	k.t.Helper()
	var f bpf.CaptureTracked
	must(k.t, k.probe.kernel.TrackedConnections.Lookup(uint32(0), &f))
	return f.Total
}
