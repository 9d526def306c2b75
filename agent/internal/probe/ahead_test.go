// SPDX-License-Identifier: Apache-2.0

package probe

import (
	"testing"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/link"
	"github.com/google/go-cmp/cmp"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
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
	defer attach("at_the_end", ebpf.AttachTCXIngress, link.Tail()).Close()
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

// capturing returns a probe that captures at the network's interface.
func capturing(t *testing.T, n *network, mode Mode) *Probe {
	t.Helper()
	p := newKernel(t, Options{Mode: mode}).probe
	must(t, p.Attach(n.ifindex))
	return p
}

// addFilter adds another owner's clsact filter, which runs after the agent's.
func addFilter(t *testing.T, ifindex int, parent uint32, name string) {
	t.Helper()
	must(t, netlink.FilterAdd(&netlink.BpfFilter{
		FilterAttrs: netlink.FilterAttrs{LinkIndex: ifindex, Parent: parent, Protocol: unix.ETH_P_ALL, Priority: 9},
		Fd:          other(t, name, ebpf.SchedCLS, -1).FD(), Name: name, DirectAction: true,
	}))
}

// addTCX adds a TCX program of someone else until the test ends.
func addTCX(t *testing.T, ifindex int, hook ebpf.AttachType, name string) {
	t.Helper()
	l, err := link.AttachTCX(link.TCXOptions{Interface: ifindex, Program: other(t, name, ebpf.SchedCLS, -1), Attach: hook})
	must(t, err)
	t.Cleanup(func() { must(t, l.Close()) })
}

// With clsact, filters are in their order, and XDP is first.
func TestProgramsAheadOfClsact(t *testing.T) {
	if !inNamespace(t) {
		return
	}
	n := newNetwork(t)
	p := capturing(t, n, ModeClsact)
	addFilter(t, n.ifindex, netlink.HANDLE_MIN_INGRESS, "later")
	addFilter(t, n.ifindex, netlink.HANDLE_MIN_EGRESS, "later")
	wantAhead(t, p.Ahead, n.ifindex)
	xdp, err := link.AttachXDP(link.XDPOptions{Interface: n.ifindex, Program: other(t, "early", ebpf.XDP, 2), Flags: link.XDPGenericMode})
	must(t, err)
	defer xdp.Close()
	wantAhead(t, p.Ahead, n.ifindex, Foreign{"xdp", "early"})
}

// All TCX programs are before clsact.
func TestTCXIsAheadOfClsact(t *testing.T) {
	if !inNamespace(t) {
		return
	}
	needsTCX(t)
	n := newNetwork(t)
	p := capturing(t, n, ModeClsact)
	addTCX(t, n.ifindex, ebpf.AttachTCXIngress, "tcx_cni")
	wantAhead(t, p.Ahead, n.ifindex, Foreign{"tcx-ingress", "tcx_cni"})
}

// A packet socket gets what leaves after all filters, and what arrives before them.
func TestProgramsAheadOfSocketFilter(t *testing.T) {
	if !inNamespace(t) {
		return
	}
	n := newNetwork(t)
	p := capturing(t, n, ModeSocketFilter)
	must(t, netlink.QdiscAdd(&netlink.GenericQdisc{
		QdiscAttrs: netlink.QdiscAttrs{LinkIndex: n.ifindex, Handle: netlink.MakeHandle(0xffff, 0), Parent: netlink.HANDLE_CLSACT},
		QdiscType:  "clsact",
	}))
	addFilter(t, n.ifindex, netlink.HANDLE_MIN_INGRESS, "arriving")
	addFilter(t, n.ifindex, netlink.HANDLE_MIN_EGRESS, "leaving")
	wantAhead(t, p.Ahead, n.ifindex, Foreign{"clsact-egress", "leaving"})
}

// So it is with TCX.
func TestTCXIsAheadOfSocketFilter(t *testing.T) {
	if !inNamespace(t) {
		return
	}
	needsTCX(t)
	n := newNetwork(t)
	p := capturing(t, n, ModeSocketFilter)
	addTCX(t, n.ifindex, ebpf.AttachTCXIngress, "arriving")
	addTCX(t, n.ifindex, ebpf.AttachTCXEgress, "leaving")
	wantAhead(t, p.Ahead, n.ifindex, Foreign{"tcx-egress", "leaving"})
}

// BenchmarkAhead is one look at one interface, of which an agent has up to hundreds.
func BenchmarkAhead(b *testing.B) {
	p, err := Open(Options{Mode: ModeTCX})
	if err != nil {
		b.Skip("needs root and TCX: ", err)
	}
	defer p.Close()
	b.ReportAllocs()
	for b.Loop() {
		if _, err := p.Ahead(1); err != nil {
			b.Fatal(err)
		}
	}
}
