// SPDX-License-Identifier: Apache-2.0

package probe

import (
	"context"
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/layertrace/layertrace/bpf"
	"github.com/layertrace/layertrace/internal/observe"
	"github.com/layertrace/layertrace/internal/tracecontext"
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
			k.receive(c.response(ok9))
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
			if x.Request.Bytes != uint64(len(get+traceparent+end)) || x.Response.Bytes != uint64(len(ok9+"more")) || x.Response.Packets != 2 {
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
		k.receive(c.request(get + fmt.Sprintf("traceparent: 00-0af7651916cd43dd8448eb211c80319c-b7ad6b716920333%d-01\r\ncontent-length: 4\r\n\r\n", i)))
		k.receive(c.request("body"))
		k.receive(c.response(strings.Replace(ok200, "200", fmt.Sprint(200+i), 1)))
		if got := len(k.emitted()); i > 0 && got != 1 {
			t.Errorf("request %d: %d exchanges emitted before, want 1", i, got)
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

// The next request is seen out of order: no part of it belongs to the exchange
// before.
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

// The body of a request overtakes its head: it is one request, and the next one another.
// On a connection of which nothing is recorded, the body passes unseen.
func TestBodyBeforeHead(t *testing.T) {
	t.Run("after another request", func(t *testing.T) {
		k := newKernel(t, Options{})
		c := newConnection(40000)
		k.receive(c.request(get + traceparent + end))
		k.receive(c.response(ok200))
		bodyBeforeHead(t, k, c, 3, 0)
	})
	t.Run("after nothing", func(t *testing.T) {
		bodyBeforeHead(t, newKernel(t, Options{}), newConnection(40000), 2, observe.FlagPacketsMissing)
	})
}

// bodyBeforeHead sends two more requests, the first with its head last.
func bodyBeforeHead(t *testing.T, k *kernel, c *connection, want int, flags observe.Flags) {
	t.Helper()
	head, middle, rest := c.request("POST / HTTP/1.1\r\nhost: a\r\n"+traceparent+"content-length: 10\r\n"+end), c.request("12345"), c.request("67890")
	for _, packet := range [][]byte{middle, rest, head} {
		k.receive(packet)
	}
	k.receive(c.response(ok200))
	k.receive(c.request(get + traceparent + end))
	k.receive(c.response(ok200))
	got := k.exchanges()
	if len(got) != want {
		t.Fatalf("%d exchanges, want %d", len(got), want)
	}
	for i, x := range got {
		if x.Status != 200 || x.Flags&observe.FlagNoResponse != 0 || x.Request.Last > x.Response.First {
			t.Errorf("exchange %d: %+v", i, x)
		}
	}
	if late := got[want-2]; late.Flags&observe.Cut != flags {
		t.Errorf("flags %v of the request with its head last, want %v", late.Flags.Names(), flags.Names())
	}
}

// A response whose second segment overtakes the first ends with the first,
// whatever came before on the connection.
func TestResponseReordered(t *testing.T) {
	for name, before := range map[string][]string{
		"new connection":             nil,
		"after an unsampled request": {get + unsampled + end},
		"after a sampled request":    {get + traceparent + end},
		"after both, sampled first":  {get + traceparent + end, get + unsampled + end},
		"after both, sampled second": {get + unsampled + end, get + traceparent + end},
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
			first, second := c.response(ok9), c.response("more")
			k.receive(second)
			k.receive(first)
			x := k.one()
			if x.Response.Packets != 2 || x.Response.Bytes != uint64(len(ok9+"more")) || x.Status != 200 || x.Flags != observe.FlagOutOfOrder || x.Retransmits != 0 {
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
		"RST after the response": {func(c *connection) [][]byte {
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

// A full table refuses requests and counts them. The sweep makes room: it reports the
// exchanges above the budget that were idle for longest, marked.
func TestEvicted(t *testing.T) {
	k := newKernel(t, Options{MaxConnections: 64})
	const n, budget = 100, 48
	for i := range n {
		c := newConnection(uint16(20000 + i))
		k.receive(c.request(get + traceparent + end))
		k.receive(c.ack())
	}
	k.wantCount("connections_map_full", n-64)
	must(t, k.probe.sweep(time.Hour, time.Hour))
	got := k.emitted()
	for _, o := range got {
		if o.Flags != observe.FlagEvicted|observe.FlagNoResponse {
			t.Errorf("exchange with flags %v", o.Flags.Names())
		}
	}
	if len(got) != 64-budget {
		t.Errorf("%d exchanges evicted, want %d", len(got), 64-budget)
	}
	k.wantCount("exchanges_evicted", 64-budget)
	k.receive(newConnection(30000).request(get + traceparent + end)) // there is room again
	if rest := k.exchanges(); len(rest) != budget+1 {
		t.Errorf("%d exchanges left, want %d", len(rest), budget+1)
	}
}

func TestRingFull(t *testing.T) {
	k := newKernel(t, Options{RingBytes: 4096})
	const n = 200
	for i := range n {
		c := newConnection(uint16(20000 + i))
		k.receive(c.request(get + traceparent + end))
		k.receive(c.response(ok200))
		k.receive(c.build(segment{seq: c.clientSeq, fin: true}))
		k.receive(c.build(segment{fromServer: true, seq: c.serverSeq, fin: true}))
	}
	got := len(k.emitted())
	if lost := k.count("exchanges_ring_full"); uint64(got)+lost != n || lost == 0 {
		t.Errorf("%d exchanges emitted + %d counted as lost, want %d", got, lost, n)
	}
}

// A sweep stops before the ring is full, and the next one goes on: nothing is lost, however
// small the ring is.
func TestSweepLeavesRoomInTheRing(t *testing.T) {
	k := newKernel(t, Options{RingBytes: 4096})
	const n = 50
	k.answered(n)
	got, sweeps := 0, 0
	for deferred := true; deferred && sweeps < n; sweeps++ {
		must(t, k.probe.sweep(0, 0))
		deferred = k.probe.swept.deferred
		got += len(k.emitted())
	}
	if got != n || sweeps < 2 || sweeps == n {
		t.Errorf("%d exchanges after %d sweeps, want %d after a few", got, sweeps, n)
	}
	k.wantCount("exchanges_ring_full", 0)
}

// The last sweep goes on until the reader has all, and ends when the reader does.
func TestSweepUntilNothingIsLeft(t *testing.T) {
	done, cancel := context.WithCancel(t.Context())
	cancel()
	sweeps := 0
	sweep := func(last bool) (bool, error) {
		if sweeps++; !last {
			t.Error("a sweep is not the last after the end")
		}
		return sweeps < 3, nil
	}
	if err := sweepUntil(done, time.Hour, nil, sweep); err != nil || sweeps != 3 {
		t.Errorf("%d sweeps, want 3; %v", sweeps, err)
	}
	ended := make(chan struct{})
	close(ended)
	if err := sweepUntil(done, time.Hour, ended, func(bool) (bool, error) { return true, nil }); err != nil {
		t.Error(err)
	}
}

// A head split in two segments at every byte: the deep search always finds the
// context, the plain one if it is in the first segment.
func TestSplitHead(t *testing.T) {
	head := get + traceparent + "accept: */*\r\n" + end
	deep, plain := newKernel(t, Options{Deep: DeepOn}), newKernel(t, Options{Deep: DeepOff})
	for cut := 4; cut < len(head); cut++ {
		for k, found := range map[*kernel]bool{deep: true, plain: cut >= len(get+traceparent)} {
			c := newConnection(uint16(10000 + cut))
			k.receive(c.request(head[:cut]))
			k.receive(c.request(head[cut:]))
			k.receive(c.response(ok200))
			got := k.exchanges()
			if !found {
				if len(got) != 0 {
					t.Fatalf("cut at %d: plain search found %v", cut, got)
				}
				continue
			}
			if len(got) != 1 {
				t.Fatalf("cut at %d: %d exchanges, want 1", cut, len(got))
			}
			x := got[0]
			if x.Context.SpanID.String() != "b7ad6b7169203331" || x.Context.HeaderOffset != uint32(len(get)) || x.Request.Bytes != uint64(len(head)) {
				t.Fatalf("cut at %d: %+v", cut, x)
			}
			if multi := x.Flags&observe.FlagMultiSegment != 0; multi != (cut < len(get+traceparent)) {
				t.Fatalf("cut at %d: flags %v", cut, x.Flags.Names())
			}
		}
	}
	plain.wantCount("heads_truncated", uint64(len(get+traceparent)-4))
}

// The same in segments of one byte after the method.
func TestOneByteSegments(t *testing.T) {
	k := newKernel(t, Options{Deep: DeepOn})
	c := newConnection(40000)
	head := get + traceparent + end
	k.receive(c.request(head[:4]))
	for i := 4; i < len(head); i++ {
		k.receive(c.request(head[i : i+1]))
	}
	k.receive(c.response(ok200))
	if x := k.one(); x.Context.HeaderOffset != uint32(len(get)) || x.Request.Packets != uint32(len(head)-3) {
		t.Errorf("exchange %+v", x)
	}
}

func TestLargeHead(t *testing.T) {
	head := get + "cookie: " + strings.Repeat("a=b; ", 16<<10/5) + "\r\n" + traceparent + end
	k := newKernel(t, Options{Deep: DeepOff})
	// BPF_PROG_TEST_RUN takes packets of up to a page; the lab has larger ones.
	k.receive(newConnection(40000).request(head[:3000]))
	if got := k.exchanges(); len(got) != 0 {
		t.Errorf("found after the window: %v", got)
	}
	k.wantCount("heads_truncated", 1)

	for _, size := range []int{3000, 1448, 100} {
		k = newKernel(t, Options{Deep: DeepOn})
		c := newConnection(40000)
		for rest := head; rest != ""; {
			n := min(size, len(rest))
			k.receive(c.request(rest[:n]))
			rest = rest[n:]
		}
		k.receive(c.response(ok200))
		if x := k.one(); x.Context.HeaderOffset != uint32(strings.Index(head, "traceparent")) || x.Request.Bytes != uint64(len(head)) {
			t.Errorf("segments of %d: %+v", size, x)
		}
	}
}

// A request line that is longer than a carried line and than the window.
func TestLongRequestLine(t *testing.T) {
	head := "GET /" + strings.Repeat("x", 3000) + " HTTP/1.1\r\nhost: a\r\n" + traceparent + end
	k := newKernel(t, Options{Deep: DeepOn})
	c := newConnection(40000)
	for rest := head; rest != ""; {
		n := min(700, len(rest))
		k.receive(c.request(rest[:n]))
		rest = rest[n:]
	}
	k.receive(c.response(ok200))
	if x := k.one(); x.Context.HeaderOffset != uint32(strings.Index(head, "traceparent")) {
		t.Errorf("offset %d", x.Context.HeaderOffset)
	}
}

func TestNotHTTP(t *testing.T) {
	k := newKernel(t, Options{})
	for i, payload := range []string{
		"GET \x00\x01\x02\xff\n" + traceparent + end,
		"GET / HTTP/2.0\r\n" + traceparent + end,
		"GETX / HTTP/2.0\r\n" + traceparent + end, // no method of RFC 9110: not even unparsable
		"get / HTTP/1.1\r\n" + traceparent + end,
		strings.Repeat("\xff", 1400),
	} {
		c := newConnection(uint16(40000 + i))
		k.receive(c.request(payload))
		k.receive(c.response(ok200))
	}
	if got := k.exchanges(); len(got) != 0 {
		t.Errorf("exchanges out of noise: %v", got)
	}
	k.wantCount("heads_unparsable", 2)
	k.wantCount("responses_untracked", 5)
}

// Any method is a request, and an empty line may precede it.
func TestAnyMethod(t *testing.T) {
	k := newKernel(t, Options{})
	for i, start := range []string{"PROPFIND /", "VERSION-CONTROL /x", "\r\nGET /", "\r\nPURGE /"} {
		c := newConnection(uint16(40000 + i))
		k.receive(c.request(start + " HTTP/1.1\r\n" + traceparent + end))
		k.receive(c.response(ok200))
	}
	for _, x := range k.exchanges() {
		if x.Status != 200 || x.Flags != 0 {
			t.Errorf("%+v", x)
		}
	}
	k.wantCount("requests", 4)
	k.wantCount("exchanges_emitted", 4)
}

// An unsampled context does not hide a sampled one, unless its format is preferred.
func TestSeveralContexts(t *testing.T) {
	for order, want := range map[string]uint64{"": 1, "jaeger": 1, "w3c": 0} {
		a := inOrder(t, order, DeepOff)
		c := newConnection(40000)
		a.k.receive(c.request(get + unsampled + "uber-trace-id: 1:2:0:1\r\n" + end))
		a.k.receive(c.response(ok200))
		for _, x := range a.k.exchanges() {
			if x.Context.Format != tracecontext.FormatJaeger || x.Flags&observe.FlagSeveralContexts != 0 != (order == "") {
				t.Errorf("order %q: %+v", order, x)
			}
		}
		a.k.wantCount("exchanges_emitted", want)
		a.k.wantCount("contexts_found", want)
	}
}

// A body that begins like a request belongs to its request.
func TestRequestInBody(t *testing.T) {
	k := newKernel(t, Options{})
	c := newConnection(40000)
	k.receive(c.request("POST / HTTP/1.1\r\nhost: a\r\n" + traceparent + "content-length: 27\r\n" + end))
	k.receive(c.request("GET of binary \x00\x00\n and so on"))
	body := "GET / HTTP/1.1\r\n" + traceparent + end
	k.receive(c.response(fmt.Sprintf("HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n", len(body))))
	k.receive(c.response(body))
	x := k.one()
	if x.Flags != 0 || x.Request.Packets != 2 || x.Response.Packets != 2 {
		t.Errorf("exchange %+v", x)
	}
	k.wantCount("requests_in_response", 1)
}

func TestRetransmission(t *testing.T) {
	k := newKernel(t, Options{})
	c := newConnection(40000)
	request := c.request(get + traceparent + end)
	k.receive(request)
	k.receive(request)
	response := c.response(ok200)
	k.receive(response)
	k.receive(request)
	k.receive(response)
	x := k.one()
	if x.Retransmits != 3 || x.Request.Bytes != uint64(len(get+traceparent+end)) || x.Response.Bytes != uint64(len(ok200)) || x.Flags != 0 {
		t.Errorf("exchange %+v", x)
	}
	k.wantCount("requests", 1)
	k.wantCount("segments_retransmitted", 3)
}

func TestReordered(t *testing.T) {
	k := newKernel(t, Options{})
	c := newConnection(40000)
	k.receive(c.request("POST / HTTP/1.1\r\nhost: a\r\n" + traceparent + "content-length: 12\r\n" + end))
	first, second, third := c.request("body1"), c.request("body22"), c.request("b")
	k.receive(second)
	k.receive(first)
	k.receive(third)
	k.receive(c.response(ok200))
	x := k.one()
	if x.Flags != observe.FlagOutOfOrder || x.Retransmits != 0 || x.Request.Packets != 4 {
		t.Errorf("exchange %+v", x)
	}
	k.wantCount("segments_out_of_order", 2)
}

func TestPipelined(t *testing.T) {
	k := newKernel(t, Options{})
	c := newConnection(40000)
	second := strings.Replace(traceparent, "b7ad6b7169203331", "00f067aa0ba902b7", 1)
	k.receive(c.request(get + traceparent + end))
	k.receive(c.request(get + second + end))
	k.receive(c.response(ok200))
	k.receive(c.response(strings.Replace(ok200, "200", "404", 1)))
	got := k.exchanges()
	if len(got) != 2 {
		t.Fatalf("%d exchanges, want 2", len(got))
	}
	if x := got[0]; x.Flags != observe.FlagPipelined || x.Status != 200 || x.Response.Packets != 1 {
		t.Errorf("first: %+v", x)
	}
	if x := got[1]; x.Flags != observe.FlagPipelined || x.Status != 404 || x.Response.Packets != 1 || x.Context.SpanID.String() != "00f067aa0ba902b7" {
		t.Errorf("second: %+v", x)
	}
	k.wantCount("requests_pipelined", 1)
}

func TestExpectContinue(t *testing.T) {
	k := newKernel(t, Options{})
	c := newConnection(40000)
	k.receive(c.request("POST / HTTP/1.1\r\nhost: a\r\n" + traceparent + "expect: 100-continue\r\ncontent-length: 1000\r\n" + end))
	k.receive(c.response("HTTP/1.1 100 Continue\r\n\r\n"))
	k.receive(c.request(strings.Repeat("z", 1000)))
	k.receive(c.response(ok200))
	x := k.one()
	wantDuration(t, x)
	if x.Flags != observe.FlagInterim || x.Status != 200 || x.Response.Bytes != uint64(len(ok200)) || x.Request.Packets != 2 {
		t.Errorf("exchange %+v", x)
	}
}

func TestChunked(t *testing.T) {
	k := newKernel(t, Options{})
	c := newConnection(40000)
	k.receive(c.request("POST / HTTP/1.1\r\nhost: a\r\n" + traceparent + "transfer-encoding: chunked\r\n" + end))
	for _, chunk := range []string{"5\r\nhello\r\n", "4\r\nGET \r\n", "0\r\n\r\n"} {
		k.receive(c.request(chunk))
	}
	k.receive(c.response("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n"))
	k.receive(c.response("3\r\nabc\r\n"))
	k.receive(c.response("0\r\n\r\n"))
	if x := k.one(); x.Flags != 0 || x.Request.Packets != 4 || x.Response.Packets != 3 {
		t.Errorf("exchange %+v", x)
	}
}

func TestFragment(t *testing.T) {
	k := newKernel(t, Options{})
	packet := newConnection(40000).request(get + traceparent + end)
	packet[14+6] |= 0x20 // IPv4: more fragments
	k.receive(packet)
	if got := k.exchanges(); len(got) != 0 {
		t.Errorf("exchange out of a fragment: %v", got)
	}
	k.wantCount("packets_fragmented", 1)
}

// An interim and the final response in one segment.
func TestInterimAndFinalTogether(t *testing.T) {
	k := newKernel(t, Options{})
	c := newConnection(40000)
	interim := "HTTP/1.1 103 Early Hints\r\nlink: </a.css>\r\n\r\n"
	for range 2 {
		k.receive(c.request(get + traceparent + end))
		k.receive(c.response(interim + ok200))
	}
	got := k.exchanges()
	if len(got) != 2 {
		t.Fatalf("%d exchanges, want 2", len(got))
	}
	for _, x := range got {
		if x.Flags != observe.FlagInterim || x.Status != 200 || x.Response.Bytes != uint64(len(ok200)) {
			t.Errorf("exchange %+v", x)
		}
	}
}

// A pipelined request that is not recorded still has a response.
func TestPipelinedUnsampled(t *testing.T) {
	k := newKernel(t, Options{})
	c := newConnection(40000)
	k.receive(c.request(get + traceparent + end))
	k.receive(c.response(ok200))
	k.receive(c.request(get + unsampled + end))
	k.receive(c.request(get + traceparent + end))
	k.receive(c.response(strings.Replace(ok200, "200", "503", 1)))
	k.receive(c.response(ok200))
	got := k.exchanges()
	if len(got) != 2 || got[1].Status != 200 || got[1].Flags != observe.FlagPipelined || got[1].Response.Packets != 1 {
		t.Errorf("exchanges %+v", got)
	}
}

// A segment of a head that begins like a request still belongs to that head.
func TestMethodInsideHead(t *testing.T) {
	k := newKernel(t, Options{Deep: DeepOn})
	c := newConnection(40000)
	k.receive(c.request("GET / HTTP/1.1\r\nx-note: "))
	k.receive(c.request("GET this\r\n" + traceparent + end))
	k.receive(c.response(ok200))
	if x := k.one(); x.Context.HeaderOffset != 34 || x.Flags != observe.FlagMultiSegment {
		t.Errorf("exchange %+v flags %v", x, x.Flags.Names())
	}
}

// An open connection without requests does not stay tracked, and its next request
// is captured like the first.
func TestIdleConnectionIsUntracked(t *testing.T) {
	k := newKernel(t, Options{})
	c := newConnection(40000)
	const idle = 5 * time.Millisecond
	for range 2 {
		k.receive(c.request(get + traceparent + end))
		k.receive(c.response(ok200))
		if k.tracked() != 1 {
			t.Fatalf("%d connections are tracked, want 1", k.tracked())
		}
		poll(t, "the connection is untracked", func() bool {
			must(t, k.probe.sweep(idle, time.Hour))
			return k.tracked() == 0
		})
		if got := k.emitted(); len(got) != 1 || got[0].Status != 200 || got[0].Flags != 0 {
			t.Errorf("emitted: %+v", got)
		}
		// Untracked traffic in between.
		k.receive(c.request(get + unsampled + end))
		k.receive(c.response(ok200))
	}
	poll(t, "the connection is forgotten, and the sweep has nothing to do", func() bool {
		must(t, k.probe.sweep(idle, time.Hour))
		return k.probe.swept.left == 0
	})
	k.wantCount("segments_late", 0)
}

// While the response is lost on its way, TCP sends the request again, and later the
// response: minutes after the exchange was reported that is no new request.
func TestCopyOfARequestIsNoNewOne(t *testing.T) {
	k := newKernel(t, Options{})
	c := newConnection(40000)
	request, response := c.request(get+traceparent+end), c.response(ok200)
	k.receive(request)
	k.receive(response)
	const idle = 100 * time.Millisecond // kept for six seconds
	for range 3 {
		poll(t, "the connection is untracked", func() bool {
			must(t, k.probe.sweep(idle, time.Hour))
			return k.tracked() == 0
		})
		k.receive(request)
		k.receive(response)
	}
	if got := k.exchanges(); len(got) != 1 || got[0].Status != 200 || got[0].Flags != 0 {
		t.Errorf("exchanges: %+v", got)
	}
	k.receive(c.request(get + traceparent + end))
	k.receive(c.response(ok200))
	if got := k.one(); got.Status != 200 || got.Flags != 0 {
		t.Errorf("the next exchange: %+v", got)
	}
}

// Late segments are counted while the connection is tracked.
func TestLateSegment(t *testing.T) {
	k := newKernel(t, Options{})
	c := newConnection(40000)
	k.receive(c.request(get + traceparent + end))
	k.receive(c.response(ok200))
	must(t, k.probe.sweep(0, time.Hour))
	k.receive(c.response("more"))
	k.wantCount("segments_late", 1)
}

// Later points reuse what the first one read of a segment within some ms. They recognize it
// by its numbers, its length and its sender, which here belong to other bytes to make that
// visible. What is reused, is in one of some attempts at least.
func TestSegmentIsReadOnce(t *testing.T) {
	const other = "traceparent: 00-ffffffffffffffffffffffffffffffff-b7ad6b7169203331-01\r\n"
	const id = "0af7651916cd43dd8448eb211c80319c"
	for name, test := range map[string]struct {
		first, second string
		move          uint32 // of the number that is acknowledged
		port          uint16 // of the second one's sender
		want          string // of the second one
	}{
		"same numbers":     {get + traceparent + end, get + other + end, 0, 40000, id},
		"other numbers":    {get + traceparent + end, get + other + end, 1, 40000, strings.Repeat("f", 32)},
		"other length":     {get + traceparent + end, get + other + "a: b\r\n" + end, 0, 40000, strings.Repeat("f", 32)},
		"other sender":     {get + traceparent + end, get + other + end, 0, 40001, strings.Repeat("f", 32)},
		"not sampled":      {get + unsampled + end, get + other + end, 0, 40000, ""},
		"a body":           {strings.Repeat("x", len(get+other+end)), get + other + end, 0, 40000, ""},
		"malformed before": {strings.Replace(get+traceparent+end, "-01", "-zz", 1), get + other + end, 0, 40000, ""},
	} {
		t.Run(name, func(t *testing.T) {
			onOneCPU(t)
			reused := test.want != strings.Repeat("f", 32)
			for attempt := range 100 {
				k := newKernel(t, Options{})
				first, second := newConnection(40000), newConnection(test.port)
				second.server = netip.MustParseAddrPort("10.0.0.3:8080") // the first is translated
				second.clientSeq, second.serverSeq = first.clientSeq, first.serverSeq+test.move
				one, two := first.request(test.first), second.request(test.second)
				k.receive(one)
				k.receive(two)
				got := ""
				for _, x := range k.exchanges() {
					if x.Server == second.server {
						got = x.Context.TraceID.String()
					}
				}
				if got == test.want {
					if name == "malformed before" {
						k.wantCount("contexts_malformed", 2)
					}
					if reused {
						return
					}
				} else if !reused || attempt == 99 {
					t.Fatalf("trace %q, want %q", got, test.want)
				}
				k.close(t)
			}
		})
	}
}

// What a segment said is forgotten after some ms: the copy of one reads itself again.
func TestSegmentIsReadAgainLater(t *testing.T) {
	onOneCPU(t)
	const other = "traceparent: 00-ffffffffffffffffffffffffffffffff-b7ad6b7169203331-01\r\n"
	first := newConnection(40000)
	k := newKernel(t, Options{})
	k.receive(first.request(get + traceparent + end))
	server := netip.MustParseAddr("10.0.1.0")
	poll(t, "a copy is read", func() bool {
		server = server.Next()
		c := newConnection(40000)
		c.server, c.serverSeq = netip.AddrPortFrom(server, 8080), first.serverSeq
		k.receive(c.request(get + other + end))
		for _, x := range k.exchanges() {
			if x.Server == c.server && x.Context.TraceID.String() == strings.Repeat("f", 32) {
				return true
			}
		}
		return false
	})
}

// A program that finds working memory in use takes the next one; if all are in
// use it skips the segment and counts it.
func TestRunsShareWorkingMemory(t *testing.T) {
	k := newKernel(t, Options{})
	claim := func(key, value uint32) {
		t.Helper()
		var perCPU []bpf.CaptureScratch
		must(t, k.probe.kernel.Scratches.Lookup(key, &perCPU))
		for i := range perCPU {
			if perCPU[i].Claimed == value {
				t.Errorf("working memory %d of CPU %d: claimed = %d before it is set so", key, i, value)
			}
			perCPU[i].Claimed = value
		}
		must(t, k.probe.kernel.Scratches.Put(key, perCPU))
	}
	n := k.probe.kernel.Scratches.MaxEntries()
	for key := range n {
		k.receive(newConnection(uint16(41000 + key)).request(get + traceparent + end))
		if got := len(k.exchanges()); got != 1 {
			t.Errorf("with %d in use: %d exchanges, want 1", key, got)
		}
		claim(key, 1)
	}
	k.wantCount("segments_skipped", 0)
	k.receive(newConnection(42000).request(get + traceparent + end))
	if got := len(k.exchanges()); got != 0 {
		t.Errorf("with all in use: %d exchanges, want 0", got)
	}
	k.wantCount("segments_skipped", 1)
	claim(n-1, 0)
	k.receive(newConnection(43000).request(get + traceparent + end))
	k.one()
	k.wantCount("segments_skipped", 1)
}
