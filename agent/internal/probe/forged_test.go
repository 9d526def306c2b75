// SPDX-License-Identifier: Apache-2.0

package probe

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"

	"github.com/layertrace/layertrace/bpf"
	"github.com/layertrace/layertrace/internal/observe"
)

// A segment that looks like a request makes no span unless something shows that its
// connection exists.
func TestRequestNeedsProof(t *testing.T) {
	request := get + traceparent + end
	for name, test := range map[string]struct {
		before, after func(c *connection) []segment
		proven        bool
	}{
		"nothing": {nil, nil, false},
		"handshake": {func(c *connection) []segment {
			return []segment{{seq: c.clientSeq - 1, syn: true}, {fromServer: true, seq: c.serverSeq - 1, syn: true}}
		}, nil, true},
		"handshake of other numbers": {func(c *connection) []segment {
			return []segment{{seq: c.clientSeq - 1, syn: true}, {fromServer: true, seq: c.serverSeq, syn: true}}
		}, nil, false},
		"SYN alone": {func(c *connection) []segment { return []segment{{seq: c.clientSeq - 1, syn: true}} }, nil, false},
		"acknowledged": {nil, func(c *connection) []segment {
			return []segment{{fromServer: true, seq: c.serverSeq}}
		}, true},
		"partly acknowledged": {nil, func(c *connection) []segment {
			return []segment{{fromServer: true, seq: c.serverSeq, ack: c.clientSeq - 1}}
		}, true},
		"acknowledged before": {nil, func(c *connection) []segment {
			return []segment{{fromServer: true, seq: c.serverSeq, ack: c.clientSeq - uint32(len(request))}}
		}, false},
		"acknowledged by itself": {nil, func(c *connection) []segment {
			return []segment{{seq: c.clientSeq}}
		}, false},
		"response that passed elsewhere": {nil, func(c *connection) []segment {
			return []segment{{seq: c.clientSeq, ack: c.serverSeq + 100}}
		}, true},
		"another one acknowledged": {nil, func(c *connection) []segment {
			return []segment{{fromServer: true, seq: c.serverSeq, ack: c.clientSeq + 1<<30}}
		}, false},
		"FIN of the server": {nil, func(c *connection) []segment {
			return []segment{{fromServer: true, seq: c.serverSeq, fin: true}}
		}, true},
		"RST of the server's socket": {nil, func(c *connection) []segment {
			return []segment{{fromServer: true, seq: c.serverSeq, rst: true}}
		}, true},
		"RST of a closed port": {nil, func(c *connection) []segment {
			return []segment{{fromServer: true, seq: c.serverSeq, rst: true, noACK: true}}
		}, false},
		"RST for a segment without acknowledgement": {nil, func(*connection) []segment {
			return []segment{{fromServer: true, seq: 0, rst: true}}
		}, false},
	} {
		t.Run(name, func(t *testing.T) {
			k := newKernel(t, Options{HoldAfter: time.Nanosecond})
			c := newConnection(40000)
			if test.before != nil {
				for _, s := range test.before(c) {
					k.receive(c.build(s))
				}
			}
			k.receive(c.request(request))
			if test.after != nil {
				for _, s := range test.after(c) {
					k.receive(c.build(s))
				}
			}
			must(t, k.probe.sweep(time.Hour, time.Hour))
			want, unproven := 0, uint64(1)
			if test.proven {
				want, unproven = 1, 0
			}
			seen := 0
			for _, x := range append(k.drain(false), k.drain(true)...) {
				if x.Flags&observe.FlagStillOpen == 0 {
					seen++
				} else if !test.proven {
					t.Errorf("reported as open: %+v", x)
				}
			}
			if seen != want {
				t.Errorf("%d exchanges, want %d", seen, want)
			}
			k.wantCount("requests_unproven", unproven)
		})
	}
}

