// SPDX-License-Identifier: Apache-2.0

package probe

import (
	"context"
	"errors"
	"net/netip"
	"os"
	"strconv"
	"testing"
	"time"

	"github.com/cilium/ebpf"
	"github.com/gopacket/gopacket"
	"github.com/gopacket/gopacket/layers"
	"golang.org/x/sys/unix"

	"github.com/layertrace/layertrace/bpf"
	"github.com/layertrace/layertrace/internal/observe"
)

// kernel runs packets through the real programs with BPF_PROG_TEST_RUN.
type kernel struct {
	t     *testing.T
	probe *Probe
	side  *sharedSide
	sent  [][]byte // packets that no acknowledgement has followed
}

// newKernel returns one with empty maps until the test ends, or until the next one with
// options that lead to the same programs. It loads each of them on first use.
func newKernel(t *testing.T, opts Options) *kernel {
	t.Helper()
	must(t, opts.complete())
	opts.resolveSocketCgroups(cgroupMounts)
	k := &kernel{t: t, side: share(t, &opts)}
	k.side.user = k
	own, err := k.side.clone()
	must(t, err)
	k.probe, err = openOn(own, opts)
	must(t, err)
	t.Cleanup(func() { k.close(t) })
	return k
}

// close closes the probe. It can be called before the end of the test.
func (k *kernel) close(t *testing.T) {
	t.Helper()
	if k.probe == nil {
		return
	}
	k.side.take(k.probe.kernel)
	if err := k.probe.Close(); err != nil {
		t.Error(err)
	}
	k.probe = nil
}

// receive lets the program see one packet. The verdict is always "next".
func (k *kernel) receive(packet []byte) {
	k.t.Helper()
	k.mustOwn()
	program, err := k.probe.kernel.program(bpf.CaptureProgCaptureIn)
	if err != nil {
		k.t.Fatal(err)
	}
	verdict, err := program.Run(&ebpf.RunOptions{Data: packet})
	if err != nil {
		k.t.Fatal(err)
	}
	if int32(verdict) != -1 {
		k.t.Fatalf("verdict %d, want -1 (TCX_NEXT)", int32(verdict))
	}
	k.sent = append(k.sent, packet)
}

// acknowledge lets the program see that all data so far has arrived at the other ends.
func (k *kernel) acknowledge() {
	k.t.Helper()
	type flow struct {
		network   gopacket.Flow
		transport gopacket.Flow
	}
	arrived := map[flow]*layers.TCP{}
	var order []flow
	for _, raw := range k.sent {
		packet := gopacket.NewPacket(raw, layers.LayerTypeEthernet, gopacket.DecodeOptions{Lazy: true, NoCopy: true})
		tcp, ok := packet.TransportLayer().(*layers.TCP)
		if !ok || len(tcp.Payload) == 0 {
			continue
		}
		f := flow{packet.NetworkLayer().NetworkFlow(), packet.TransportLayer().TransportFlow()}
		before := arrived[f]
		if before == nil {
			order = append(order, f)
		}
		end := func(t *layers.TCP) uint32 { return t.Seq + uint32(len(t.Payload)) }
		if before == nil || int32(end(tcp)-end(before)) > 0 {
			arrived[f] = tcp
		}
	}
	for _, f := range order {
		tcp := arrived[f]
		from, _ := netip.AddrFromSlice(f.network.Dst().Raw())
		to, _ := netip.AddrFromSlice(f.network.Src().Raw())
		c := connection{client: netip.AddrPortFrom(from, uint16(tcp.DstPort)), server: netip.AddrPortFrom(to, uint16(tcp.SrcPort)), serverSeq: tcp.Seq + uint32(len(tcp.Payload))}
		k.receive(c.build(segment{seq: tcp.Ack}))
	}
	k.sent = nil
}

