// SPDX-License-Identifier: Apache-2.0

package decode

import (
	"fmt"
	"strings"
	"testing"

	"github.com/layertrace/layertrace/internal/observe"
)

const multiSegment = observe.FlagMultiSegment

// TestSplitAtEveryByte splits a head in two segments, and once more into
// single bytes.
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
	behind := strings.Replace(get, traceLine, cookie+traceLine, 1)
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
		"16 KiB of cookies": {func(c *talk) { send(c, behind) }, "found", multiSegment},
		"a segment that looks like a request": {func(c *talk) {
			c.client("GET /x HTTP/1.1\r\nX: ")
			c.client("GET /y HTTP/1.1\r\n" + traceLine)
		}, "found", multiSegment},
		"repeated segment": {func(c *talk) {
			c.client(get[:50])
			c.clientAt(-50, get[:50])
			c.client(get[50:])
		}, "found", multiSegment},
		"hole": {func(c *talk) {
			c.client(get[:50])
			c.cseq++
			c.client(get[51:])
		}, "truncated", 0},
		"decision still to come at a hole": {func(c *talk) {
			c.client("GET / HTTP/1.1\r\nx-b3-traceid: " + hex32 + "\r\nx-b3-spanid: " + hex16 + "\r\n")
			c.cseq++
			c.client("-sampled: 0\r\n\r\n")
		}, "found", observe.FlagOutOfOrder},
		"head without an end": {func(c *talk) { c.client(get[:50]) }, "truncated", 0},
		"reset within":        {func(c *talk) { c.client(get[:50]); c.reset() }, "truncated", 0},
		"unsampled":           {func(c *talk) { c.client("GET / HTTP/1.1\r\nb3:"); c.client("0\r\n") }, "unsampled", 0},
		"no context":          {func(c *talk) { c.client("GET / HTTP/1.1\r\n"); c.client("\r\n") }, "no_context", 0},
		"no request line":     {func(c *talk) { c.client("GET "); c.client("\r\n") }, "unparsable", 0},
		"behind the window":   {func(c *talk) { send(c, strings.Replace(behind, cookie, cookie+cookie+cookie+cookie+cookie, 1)) }, "truncated", 0},
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