// The client acknowledges a response that passed elsewhere, which only a pod of the node is
// believed: at a node's own interface, or on the way to a pod, anybody can send that.
func TestResponseElsewhereAtAnInterface(t *testing.T) {
	lo, err := net.InterfaceByName("lo")
	must(t, err)
	for name, test := range map[string]struct {
		ownOnly bool
		program string
		want    int
	}{
		"from a pod":            {false, bpf.CaptureProgCaptureIn, 1},
		"to a pod":              {false, bpf.CaptureProgCaptureOut, 0},
		"from another node":     {true, bpf.CaptureProgCaptureIn, 0},
		"next request of a pod": {false, bpf.CaptureProgCaptureIn, 1},
	} {
		t.Run(name, func(t *testing.T) {
			k := newKernel(t, Options{})
			must(t, k.probe.ownOnly.set(lo.Index, test.ownOnly))
			c := newConnection(40000)
			p, err := k.probe.kernel.program(test.program)
			must(t, err)
			packets := [][]byte{c.request(get + traceparent + end)}
			last := segment{seq: c.clientSeq, ack: c.serverSeq + 100}
			if name == "next request of a pod" {
				last.payload = []byte(get + end)
			}
			for _, packet := range append(packets, c.build(last)) {
				clear(packet[:6]) // to the loopback device's own address
				_, err = p.Run(&ebpf.RunOptions{Data: packet})
				must(t, err)
			}
			must(t, k.probe.sweep(time.Hour, time.Hour))
			got := k.drain(true)
			if len(got) != test.want || test.want == 1 && got[0].Flags&observe.FlagNoResponse == 0 {
				t.Errorf("exchanges %+v, want %d", got, test.want)
			}
			k.wantCount("requests_unproven", uint64(1-test.want))
		})
	}
}

// A segment that TCP drops for lack of an acknowledgement begins nothing.
func TestRequestWithoutAcknowledgement(t *testing.T) {
	k := newKernel(t, Options{})
	c := newConnection(40000)
	k.receive(c.build(segment{seq: c.clientSeq, noACK: true, payload: []byte(get + traceparent + end)}))
	if k.entries() != 0 {
		t.Errorf("%d connections, want none", k.entries())
	}
}

// A connection that exists is believed from then on, also its requests without an answer;
// one that began before the agent when the server acknowledges.
func TestProofLasts(t *testing.T) {
	k := newKernel(t, Options{})
	c := newConnection(40000)
	for i := range 3 {
		k.receive(c.request(requestOf(i, "GET /", "", "")))
		if i < 2 {
			k.receive(c.response(ok200))
		}
	}
	got := k.drain(true)
	if len(got) != 3 || got[2].Flags&observe.FlagNoResponse == 0 {
		t.Errorf("exchanges %+v, want 3, the last one without a response", got)
	}
}

// What others forge with the ends of a connection does not keep its requests from being
// seen.
func TestForgedBeforeReal(t *testing.T) {
	for name, forge := range map[string]func(c *connection) []byte{
		"by the client's address": func(c *connection) []byte {
			return c.build(segment{seq: c.clientSeq + 1<<30, payload: []byte(requestOf(7, "GET /", "", ""))})
		},
		"by the server's address": func(c *connection) []byte {
			return c.build(segment{fromServer: true, seq: 5, payload: []byte(requestOf(7, "GET /", "", ""))})
		},
	} {
		t.Run(name, func(t *testing.T) {
			k := newKernel(t, Options{})
			c := newConnection(40000)
			k.receive(forge(c))
			k.receive(c.request(requestOf(0, "GET /", "", "")))
			k.receive(c.response(ok200))
			got := k.drain(true)
			if len(got) != 1 || got[0].Status != 200 || got[0].Context.SpanID.String() != spanOf(0) {
				t.Errorf("exchanges %+v, want the real one", got)
			}
			k.wantCount("requests_unproven", 1)
		})
	}
}

// Segments whose numbers no end would take change nothing of a request that waits: RFC 5961.
func TestBlindSegments(t *testing.T) {
	for name, forged := range map[string]func(c *connection) segment{
		"RST":               func(*connection) segment { return segment{seq: 1, rst: true} },
		"RST in the window": func(c *connection) segment { return segment{seq: c.clientSeq + 1000, rst: true} },
		"RST by the server": func(c *connection) segment { return segment{fromServer: true, seq: c.serverSeq - 1, rst: true} },
		"SYN":               func(*connection) segment { return segment{seq: 99, syn: true} },
		"SYN in the window": func(c *connection) segment { return segment{seq: c.clientSeq, syn: true} },
		"FIN":               func(c *connection) segment { return segment{seq: c.clientSeq + 1<<30, fin: true} },
		"data":              func(c *connection) segment { return segment{seq: c.clientSeq + 1<<30, payload: []byte("more")} },
		"request": func(c *connection) segment {
			return segment{seq: c.clientSeq + 1<<30, payload: []byte(requestOf(1, "GET /", "", ""))}
		},
		"data by the server": func(c *connection) segment {
			return segment{fromServer: true, seq: c.serverSeq + 1<<30, payload: []byte(r404)}
		},
		"data without ACK flag": func(c *connection) segment { return segment{seq: c.clientSeq, noACK: true, payload: []byte("more")} },
	} {
		t.Run(name, func(t *testing.T) {
			k := newKernel(t, Options{})
			c := newConnection(40000)
			request := requestOf(0, "GET /", "", "")
			k.receive(c.request(request))
			k.receive(c.ack())
			k.receive(c.build(forged(c)))
			k.wantCount("segments_implausible", 1)
			k.receive(c.response(ok200))
			got := k.drain(true)
			if len(got) != 1 || got[0].Status != 200 || got[0].Flags != 0 || got[0].Request.Bytes != uint64(len(request)) {
				t.Errorf("exchanges %+v, want one with its response and no flags", got)
			}
		})
	}
}