// exchanges ends open exchanges, of which all data is acknowledged, and returns all that
// were emitted.
func (k *kernel) exchanges() []observe.Observation {
	k.t.Helper()
	k.acknowledge()
	return k.drain(true)
}

// emitted returns the exchanges emitted so far.
func (k *kernel) emitted() []observe.Observation {
	k.t.Helper()
	return k.drain(false)
}

func (k *kernel) drain(sweep bool) []observe.Observation {
	k.t.Helper()
	k.mustOwn()
	if sweep {
		if err := k.probe.sweep(0, 0); err != nil {
			k.t.Fatal(err)
		}
	}
	done, cancel := context.WithCancel(context.Background())
	cancel()
	var got []observe.Observation
	if err := k.probe.read(done, func(some []observe.Observation) { got = append(got, some...) }); err != nil {
		k.t.Fatal(err)
	}
	return got
}

// one returns the only exchange.
func (k *kernel) one() observe.Observation {
	k.t.Helper()
	got := k.exchanges()
	if len(got) != 1 {
		k.t.Fatalf("%d exchanges, want 1: %v", len(got), got)
	}
	return got[0]
}

// count returns the value of layertrace_<name>_total.
func (k *kernel) count(name string) uint64 {
	k.t.Helper()
	values, err := k.probe.values()
	if err != nil {
		k.t.Fatal(err)
	}
	for _, v := range values {
		if v.name == "layertrace_"+name+"_total" {
			return v.count
		}
	}
	k.t.Fatalf("no counter %q", name)
	return 0
}

func (k *kernel) wantCount(name string, want uint64) {
	k.t.Helper()
	if got := k.count(name); got != want {
		k.t.Errorf("counter %s = %d, want %d", name, got, want)
	}
}

// connection builds the segments of one TCP connection.
type connection struct {
	client, server       netip.AddrPort
	clientSeq, serverSeq uint32
	vlan                 bool
}

// connections numbers them, for distinct sequence numbers: by these the programs
// recognize a segment already seen at another point.
var connections uint32

func newConnection(clientPort uint16) *connection {
	connections++
	return &connection{
		client:    netip.AddrPortFrom(netip.MustParseAddr("10.0.0.1"), clientPort),
		server:    netip.MustParseAddrPort("10.0.0.2:8080"),
		clientSeq: 0xfffffff0, serverSeq: connections * 100_003, // the client's wraps early
	}
}

// segment is one TCP segment to be built.
type segment struct {
	fromServer    bool
	seq           uint32
	syn, fin, rst bool
	ack           uint32 // 0: all that the other end has sent
	noACK         bool
	options       []layers.TCPOption
	payload       []byte
}

// request is the client's next data, response the server's.
func (c *connection) request(payload string) []byte {
	s := segment{seq: c.clientSeq, payload: []byte(payload)}
	c.clientSeq += uint32(len(payload))
	return c.build(s)
}

func (c *connection) response(payload string) []byte {
	s := segment{fromServer: true, seq: c.serverSeq, payload: []byte(payload)}
	c.serverSeq += uint32(len(payload))
	return c.build(s)
}

// ack is the server's acknowledgement of all that the client has sent.
func (c *connection) ack() []byte {
	return c.build(segment{fromServer: true, seq: c.serverSeq})
}

