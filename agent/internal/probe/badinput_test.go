// SPDX-License-Identifier: Apache-2.0

package probe

import (
	"strings"
	"testing"

	"github.com/layertrace/layertrace/internal/observe"
)

// A head cut in two segments at every byte: the deep search finds the context
// wherever the cut is, the plain one when it lies in the first segment.
func TestSplitHead(t *testing.T) {
	head := get + traceparent + "accept: */*\r\n" + end
	deep, plain := newKernel(t, Options{Deep: true}), newKernel(t, Options{})
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

// The same in segments of one byte behind the method.
func TestOneByteSegments(t *testing.T) {
	k := newKernel(t, Options{Deep: true})
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
	k := newKernel(t, Options{})
	// BPF_PROG_TEST_RUN takes packets of up to a page; the lab has larger ones.
	k.receive(newConnection(40000).request(head[:3000]))
	if got := k.exchanges(); len(got) != 0 {
		t.Errorf("found behind the window: %v", got)
	}
	k.wantCount("heads_truncated", 1)

	for _, size := range []int{3000, 1448, 100} {
		k = newKernel(t, Options{Deep: true})
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

// A request line longer than a carried line, and than the window.
func TestLongRequestLine(t *testing.T) {
	head := "GET /" + strings.Repeat("x", 3000) + " HTTP/1.1\r\nhost: a\r\n" + traceparent + end
	k := newKernel(t, Options{Deep: true})
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
		"GETX / HTTP/1.1\r\n" + traceparent + end,
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

// A body that begins like a request belongs to its request.
func TestRequestInBody(t *testing.T) {
	k := newKernel(t, Options{})
	c := newConnection(40000)
	k.receive(c.request("POST / HTTP/1.1\r\nhost: a\r\n" + traceparent + "content-length: 40\r\n" + end))
	k.receive(c.request("GET of binary \x00\x00\n and so on"))
	k.receive(c.response("HTTP/1.1 200 OK\r\n\r\n"))
	k.receive(c.response("GET / HTTP/1.1\r\n" + traceparent + end)) // a response body
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
	if f := got[0].Flags; f != observe.FlagPipelined|observe.FlagNoResponse {
		t.Errorf("first: flags %v", f.Names())
	}
	if x := got[1]; x.Flags != observe.FlagPipelined || x.Status != 404 || x.Response.Packets != 1 || x.Context.SpanID.String() != "00f067aa0ba902b7" {
		t.Errorf("second: %+v", x)
	}
	k.wantCount("requests_pipelined", 1)
}

func TestExpectContinue(t *testing.T) {
	k := newKernel(t, Options{})
	c := newConnection(40000)
	k.receive(c.request("POST / HTTP/1.1\r\nhost: a\r\n" + traceparent + "expect: 100-continue\r\n" + end))
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

// Interim and final response in one segment.
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

// A pipelined request that is not recorded owes a response all the same.
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

// A segment of a head that begins like a request is still part of that head.
func TestMethodInsideHead(t *testing.T) {
	k := newKernel(t, Options{Deep: true})
	c := newConnection(40000)
	k.receive(c.request("GET / HTTP/1.1\r\nx-note: "))
	k.receive(c.request("GET this\r\n" + traceparent + end))
	k.receive(c.response(ok200))
	if x := k.one(); x.Context.HeaderOffset != 34 || x.Flags != observe.FlagMultiSegment {
		t.Errorf("exchange %+v flags %v", x, x.Flags.Names())
	}
}
