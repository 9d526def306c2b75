// SPDX-License-Identifier: Apache-2.0

package probe

import (
	"errors"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
)

// A request that is dropped at its interface, where nothing waits: the driver gets
// the copy that is sent again, TCP's least timeout later.
func TestDriverGetsACopy(t *testing.T) {
	needsTCX(t)
	if !inNamespace(t) {
		return
	}
	const leastTimeout = 200 * time.Millisecond // TCP_RTO_MIN, include/net/tcp.h
	n := newNetwork(t)
	must(t, resendSoon(n))
	k := newKernel(t, Options{Drivers: true})
	must(t, k.probe.Attach(n.ifindex))
	must(t, awaitServer())
	const small = 3 // of one packet
	call(0, small)  // opens the connection
	k.exchanges()
	answered := make(chan bool)
	dropAll(t, n.ifindex, func() {
		go func() { call(small, small+1); close(answered) }()
		poll(t, "the request is dropped", func() bool { return k.count("packets_dropped") > 0 })
	})
	<-answered
	all := k.exchanges()
	if len(all) != 1 {
		t.Fatalf("%d exchanges, want 1", len(all))
	}
	q := all[0].Request
	if waited := time.Duration(q.Tx.Last - q.Last); waited < leastTimeout*9/10 || q.Tx.First != q.Tx.Last {
		t.Errorf("driver got it from %v to %v after it was captured, want both some %v", time.Duration(q.Tx.First-q.First), waited, leastTimeout)
	}
}

// resendSoon takes back what newNetwork does against copies.
func resendSoon(n *network) error {
	routes, err := netlink.RouteList(nil, netlink.FAMILY_V4)
	if err != nil {
		return err
	}
	for _, r := range routes {
		if r.LinkIndex == n.ifindex && r.RtoMin != 0 {
			r.RtoMin = 0
			return netlink.RouteReplace(&r)
		}
	}
	return errors.New("no route with a least timeout")
}
