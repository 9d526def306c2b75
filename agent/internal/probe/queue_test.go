// SPDX-License-Identifier: Apache-2.0

package probe

import (
	"testing"
	"time"

	"github.com/vishvananda/netlink"
)

func TestDriverBehindTheQueue(t *testing.T) {
	if inNamespace(t) {
		checkBehindTheQueue(t, newNetwork(t))
	}
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
	checkBehindTheQueue(t, n)
}

// checkBehindTheQueue lets requests wait in the queue of their interface: the
// driver gets them later by what the queue's rate and their size make of it.
func checkBehindTheQueue(t *testing.T, n *network) {
	t.Helper()
	k := newKernel(t, Options{Drivers: true})
	must(t, k.probe.Attach(n.ifindex))
	const rate, burst = 1_000_000, 2000 // bytes per second, bytes
	must(t, shape(n, rate, burst))
	for i, x := range driven(t, k, requests, true, func() { n.talk(t) }) {
		checkHandover(t, &x)
		if x.Request.Tx.Last < x.Request.Last {
			t.Errorf("request of %d bytes: driver got its last byte at %d, the queue had it at %d", x.Request.Bytes, x.Request.Tx.Last, x.Request.Last)
		}
		if x.Context.TraceID.String() != traceID(i) {
			t.Fatalf("request %d has trace ID %s, want %s", i, x.Context.TraceID, traceID(i))
		}
		least := time.Duration(i*bodyStep-burst) * time.Second / rate
		if took := time.Duration(x.Request.Tx.Last - x.Request.First); took < least {
			t.Errorf("request %d took %v through the queue, want %v or more by the queue's rate", i, took, least)
		}
	}
}

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
	for i, x := range driven(t, k, requests-large, true, func() {
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
		if x.Request.Tx.Last < x.Request.Last {
			t.Errorf("request %d: driver got its last byte at %d, the queue had it at %d", i, x.Request.Tx.Last, x.Request.Last)
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

func rootQueue(n *network) netlink.QdiscAttrs {
	return netlink.QdiscAttrs{LinkIndex: n.ifindex, Handle: netlink.MakeHandle(1, 0), Parent: netlink.HANDLE_ROOT}
}
