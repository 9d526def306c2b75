// SPDX-License-Identifier: Apache-2.0

package probe

import (
	"context"
	"testing"

	"github.com/vishvananda/netlink"

	"github.com/layertrace/layertrace/internal/observe"
)

// A device without a link-layer header: its packets begin with the IP header.
func TestDeviceWithoutEthernet(t *testing.T) {
	if !inNamespace(t) {
		return
	}
	for _, mode := range []Mode{ModeTCX, ModeClsact, ModeSocketFilter} {
		t.Run(string(mode), func(t *testing.T) {
			if mode == ModeTCX {
				needsTCX(t)
			}
			tun := &netlink.Tuntap{
				LinkAttrs: netlink.LinkAttrs{Name: "tun-test"},
				Mode:      netlink.TUNTAP_MODE_TUN, Flags: netlink.TUNTAP_NO_PI, NonPersist: true, Queues: 1,
			}
			must(t, netlink.LinkAdd(tun))
			defer tun.Fds[0].Close()
			must(t, netlink.LinkSetUp(tun))
			p, err := Open(Options{Mode: mode})
			must(t, err)
			defer p.Close()
			must(t, p.Attach(tun.Index))
			c := newConnection(40000)
			for _, packet := range [][]byte{c.request(get + traceparent + end), c.response(ok200)} {
				_, err := tun.Fds[0].Write(packet[14:]) // without the Ethernet header
				must(t, err)
			}
			got := finish(t, p)
			if len(got) != 1 || got[0].Status != 200 || got[0].Context.HeaderOffset != uint32(len(get)) {
				t.Errorf("exchanges %+v", got)
			}
		})
	}
}

// Filters of clsact outlive the agent: those of a killed one are taken over.
func TestClsactTakesOver(t *testing.T) {
	if !inNamespace(t) {
		return
	}
	n := newNetwork(t)
	killed, err := Open(Options{Mode: ModeClsact})
	must(t, err)
	must(t, killed.Attach(n.ifindex)) // never detached
	checkAll(t, captured(t, n, Options{Mode: ModeClsact}), OptionOff)
	if seen := finish(t, killed); len(seen) != 0 {
		t.Errorf("the old filters saw %d exchanges after a new agent came", len(seen))
	}
	link, err := netlink.LinkByIndex(n.ifindex)
	must(t, err)
	for _, parent := range []uint32{netlink.HANDLE_MIN_INGRESS, netlink.HANDLE_MIN_EGRESS} {
		filters, err := netlink.FilterList(link, parent)
		must(t, err)
		if len(filters) != 0 {
			t.Errorf("filters left behind: %v", filters)
		}
	}
}

// finish runs the probe just long enough to give out what it has.
func finish(t *testing.T, p *Probe) (got []observe.Observation) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	done := make(chan error)
	go func() { done <- p.Run(ctx) }()
	for x := range p.Observations() {
		got = append(got, x)
	}
	must(t, <-done)
	return got
}
