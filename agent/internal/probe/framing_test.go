// SPDX-License-Identifier: Apache-2.0

package probe

import (
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"github.com/layertrace/layertrace/internal/observe"
)

// settle runs the sweep as after the idle timeout: it reports complete exchanges only.
func (k *kernel) settle() []observe.Observation {
	k.t.Helper()
	must(k.t, k.probe.sweep(0, time.Hour))
	return k.emitted()
}

const (
	chunked  = "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n"
	unframed = "HTTP/1.1 200 OK\r\n\r\n"
)

// Whatever the framing, an exchange is reported when its response has ended, and not
// before.
func TestEndOfResponse(t *testing.T) {
	for name, test := range map[string]struct {
		request  string
		response []string // segments; the last one ends the response
		flags    observe.Flags
		status   int
	}{
		"length in two segments":      {get, []string{ok9, "more"}, 0, 200},
		"length in three":             {get, []string{ok9, "mo", "re"}, 0, 200},
		"name in capitals":            {get, []string{"HTTP/1.1 200 OK\r\nContent-Length:3 \r\n\r\n", "abc"}, 0, 200},
		"length of 0":                 {get, []string{"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n"}, 0, 200},
		"status 204":                  {get, []string{"HTTP/1.1 204 No Content\r\n\r\n"}, 0, 204},
		"status 304 with a length":    {get, []string{"HTTP/1.1 304 Not Modified\r\ncontent-length: 1000\r\n\r\n"}, 0, 304},
		"HEAD with a length":          {"HEAD / HTTP/1.1\r\nhost: a\r\n", []string{"HTTP/1.1 200 OK\r\ncontent-length: 1000\r\n\r\n"}, 0, 200},
		"chunks":                      {get, []string{chunked, "3\r\nabc\r\n", "0\r\n\r\n"}, 0, 200},
		"all chunks at once":          {get, []string{chunked + "3\r\nabc\r\n0\r\n\r\n"}, 0, 200},
		"a chunk's data like the end": {get, []string{chunked + "a\r\nab\r\n0\r\n\r\n", "c\r\n", "0\r\n\r\n"}, 0, 200},
		"a size line cut":             {get, []string{chunked + "1", "0", "\r", "\n0123456789abcdef\r", "\n0\r\n\r", "\n"}, 0, 200},
		"extensions and trailers":     {get, []string{chunked + "3;name=value\r\nabc\r\n0;x\r\nx-a: b\r\n", "x-c: d\r\n\r\n"}, 0, 200},
		"length beside chunks":        {get, []string{"HTTP/1.1 200 OK\r\ncontent-length: 5\r\ntransfer-encoding: gzip, chunked\r\n\r\n5\r\nhello\r\n", "0\r\n\r\n"}, 0, 200},
		"upper-case hexadecimal size": {get, []string{chunked + "A\r\n01234567", "89\r\n", "0\r\n\r\n"}, 0, 200},
		"an upgrade":                  {get, []string{"HTTP/1.1 101 Switching Protocols\r\nupgrade: x\r\n\r\n"}, observe.FlagUpgraded, 101},
		"CONNECT":                     {"CONNECT a:443 HTTP/1.1\r\nhost: a:443\r\n", []string{"HTTP/1.1 200 OK\r\n\r\n"}, observe.FlagUpgraded, 200},
		"CONNECT that is refused":     {"CONNECT a:443 HTTP/1.1\r\nhost: a:443\r\n", []string{"HTTP/1.1 403 Forbidden\r\ncontent-length: 2\r\n\r\n", "no"}, 0, 403},
		"interim in the same segment": {get, []string{"HTTP/1.1 103 Early Hints\r\nlink: x\r\n\r\n" + ok9, "more"}, observe.FlagInterim, 200},
	} {
		t.Run(name, func(t *testing.T) {
			k := newKernel(t, Options{})
			c := newConnection(40000)
			k.receive(c.request(test.request + traceparent + end))
			for i, s := range test.response {
				if got := k.settle(); len(got) != 0 {
					t.Fatalf("reported before segment %d: %+v", i, got)
				}
				k.receive(c.response(s))
			}
			got := k.settle()
			if len(got) != 1 || got[0].Status != test.status || got[0].Flags != test.flags {
				t.Fatalf("reported %+v, want status %d and flags %v", got, test.status, test.flags.Names())
			}
			// Bytes after the end belong to nothing: a tunnel's, or a late 408.
			k.receive(c.response("HTTP/1.1 408 Request Timeout\r\n\r\n"))
			if got := k.exchanges(); len(got) != 0 {
				t.Errorf("bytes after the end became an exchange: %+v", got)
			}
		})
	}
}

