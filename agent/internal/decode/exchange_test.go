// SPDX-License-Identifier: Apache-2.0

package decode

import (
	"fmt"
	"strings"
	"testing"

	"github.com/layertrace/layertrace/internal/observe"
	"github.com/layertrace/layertrace/internal/tracecontext"
)

const noResponse = observe.FlagNoResponse

func TestKeepAlive(t *testing.T) {
	c := newTalk(t, Options{})
	c.handshake()
	c.client(get)
	c.server(ok)
	c.emitted()
	c.client(get)
	c.emitted(expected(message(4, 4, 1, len(get)), message(5, 5, 1, len(ok)), 200, 0))
	c.client("body")
	c.server(strings.Replace(ok, "200", "503", 1))
	c.server("more")
	c.clientFIN()
	c.emitted()
	c.serverFIN("end")
	c.emitted(expected(message(6, 7, 2, len(get)+4), message(8, 11, 3, len(ok)+7), 503, 0))
	c.d.Flush()
	c.emitted()
	c.count("packets", 11)
	c.count("exchanges", 2)
	c.count("found", 2)
}

func TestEstablishedConnection(t *testing.T) {
	c := newTalk(t, Options{})
	c.client("rest of a body")
	c.server(ok)
	c.emitted()
	c.count("untracked_data", 1)
	c.count("response_without_request", 1)
	c.client(get)
	c.server(ok)
	c.d.Flush()
	c.emitted(expected(message(3, 3, 1, len(get)), message(4, 4, 1, len(ok)), 200, 0))
}

func TestBinaryDataOnUnknownConnection(t *testing.T) {
	c := newTalk(t, Options{})
	c.server("GET \x00\x01\n\x02")
	c.client(get) // would be the server's if the data had determined the client
	c.d.Flush()
	c.emitted(expected(message(2, 2, 1, len(get)), observe.Message{}, 0, noResponse))
	c.count("unparsable", 1)
}

