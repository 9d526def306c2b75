// SPDX-License-Identifier: Apache-2.0

package probe

import (
	"net/netip"
	"strings"
	"testing"

	"github.com/layertrace/layertrace/internal/observe"
)

// Requests without a sampled context are captured only if that was asked for, and are counted
// as before.
func TestAllRequests(t *testing.T) {
	long := "x-padding: " + strings.Repeat("x", 1100) + "\r\n"
	for name, c := range map[string]struct {
		parts   []string // of the head
		counter string
		flags   observe.Flags
	}{
		"no context":       {[]string{get + end}, "contexts_none", 0},
		"not sampled":      {[]string{get + unsampled + end}, "contexts_unsampled", 0},
		"malformed":        {[]string{get + "traceparent: 00-0-0-01\r\n" + end}, "contexts_malformed", 0},
		"beyond window":    {[]string{get + long + end}, "contexts_none", 0},
		"several segments": {[]string{get + long, "x-more: y\r\n" + end}, "contexts_none", 0},
		"other method":     {[]string{"PURGE /productpage HTTP/1.1\r\nhost: a\r\n" + end}, "contexts_none", 0},
	} {
		t.Run(name, func(t *testing.T) {
			for _, all := range []bool{false, true} {
				k := newKernel(t, Options{AllRequests: all})
				conn := newConnection(40000)
				for _, part := range c.parts {
					k.receive(conn.request(part))
				}
				k.receive(conn.response(ok200))
				got := k.exchanges()
				k.wantCount(c.counter, 1)
				k.wantCount("requests", 1)
				k.wantCount("contexts_found", 0)
				if !all {
					if len(got) != 0 {
						t.Errorf("captured although that is off: %+v", got)
					}
					continue
				}
				if len(got) != 1 {
					t.Fatalf("%d exchanges, want 1: %+v", len(got), got)
				}
				x := got[0]
				wantDuration(t, x)
				if x.HasContext() || x.Context.TraceID == [16]byte{} || x.Context.SpanID == [8]byte{} {
					t.Errorf("context %+v, want made-up IDs without a format", x.Context)
				}
				if x.Path != "/productpage" || x.Status != 200 || x.Flags&^(observe.FlagMultiSegment|observe.FlagMalformed) != c.flags {
					t.Errorf("%s %s %d, flags %v", x.Method, x.Path, x.Status, x.Flags.Names())
				}
				if x.Request.Bytes != uint64(len(strings.Join(c.parts, ""))) || x.Response.Bytes != uint64(len(ok200)) {
					t.Errorf("sizes %+v %+v", x.Request, x.Response)
				}
			}
		})
	}
}

// What has a sampled context keeps it, next to requests without one; those that wait for an
// earlier response too.
func TestAllRequestsMixed(t *testing.T) {
	k := newKernel(t, Options{AllRequests: true})
	c := newConnection(40000)
	k.receive(c.request(get + end))
	k.receive(c.request(get + traceparent + end))
	k.receive(c.request(get + unsampled + end))
	for range 3 {
		k.receive(c.response(ok200))
	}
	k.receive(c.request(get + end))
	k.receive(c.response(ok200))
	got := k.exchanges()
	if len(got) != 4 {
		t.Fatalf("%d exchanges, want 4", len(got))
	}
	ids := map[[16]byte]bool{}
	traced := 0
	for _, x := range got {
		ids[x.Context.TraceID] = true
		if x.HasContext() {
			traced++
			if id := x.Context.TraceID.String(); id != "0af7651916cd43dd8448eb211c80319c" {
				t.Errorf("trace ID %s", id)
			}
		}
	}
	if traced != 1 || len(ids) != 4 {
		t.Errorf("%d have a context and %d different IDs, want 1 and 4", traced, len(ids))
	}
	k.wantCount("exchanges_started", 4)
	k.wantCount("exchanges_emitted", 4)
}

// What is no request begins no exchange: other text with a method's letters, data, TLS.
func TestAllRequestsNoRequest(t *testing.T) {
	k := newKernel(t, Options{AllRequests: true})
	for i, text := range []string{
		"GET key\r\n", "GET " + strings.Repeat("x", 1200), "PUT IT THERE\n", "\x16\x03\x01\x02\x00\x01\x00\x01\xfc", "HELLO world\r\n", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
	} {
		c := newConnection(uint16(41000 + i))
		k.receive(c.request(text))
		k.receive(c.response("STORED and more\r\n"))
	}
	if got := k.exchanges(); len(got) != 0 {
		t.Errorf("%+v", got)
	}
	k.wantCount("exchanges_started", 0)
}

// The step of cpu-limit that leaves out new requests leaves out all.
func TestAllRequestsLimited(t *testing.T) {
	k := newKernel(t, Options{AllRequests: true})
	must(t, k.probe.Limit(Limits{New: true}))
	c := newConnection(40000)
	k.receive(c.request(get + end))
	k.receive(c.response(ok200))
	if got := k.exchanges(); len(got) != 0 {
		t.Errorf("%+v", got)
	}
	k.wantCount("requests_not_captured", 1)
}

// A request has the same made-up IDs at all capture points, and others have different ones.
func TestMadeUpIDs(t *testing.T) {
	one := netip.MustParseAddrPort("127.0.0.1:40000")
	id, span := madeUpIDs(one, 7)
	if again, spanAgain := madeUpIDs(one, 7); again != id || spanAgain != span {
		t.Errorf("%v and %v for one request", id, again)
	}
	for _, other := range []struct {
		client string
		seq    uint32
	}{{"127.0.0.1:40000", 8}, {"127.0.0.1:40001", 7}, {"127.0.0.2:40000", 7}, {"[::1]:40000", 7}} {
		if same, _ := madeUpIDs(netip.MustParseAddrPort(other.client), other.seq); same == id {
			t.Errorf("%+v has the same ID", other)
		}
	}
}