// Bytes after the end do not extend a complete response that was not reported yet.
func TestBytesAfterEnd(t *testing.T) {
	for name, response := range map[string]string{"length": ok200, "chunked": chunked + "3\r\nabc\r\n0\r\n\r\n"} {
		t.Run(name, func(t *testing.T) {
			k := newKernel(t, Options{})
			c := newConnection(40000)
			k.receive(c.request(get + traceparent + end))
			k.receive(c.response(response))
			k.receive(c.response("HTTP/1.1 408 Request Timeout\r\nconnection: close\r\n\r\n"))
			if x := k.one(); x.Status != 200 || x.Response.Bytes != uint64(len(response)) || x.Response.Packets != 1 || x.Flags != 0 {
				t.Errorf("exchange %+v", x)
			}
		})
	}
}

// What ends before its end is marked.
func TestCut(t *testing.T) {
	for name, test := range map[string]struct {
		response []string
		last     segment // ends the connection; zero: none
		want     observe.Flags
		status   int
	}{
		"reset in a response":                  {[]string{ok9}, segment{fromServer: true, rst: true}, observe.FlagReset | observe.FlagIncomplete, 200},
		"reset by the client in chunks":        {[]string{chunked + "9\r\nabc"}, segment{rst: true}, observe.FlagReset | observe.FlagIncomplete, 200},
		"reset without framing":                {[]string{unframed + "abc"}, segment{fromServer: true, rst: true}, observe.FlagReset, 200},
		"reset after a complete response":      {[]string{ok200}, segment{fromServer: true, rst: true}, 0, 200},
		"reset before the response":            {nil, segment{fromServer: true, rst: true}, observe.FlagReset | observe.FlagNoResponse, 0},
		"idle in a response":                   {[]string{ok9}, segment{}, observe.FlagIdle, 200},
		"idle without framing":                 {[]string{unframed + "abc"}, segment{}, observe.FlagEndGuessed, 200},
		"idle before the response":             {nil, segment{}, observe.FlagIdle | observe.FlagNoResponse, 0},
		"contradicting lengths: end not known": {[]string{"HTTP/1.1 200 OK\r\ncontent-length: 1\r\ncontent-length: 2\r\n\r\na"}, segment{}, observe.FlagEndGuessed, 200},
	} {
		t.Run(name, func(t *testing.T) {
			k := newKernel(t, Options{})
			c := newConnection(40000)
			k.receive(c.request(get + traceparent + end))
			for _, s := range test.response {
				k.receive(c.response(s))
			}
			if test.last.rst {
				test.last.seq = c.clientSeq
				if test.last.fromServer {
					test.last.seq = c.serverSeq
				}
				k.receive(c.build(test.last))
			}
			if x := k.one(); x.Flags != test.want || x.Status != test.status {
				t.Errorf("flags %v, status %d, want %v, %d", x.Flags.Names(), x.Status, test.want.Names(), test.status)
			}
		})
	}
}

// Both FINs end a response that has no other end, and one that is cut.
func TestClose(t *testing.T) {
	for name, test := range map[string]struct {
		response string
		want     observe.Flags
	}{
		"close-delimited": {unframed + "abc", 0},
		"cut by its end":  {ok9, observe.FlagIncomplete},
	} {
		t.Run(name, func(t *testing.T) {
			k := newKernel(t, Options{})
			c := newConnection(40000)
			k.receive(c.request(get + traceparent + end))
			k.receive(c.response(test.response))
			k.receive(c.build(segment{fromServer: true, seq: c.serverSeq, fin: true}))
			k.receive(c.build(segment{seq: c.clientSeq, fin: true}))
			if got := k.emitted(); len(got) != 1 || got[0].Flags != test.want {
				t.Errorf("emitted %+v, want flags %v", got, test.want.Names())
			}
		})
	}
}

