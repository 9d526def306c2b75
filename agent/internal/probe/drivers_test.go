// SPDX-License-Identifier: Apache-2.0

package probe

import (
	"testing"
	"time"

	"github.com/vishvananda/netlink"

	"github.com/layertrace/layertrace/internal/exchange"
)

// A queue for several transmit queues, which was too slow for the rest of each
// request, lets that go as a list.
func TestDriverGetsAList(t *testing.T) {
	if !inNamespace(t) {
		return
	}
	n := newNetworkOf(t, netlink.LinkAttrs{NumTxQueues: 2})
	k := newKernel(t, Options{Drivers: true})
	must(t, k.probe.Attach(n.ifindex))
	const large = requests - 8 // from this one on they are of five packets and more
	for i, x := range driven(t, k, requests-large, func() {
		must(t, awaitServer())
		for i := large; i < requests; i++ {
			must(t, shape(n, 20_000, 2000))
			done := make(chan bool)
			go func() { call(i, i+1); close(done) }()
			poll(t, "two packets in the queue", func() bool { return queued(t, n) >= 2 })
			must(t, shape(n, 1_000_000_000, 100_000))
			<-done
		}
	}) {
		checkHandover(t, &x)
		if x.Request.Handover.Last < x.Request.Last {
			t.Errorf("request %d: driver got its last byte at %d, the queue had it at %d", i, x.Request.Handover.Last, x.Request.Last)
		}
	}
}

// shape makes a queue of this rate and burst, in bytes (per second), or changes
// the one that there is.
func shape(n *network, rate uint64, burst uint32) error {
	return netlink.QdiscReplace(&netlink.Tbf{
		QdiscAttrs: rootQueue(n), Rate: rate, Buffer: netlink.Xmittime(rate, burst), Limit: 1 << 20,
	})
}

// queued returns how many packets the queue holds.
func queued(t *testing.T, n *network) uint32 {
	t.Helper()
	link, err := netlink.LinkByIndex(n.ifindex)
	must(t, err)
	queues, err := netlink.QdiscList(link)
	must(t, err)
	return queues[0].Attrs().Statistics.Queue.Qlen
}

// Requests that wait in the queue of their interface: the driver gets them later
// by what the queue's rate and their size make of it.
func TestDriverBehindTheQueue(t *testing.T) {
	if !inNamespace(t) {
		return
	}
	n := newNetwork(t)
	k := newKernel(t, Options{Drivers: true})
	must(t, k.probe.Attach(n.ifindex))
	const rate, burst = 1_000_000, 2000 // bytes per second, bytes
	must(t, shape(n, rate, burst))
	for i, x := range driven(t, k, requests, func() { n.talk(t) }) {
		checkHandover(t, &x)
		if x.Request.Handover.Last < x.Request.Last {
			t.Errorf("request of %d bytes: driver got its last byte at %d, the queue had it at %d", x.Request.Bytes, x.Request.Handover.Last, x.Request.Last)
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

// What passes an empty queue by, or has none, is with the driver at once.
func TestDriverWithoutWaiting(t *testing.T) {
	if !inNamespace(t) {
		return
	}
	n := newNetwork(t)
	k := newKernel(t, Options{Drivers: true})
	must(t, k.probe.Attach(n.ifindex))
	for _, test := range []struct {
		name  string
		queue netlink.Qdisc // nil: as the kernel made it, without
	}{
		{"no queue", nil},
		{"a queue that is passed by", &netlink.GenericQdisc{QdiscAttrs: rootQueue(n), QdiscType: "pfifo"}},
	} {
		t.Run(test.name, func(t *testing.T) {
			if test.queue != nil {
				must(t, netlink.QdiscReplace(test.queue))
			}
			for _, x := range driven(t, k, requests, func() { n.talk(t) }) {
				checkHandover(t, &x)
				if q := x.Request; q.Handover != (exchange.Extent{First: q.First, Last: q.Last}) {
					t.Errorf("driver got it from %d to %d, it was captured from %d to %d", q.Handover.First, q.Handover.Last, q.First, q.Last)
				}
			}
		})
	}
}

// From what was seen of a message at the queue to when the driver had it.
func TestHandover(t *testing.T) {
	unknown := exchange.Extent{}
	for _, test := range []struct {
		name string
		seen exchange.Extent
		release
		want exchange.Extent
	}{
		{"nothing", exchange.Extent{}, release{}, exchange.Extent{First: 10, Last: 20}},
		{"all", exchange.Extent{First: 15, Last: 25}, release{whole: true}, exchange.Extent{First: 15, Last: 25}},
		{"not the first byte", exchange.Extent{Last: 25}, release{whole: true}, unknown},
		{"not the last byte", exchange.Extent{First: 15, Last: 18}, release{}, unknown},
		{"the first byte passed by", exchange.Extent{Last: 25}, release{bypassed: true, whole: true}, exchange.Extent{First: 10, Last: 25}},
		{"the last byte passed by", exchange.Extent{First: 15, Last: 18}, release{bypassed: true}, exchange.Extent{First: 15, Last: 20}},
		{"both passed by", exchange.Extent{Last: 18}, release{bypassed: true}, exchange.Extent{First: 10, Last: 20}},
	} {
		out := exchange.Message{First: 10, Last: 20, Packets: 3, Handover: test.seen}
		if got := handover(&out, test.release); got != test.want {
			t.Errorf("%s: %+v, want %+v", test.name, got, test.want)
		}
	}
}

func rootQueue(n *network) netlink.QdiscAttrs {
	return netlink.QdiscAttrs{LinkIndex: n.ifindex, Handle: netlink.MakeHandle(1, 0), Parent: netlink.HANDLE_ROOT}
}

// Interfaces with numbers above those that have a bit are watched, too.
func TestDriverOfAHighNumber(t *testing.T) {
	if !inNamespace(t) {
		return
	}
	const high = 70_000
	n := newNetworkOf(t, netlink.LinkAttrs{Index: high})
	if n.ifindex != high {
		t.Fatalf("interface %d, want %d", n.ifindex, high)
	}
	k := newKernel(t, Options{Drivers: true})
	must(t, k.probe.Attach(n.ifindex))
	for _, x := range driven(t, k, requests, func() { n.talk(t) }) {
		checkHandover(t, &x)
	}
}

// driven lets the client talk, and returns what the probe gave out of it, every
// message with its driver's times. A kernel may leave out a tracepoint's program
// now and then (seen where a task of the machine's own was interrupted to empty
// the queue): that has to be counted, and is tried again.
func driven(t *testing.T, k *kernel, want int, talk func()) []exchange.Exchange {
	t.Helper()
	for range 4 {
		before := k.count("driver_times_missing")
		talk()
		all := k.exchanges()
		if len(all) != want {
			t.Fatalf("%d exchanges, want %d", len(all), want)
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
		t.Logf("again: %d of %d requests without a time of the driver", unhanded, want)
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
		t.Errorf("driver got the first byte at %d, the queue had it at %d", out.Handover.First, out.First)
	}
	if in.Handover != (exchange.Extent{}) {
		t.Errorf("a driver got what came in: %+v", in.Handover)
	}
}