// A RST ends an exchange with the number that its receiver expects: next of what passed
// here, what the receiver has acknowledged, or the start of a gap.
func TestExactRST(t *testing.T) {
	for name, test := range map[string]struct{ passed, seq uint32 }{"next": {100, 100}, "acknowledged": {100, 0}} {
		t.Run(name, func(t *testing.T) {
			k := newKernel(t, Options{})
			c := newConnection(40000)
			start := c.serverSeq
			k.receive(c.request(requestOf(0, "POST /", "content-length: 9\r\n", "1234")))
			k.receive(c.response((ok9 + strings.Repeat("x", 100))[:test.passed]))
			k.receive(c.build(segment{seq: c.clientSeq, ack: start, payload: []byte("5")}))
			k.receive(c.build(segment{fromServer: true, seq: start + test.seq, rst: true}))
			if got := k.emitted(); len(got) != 1 || got[0].Flags&observe.FlagReset == 0 && got[0].Status != 200 {
				t.Errorf("exchanges %+v, want one that was reset", got)
			}
		})
	}
}

// A port is used again while the end of its connection was not seen. The SYN ends nothing,
// as anyone could have sent it; the first request after the handshake does.
func TestPortUsedAgain(t *testing.T) {
	for name, numbers := range map[string]uint32{"numbers soon after": 30_000_000, "other numbers": 1 << 30} {
		t.Run(name, func(t *testing.T) {
			k := newKernel(t, Options{})
			c := newConnection(40000)
			k.receive(c.request(requestOf(0, "GET /", "", "")))
			k.receive(c.ack())
			c.clientSeq += numbers
			c.serverSeq += numbers
			k.receive(c.build(segment{seq: c.clientSeq - 1, syn: true}))
			k.receive(c.build(segment{fromServer: true, seq: c.serverSeq - 1, syn: true}))
			if got := k.emitted(); len(got) != 0 {
				t.Fatalf("ended by a SYN: %+v", got)
			}
			k.receive(c.request(requestOf(1, "GET /", "", "")))
			if got := k.emitted(); len(got) != 1 || got[0].Flags != observe.FlagNoResponse {
				t.Errorf("ended by the new connection: %+v, want the old exchange", got)
			}
			k.receive(c.response(ok200))
			if got := k.drain(true); len(got) != 1 || got[0].Status != 200 || got[0].Context.SpanID.String() != spanOf(1) || got[0].Flags != 0 {
				t.Errorf("on the new connection: %+v", got)
			}
		})
	}
}

