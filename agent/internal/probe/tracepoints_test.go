// SPDX-License-Identifier: Apache-2.0

package probe

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"net"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/link"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/layertrace/layertrace/internal/observe"
)

func TestHaveTracepoint(t *testing.T) {
	needs(t, HaveTracepoint("tcp_sendmsg_locked", 2)) // the newest of them
	for _, p := range slices.Concat(driverPoints, socketPoints, writePoints) {
		if err := HaveTracepoint(p.name, p.arguments); err != nil {
			t.Errorf("%s: %v", p.name, err)
		}
		if err := HaveTracepoint(p.name, 10); !errors.Is(err, ebpf.ErrNotSupported) {
			t.Errorf("%s with 10 arguments: %v", p.name, err)
		}
	}
	if err := HaveTracepoint("no_such_point", 0); !errors.Is(err, ebpf.ErrNotSupported) {
		t.Errorf("got %v", err)
	}
}

// Without a tracepoint the rest works, and one log line has the consequence.
func TestKernelWithoutTracepoints(t *testing.T) {
	needsWrites(t)
	if !inNamespace(t) {
		return
	}
	n := newNetwork(t)
	for _, test := range []struct {
		missing []string
		said    int
	}{
		{[]string{"tcp_sendmsg_locked", "sock_send_length", "kfree_skb"}, 3},
		{[]string{"cgroup_mkdir", "kfree_skb"}, 3},
		{[]string{"tcp_rcv_space_adjust", "qdisc_dequeue", "kfree_skb"}, 4},
	} {
		t.Run(strings.Join(test.missing, " "), func(t *testing.T) {
			without(t, test.missing...)
			writes := !slices.Contains(test.missing, "tcp_sendmsg_locked") && !slices.Contains(test.missing, "cgroup_mkdir")
			reads := !slices.Contains(test.missing, "tcp_rcv_space_adjust")
			drivers := !slices.Contains(test.missing, "qdisc_dequeue")
			var log bytes.Buffer
			k := newKernel(t, Options{
				SocketCgroups: []string{n.group}, Drivers: true, Log: slog.New(slog.NewTextHandler(&log, nil)),
			})
			must(t, k.probe.Attach(n.ifindex))
			n.talk(t)
			sockets, interfaces := 0, 0
			for _, x := range k.exchanges() {
				if x.Socket != nil {
					sockets++
					known := reads
					if x.Socket.Client {
						known = writes
					}
					if (x.Request.App.Last != 0) != known {
						t.Errorf("client %v: request written or read at %d, known: %v", x.Socket.Client, x.Request.App.Last, known)
					}
				} else {
					interfaces++
					if (x.Request.Tx.Last != 0) != drivers {
						t.Errorf("at the interface: transmitted at %d, known: %v", x.Request.Tx.Last, drivers)
					}
				}
			}
			if sockets != 2*requests || interfaces != requests {
				t.Errorf("%d exchanges at sockets and %d at the interface, of %d requests", sockets, interfaces, requests)
			}
			if got := strings.Count(log.String(), "level=WARN"); got != test.said {
				t.Errorf("%d things are off, it said:\n%s", test.said, &log)
			}
		})
	}
}

// Other errors than a missing feature remain errors.
func TestRefusedTracepoint(t *testing.T) {
	t.Cleanup(func() { haveTracepoint = HaveTracepoint })
	haveTracepoint = func(string, int) error { return fs.ErrPermission }
	p, err := Open(Options{Drivers: true, Log: slog.New(slog.DiscardHandler)})
	if !errors.Is(err, fs.ErrPermission) {
		t.Errorf("got %v", err)
	}
	if err == nil {
		must(t, p.Close())
	}
}

func TestDoWithout(t *testing.T) {
	var out bytes.Buffer
	log := slog.New(slog.NewTextHandler(&out, nil))
	if err := warnUnsupported(fmt.Errorf("load: %w", ebpf.ErrNotSupported), "sockets are off", log); err != nil || !strings.Contains(out.String(), "sockets are off") {
		t.Errorf("%v, said %q", err, &out)
	}
	if err := warnUnsupported(fs.ErrPermission, "off", log); !errors.Is(err, fs.ErrPermission) {
		t.Errorf("permission: %v", err)
	}
	if err := warnUnsupported(nil, "off", log); err != nil || strings.Count(out.String(), "\n") != 1 {
		t.Errorf("%v, said %q", err, &out)
	}
}

// Packets that bypass an empty qdisc, or have none, reach the driver at once.
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
		{"a bypassed queue", &netlink.GenericQdisc{QdiscAttrs: rootQueue(n), QdiscType: "pfifo"}},
	} {
		t.Run(test.name, func(t *testing.T) {
			if test.queue != nil {
				must(t, netlink.QdiscReplace(test.queue))
			}
			for _, x := range driven(t, k, requests, false, func() { n.talk(t) }) {
				checkTransmit(t, &x)
				if q := x.Request; q.Tx != (observe.Extent{First: q.First, Last: q.Last}) {
					t.Errorf("transmitted from %d to %d, captured from %d to %d", q.Tx.First, q.Tx.Last, q.First, q.Last)
				}
			}
		})
	}
}

