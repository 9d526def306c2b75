// SPDX-License-Identifier: Apache-2.0

package probe

import (
	"bytes"
	"context"
	"slices"
	"testing"
	"time"

	"github.com/vishvananda/netlink"

	"github.com/layertrace/layertrace/internal/observe"
)

// TestModesOnTraffic captures between a real client and server with each kind of
// hook.
func TestModesOnTraffic(t *testing.T) {
	if !inNamespace(t) {
		return
	}
	n := newNetwork(t)
	for _, mode := range []Mode{ModeAuto, ModeTCX, ModeClsact, ModeSocketFilter} {
		t.Run(string(mode), func(t *testing.T) {
			if mode == ModeTCX {
				needsTCX(t)
			}
			got := captured(t, n, Options{Mode: mode})
			checkAll(t, got, OptionOff)
		})
	}
}

// captured attaches a probe, runs the client, and returns the observations.
func captured(t *testing.T, n *network, opts Options) []observe.Observation {
	t.Helper()
	k := newKernel(t, opts)
	p := k.probe
	must(t, p.Attach(n.ifindex))
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error)
	var got []observe.Observation
	go func() { done <- p.Run(ctx, func(some []observe.Observation) { got = append(got, some...) }) }()
	n.talk(t)
	cancel()
	must(t, <-done)
	k.close(t)
	return got
}

// checkAll compares with what the client sent: each request exactly once.
func checkAll(t *testing.T, got []observe.Observation, layout OptionLayout) {
	t.Helper()
	if len(got) != requests {
		t.Fatalf("%d exchanges, want %d", len(got), requests)
	}
	idLen := map[OptionLayout]int{OptionOff: 0, OptionCompact: 8, OptionPaper: 4}[layout]
	for i, x := range got {
		if x.Context.TraceID.String() != traceID(i) || x.Context.SpanID.String() != spanID(i) {
			t.Errorf("exchange %d: context %s %s", i, x.Context.TraceID, x.Context.SpanID)
		}
		if x.Status != 200 || x.Flags != 0 || x.Retransmits != 0 || x.Direction != observe.DirectionEgress || x.Response.Bytes < 3000 {
			t.Errorf("exchange %d: %+v flags %v", i, x, x.Flags.Names())
		}
		wantDuration(t, x)
		if len(x.ConnectionID) != idLen || !bytes.Equal(x.ConnectionID, got[0].ConnectionID) {
			t.Errorf("exchange %d: connection ID %x, the first's %x, want %d bytes", i, x.ConnectionID, got[0].ConnectionID, idLen)
		}
		if late := x.Request.First - x.OptionTime; layout == OptionPaper && late > uint64(time.Second) {
			t.Errorf("exchange %d: option time %d ns before the request", i, late)
		}
	}
}

// finish runs the probe just long enough to return its observations.
func finish(t *testing.T, p *Probe) (got []observe.Observation) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	must(t, p.Run(ctx, func(some []observe.Observation) { got = append(got, some...) }))
	return got
}

// Packets of a device without a link-layer header start with the IP header.
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
			t.Cleanup(func() { tun.Fds[0].Close() })
			must(t, netlink.LinkSetUp(tun))
			p := newKernel(t, Options{Mode: mode}).probe
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

// Filters of clsact outlive the agent: a new agent replaces those of a killed
// one.
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
	if names := filterNames(t, n.ifindex); len(names) != 0 {
		t.Errorf("filters left: %q", names)
	}
}

// filterNames returns the names of the clsact filters at an interface, sorted.
func filterNames(t *testing.T, ifindex int) (names []string) {
	t.Helper()
	link, err := netlink.LinkByIndex(ifindex)
	must(t, err)
	for _, parent := range []uint32{netlink.HANDLE_MIN_INGRESS, netlink.HANDLE_MIN_EGRESS} {
		filters, err := netlink.FilterList(link, parent)
		must(t, err)
		for _, f := range filters {
			names = append(names, f.(*netlink.BpfFilter).Name)
		}
	}
	slices.Sort(names)
	return names
}
