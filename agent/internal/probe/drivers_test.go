// SPDX-License-Identifier: Apache-2.0

package probe

import (
	"testing"

	"github.com/vishvananda/netlink"

	"github.com/layertrace/layertrace/internal/observe"
)

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
			for _, x := range driven(t, k, requests, false, func() { n.talk(t) }) {
				checkHandover(t, &x)
				if q := x.Request; q.Tx != (observe.Extent{First: q.First, Last: q.Last}) {
					t.Errorf("driver got it from %d to %d, it was captured from %d to %d", q.Tx.First, q.Tx.Last, q.First, q.Last)
				}
			}
		})
	}
}

// driven lets the client talk, and returns what the probe gave out of it, every
// message with its driver's times. A kernel may leave out a tracepoint's programs
// now and then, without counting it as theirs (seen for up to 4 ms, of any program
// at qdisc_dequeue): that has to be counted, and is tried again. waits: nothing
// passes the queue by, so that of a message with the times of its capture no
// packet was seen there, which nothing can count.
func driven(t *testing.T, k *kernel, want int, waits bool, talk func()) []observe.Observation {
	t.Helper()
	for range 4 {
		before := k.count("tx_timestamps_missing")
		talk()
		all := k.exchanges()
		if len(all) != want {
			t.Fatalf("%d exchanges, want %d", len(all), want)
		}
		var unhanded, unseen uint64
		for _, x := range all {
			switch q := x.Request; q.Tx {
			case observe.Extent{}:
				unhanded++
			case observe.Extent{First: q.First, Last: q.Last}:
				unseen++
			}
		}
		if counted := k.count("tx_timestamps_missing") - before; counted != unhanded {
			t.Fatalf("%d requests counted without a time of the driver, want %d", counted, unhanded)
		}
		if unhanded == 0 && (!waits || unseen == 0) {
			return all
		}
		t.Logf("again: of %d requests %d without a time of the driver, %d with that of the capture", want, unhanded, unseen)
	}
	t.Fatal("the driver's times are missing in each of 4 conversations")
	return nil
}

// At an interface only the message that leaves through it has a driver.
func checkHandover(t *testing.T, x *observe.Observation) {
	t.Helper()
	out, in := x.Request, x.Response
	if x.Direction == observe.DirectionIngress {
		out, in = in, out
	}
	if out.Tx.First < out.First || out.Tx.First == 0 {
		t.Errorf("driver got the first byte at %d, the queue had it at %d", out.Tx.First, out.First)
	}
	if in.Tx != (observe.Extent{}) {
		t.Errorf("a driver got what came in: %+v", in.Tx)
	}
}
