// SPDX-License-Identifier: Apache-2.0

package probe

import (
	"io"
	"net"
	"testing"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/link"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// Packets that the kernel drops behind the capture are counted at the interface
// where they were lost and at the socket that sent them, with the reason: as
// many as who dropped them says.
func TestDrops(t *testing.T) {
	needsTCX(t)
	if !inNamespace(t) {
		return
	}
	lo, err := netlink.LinkByName("lo")
	must(t, err)
	must(t, netlink.LinkSetUp(lo))
	k := newKernel(t, Options{Sockets: true, SocketCgroups: []string{ownCgroup(t)}, Drivers: true})
	must(t, k.probe.Attach(lo.Attrs().Index))
	client, server := connect(t)
	receiveRequest(t, client, server)

	dropped := dropAll(t, lo.Attrs().Index, func() {
		_, err := io.WriteString(server, ok200)
		must(t, err)
	})
	_, err = io.ReadFull(client, make([]byte, len(ok200))) // sent again
	must(t, err)

	seen := 0
	for _, x := range k.exchanges() {
		want := dropped
		if x.Socket != nil && x.Socket.Client {
			want = 0
		}
		if x.Drops != want || (want > 0) != (x.DropReason == "tc_egress") {
			t.Errorf("%d drops, the last because of %q, at socket %+v; want %d", x.Drops, x.DropReason, x.Socket, want)
		}
		seen++
	}
	if seen != 3 {
		t.Errorf("%d exchanges, want two at sockets and one at the interface", seen)
	}
	if counted := k.count("packets_dropped"); counted != 2*uint64(dropped) {
		t.Errorf("%d drops counted, want %d at each of two points", counted, dropped)
	}
}

// What the kernel drops on its way in is counted at the socket that it was for.
func TestDropsOfTheReceiver(t *testing.T) {
	needsReceivers(t)
	if !inNamespace(t) {
		return
	}
	k := newLoopback(t)
	client, server := connect(t)
	receiveRequest(t, client, server)
	takeNothing(t, client)
	_, err := io.WriteString(server, ok200)
	must(t, err)
	poll(t, "a packet is dropped", func() bool { return k.count("packets_dropped") > 0 })
	takeAll(t, client)
	_, err = io.ReadFull(client, make([]byte, len(ok200))) // sent again
	must(t, err)
	for _, x := range k.exchanges() {
		if (x.Drops > 0) != x.Socket.Client || (x.DropReason == "socket_filter") != x.Socket.Client {
			t.Errorf("client %v: %d drops, the last because of %q", x.Socket.Client, x.Drops, x.DropReason)
		}
	}
}

// A copy of what the receiver has, sent since nothing of the acknowledgement came
// back, is no loss where it arrives.
func TestDuplicateIsNoDrop(t *testing.T) {
	needsReceivers(t)
	if !inNamespace(t) {
		return
	}
	k := newLoopback(t)
	client, server := connect(t)
	receiveRequest(t, client, server)
	takeNothing(t, server)
	_, err := io.WriteString(server, ok200)
	must(t, err)
	poll(t, "the answer is sent again", func() bool { return tcpInfo(t, server).Total_retrans > 0 })
	takeAll(t, server)
	_, err = io.ReadFull(client, make([]byte, len(ok200)))
	must(t, err)
	for _, x := range k.exchanges() {
		if x.Retransmits == 0 {
			t.Errorf("client %v: no copy was seen", x.Socket.Client)
		}
		if x.Socket.Client && x.Drops != 0 || !x.Socket.Client && x.DropReason != "socket_filter" {
			t.Errorf("client %v: %d drops, the last because of %q", x.Socket.Client, x.Drops, x.DropReason)
		}
	}
}

// takeNothing lets a socket drop what comes, takeAll take it again.
func takeNothing(t *testing.T, conn *net.TCPConn) {
	t.Helper()
	none := unix.SockFprog{Len: 1, Filter: &unix.SockFilter{Code: unix.BPF_RET | unix.BPF_K}}
	control(t, conn, func(fd int) error {
		return unix.SetsockoptSockFprog(fd, unix.SOL_SOCKET, unix.SO_ATTACH_FILTER, &none)
	})
}

func takeAll(t *testing.T, conn *net.TCPConn) {
	t.Helper()
	control(t, conn, func(fd int) error {
		return unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_DETACH_FILTER, 0)
	})
}

// dropAll drops what leaves through an interface while do runs, behind all that
// looks at it there, and returns how many packets that were.
func dropAll(t *testing.T, ifindex int, do func()) uint32 {
	t.Helper()
	drop, err := ebpf.NewProgram(&ebpf.ProgramSpec{
		Type: ebpf.SchedCLS, License: "GPL",
		Instructions: asm.Instructions{asm.Mov.Imm(asm.R0, int32(netlink.TC_ACT_SHOT)), asm.Return()},
	})
	must(t, err)
	defer drop.Close()
	counting, err := ebpf.EnableStats(unix.BPF_STATS_RUN_TIME)
	must(t, err)
	defer counting.Close()
	attached, err := link.AttachTCX(link.TCXOptions{Interface: ifindex, Program: drop, Attach: ebpf.AttachTCXEgress})
	must(t, err)
	do()
	must(t, attached.Close())
	stats, err := drop.Stats()
	must(t, err)
	if stats.RunCount == 0 {
		t.Fatal("nothing was dropped")
	}
	return uint32(stats.RunCount)
}
