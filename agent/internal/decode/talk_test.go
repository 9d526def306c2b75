// SPDX-License-Identifier: Apache-2.0

package decode

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/gopacket/gopacket"
	"github.com/gopacket/gopacket/layers"

	"github.com/layertrace/layertrace/internal/observe"
	"github.com/layertrace/layertrace/internal/tracecontext"
)

const (
	hex16     = "00f067aa0ba902b7"
	hex32     = "4bf92f3577b34da6a3ce929d0e0e4736"
	traceLine = "traceparent: 00-" + hex32 + "-" + hex16 + "-01\r\n"
	// get has 98 bytes, its context at byte 26.
	get = "GET /x HTTP/1.1\r\nHost: a\r\n" + traceLine + "\r\n"
	ok  = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi"
)

// post returns a request with a body. Its context is at byte 27.
func post(body string) string {
	return fmt.Sprintf("POST /x HTTP/1.1\r\nHost: a\r\n%sContent-Length: %d\r\n\r\n%s", traceLine, len(body), body)
}

// respond returns a response with a body of a length.
func respond(status, length int) string {
	return fmt.Sprintf("HTTP/1.1 %d x\r\nContent-Length: %d\r\n\r\n%s", status, length, strings.Repeat("r", length))
}

var (
	clientEnd = netip.MustParseAddrPort("10.0.0.1:40000")
	serverEnd = netip.MustParseAddrPort("10.0.0.2:80")
)

// talk is one connection whose packets the test writes, 1 µs apart. Its sequence
// numbers start shortly before they wrap.
type talk struct {
	t          *testing.T
	d          *Decoder
	got        []observe.Observation
	now        uint64
	cseq, sseq uint32
}

func newTalk(t *testing.T, opts Options) *talk {
	c := &talk{t: t, cseq: 0xffffffc0, sseq: 0xffffffe0}
	c.d = New(opts, func(x observe.Observation) { c.got = append(c.got, x) })
	return c
}

// packet sends one segment in an Ethernet frame.
func (c *talk) packet(from, to netip.AddrPort, tcp layers.TCP, payload string) {
	c.t.Helper()
	c.now += 1000
	tcp.SrcPort, tcp.DstPort = layers.TCPPort(from.Port()), layers.TCPPort(to.Port())
	ip := &layers.IPv4{Version: 4, TTL: 64, Protocol: layers.IPProtocolTCP, SrcIP: from.Addr().AsSlice(), DstIP: to.Addr().AsSlice()}
	ethernet := &layers.Ethernet{SrcMAC: make([]byte, 6), DstMAC: make([]byte, 6), EthernetType: layers.EthernetTypeIPv4}
	c.d.Packet(Packet{
		Time: time.Unix(0, int64(c.now)),
		Link: layers.LinkTypeEthernet,
		Data: serialize(c.t, ethernet, ip, &tcp, gopacket.Payload(payload)),
	})
}

func serialize(t testing.TB, all ...gopacket.SerializableLayer) []byte {
	t.Helper()
	buffer := gopacket.NewSerializeBuffer()
	if err := gopacket.SerializeLayers(buffer, gopacket.SerializeOptions{FixLengths: true}, all...); err != nil {
		t.Fatal(err)
	}
	return buffer.Bytes()
}

func (c *talk) handshake(options ...layers.TCPOption) {
	c.packet(clientEnd, serverEnd, layers.TCP{SYN: true, Seq: c.cseq, Options: options}, "")
	c.cseq++
	c.packet(serverEnd, clientEnd, layers.TCP{SYN: true, ACK: true, Seq: c.sseq, Ack: c.cseq}, "")
	c.sseq++
	c.packet(clientEnd, serverEnd, layers.TCP{ACK: true, Seq: c.cseq, Ack: c.sseq}, "")
}

// client sends payload in order; clientAt sends it at an offset from there.
func (c *talk) client(payload string, options ...layers.TCPOption) {
	c.clientAt(0, payload, options...)
	c.cseq += uint32(len(payload))
}

func (c *talk) clientAt(offset int, payload string, options ...layers.TCPOption) {
	c.packet(clientEnd, serverEnd, layers.TCP{ACK: true, PSH: true, Seq: c.cseq + uint32(offset), Ack: c.sseq, Options: options}, payload)
}

func (c *talk) server(payload string) {
	c.serverAt(0, payload)
	c.sseq += uint32(len(payload))
}

func (c *talk) serverAt(offset int, payload string) {
	c.packet(serverEnd, clientEnd, layers.TCP{ACK: true, PSH: true, Seq: c.sseq + uint32(offset), Ack: c.cseq}, payload)
}

func (c *talk) clientFIN() {
	c.packet(clientEnd, serverEnd, layers.TCP{ACK: true, FIN: true, Seq: c.cseq, Ack: c.sseq}, "")
	c.cseq++
}

// serverFIN may carry payload.
func (c *talk) serverFIN(payload string) {
	c.packet(serverEnd, clientEnd, layers.TCP{ACK: true, FIN: true, Seq: c.sseq, Ack: c.cseq}, payload)
	c.sseq += uint32(len(payload)) + 1
}

func (c *talk) reset() {
	c.packet(serverEnd, clientEnd, layers.TCP{RST: true, Seq: c.sseq}, "")
}

// emitted checks the exchanges reported since the last call.
func (c *talk) emitted(want ...observe.Observation) {
	c.t.Helper()
	if diff := cmp.Diff(want, c.got, cmp.Comparer(func(a, b netip.AddrPort) bool { return a == b })); diff != "" {
		c.t.Errorf("exchanges (-want +got):\n%s", diff)
	}
	c.got = nil
}

// count checks one counter.
func (c *talk) count(name string, want uint64) {
	c.t.Helper()
	checkCounter(c.t, c.d, name, want)
}

func checkCounter(t *testing.T, d *Decoder, name string, want uint64) {
	t.Helper()
	for _, counter := range d.Counters() {
		if counter.Name == name {
			if counter.Value != want {
				t.Errorf("%s = %d, want %d", name, counter.Value, want)
			}
			return
		}
	}
	t.Errorf("no counter %q", name)
}

// posted returns the exchange of a post with these messages.
func posted(request, response observe.Message, status int, flags observe.Flags) observe.Observation {
	x := expected(request, response, status, flags)
	x.Method, x.Context.HeaderOffset = "POST", 27
	return x
}

// message returns a message of some packets and size bytes in all; first and last
// are numbers of packets in the talk.
func message(first, last, packets, size int) observe.Message {
	return observe.Message{First: uint64(first) * 1000, Last: uint64(last) * 1000, Bytes: uint64(size), Packets: uint32(packets)}
}

// expected returns the exchange of a get with these messages.
func expected(request, response observe.Message, status int, flags observe.Flags) observe.Observation {
	x := observe.Observation{
		Wall: int64(request.First),
		Context: observe.Context{
			Context:      tracecontext.Context{Sampling: tracecontext.Accepted, Format: tracecontext.FormatW3C},
			HeaderOffset: 26,
		},
		Key:     observe.Key{Client: clientEnd, Server: serverEnd},
		Request: request, Response: response, Status: status, Flags: flags, Method: "GET", Path: "/x",
	}
	binary.BigEndian.PutUint64(x.Context.TraceID[:], 0x4bf92f3577b34da6)
	binary.BigEndian.PutUint64(x.Context.TraceID[8:], 0xa3ce929d0e0e4736)
	binary.BigEndian.PutUint64(x.Context.SpanID[:], 0x00f067aa0ba902b7)
	return x
}