// A socket's own numbers show which segments it takes: what it drops begins nothing there.
func TestForgedAtSocket(t *testing.T) {
	if !inNamespace(t) {
		return
	}
	k := newLoopback(t)
	client, server := connect(t)
	send(t, client, server, tracedRequest(0))
	send(t, server, client, ok200)
	poll(t, "nothing is tracked", func() bool {
		must(t, k.probe.sweep(time.Millisecond, time.Hour))
		return k.tracked() == 0
	})
	if got := k.emitted(); len(got) != 2 {
		t.Fatalf("%d exchanges, want one at both sockets", len(got))
	}
	next := expected(t, server)
	raw, err := unix.Socket(unix.AF_INET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.IPPROTO_RAW)
	must(t, err)
	defer unix.Close(raw)
	numbers := []uint32{next + 1<<30, next - 1<<30, next - uint32(len(tracedRequest(1)))}
	forge := func(request string) {
		t.Helper()
		for _, seq := range numbers {
			c := connection{
				client: client.LocalAddr().(*net.TCPAddr).AddrPort(), server: client.RemoteAddr().(*net.TCPAddr).AddrPort(),
				clientSeq: seq, serverSeq: 1,
			}
			must(t, unix.Sendto(raw, c.request(request)[14:], 0, &unix.SockaddrInet4{Addr: c.server.Addr().As4()}))
		}
	}
	forge(tracedRequest(1))
	// These count whether the socket takes them or not: when they leave, and when they arrive.
	forge(get + unsampled + end)
	poll(t, "the forged segments have arrived", func() bool { return k.count("contexts_unsampled") == uint64(2*len(numbers)) })
	k.wantCount("segments_implausible", 1)
	if n := k.tracked(); n != 0 {
		t.Errorf("%d connections are tracked after forged segments", n)
	}
	send(t, client, server, tracedRequest(2))
	send(t, server, client, ok200)
	got := k.exchanges()
	if len(got) != 2 {
		t.Errorf("%d exchanges, want that of the real request at both sockets: %+v", len(got), got)
	}
	for _, x := range got {
		if x.Context.SpanID.String() != spanID(2) || x.Status != 200 {
			t.Errorf("exchange %+v", x)
		}
	}
}

// expected returns the sequence number that a connection expects next.
func expected(t *testing.T, conn *net.TCPConn) (next uint32) {
	t.Helper()
	const receiveQueue, off = 1, -1 // TCP_RECV_QUEUE, TCP_REPAIR_OFF_NO_WP of include/uapi/linux/tcp.h
	control(t, conn, func(fd int) error {
		err := unix.SetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_REPAIR, 1)
		if err == nil {
			err = unix.SetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_REPAIR_QUEUE, receiveQueue)
		}
		if err == nil {
			var seq int
			seq, err = unix.GetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_QUEUE_SEQ)
			next = uint32(seq)
		}
		return errors.Join(err, unix.SetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_REPAIR, off))
	})
	return next
}

// entries returns the number of connections in the table.
func (k *kernel) entries() int {
	k.t.Helper()
	var key bpf.CaptureConnectionKey
	var c bpf.CaptureConnection
	n := 0
	all := k.probe.kernel.Connections.Iterate()
	for all.Next(&key, &c) {
		n++
	}
	must(k.t, all.Err())
	return n
}

// counts has the counters of tracked connections.
func (k *kernel) counts() (f bpf.CaptureTracked) {
	k.t.Helper()
	must(k.t, k.probe.kernel.TrackedConnections.Lookup(uint32(0), &f))
	return f
}

// countMask has the bits of a count; those above number its changes.
const countMask = 1<<20 - 1

// wantFresh checks that nothing is tracked, so that a packet costs what it does in a new
// agent.
func (k *kernel) wantFresh() {
	k.t.Helper()
	f := k.counts()
	slots := 0
	for _, n := range f.Count {
		if n&countMask != 0 {
			slots++
		}
	}
	if f.Total != 0 || f.Unproven&countMask != 0 || slots != 0 || k.entries() != 0 {
		k.t.Errorf("%d tracked, %d without proof, %d slots, %d connections, want none", f.Total, f.Unproven&countMask, slots, k.entries())
	}
}

// flood sends n forged requests, each of another sender.
func (k *kernel) flood(n int, payload string) {
	random := rand.New(rand.NewPCG(1, 2))
	for range n {
		c := connection{
			client:    netip.AddrPortFrom(netip.AddrFrom4([4]byte{198, 51, byte(random.Uint32()), byte(random.Uint32())}), uint16(random.Uint32())),
			server:    netip.MustParseAddrPort("10.0.0.2:81"),
			clientSeq: random.Uint32(), serverSeq: random.Uint32(),
		}
		k.receive(c.request(payload))
	}
	k.sent = nil // nothing answers
}

