// SPDX-License-Identifier: Apache-2.0

package decode

import (
	"fmt"
	"strings"
	"testing"

	"github.com/layertrace/layertrace/internal/observe"
	"github.com/layertrace/layertrace/internal/tracecontext"
)

const (
	noResponse   = observe.FlagNoResponse
	multiSegment = observe.FlagMultiSegment
	pipelined    = observe.FlagPipelined
)

// TestKeepAlive: an exchange ends when its messages end; it waits for late copies of
// segments until the next request.
func TestKeepAlive(t *testing.T) {
	c := newTalk(t, Options{})
	c.handshake()
	c.client(get)
	c.server(ok)
	c.emitted()
	c.client(post("body"))
	c.emitted(expected(message(4, 4, 1, len(get)), message(5, 5, 1, len(ok)), 200, 0))
	long := respond(503, 300)
	c.server(long[:100])
	c.server(long[100:200])
	c.clientFIN()
	c.server(long[200:])
	c.emitted()
	c.serverFIN("")
	c.emitted(posted(message(6, 6, 1, len(post("body"))), message(7, 10, 3, len(long)), 503, 0))
	c.d.Flush()
	c.emitted()
	c.count("packets", 11)
	c.count("exchanges", 2)
	c.count("found", 2)
}

// TestFraming: where a response ends (RFC 9112, section 6.3). What follows on the
// connection is not of it.
func TestFraming(t *testing.T) {
	head := strings.Replace(get, "GET", "HEAD", 1)
	connect := strings.Replace(get, "GET /x", "CONNECT a:443", 1)
	const chunked = "HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n"
	for name, c := range map[string]struct {
		request  string
		response string
		status   int
		flags    observe.Flags
	}{
		"length":              {get, ok, 200, 0},
		"length 0":            {get, respond(404, 0), 404, 0},
		"length in a list":    {get, "HTTP/1.1 200 OK\r\ncontent-length:  2 , 2\r\n\r\nhi", 200, 0},
		"chunks":              {get, chunked + "5\r\nhello\r\nA;ext=1\r\n0123456789\r\n0\r\n\r\n", 200, 0},
		"chunks with trailer": {get, chunked + "1 \r\nx\r\n00\r\nA: b\r\nC: HTTP/1.1 200 OK\r\n\r\n", 200, 0},
		"chunks beat length":  {get, "HTTP/1.1 200 OK\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nxx\r\n0\r\n\r\n", 200, 0},
		"HEAD":                {head, "HTTP/1.1 200 OK\r\nContent-Length: 9999\r\n\r\n", 200, 0},
		"204":                 {get, "HTTP/1.1 204 No Content\r\n\r\n", 204, 0},
		"304":                 {get, "HTTP/1.1 304 Not Modified\r\nContent-Length: 9999\r\n\r\n", 304, 0},
		"bare LF":             {get, "HTTP/1.1 200 OK\nContent-Length: 2\n\nhi", 200, 0},
		"interim":             {get, "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n" + ok, 200, observe.FlagInterim},
		"CONNECT refused":     {connect, respond(403, 5), 403, 0},
		"no reason":           {get, "HTTP/1.1 200 \r\nContent-Length: 0\r\n\r\n", 200, 0},
	} {
		t.Run(name, func(t *testing.T) {
			size := len(c.response)
			if c.flags == observe.FlagInterim {
				size = len(ok)
			}
			want := func(request, response observe.Message) observe.Observation {
				x := expected(request, response, c.status, c.flags)
				x.Method, x.Path = requestLine([]byte(c.request))
				x.Context.HeaderOffset = uint32(strings.Index(c.request, "traceparent"))
				return x
			}
			for split := range len(c.response) {
				talk := newTalk(t, Options{})
				talk.handshake()
				talk.client(c.request)
				packets, first := 1, 5
				if split > 0 {
					talk.server(c.response[:split])
					packets = 2
					if start := len(c.response) - size; split <= start {
						packets, first = 1, 6
					}
				}
				talk.server(c.response[split:])
				last := int(talk.now / 1000)
				talk.server(respond(408, 1)) // of no request
				talk.client(get)
				talk.server(respond(500, 1))
				talk.d.Flush()
				talk.emitted(
					want(message(4, 4, 1, len(c.request)), message(first, last, packets, size)),
					expected(message(last+2, last+2, 1, len(get)), message(last+3, last+3, 1, len(respond(500, 1))), 500, 0))
				talk.count("response_without_request", 1)
				if t.Failed() {
					t.Fatalf("split at %d", split)
				}
			}
		})
	}
}

