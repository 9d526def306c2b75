// SPDX-License-Identifier: Apache-2.0

package probe

import (
	"testing"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/link"
	"github.com/google/go-cmp/cmp"
	"github.com/vishvananda/netlink"
)

// other loads a program of someone else.
func other(t *testing.T, name string, kind ebpf.ProgramType, verdict int32) *ebpf.Program {
	t.Helper()
	p, err := ebpf.NewProgram(&ebpf.ProgramSpec{
		Name: name, Type: kind, License: "GPL", Instructions: asm.Instructions{asm.Mov.Imm(asm.R0, verdict), asm.Return()},
	})
	must(t, err)
	t.Cleanup(func() { p.Close() })
	return p
}

func wantAhead(t *testing.T, find func(int) ([]Foreign, error), ifindex int, want ...Foreign) {
	t.Helper()
	got, err := find(ifindex)
	must(t, err)
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("programs ahead (-want +got):\n%s", diff)
	}
}

const tcxPass = 0

// Programs after ours are harmless. The agent names those before it, and XDP.
func TestProgramsAheadOfTCX(t *testing.T) {
	if !inNamespace(t) {
		return
	}
	needsTCX(t)
	n := newNetwork(t)
	p, err := Open(Options{Mode: ModeTCX})
	must(t, err)
	defer p.Close()
	must(t, p.Attach(n.ifindex))
	attach := func(name string, hook ebpf.AttachType, anchor link.Anchor) link.Link {
		l, err := link.AttachTCX(link.TCXOptions{Interface: n.ifindex, Program: other(t, name, ebpf.SchedCLS, tcxPass), Attach: hook, Anchor: anchor})
		must(t, err)
		return l
	}
	defer attach("behind", ebpf.AttachTCXIngress, link.Tail()).Close()
	wantAhead(t, p.Ahead, n.ifindex)

	first := attach("to_the_front", ebpf.AttachTCXEgress, link.Head())
	xdp, err := link.AttachXDP(link.XDPOptions{Interface: n.ifindex, Program: other(t, "early", ebpf.XDP, 2), Flags: link.XDPGenericMode})
	must(t, err)
	want := []Foreign{{"xdp", "early"}, {"tcx-egress", "to_the_front"}}
	wantAhead(t, p.Ahead, n.ifindex, want...)
	wantAhead(t, AheadOfAny, n.ifindex, want...)

	// It is right that they are named: with TCX_PASS before it, ours does not run.
	n.talk(t)
	if got := finish(t, p); len(got) > 0 {
		for _, x := range got {
			if x.Response.Bytes > 0 && x.Request.Bytes > 0 {
				t.Errorf("a whole exchange passed: %+v", x)
			}
		}
	}
	must(t, xdp.Close())
	must(t, first.Close())
	wantAhead(t, p.Ahead, n.ifindex)
}

// With clsact, all TCX programs are first, and filters by their order.
func TestProgramsAheadOfClsact(t *testing.T) {
	if !inNamespace(t) {
		return
	}
	n := newNetwork(t)
	p, err := Open(Options{Mode: ModeClsact})
	must(t, err)
	defer p.Close()
	must(t, p.Attach(n.ifindex))
	device, err := netlink.LinkByIndex(n.ifindex)
	must(t, err)
	must(t, netlink.FilterAdd(&netlink.BpfFilter{
		FilterAttrs: netlink.FilterAttrs{LinkIndex: device.Attrs().Index, Parent: netlink.HANDLE_MIN_EGRESS, Protocol: 3, Priority: 9},
		Fd:          other(t, "later", ebpf.SchedCLS, -1).FD(), Name: "later", DirectAction: true,
	}))
	wantAhead(t, p.Ahead, n.ifindex)
	l, err := link.AttachTCX(link.TCXOptions{Interface: n.ifindex, Program: other(t, "tcx_cni", ebpf.SchedCLS, -1), Attach: ebpf.AttachTCXIngress})
	needs(t, err)
	defer l.Close()
	wantAhead(t, p.Ahead, n.ifindex, Foreign{"tcx-ingress", "tcx_cni"})
}

// A packet socket gets what leaves after the filters.
func TestProgramsAheadOfSocketFilter(t *testing.T) {
	if !inNamespace(t) {
		return
	}
	needsTCX(t)
	n := newNetwork(t)
	p, err := Open(Options{Mode: ModeSocketFilter})
	must(t, err)
	defer p.Close()
	must(t, p.Attach(n.ifindex))
	for _, hook := range []ebpf.AttachType{ebpf.AttachTCXIngress, ebpf.AttachTCXEgress} {
		l, err := link.AttachTCX(link.TCXOptions{Interface: n.ifindex, Program: other(t, "cni", ebpf.SchedCLS, -1), Attach: hook})
		must(t, err)
		defer l.Close()
	}
	wantAhead(t, p.Ahead, n.ifindex, Foreign{"tcx-egress", "cni"})
}
