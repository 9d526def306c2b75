// SPDX-License-Identifier: Apache-2.0

package probe

import (
	"testing"
	"time"

	"github.com/vishvananda/netlink"

	"github.com/layertrace/layertrace/internal/exchange"
)

// A request that waits in the queue of its interface: the driver transmits it
// later by what the queue's rate and the request's size make of it.
func TestDriverTransmitsBehindTheQueue(t *testing.T) {
	if !inNamespace(t) {
		return
	}
	n := newNetwork(t)
	k := newKernel(t, Options{Drivers: true})
	must(t, k.probe.Attach(n.ifindex))
	const rate, burst = 1_000_000, 2000 // bytes per second, bytes
	must(t, netlink.QdiscReplace(&netlink.Tbf{
		QdiscAttrs: netlink.QdiscAttrs{LinkIndex: n.ifindex, Handle: netlink.MakeHandle(1, 0), Parent: netlink.HANDLE_ROOT},
		Rate:       rate, Buffer: netlink.Xmittime(rate, burst), Limit: 1 << 20,
	}))
	n.talk(t)
	all := k.exchanges()
	if len(all) != requests {
		t.Fatalf("%d exchanges, want %d", len(all), requests)
	}
	var waited time.Duration
	for _, x := range all {
		checkHandover(t, &x)
		if x.Request.Handover.Last < x.Request.Last {
			t.Fatalf("request of %d bytes: driver sent its last byte at %d, the queue had it at %d", x.Request.Bytes, x.Request.Handover.Last, x.Request.Last)
		}
		waited = max(waited, time.Duration(x.Request.Handover.Last-x.Request.Last))
	}
	// The largest body has 7,800 bytes, and all but the burst has to wait.
	const least = (7800 - burst) * time.Second / rate
	if waited < least {
		t.Errorf("requests waited %v at most, want %v or more by the queue's rate", waited, least)
	}
}

// At an interface only the message that leaves through it has a driver.
func checkHandover(t *testing.T, x *exchange.Exchange) {
	t.Helper()
	out, in := x.Request, x.Response
	if x.Direction == exchange.DirectionIngress {
		out, in = in, out
	}
	if out.Handover.First < out.First || out.Handover.First == 0 {
		t.Errorf("driver sent the first byte at %d, the queue had it at %d", out.Handover.First, out.First)
	}
	if in.Handover != (exchange.Extent{}) {
		t.Errorf("a driver sent what came in: %+v", in.Handover)
	}
}