// TestRequestBodies: what a body looks like does not matter.
func TestRequestBodies(t *testing.T) {
	chunked := strings.Replace(get, "\r\n\r\n", "\r\nTransfer-Encoding: chunked\r\n\r\n", 1)
	for name, text := range map[string]string{
		"a request":           post(get),
		"a response":          post(ok),
		"chunks":              chunked + fmt.Sprintf("%x\r\n%s\r\n0\r\n\r\n", len(get), get),
		"empty lines before":  "\r\n\r\n" + get,
		"chunks with trailer": chunked + "1\r\nx\r\n0\r\nA: b\r\n\r\n",
	} {
		t.Run(name, func(t *testing.T) {
			for split := range len(text) {
				c := newTalk(t, Options{})
				c.handshake()
				if split > 0 {
					c.client(text[:split])
				}
				c.client(text[split:])
				c.server(ok)
				c.client(get)
				c.server(respond(404, 0))
				c.d.Flush()
				if len(c.got) != 2 {
					t.Fatalf("split at %d: %d exchanges, want 2: %+v", split, len(c.got), c.got)
				}
				size := len(strings.TrimLeft(text, "\r\n"))
				if x := c.got[0]; x.Status != 200 || x.Request.Bytes != uint64(size) || x.Flags&^(multiSegment|observe.FlagOutsideWindow) != 0 {
					t.Errorf("split at %d: status %d, %d bytes, flags %v", split, x.Status, x.Request.Bytes, x.Flags.Names())
				}
				if x := c.got[1]; x.Status != 404 || x.Flags != 0 {
					t.Errorf("split at %d: the next one has status %d, flags %v", split, x.Status, x.Flags.Names())
				}
			}
		})
	}
}

// TestPipelining: each request gets its own response, however they are cut into
// segments.
func TestPipelining(t *testing.T) {
	requests := post("first") + get + strings.Replace(get, traceLine, "", 1) + get
	responses := respond(200, 5) + "HTTP/1.1 100 Continue\r\n\r\n" + respond(201, 0) + respond(202, 7) + respond(203, 9)
	for _, size := range []int{1, 7, 40, 100, 10000} {
		c := newTalk(t, Options{All: true})
		c.handshake()
		for at := 0; at < len(requests); at += size {
			c.client(requests[at:min(at+size, len(requests))])
		}
		for at := 0; at < len(responses); at += size {
			c.server(responses[at:min(at+size, len(responses))])
		}
		c.d.Flush()
		if len(c.got) != 4 {
			t.Fatalf("segments of %d bytes: %d exchanges, want 4", size, len(c.got))
		}
		for i, x := range c.got {
			if x.Status != 200+i || x.Flags&pipelined == 0 || (x.Flags&observe.FlagInterim != 0) != (i == 1) {
				t.Errorf("segments of %d bytes: exchange %d has status %d, flags %v", size, i, x.Status, x.Flags.Names())
			}
		}
		c.count("pipelined", 3)
	}
}

// TestOtherOutcomes: requests without a sampled context are reported by All only, and
// have their own responses.
func TestOtherOutcomes(t *testing.T) {
	for counter, request := range map[string]string{
		"unsampled":  strings.Replace(get, "-01\r\n", "-00\r\n", 1),
		"no_context": strings.Replace(get, traceLine, "", 1),
		"truncated":  strings.Replace(get, traceLine, "cookie: "+strings.Repeat("c", maxHead), 1)[:60000],
	} {
		t.Run(counter, func(t *testing.T) {
			for _, all := range []bool{false, true} {
				c := newTalk(t, Options{All: all})
				c.handshake()
				c.client(get)
				c.server(ok)
				c.client(request)
				if counter == "truncated" {
					c.client(strings.Repeat("c", 10000))
				}
				c.server(respond(404, 0))
				c.client(get)
				c.server(ok)
				c.d.Flush()
				var statuses []int
				for _, x := range c.got {
					statuses = append(statuses, x.Status)
				}
				want := "[200 200]"
				if all {
					want = "[200 404 200]"
				}
				if got := fmt.Sprint(statuses); got != want {
					t.Errorf("all %v: statuses %s, want %s", all, got, want)
				}
				c.count(counter, 1)
			}
		})
	}
}

