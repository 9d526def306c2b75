// SPDX-License-Identifier: Apache-2.0

package probe

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"

	"github.com/layertrace/layertrace/internal/observe"
)

func TestExchange(t *testing.T) {
	v6 := newConnection(40000)
	v6.client, v6.server = netip.MustParseAddrPort("[fd00::1]:40000"), netip.MustParseAddrPort("[fd00::2]:9080")
	vlan := newConnection(40000)
	vlan.vlan = true
	low := newConnection(80) // the server has the higher port
	for name, c := range map[string]*connection{"ipv4": newConnection(40000), "ipv6": v6, "vlan": vlan, "low client port": low} {
		t.Run(name, func(t *testing.T) {
			k := newKernel(t, Options{})
			k.receive(c.request(get + traceparent + end))
			k.receive(c.response(ok200))
			k.receive(c.response("more"))
			x := k.one()
			wantDuration(t, x)
			if got := x.Context.TraceID.String(); got != "0af7651916cd43dd8448eb211c80319c" {
				t.Errorf("trace ID %s", got)
			}
			if got := x.Context.SpanID.String(); got != "b7ad6b7169203331" {
				t.Errorf("span ID %s", got)
			}
			if x.Client != c.client || x.Server != c.server {
				t.Errorf("endpoints %v -> %v, want %v -> %v", x.Client, x.Server, c.client, c.server)
			}
			if x.Status != 200 || x.Context.HeaderOffset != uint32(len(get)) || x.Flags != 0 {
				t.Errorf("status %d, offset %d, flags %v", x.Status, x.Context.HeaderOffset, x.Flags.Names())
			}
			if x.Request.Bytes != uint64(len(get+traceparent+end)) || x.Response.Bytes != uint64(len(ok200+"more")) || x.Response.Packets != 2 {
				t.Errorf("sizes %+v %+v", x.Request, x.Response)
			}
		})
	}
}

// Keep-alive: each request ends the one before, without corrupting it.
func TestKeepAlive(t *testing.T) {
	k := newKernel(t, Options{})
	c := newConnection(40000)
	for i := range 5 {
		k.receive(c.request(get + fmt.Sprintf("traceparent: 00-0af7651916cd43dd8448eb211c80319c-b7ad6b716920333%d-01\r\n\r\n", i)))
		k.receive(c.request("body"))
		k.receive(c.response(strings.Replace(ok200, "200", fmt.Sprint(200+i), 1)))
		if got := len(k.emitted()); i > 0 && got != 1 {
			t.Errorf("request %d: %d exchanges given out before, want 1", i, got)
		}
	}
	x := k.one()
	if x.Context.SpanID.String() != "b7ad6b7169203334" || x.Status != 204 || x.Flags != 0 || x.Request.Packets != 2 {
		t.Errorf("last exchange %+v", x)
	}
	k.wantCount("exchanges_started", 5)
	k.wantCount("exchanges_emitted", 5)
}

// Sampling is respected: no state, no record.
func TestUnsampled(t *testing.T) {
	k := newKernel(t, Options{})
	for i, head := range []string{unsampled, "b3: 0\r\n", "x-b3-sampled: 0\r\n"} {
		c := newConnection(uint16(40000 + i))
		k.receive(c.request(get + head + end))
		k.receive(c.response(ok200))
	}
	if got := k.exchanges(); len(got) != 0 {
		t.Errorf("exchanges of unsampled requests: %v", got)
	}
	k.wantCount("contexts_unsampled", 3)
	k.wantCount("exchanges_started", 0)
	entries := 0
	iter := k.probe.kernel.Connections.Iterate()
	for key, value := make([]byte, 40), make([]byte, k.probe.kernel.Connections.ValueSize()); iter.Next(&key, &value); {
		entries++
	}
	if entries != 0 {
		t.Errorf("%d connections kept for unsampled requests", entries)
	}
}

// An unsampled request on a connection with a sampled one before it.
func TestUnsampledAfterSampled(t *testing.T) {
	k := newKernel(t, Options{})
	c := newConnection(40000)
	k.receive(c.request(get + traceparent + end))
	k.receive(c.response(ok200))
	k.receive(c.request(get + unsampled + end))
	k.receive(c.response(ok200))
	if x := k.one(); x.Response.Bytes != uint64(len(ok200)) || x.Flags != 0 {
		t.Errorf("sampled exchange %+v", x)
	}
}