// driven lets the client talk and returns its exchanges, all messages with
// transmit times. A kernel may skip a tracepoint's programs now and then without
// counting that (seen for up to 4 ms, for all programs at qdisc_dequeue): such
// messages must be counted, and the test is repeated. waits: nothing bypasses the
// qdisc, so a transmit time equal to that of the capture means that no packet was
// seen, which cannot be counted.
func driven(t *testing.T, k *kernel, want int, waits bool, talk func()) []observe.Observation {
	t.Helper()
	for range 4 {
		before := k.count("tx_timestamps_missing")
		talk()
		all := k.exchanges()
		if len(all) != want {
			t.Fatalf("%d exchanges, want %d", len(all), want)
		}
		var missing, unseen uint64
		for _, x := range all {
			switch q := x.Request; q.Tx {
			case observe.Extent{}:
				missing++
			case observe.Extent{First: q.First, Last: q.Last}:
				unseen++
			}
		}
		if counted := k.count("tx_timestamps_missing") - before; counted != missing {
			t.Fatalf("%d requests counted without transmit times, want %d", counted, missing)
		}
		if missing == 0 && (!waits || unseen == 0) {
			return all
		}
		t.Logf("again: of %d requests %d without transmit times, %d with those of the capture", want, missing, unseen)
	}
	t.Fatal("the driver's times are missing in each of 4 conversations")
	return nil
}

// At an interface only the message that leaves through it has transmit times.
func checkTransmit(t *testing.T, x *observe.Observation) {
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

func TestDriverAfterTheQueue(t *testing.T) {
	if inNamespace(t) {
		checkQueued(t, newNetwork(t))
	}
}

// Interfaces with indexes above those that have a bit are watched, too.
func TestDriverOfAHighNumber(t *testing.T) {
	if !inNamespace(t) {
		return
	}
	const high = 70_000
	n := newNetworkOf(t, netlink.LinkAttrs{Index: high})
	if n.ifindex != high {
		t.Fatalf("interface %d, want %d", n.ifindex, high)
	}
	checkQueued(t, n)
}

// checkQueued delays requests in the qdisc of their interface: the driver gets
// them later, as the qdisc's rate and their size imply.
func checkQueued(t *testing.T, n *network) {
	t.Helper()
	k := newKernel(t, Options{Drivers: true})
	must(t, k.probe.Attach(n.ifindex))
	const rate, burst = 1_000_000, 2000 // bytes per second, bytes
	must(t, shape(n, rate, burst))
	for i, x := range driven(t, k, requests, true, func() { n.talk(t) }) {
		checkTransmit(t, &x)
		if x.Request.Tx.Last < x.Request.Last {
			t.Errorf("request of %d bytes: last byte transmitted at %d, captured at %d", x.Request.Bytes, x.Request.Tx.Last, x.Request.Last)
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

// A qdisc for several transmit queues, which delayed the rest of each request,
// releases it as a list.
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
		checkTransmit(t, &x)
		if x.Request.Tx.Last < x.Request.Last {
			t.Errorf("request %d: last byte transmitted at %d, captured at %d", i, x.Request.Tx.Last, x.Request.Last)
		}
	}
}

// shape installs or changes a qdisc with this rate and burst, in bytes (per
// second).
func shape(n *network, rate uint64, burst uint32) error {
	return netlink.QdiscReplace(&netlink.Tbf{
		QdiscAttrs: rootQueue(n), Rate: rate, Buffer: netlink.Xmittime(rate, burst), Limit: 1 << 20,
	})
}

// queued returns the number of packets in the qdisc.
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

// A request dropped at its interface, with nothing queued: the driver gets the
// retransmission, TCP's minimum timeout later.
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
		t.Errorf("transmitted %v to %v after the capture, want both some %v", time.Duration(q.Tx.First-q.First), waited, leastTimeout)
	}
}

// resendSoon undoes newNetwork's measures against retransmissions.
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

// Packets dropped after the capture are counted at the interface of the loss and
// at the sending socket, with the reason: as many as the dropping program counts.
func TestDrops(t *testing.T) {
	needsTCX(t)
	if !inNamespace(t) {
		return
	}
	lo, err := netlink.LinkByName("lo")
	must(t, err)
	must(t, netlink.LinkSetUp(lo))
	k := newKernel(t, Options{SocketCgroups: []string{ownCgroup(t)}, Drivers: true})
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

// A packet dropped on arrival is counted at the socket it was for.
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

// A retransmission of data that the receiver already has, sent because its
// acknowledgements were lost, is not a loss at the receiver.
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
	poll(t, "the response is sent again", func() bool { return tcpInfo(t, server).Total_retrans > 0 })
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

// takeNothing makes a socket drop what arrives, takeAll ends that.
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

// dropAll drops packets that leave through an interface while do runs, after all
// other programs there, and returns their number.
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