func TestMalformedContext(t *testing.T) {
	c := newTalk(t, Options{})
	c.handshake()
	bad := "b3: " + hex32 + "\r\n"
	c.client(strings.Replace(get, traceLine, bad+traceLine, 1))
	c.d.Flush()
	want := expected(message(4, 4, 1, len(get)+len(bad)), observe.Message{}, 0, noResponse|observe.FlagMalformed)
	want.Context.HeaderOffset += uint32(len(bad))
	c.emitted(want)
	c.count("malformed_context", 1)
}

// TestUpgrade: the exchange ends at the switch; the tunnel is no part of it.
func TestUpgrade(t *testing.T) {
	const upgrade = "HTTP/1.1 101 Switching Protocols\r\n\r\n"
	c := newTalk(t, Options{})
	c.handshake()
	c.client(get)
	c.server(upgrade + "\x81hi")
	c.client("\x81ping")
	c.server(ok)
	c.client(get)
	c.server("\x81pong")
	c.serverFIN("")
	c.d.Flush()
	c.emitted(expected(message(4, 4, 1, len(get)), message(5, 5, 1, len(upgrade)), 101, observe.FlagUpgraded))
	c.count("tunnel", 5)

	c = newTalk(t, Options{})
	c.handshake()
	connect := strings.Replace(get, "GET /x", "CONNECT a:80", 1)
	c.client(connect)
	c.server("HTTP/1.1 200 Connected\r\n\r\n")
	c.client(get)
	c.server(ok)
	c.d.Flush()
	want := expected(message(4, 4, 1, len(connect)), message(5, 5, 1, 26), 200, observe.FlagUpgraded)
	want.Method, want.Path, want.Context.HeaderOffset = "CONNECT", "", 32
	c.emitted(want)
}

func TestEnds(t *testing.T) {
	request, none := message(4, 4, 1, len(get)), observe.Message{}
	part := respond(200, 1000)[:500]
	const toTheEnd = "HTTP/1.1 200 OK\r\n\r\nbody"
	const reset = observe.FlagReset
	for name, c := range map[string]struct {
		end  func(*talk)
		want observe.Observation
	}{
		"reset":               {(*talk).reset, expected(request, none, 0, reset|noResponse)},
		"server's FIN":        {func(c *talk) { c.serverFIN("") }, expected(request, none, 0, noResponse)},
		"both FINs":           {func(c *talk) { c.clientFIN(); c.serverFIN("") }, expected(request, none, 0, noResponse)},
		"new connection":      {func(c *talk) { c.cseq += 1 << 20; c.handshake() }, expected(request, none, 0, noResponse)},
		"end of capture":      {func(c *talk) { c.d.Flush() }, expected(request, none, 0, noResponse)},
		"FIN with all":        {func(c *talk) { c.serverFIN(ok) }, expected(request, message(5, 5, 1, len(ok)), 200, 0)},
		"reset after":         {func(c *talk) { c.server(ok); c.reset() }, expected(request, message(5, 5, 1, len(ok)), 200, 0)},
		"after client's FIN":  {func(c *talk) { c.clientFIN(); c.reset() }, expected(request, none, 0, reset|noResponse)},
		"reset in the middle": {func(c *talk) { c.server(part); c.reset() }, expected(request, message(5, 5, 1, 500), 200, reset|incomplete)},
		"FIN in the middle":   {func(c *talk) { c.serverFIN(part) }, expected(request, message(5, 5, 1, 500), 200, incomplete)},
		"file ends in it":     {func(c *talk) { c.server(part); c.d.Flush() }, expected(request, message(5, 5, 1, 500), 200, incomplete)},
		"reset in the head":   {func(c *talk) { c.server(part[:14]); c.reset() }, expected(request, message(5, 5, 1, 14), 200, reset|incomplete)},
		"in the status line":  {func(c *talk) { c.server(part[:10]); c.reset() }, expected(request, message(5, 5, 1, 10), 0, reset|incomplete)},
		"closed":              {func(c *talk) { c.server(toTheEnd); c.serverFIN("") }, expected(request, message(5, 5, 1, len(toTheEnd)), 200, 0)},
		"reset, no length":    {func(c *talk) { c.server(toTheEnd); c.reset() }, expected(request, message(5, 5, 1, len(toTheEnd)), 200, reset|endGuessed)},
		"end, no length":      {func(c *talk) { c.server(toTheEnd); c.d.Flush() }, expected(request, message(5, 5, 1, len(toTheEnd)), 200, endGuessed)},
		"no HTTP":             {func(c *talk) { c.serverFIN("hello") }, expected(request, message(5, 5, 1, 5), 0, endGuessed)},
		"reset after a hole": {func(c *talk) {
			c.serverAt(0, part[:100])
			c.serverAt(200, part[200:])
			c.reset()
		}, expected(request, message(5, 6, 2, 400), 200, reset|incomplete)},
	} {
		t.Run(name, func(t *testing.T) {
			talk := newTalk(t, Options{})
			talk.handshake()
			talk.client(get)
			c.end(talk)
			talk.clientAt(-len(get), get) // retransmitted after the end: no second exchange
			talk.d.Flush()
			if len(talk.got) == 1 {
				talk.got[0].Retransmits = 0
			}
			talk.emitted(c.want)
		})
	}
}