// A flood takes a share of the table. What was there before and what comes meanwhile is
// seen; afterwards nothing of the flood is left, whichever phase it was in.
func TestFlood(t *testing.T) {
	for name, payload := range map[string]string{
		"requests":         get + traceparent + end,
		"unfinished heads": get + "x: " + strings.Repeat("x", 2000),
		"pipelined":        strings.Repeat(get+traceparent+end, 18),
	} {
		t.Run(name, func(t *testing.T) {
			const table, n = 1024, 3000
			k := newKernel(t, Options{MaxConnections: table})
			before, meanwhile := newConnection(40000), newConnection(40001)
			k.receive(before.request(requestOf(0, "GET /", "", "")))
			k.receive(before.ack())
			k.flood(n, payload)
			if got := k.entries(); got != table/4+1 {
				t.Errorf("%d connections in the table, want a quarter of it for the flood", got)
			}
			must(t, k.probe.sweep(time.Hour, time.Hour)) // evicts nothing
			// A quarter of the requests that may wait, at most, are the flood's.
			k.receive(meanwhile.build(segment{seq: meanwhile.clientSeq - 1, syn: true}))
			k.receive(meanwhile.build(segment{fromServer: true, seq: meanwhile.serverSeq - 1, syn: true}))
			for i := range 3 {
				k.receive(meanwhile.request(requestOf(1+i, "GET /", "", "")))
			}
			k.flood(n, payload)
			k.receive(meanwhile.response(ok200 + ok200 + ok200))
			k.receive(before.response(ok200))
			spans := ""
			for _, x := range k.settle() {
				spans += " " + x.Context.SpanID.String()
				if x.Status != 200 {
					t.Errorf("exchange %+v, want a response", x)
				}
			}
			if want := fmt.Sprintf(" %s %s %s %s", spanOf(1), spanOf(2), spanOf(3), spanOf(0)); spans != want && len(spans) != len(want) {
				t.Errorf("spans%s, want%s", spans, want)
			}
			k.wantCount("exchanges_evicted", 0)
			k.wantCount("connections_map_full", 0)
			poll(t, "all are let go", func() bool {
				must(t, k.probe.sweep(time.Millisecond, 2*time.Millisecond))
				return k.probe.swept.left == 0
			})
			k.wantFresh()
			if got := k.emitted(); len(got) != 0 {
				t.Errorf("%d exchanges of the flood: %+v", len(got), got[0])
			}
		})
	}
}

// Counts that are wrong, for whatever reason, are corrected by two sweeps; those of
// connections that are tracked stay.
func TestCountsAreCorrected(t *testing.T) {
	k := newKernel(t, Options{})
	c := newConnection(40000)
	k.receive(c.request(get + traceparent + end))
	right := k.counts()
	wrong := right
	for i := range wrong.Count {
		wrong.Count[i] += uint32(i % 3)
	}
	for i := range wrong.Count {
		wrong.Total += uint32(i % 3)
	}
	wrong.Unproven += 5
	must(t, k.probe.kernel.TrackedConnections.Put(uint32(0), wrong))
	for range 2 {
		must(t, k.probe.sweep(time.Hour, time.Hour))
	}
	if got := k.counts(); got != right {
		t.Errorf("total %d and %d without proof, want %d and %d", got.Total, got.Unproven&countMask, right.Total, right.Unproven&countMask)
	}
	if k.probe.swept.left == 0 {
		t.Error("the sweep would rest")
	}
	k.receive(c.response(ok200))
	if got := k.drain(true); len(got) != 1 || got[0].Status != 200 {
		t.Errorf("exchanges %+v", got)
	}
}

// Packets for other hosts count only where they are passed on. In a test run packets belong
// to the loopback device, whose address is zero.
func TestPacketsForOtherHosts(t *testing.T) {
	lo, err := net.InterfaceByName("lo")
	must(t, err)
	for name, test := range map[string]struct {
		ownOnly, own bool
		want         int
	}{
		"of a bridge's port": {false, false, 1}, "otherwise": {true, false, 0}, "to its own address": {true, true, 1},
	} {
		t.Run(name, func(t *testing.T) {
			k := newKernel(t, Options{})
			must(t, k.probe.ownOnly.set(lo.Index, test.ownOnly))
			c := newConnection(40000)
			request, response := c.request(get+traceparent+end), c.response(ok200)
			if test.own {
				clear(request[:6])
				clear(response[:6])
			}
			for _, program := range []string{bpf.CaptureProgCaptureIn, bpf.CaptureProgCaptureSock} {
				p, err := k.probe.kernel.program(program)
				must(t, err)
				for _, packet := range [][]byte{request, response} {
					_, err = p.Run(&ebpf.RunOptions{Data: packet})
					must(t, err)
				}
				if program == bpf.CaptureProgCaptureSock {
					continue // in a test run it gets packets without their link-layer header
				}
				if got := k.drain(true); len(got) != test.want {
					t.Errorf("%d exchanges, want %d", len(got), test.want)
				}
			}
		})
	}
}