func (c *connection) build(s segment) []byte {
	src, dst, ack := c.client, c.server, c.serverSeq
	if s.fromServer {
		src, dst, ack = dst, src, c.clientSeq
	}
	if s.ack != 0 {
		ack = s.ack
	}
	tcp := &layers.TCP{
		SrcPort: layers.TCPPort(src.Port()), DstPort: layers.TCPPort(dst.Port()),
		Seq: s.seq, Ack: ack, SYN: s.syn, FIN: s.fin, RST: s.rst, ACK: !s.noACK && (!s.syn || s.fromServer),
		Window: 1000, Options: s.options,
	}
	stack := []gopacket.SerializableLayer{}
	eth := &layers.Ethernet{
		SrcMAC: []byte{2, 0, 0, 0, 0, 1}, DstMAC: []byte{2, 0, 0, 0, 0, 2},
		EthernetType: layers.EthernetTypeIPv4,
	}
	stack = append(stack, eth)
	ipType := layers.EthernetTypeIPv4
	var network gopacket.SerializableLayer
	if src.Addr().Is4() {
		ip := &layers.IPv4{Version: 4, TTL: 64, Protocol: layers.IPProtocolTCP, SrcIP: src.Addr().AsSlice(), DstIP: dst.Addr().AsSlice()}
		_ = tcp.SetNetworkLayerForChecksum(ip)
		network = ip
	} else {
		ipType = layers.EthernetTypeIPv6
		ip := &layers.IPv6{Version: 6, HopLimit: 64, NextHeader: layers.IPProtocolTCP, SrcIP: src.Addr().AsSlice(), DstIP: dst.Addr().AsSlice()}
		_ = tcp.SetNetworkLayerForChecksum(ip)
		network = ip
	}
	eth.EthernetType = ipType
	if c.vlan {
		eth.EthernetType = layers.EthernetTypeDot1Q
		stack = append(stack, &layers.Dot1Q{VLANIdentifier: 7, Type: ipType})
	}
	stack = append(stack, network, tcp, gopacket.Payload(s.payload))
	buffer := gopacket.NewSerializeBuffer()
	err := gopacket.SerializeLayers(buffer, gopacket.SerializeOptions{FixLengths: true, ComputeChecksums: true}, stack...)
	if err != nil {
		panic(err) // a test that builds an impossible packet
	}
	return buffer.Bytes()
}

const (
	traceparent = "traceparent: 00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01\r\n"
	unsampled   = "traceparent: 00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-00\r\n"
	get         = "GET /productpage HTTP/1.1\r\nhost: productpage:9080\r\n"
	end         = "\r\n"
	ok200       = "HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nhello"
	ok9         = "HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nhello" // 4 bytes are to follow
)

func wantDuration(t *testing.T, x observe.Observation) {
	t.Helper()
	if x.Request.First == 0 || x.Request.Last < x.Request.First || x.Response.First < x.Request.Last ||
		x.Response.Last < x.Response.First || time.Duration(x.Response.Last-x.Request.First) > time.Minute {
		t.Errorf("times out of order: %+v %+v", x.Request, x.Response)
	}
}

// tracked returns the number of tracked connections.
func (k *kernel) tracked() uint32 {
	k.t.Helper()
	var f bpf.CaptureTracked
	must(k.t, k.probe.kernel.TrackedConnections.Lookup(uint32(0), &f))
	return f.Total
}

// onOneCPU keeps all threads of this process on one CPU until the test ends: each CPU has
// its own working memory.
func onOneCPU(t *testing.T) {
	t.Helper()
	var all, one unix.CPUSet
	must(t, unix.SchedGetaffinity(0, &all))
	for cpu := range 1024 {
		if all.IsSet(cpu) {
			one.Set(cpu)
			break
		}
	}
	setAffinity(t, &one)
	t.Cleanup(func() { setAffinity(t, &all) })
}

// setAffinity sets the CPUs of all threads, also of those that begin meanwhile.
func setAffinity(t *testing.T, cpus *unix.CPUSet) {
	t.Helper()
	set := map[string]bool{}
	for before := -1; before < len(set); {
		before = len(set)
		threads, err := os.ReadDir("/proc/self/task")
		must(t, err)
		for _, thread := range threads {
			if set[thread.Name()] {
				continue
			}
			set[thread.Name()] = true
			id, err := strconv.Atoi(thread.Name())
			must(t, err)
			if err := unix.SchedSetaffinity(id, cpus); err != nil && !errors.Is(err, unix.ESRCH) {
				t.Fatal(err)
			}
		}
	}
}