// The next request passes in another order than it was sent: none of it belongs
// to the exchange before.
func TestNextRequestReordered(t *testing.T) {
	k := newKernel(t, Options{})
	c := newConnection(40000)
	first := get + traceparent + end
	k.receive(c.request(first))
	k.receive(c.response(ok200))
	head, middle, rest := c.request(get+traceparent+end), c.request("12345"), c.request("67890")
	for _, packet := range [][]byte{middle, rest, head} {
		k.receive(packet)
	}
	k.receive(c.response(ok200))
	got := k.exchanges()
	if len(got) != 2 {
		t.Fatalf("%d exchanges, want 2", len(got))
	}
	if q := got[0].Request; q.Bytes != uint64(len(first)) || q.Packets != 1 || q.Last != q.First {
		t.Errorf("first request %+v, want one segment of %d bytes", q, len(first))
	}
}

// A response whose second segment overtakes the first ends with the first, also
// where what was asked before on the connection is not recorded.
func TestResponseReordered(t *testing.T) {
	for name, before := range map[string][]string{
		"new connection":              nil,
		"behind what is not sampled":  {get + unsampled + end},
		"behind what is sampled":      {get + traceparent + end},
		"behind both, sampled first":  {get + traceparent + end, get + unsampled + end},
		"behind both, sampled second": {get + unsampled + end, get + traceparent + end},
	} {
		t.Run(name, func(t *testing.T) {
			k := newKernel(t, Options{})
			c := newConnection(40000)
			for _, request := range before {
				k.receive(c.request(request))
				k.receive(c.response(ok200))
			}
			k.exchanges()
			k.receive(c.request(get + traceparent + end))
			first, second := c.response(ok200), c.response("the rest")
			k.receive(second)
			k.receive(first)
			x := k.one()
			if x.Response.Packets != 2 || x.Response.Bytes != uint64(len(ok200+"the rest")) || x.Flags != observe.FlagOutOfOrder || x.Retransmits != 0 {
				t.Errorf("exchange %+v", x)
			}
		})
	}
}

func TestEnd(t *testing.T) {
	for name, test := range map[string]struct {
		segments func(c *connection) [][]byte
		flags    observe.Flags
	}{
		"both FINs": {func(c *connection) [][]byte {
			return [][]byte{
				c.response(ok200),
				c.build(segment{fromServer: true, seq: c.serverSeq, fin: true}),
				c.build(segment{seq: c.clientSeq, fin: true}),
			}
		}, 0},
		"RST before the response": {func(c *connection) [][]byte {
			return [][]byte{c.build(segment{fromServer: true, seq: c.serverSeq, rst: true})}
		}, observe.FlagReset | observe.FlagNoResponse},
		"RST behind the response": {func(c *connection) [][]byte {
			return [][]byte{c.response(ok200), c.build(segment{seq: c.clientSeq, rst: true})}
		}, 0},
		"new SYN": {func(c *connection) [][]byte {
			return [][]byte{c.response(ok200), c.build(segment{seq: 77, syn: true})}
		}, 0},
	} {
		t.Run(name, func(t *testing.T) {
			k := newKernel(t, Options{})
			c := newConnection(40000)
			k.receive(c.request(get + traceparent + end))
			for _, packet := range test.segments(c) {
				k.receive(packet)
			}
			got := k.emitted() // at once, without a sweep
			if len(got) != 1 {
				t.Fatalf("%d exchanges, want 1", len(got))
			}
			if got[0].Flags != test.flags {
				t.Errorf("flags %v, want %v", got[0].Flags.Names(), test.flags.Names())
			}
		})
	}
}

// What the map cannot hold is counted, not lost silently.
func TestEvicted(t *testing.T) {
	k := newKernel(t, Options{MaxConnections: 64})
	const n = 2000
	for i := range n {
		c := newConnection(uint16(20000 + i))
		k.receive(c.request(get + traceparent + end))
	}
	got := len(k.exchanges())
	k.exchanges() // a second sweep finds what the first could not yet know
	if evicted := k.count("exchanges_evicted"); uint64(got)+evicted != n || evicted == 0 {
		t.Errorf("%d exchanges given out + %d counted as evicted, want %d", got, evicted, n)
	}
}

func TestRingFull(t *testing.T) {
	k := newKernel(t, Options{RingBytes: 4096})
	const n = 200
	for i := range n {
		c := newConnection(uint16(20000 + i))
		k.receive(c.request(get + traceparent + end))
		k.receive(c.response(ok200))
		k.receive(c.build(segment{fromServer: true, seq: c.serverSeq, fin: true}))
	}
	got := len(k.exchanges())
	if lost := k.count("exchanges_ring_full"); uint64(got)+lost != n || lost == 0 {
		t.Errorf("%d exchanges given out + %d counted as lost, want %d", got, lost, n)
	}
}