// TestRequestWithoutEnd: the client goes away in the middle of its request.
func TestRequestWithoutEnd(t *testing.T) {
	text := post("a long body")
	c := newTalk(t, Options{})
	c.handshake()
	c.client(text[:len(text)-5])
	c.reset()
	c.emitted(posted(message(4, 4, 1, len(text)-5), observe.Message{}, 0, noResponse|incomplete|observe.FlagReset))

	// A response before the end of the request, which goes on.
	c = newTalk(t, Options{})
	c.handshake()
	c.client(text[:len(text)-5])
	c.server(respond(413, 3))
	c.client(text[len(text)-5:])
	c.client(get)
	c.server(ok)
	c.d.Flush()
	c.emitted(
		posted(message(4, 6, 2, len(text)), message(5, 5, 1, len(respond(413, 3))), 413, 0),
		expected(message(7, 7, 1, len(get)), message(8, 8, 1, len(ok)), 200, 0))
}

// TestSplitAtEveryByte splits a head into two segments, and into single bytes.
func TestSplitAtEveryByte(t *testing.T) {
	head := strings.Replace(get, traceLine, "Cookie: a\r\nx-b3-traceid: "+hex32+"\r\nx-b3-spanid: "+hex16+"\r\nx-b3-sampled: 1\r\nAccept: */*\r\n", 1)
	complete := strings.Index(head, "Accept")
	for at := 1; at < len(head); at++ {
		t.Run(fmt.Sprint(at), func(t *testing.T) {
			c := newTalk(t, Options{})
			c.handshake()
			c.client(head[:at])
			c.client(head[at:])
			checkSplit(t, c, len(head), 2, at < complete)
		})
	}
	c := newTalk(t, Options{})
	c.handshake()
	for i := range len(head) {
		c.client(head[i : i+1])
	}
	checkSplit(t, c, len(head), len(head), true)
}

func checkSplit(t *testing.T, c *talk, size, packets int, multi bool) {
	t.Helper()
	c.server(ok)
	c.d.Flush()
	if len(c.got) != 1 {
		t.Fatalf("%d exchanges, want 1", len(c.got))
	}
	x := c.got[0]
	if x.Context.TraceID.String() != hex32 || x.Context.SpanID.String() != hex16 || x.Context.HeaderOffset != 37 {
		t.Errorf("context %+v at %d", x.Context, x.Context.HeaderOffset)
	}
	if x.Request.Bytes != uint64(size) || int(x.Request.Packets) != packets || x.Request.First != 4000 || x.Status != 200 {
		t.Errorf("request %+v, status %d", x.Request, x.Status)
	}
	if x.Flags&multiSegment != 0 != multi {
		t.Errorf("flags %v", x.Flags.Names())
	}
}

