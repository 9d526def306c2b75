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
	for i, x := range driven(t, n, k) {
		checkHandover(t, &x)
		if x.Request.Handover.Last < x.Request.Last {
			t.Errorf("request of %d bytes: driver sent its last byte at %d, the queue had it at %d", x.Request.Bytes, x.Request.Handover.Last, x.Request.Last)
		}
		if x.Context.TraceID.String() != traceID(i) {
			t.Fatalf("request %d has trace ID %s, want %s", i, x.Context.TraceID, traceID(i))
		}
		least := time.Duration(i*bodyStep-burst) * time.Second / rate
		if took := time.Duration(x.Request.Handover.Last - x.Request.First); took < least {
			t.Errorf("request %d took %v through the queue, want %v or more by the queue's rate", i, took, least)
		}
	}
}

// Interfaces with numbers above those that have a bit are watched, too.
func TestDriverOfAHighNumber(t *testing.T) {
	if !inNamespace(t) {
		return
	}
	const high = 70_000
	n := newNetworkAt(t, high)
	if n.ifindex != high {
		t.Fatalf("interface %d, want %d", n.ifindex, high)
	}
	k := newKernel(t, Options{Drivers: true})
	must(t, k.probe.Attach(n.ifindex))
	for _, x := range driven(t, n, k) {
		checkHandover(t, &x)
	}
}

// driven lets the client talk and returns what the probe gave out of it, every
// message with its driver's times. A kernel may leave out a tracepoint's program
// now and then (seen where a task of the machine's own was interrupted to empty
// the queue): that has to be counted, and is tried again.
func driven(t *testing.T, n *network, k *kernel) []exchange.Exchange {
	t.Helper()
	for range 4 {
		before := k.count("driver_times_missing")
		n.talk(t)
		all := k.exchanges()
		if len(all) != requests {
			t.Fatalf("%d exchanges, want %d", len(all), requests)
		}
		var unhanded uint64
		for _, x := range all {
			if x.Request.Handover == (exchange.Extent{}) {
				unhanded++
			}
		}
		if counted := k.count("driver_times_missing") - before; counted != unhanded {
			t.Fatalf("%d requests counted without a time of the driver, want %d", counted, unhanded)
		}
		if unhanded == 0 {
			return all
		}
		t.Logf("again: %d of %d requests without a time of the driver", unhanded, requests)
	}
	t.Fatal("the driver's times are missing in each of 4 conversations")
	return nil
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