// TestOtherOutcomes: a request without an exchange ends the previous one.
func TestOtherOutcomes(t *testing.T) {
	for counter, request := range map[string]string{
		"unsampled":  strings.Replace(get, "-01\r\n", "-00\r\n", 1),
		"no_context": strings.Replace(get, traceLine, "", 1),
		"truncated":  strings.Replace(get, traceLine, "cookie: "+strings.Repeat("c", tracecontext.DefaultPrefixWindow), 1),
	} {
		t.Run(counter, func(t *testing.T) {
			c := newTalk(t, Options{})
			c.handshake()
			c.client(request)
			c.server(ok)
			c.client(get)
			c.server(ok)
			c.client(request)
			c.server(ok)
			c.emitted(expected(message(6, 6, 1, len(get)), message(7, 7, 1, len(ok)), 200, 0))
			c.client(get)
			c.server(ok)
			c.d.Flush()
			c.emitted(expected(message(10, 10, 1, len(get)), message(11, 11, 1, len(ok)), 200, 0))
			c.count(counter, 2)
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

func TestInterim(t *testing.T) {
	const proceed = "HTTP/1.1 100 Continue\r\n\r\n"
	c := newTalk(t, Options{})
	c.handshake()
	c.client(get)
	c.server(proceed)
	c.client("body")
	c.server("HTTP/1.1 103 Early Hints\r\n\r\n")
	c.server(ok)
	c.server("HTTP/1.1 100 is in the body")
	c.d.Flush()
	c.emitted(expected(message(4, 6, 2, len(get)+4), message(8, 9, 2, len(ok)+27), 200, observe.FlagInterim))

	c = newTalk(t, Options{})
	c.handshake()
	c.client(get)
	c.server(proceed + ok)
	c.client(get)
	c.server(proceed)
	c.reset()
	c.emitted(
		expected(message(4, 4, 1, len(get)), message(5, 5, 1, len(ok)), 200, observe.FlagInterim),
		expected(message(6, 6, 1, len(get)), observe.Message{}, 0, observe.FlagInterim|observe.FlagReset|noResponse))
}

func TestUpgrade(t *testing.T) {
	const upgrade = "HTTP/1.1 101 Switching Protocols\r\n\r\n"
	c := newTalk(t, Options{})
	c.handshake()
	c.client(get)
	c.server(upgrade)
	c.client("\x81ping")
	c.server("\x81pong")
	c.serverFIN("")
	c.emitted(expected(message(4, 6, 2, len(get)+5), message(5, 7, 2, len(upgrade)+5), 101, observe.FlagUpgraded))
}

func TestEnds(t *testing.T) {
	request, none := message(4, 4, 1, len(get)), observe.Message{}
	for name, c := range map[string]struct {
		end  func(*talk)
		want observe.Observation
	}{
		"reset":                        {(*talk).reset, expected(request, none, 0, observe.FlagReset|noResponse)},
		"server's FIN":                 {func(c *talk) { c.serverFIN("") }, expected(request, none, 0, noResponse)},
		"both FINs":                    {func(c *talk) { c.clientFIN(); c.serverFIN("") }, expected(request, none, 0, noResponse)},
		"new connection":               {func(c *talk) { c.cseq += 1 << 20; c.handshake() }, expected(request, none, 0, noResponse)},
		"end of capture":               {func(c *talk) { c.d.Flush() }, expected(request, none, 0, noResponse)},
		"FIN with all":                 {func(c *talk) { c.serverFIN(ok) }, expected(request, message(5, 5, 1, len(ok)), 200, 0)},
		"reset after":                  {func(c *talk) { c.server(ok); c.reset() }, expected(request, message(5, 5, 1, len(ok)), 200, 0)},
		"reset after the client's FIN": {func(c *talk) { c.clientFIN(); c.reset() }, expected(request, none, 0, observe.FlagReset|noResponse)},
	} {
		t.Run(name, func(t *testing.T) {
			talk := newTalk(t, Options{})
			talk.handshake()
			talk.client(get)
			c.end(talk)
			talk.emitted(c.want)
			talk.clientAt(-len(get), get) // retransmitted after the end: no second exchange
			talk.d.Flush()
			talk.emitted()
		})
	}
}

const multiSegment = observe.FlagMultiSegment

// TestSplitAtEveryByte splits a head into two segments, and into single bytes.
func TestSplitAtEveryByte(t *testing.T) {
	head := strings.Replace(get, traceLine, "Cookie: a\r\nx-b3-traceid: "+hex32+"\r\nx-b3-spanid: "+hex16+"\r\nx-b3-sampled: 1\r\nAccept: */*\r\n", 1)
	complete := strings.Index(head, "Accept")
	for at := len("GET "); at < len(head); at++ {
		t.Run(fmt.Sprint(at), func(t *testing.T) {
			c := newTalk(t, Options{Deep: true})
			c.handshake()
			c.client(head[:at])
			c.client(head[at:])
			checkSplit(t, c, len(head), 2, at < complete)
		})
	}
	c := newTalk(t, Options{Deep: true})
	c.handshake()
	c.client(head[:len("GET ")])
	for i := len("GET "); i < len(head); i++ {
		c.client(head[i : i+1])
	}
	checkSplit(t, c, len(head), len(head)-3, true)
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

func TestNotDeep(t *testing.T) {
	c := newTalk(t, Options{})
	c.handshake()
	c.client(get[:50])
	c.client(get[50:])
	c.server(ok)
	c.d.Flush()
	c.emitted()
	c.count("truncated", 1)
}

func TestDeepStream(t *testing.T) {
	cookie := "Cookie: " + strings.Repeat("c", 16<<10) + "\r\n"
	far := strings.Replace(get, traceLine, cookie+traceLine, 1)
	send := func(c *talk, head string) {
		for len(head) > 1448 {
			c.client(head[:1448])
			head = head[1448:]
		}
		c.client(head)
	}
	for name, c := range map[string]struct {
		play    func(*talk)
		counter string
		flags   observe.Flags
	}{
		"16 KiB of cookies": {func(c *talk) { send(c, far) }, "found", multiSegment},
		"a segment that looks like a request": {func(c *talk) {
			c.client("GET /x HTTP/1.1\r\nX: ")
			c.client("GET /y HTTP/1.1\r\n" + traceLine)
		}, "found", multiSegment},
		"repeated segment": {func(c *talk) {
			c.client(get[:50])
			c.clientAt(-50, get[:50])
			c.client(get[50:])
		}, "found", multiSegment},
		"gap": {func(c *talk) {
			c.client(get[:50])
			c.cseq++
			c.client(get[51:])
		}, "truncated", 0},
		"pending decision at a gap": {func(c *talk) {
			c.client("GET / HTTP/1.1\r\nx-b3-traceid: " + hex32 + "\r\nx-b3-spanid: " + hex16 + "\r\n")
			c.cseq++
			c.client("-sampled: 0\r\n\r\n")
		}, "found", observe.FlagOutOfOrder},
		"head without an end": {func(c *talk) { c.client(get[:50]) }, "truncated", 0},
		"reset within":        {func(c *talk) { c.client(get[:50]); c.reset() }, "truncated", 0},
		"unsampled":           {func(c *talk) { c.client("GET / HTTP/1.1\r\nb3:"); c.client("0\r\n") }, "unsampled", 0},
		"no context":          {func(c *talk) { c.client("GET / HTTP/1.1\r\n"); c.client("\r\n") }, "no_context", 0},
		"no request line":     {func(c *talk) { c.client("GET "); c.client("\r\n") }, "unparsable", 0},
		"beyond the window":   {func(c *talk) { send(c, strings.Replace(far, cookie, cookie+cookie+cookie+cookie+cookie, 1)) }, "truncated", 0},
		"response within":     {func(c *talk) { c.client(get[:50]); c.server(ok); c.client(get[50:]) }, "truncated", 0},
		"partly repeated": {func(c *talk) {
			c.client(get[:50])
			c.clientAt(-10, get[40:])
		}, "truncated", 0},
		"all in the first one": {func(c *talk) { c.client(get) }, "found", 0},
	} {
		t.Run(name, func(t *testing.T) {
			talk := newTalk(t, Options{Deep: true})
			talk.handshake()
			c.play(talk)
			talk.d.Flush()
			talk.count(c.counter, 1)
			talk.count("requests", 1)
			if c.counter != "found" {
				talk.emitted()
				return
			}
			if len(talk.got) != 1 {
				t.Fatalf("%d exchanges, want 1", len(talk.got))
			}
			if flags := talk.got[0].Flags &^ noResponse; flags != c.flags {
				t.Errorf("flags %v, want %v", flags.Names(), c.flags.Names())
			}
		})
	}
}