// TestWindows: with an agent's window, what it would not find is not found; without, it
// is found and flagged.
func TestWindows(t *testing.T) {
	cookie := "Cookie: " + strings.Repeat("c", 16<<10) + "\r\n"
	far := strings.Replace(get, traceLine, cookie+traceLine, 1)
	near := strings.Replace(get, traceLine, cookie[len(cookie)-800:]+traceLine, 1)
	const outside = observe.FlagOutsideWindow
	for name, c := range map[string]struct {
		opts  Options
		text  string
		found bool
		flags observe.Flags
	}{
		"far":                  {Options{}, far, true, outside | multiSegment},
		"far, agent":           {Options{PrefixWindow: 1024}, far, false, 0},
		"far, deep":            {Options{Deep: true}, far, true, outside | multiSegment},
		"far, short deep":      {Options{Deep: true, DeepWindow: 9000}, far, false, 0},
		"far, auto":            {Options{DeepAuto: true}, far, true, outside | multiSegment},
		"far, short auto":      {Options{DeepAuto: true, DeepWindow: 9000}, far, false, 0},
		"near, auto":           {Options{DeepAuto: true}, near, true, 0},
		"near, short, auto":    {Options{DeepAuto: true, PrefixWindow: 500}, near, true, 0},
		"near":                 {Options{}, near, true, 0},
		"near, agent":          {Options{PrefixWindow: 1024}, near, true, 0},
		"near, short window":   {Options{PrefixWindow: 500}, near, false, 0},
		"further than allowed": {Options{}, strings.Replace(far, cookie, strings.Repeat(cookie, 5), 1), false, 0},
	} {
		t.Run(name, func(t *testing.T) {
			talk := newTalk(t, c.opts)
			talk.handshake()
			for text := c.text; text != ""; {
				n := min(1448, len(text))
				talk.client(text[:n])
				text = text[n:]
			}
			talk.server(ok)
			talk.d.Flush()
			if len(talk.got) != map[bool]int{true: 1}[c.found] {
				t.Fatalf("%d exchanges, found must be %v", len(talk.got), c.found)
			}
			if c.found && talk.got[0].Flags != c.flags {
				t.Errorf("flags %v, want %v", talk.got[0].Flags.Names(), c.flags.Names())
			}
			if !c.found {
				talk.count("truncated", 1)
			}
		})
	}
}

func TestMethodAndPath(t *testing.T) {
	for line, want := range map[string][2]string{
		"GET / HTTP/1.1":                                           {"GET", "/"},
		"GET /a/b%20c?d=/e HTTP/1.1":                               {"GET", "/a/b%20c"},
		"POST http://a.example:80/b?c HTTP/1.0":                    {"POST", "/b"},
		"GET http://a.example?c=d/e HTTP/1.1":                      {"GET", "/"},
		"OPTIONS * HTTP/1.1":                                       {"OPTIONS", "*"},
		"CONNECT a.example:443 HTTP/1.1":                           {"CONNECT", ""},
		"PROPFIND /dav#x HTTP/1.1":                                 {"PROPFIND", "/dav"},
		"VERSION-CONTROL /" + strings.Repeat("a", 9) + " HTTP/1.1": {"VERSION-CONTROL", "/aaaaaaaaa"},
	} {
		method, path := requestLine([]byte(line + "\r\nHost: a\r\n\r\n"))
		if method != want[0] || path != want[1] {
			t.Errorf("%q: %q %q, want %q", line, method, path, want)
		}
	}
	c := newTalk(t, Options{NoPaths: true})
	c.handshake()
	c.client(get)
	c.d.Flush()
	if x := c.got[0]; x.Path != "" || x.Method != "GET" {
		t.Errorf("without paths: %q %q", x.Method, x.Path)
	}
}

// TestMethods: any token is a method (RFC 9110, section 9.1), with its context and path.
func TestMethods(t *testing.T) {
	for _, method := range []string{"PROPFIND", "PURGE", "QUERY", "M-SEARCH", "UPDATEREDIRECTREF", "get", "x!y"} {
		c := newTalk(t, Options{})
		c.handshake()
		c.client(strings.Replace(get, "GET", method, 1))
		c.server(ok)
		c.d.Flush()
		if len(c.got) != 1 || c.got[0].Status != 200 || c.got[0].Method != method {
			t.Errorf("%s: %+v", method, c.got)
			continue
		}
		if offset := int(c.got[0].Context.HeaderOffset); offset != 23+len(method) {
			t.Errorf("%s: the context is at %d", method, offset)
		}
	}
}

// TestSeveralContexts: the first sampled context counts, or that of a preferred format,
// and the request is flagged.
func TestSeveralContexts(t *testing.T) {
	const b3 = "b3: 000000000000000a000000000000000b-000000000000000c-1\r\n"
	for name, c := range map[string]struct {
		formats []tracecontext.Format
		trace   string
	}{
		"first on the wire": {nil, hex32},
		"b3 preferred":      {[]tracecontext.Format{tracecontext.FormatB3}, "000000000000000a000000000000000b"},
	} {
		talk := newTalk(t, Options{Formats: c.formats})
		talk.handshake()
		talk.client(strings.Replace(get, traceLine, traceLine+b3, 1))
		talk.d.Flush()
		if len(talk.got) != 1 || talk.got[0].Context.TraceID.String() != c.trace {
			t.Errorf("%s: %+v", name, talk.got)
		} else if several := talk.got[0].Flags&observe.FlagSeveralContexts != 0; several != (c.formats == nil) {
			t.Errorf("%s: flags %v", name, talk.got[0].Flags.Names())
		}
	}
}