// The preliminary report of an exchange that goes on has its key and times, and comes
// once; the whole follows.
func TestStillOpen(t *testing.T) {
	k := newKernel(t, Options{OpenSpanAfter: time.Nanosecond})
	c := newConnection(40000)
	k.receive(c.request(get + traceparent + end))
	k.receive(c.response(ok9))
	must(t, k.probe.sweep(time.Hour, time.Hour))
	early := k.emitted()
	if len(early) != 1 || early[0].Flags != observe.FlagStillOpen || early[0].Status != 200 {
		t.Fatalf("reported %+v", early)
	}
	must(t, k.probe.sweep(time.Hour, time.Hour))
	if again := k.emitted(); len(again) != 0 {
		t.Errorf("reported again: %+v", again)
	}
	k.receive(c.response("more"))
	whole := k.one()
	if whole.Flags != 0 || whole.Request.First != early[0].Request.First || whole.Key != early[0].Key || whole.Response.Packets != 2 {
		t.Errorf("whole %+v, early %+v", whole, early[0])
	}
	k.wantCount("exchanges_open_reports", 1)
	k.wantCount("exchanges_emitted", 1)
}

// A body in a segment of its own that is a request belongs to its request.
func TestBodyIsRequest(t *testing.T) {
	k := newKernel(t, Options{})
	c := newConnection(40000)
	body := strings.Replace(get+traceparent+end, "b7ad6b7169203331", "b7ad6b7169203332", 1)
	k.receive(c.request(fmt.Sprintf("POST / HTTP/1.1\r\nhost: a\r\n%scontent-length: %d\r\n\r\n", traceparent, len(body))))
	k.receive(c.request(body))
	k.receive(c.response(ok200))
	if x := k.one(); x.Context.SpanID.String() != "b7ad6b7169203331" || x.Request.Packets != 2 || x.Status != 200 || x.Flags != 0 || x.Method != "POST" || x.Path != "/" {
		t.Errorf("exchange %+v", x)
	}
	k.wantCount("requests", 1)
}

// A copy of the SYN after the request begins nothing.
func TestCopyOfSYN(t *testing.T) {
	k := newKernel(t, Options{})
	c := newConnection(40000)
	syn := c.build(segment{seq: c.clientSeq - 1, syn: true})
	k.receive(syn)
	k.receive(c.request(get + traceparent + end))
	k.receive(syn)
	k.receive(c.response(ok200))
	if x := k.one(); x.Status != 200 || x.Flags != 0 {
		t.Errorf("exchange %+v", x)
	}
}

// The capture lost a response and the next request: the response to that one is not
// given to the first.
func TestResponseToUnseenRequest(t *testing.T) {
	k := newKernel(t, Options{})
	c := newConnection(40000)
	k.receive(c.request(get + traceparent + end))
	c.response(ok200)                // not seen
	c.request(get + unsampled + end) // not seen
	k.receive(c.response("HTTP/1.1 503 Service Unavailable\r\ncontent-length: 0\r\n\r\n"))
	if x := k.one(); x.Status != 0 || x.Flags != observe.FlagNoResponse|observe.FlagPacketsMissing {
		t.Errorf("exchange %+v, flags %v", x, x.Flags.Names())
	}
}

// Random responses in random segments are reported once, with all bytes and no flag,
// when their last byte was seen.
func TestRandomFraming(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 2))
	k := newKernel(t, Options{})
	for i := range 300 {
		c := newConnection(uint16(20000 + i))
		for request := range 1 + rng.IntN(3) {
			response := randomResponse(rng)
			k.receive(c.request(get + traceparent + end))
			for rest := response; rest != ""; {
				n := min(1+rng.IntN(1+rng.IntN(1400)), len(rest))
				if rest == response {
					// The head in one segment: its rest in the next is not read.
					n = max(n, strings.Index(response, "\r\n\r\n")+4)
				}
				k.receive(c.response(rest[:n]))
				rest = rest[n:]
			}
			got := k.settle()
			if len(got) != 1 || got[0].Status != 200 || got[0].Response.Bytes != uint64(len(response)) || got[0].Flags != 0 {
				t.Fatalf("connection %d, request %d: reported %+v of\n%.200q", i, request, got, response)
			}
		}
	}
}

// randomResponse has a body with a length or in chunks, of data that looks like chunks.
func randomResponse(rng *rand.Rand) string {
	body := func(n int) string {
		text := strings.Repeat("0\r\n\r\nHTTP/1.1 200 OK\r\n", n/20+1)
		return text[:n]
	}
	if rng.IntN(2) == 0 {
		n := rng.IntN(5000)
		return fmt.Sprintf("HTTP/1.1 200 OK\r\nserver: x\r\ncontent-length: %d\r\n\r\n%s", n, body(n))
	}
	all := "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
	for range rng.IntN(40) {
		n := 1 + rng.IntN(1+rng.IntN(600))
		all += fmt.Sprintf("%x\r\n%s\r\n", n, body(n))
	}
	return all + "0\r\n\r\n"
}
