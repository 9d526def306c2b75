// SPDX-License-Identifier: Apache-2.0

package encrypted

import (
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil"

	"github.com/layertrace/layertrace/agent/internal/accesslog"
	"github.com/layertrace/layertrace/internal/observe"
	"github.com/layertrace/layertrace/internal/tracecontext"
)

const (
	ms = uint64(1_000_000)
	us = uint64(1_000)
	t0 = 100_000 * ms // the first request of the tests
)

var ends = observe.Key{Client: netip.MustParseAddrPort("10.0.1.1:40000"), Server: netip.MustParseAddrPort("10.0.2.1:9080")}

// part returns a message of TLS records of the given lengths in bytes, one packet each.
func part(first, last uint64, lengths ...int) observe.TurnMessage {
	m := observe.TurnMessage{Message: observe.Message{First: first, Last: last}, LastLarge: last}
	for i, n := range lengths {
		m.Records++
		m.RecordBytes += uint64(n)
		m.Bytes += uint64(n) + recordHeader
		m.Packets++
		switch n {
		case 19:
			m.Alerts++
		case 22:
			m.KeyUpdates++
		}
		if len(m.Leading) < observe.MaxLeading && n != 19 && n != 22 {
			m.Leading = append(m.Leading, observe.LeadingRecord{Length: uint16(n), First: first + (last-first)*uint64(i)/uint64(max(len(lengths)-1, 1))})
		}
	}
	return m
}

// atClient and atServer return turns at the vNICs of both pods.
func atClient(number uint64, q, r observe.TurnMessage, flags observe.TurnFlags) observe.Turn {
	return observe.Turn{Key: ends, Interface: clientVNIC, Direction: observe.DirectionIngress, Number: number, Request: q, Response: r, Flags: flags}
}

func atServer(number uint64, q, r observe.TurnMessage, flags observe.TurnFlags) observe.Turn {
	return observe.Turn{Key: ends, Interface: serverVNIC, Direction: observe.DirectionEgress, Number: number, Request: q, Response: r, Flags: flags}
}

// attempted is the record of an attempt that lasted from t0 to t0+10 ms, at span 1.
func attempted(request, response uint64, change ...func(*accesslog.Record)) accesslog.Record {
	r := accesslog.Record{
		Side: accesslog.SideAttempt, Peer: ends.Client.Addr(), Client: ends.Client, Server: ends.Server,
		Start: wall(t0 - ms), RequestFirst: wall(t0), ResponseFirst: wall(t0 + 9*ms), ResponseLast: wall(t0 + 10*ms),
		RequestBytes: request, ResponseBytes: response, SizesKnown: true, Protocol: "HTTP/1.1", RequestID: "id", Status: 200, Method: "GET", Path: "/a",
		Context: tracecontext.Context{TraceID: tracecontext.TraceID{15: 1}, SpanID: spanOf(0), Sampling: tracecontext.Accepted, Format: tracecontext.FormatW3C},
	}
	for _, c := range change {
		c(&r)
	}
	return r
}

// served is the record of its server.
func served(request, response uint64, change ...func(*accesslog.Record)) accesslog.Record {
	r := attempted(request, response)
	r.Side, r.Peer = accesslog.SideServer, ends.Server.Addr()
	r.Start, r.RequestFirst, r.ResponseFirst, r.ResponseLast = wall(t0+ms), 0, 0, wall(t0+8*ms)
	for _, c := range change {
		c(&r)
	}
	return r
}

func wall(t uint64) uint64 { return t + uint64(wallOffset) }

// flagged checks the flags of an exact observation.
func flagged(want observe.Flags) func(*testing.T, *observe.Observation) {
	return func(t *testing.T, o *observe.Observation) {
		if o.Flags != want || o.Join != observe.JoinExact {
			t.Errorf("%s %v, want %v", o.Join, o.Flags.Names(), want.Names())
		}
	}
}

// shift moves all times that a record has.
func shift(r *accesslog.Record, by int64) {
	for _, at := range []*uint64{&r.Start, &r.RequestFirst, &r.ResponseFirst, &r.ResponseLast} {
		if *at != 0 {
			*at = uint64(int64(*at) + by)
		}
	}
}

// Each trap of a wire with TLS, with values by hand: the turns, the record, and what it has to
// become. Without turns or records of its own, a case has the usual ones.
func TestTraps(t *testing.T) {
	plain := func(n int) observe.TurnMessage { // request of the tests: 500 plain bytes
		return part(t0+ms, t0+ms, n)
	}
	answer := part(t0+8*ms, t0+9*ms, 1017, 217) // 1,200 plain bytes
	for _, test := range []struct {
		name    string
		turns   []observe.Turn
		records []accesslog.Record
		want    map[string]int
		// check the only observation.
		check func(t *testing.T, o *observe.Observation)
	}{
		{
			name: "TLS 1.3",
			want: map[string]int{"exact/": 1},
			check: func(t *testing.T, o *observe.Observation) {
				if o.Request.First != t0+ms || o.Response.First != t0+8*ms || o.Response.Last != t0+9*ms || o.Request.Bytes != 522 || o.Response.Bytes != 1244 ||
					o.Response.Packets != 2 || o.Flags != 0 || o.Join != observe.JoinExact || o.Status != 200 || o.Method != "GET" || o.Path != "/a" ||
					o.Key != ends || o.Direction != observe.DirectionIngress || o.Context.SpanID != spanOf(0) || o.Interface != clientVNIC {
					t.Errorf("%+v", o)
				}
			},
		},
		{
			name: "TLS 1.2, AES-GCM", turns: []observe.Turn{atClient(3, plain(524), part(t0+8*ms, t0+9*ms, 1024, 224), observe.TurnTLS12)},
			want: map[string]int{"exact/": 1},
		},
		{
			name: "TLS 1.2, ChaCha20", turns: []observe.Turn{atClient(3, plain(516), part(t0+8*ms, t0+9*ms, 1016, 216), observe.TurnTLS12)},
			want: map[string]int{"exact/": 1},
		},
		{
			name: "the last exchange of an idle connection is open", turns: []observe.Turn{atClient(3, plain(517), answer, observe.TurnOpen)},
			want: map[string]int{"exact/": 1},
		},
		{
			name:    "one byte less",
			records: []accesslog.Record{attempted(500, 1199)}, want: map[string]int{"ambiguous/sizes": 1},
		},
		{
			name:    "request and response are not exchanged",
			records: []accesslog.Record{attempted(1200, 500)}, want: map[string]int{"ambiguous/sizes": 1},
		},
		{
			name:  "a ticket before the response",
			turns: []observe.Turn{atClient(0, plain(517), part(t0+2*ms, t0+9*ms, 1373, 1017, 217), observe.TurnHandshake)},
			want:  map[string]int{"exact/": 1},
			check: func(t *testing.T, o *observe.Observation) {
				// The second of three records was half way.
				if o.Response.First != t0+2*ms+7*ms/2 || o.Response.Last != t0+9*ms || o.Response.Bytes != 1244 {
					t.Errorf("%+v", o.Response)
				}
			},
		},
		{
			name:  "two tickets",
			turns: []observe.Turn{atClient(0, plain(517), part(t0+2*ms, t0+9*ms, 1373, 1373, 1017, 217), observe.TurnHandshake)},
			want:  map[string]int{"exact/": 1},
		},
		{
			name:  "a ticket in a later turn is none",
			turns: []observe.Turn{atClient(3, plain(517), part(t0+2*ms, t0+9*ms, 1373, 1017, 217), 0)},
			want:  map[string]int{"ambiguous/sizes": 1},
		},
		{
			name:  "the end of the client's handshake before the request",
			turns: []observe.Turn{atClient(0, part(t0-500*us, t0+ms, 583, 53, 517), answer, observe.TurnHandshake)},
			want:  map[string]int{"exact/": 1},
			check: func(t *testing.T, o *observe.Observation) {
				if o.Request.First != t0+ms || o.Request.Bytes != 522 {
					t.Errorf("%+v", o.Request)
				}
			},
		},
		{
			name: "the handshake in a turn of its own",
			turns: []observe.Turn{
				atClient(0, part(t0-ms, t0-ms, 583), part(t0-500*us, t0+500*us, 1373), observe.TurnHandshake),
				atClient(1, plain(517), answer, 0),
			},
			want: map[string]int{"exact/": 1},
			check: func(t *testing.T, o *observe.Observation) {
				if o.Request.First != t0+ms || o.Request.Bytes != 522 || o.Response.Bytes != 1244 || o.Response.First != t0+8*ms {
					t.Errorf("%+v %+v", o.Request, o.Response)
				}
			},
		},
		{
			name: "an alert after the response",
			turns: []observe.Turn{atClient(3, plain(517), func() observe.TurnMessage {
				m := part(t0+8*ms, t0+20*ms, 1017, 217, 19)
				m.LastLarge = t0 + 9*ms
				return m
			}(), observe.TurnClosed)},
			want: map[string]int{"exact/": 1},
			check: func(t *testing.T, o *observe.Observation) {
				if o.Response.Last != t0+9*ms || o.Response.Bytes != 1244 || o.Flags != 0 {
					t.Errorf("%+v %v", o.Response, o.Flags.Names())
				}
			},
		},
		{
			// One of the two is the end of the body: its time is between the two.
			name: "two bytes of data and an alert",
			turns: []observe.Turn{atClient(3, plain(517), func() observe.TurnMessage {
				m := part(t0+8*ms, t0+20*ms, 1017, 217, 19, 19)
				m.LastLarge = t0 + 9*ms
				return m
			}(), observe.TurnClosed)},
			records: []accesslog.Record{attempted(500, 1202)}, want: map[string]int{"exact/": 1},
			check: func(t *testing.T, o *observe.Observation) {
				if o.Response.Last != t0+10*ms || o.Flags != observe.FlagEndGuessed {
					t.Errorf("%+v %v", o.Response, o.Flags.Names())
				}
			},
		},
		{
			name:    "a small end of the upload after the response began",
			turns:   []observe.Turn{atClient(3, part(t0+ms, t0+ms, 517, 19), answer, 0)},
			records: []accesslog.Record{attempted(502, 1200)}, want: map[string]int{"exact/": 1},
			check: flagged(observe.FlagEndGuessed),
		},
		{
			name: "the client's alert after the response",
			turns: []observe.Turn{atClient(3, func() observe.TurnMessage {
				m := part(t0+ms, t0+60_000*ms, 517, 19)
				m.LastLarge = t0 + ms
				return m
			}(), answer, observe.TurnClosed)},
			want: map[string]int{"exact/": 1},
			check: func(t *testing.T, o *observe.Observation) {
				if o.Request.Last != t0+ms || o.Request.Bytes != 522 || o.Flags != 0 {
					t.Errorf("%+v %v", o.Request, o.Flags.Names())
				}
			},
		},
		{
			name: "the client's alert after the response, sizes unknown",
			turns: []observe.Turn{atClient(3, func() observe.TurnMessage {
				m := part(t0+ms, t0+60_000*ms, 517, 19)
				m.LastLarge = t0 + ms
				return m
			}(), answer, observe.TurnClosed)},
			records: []accesslog.Record{attempted(0, 0, func(r *accesslog.Record) { r.SizesKnown = false })}, want: map[string]int{"time/no_sizes": 1},
			check: func(t *testing.T, o *observe.Observation) {
				if o.Request.Last != t0+ms {
					t.Errorf("%+v", o.Request)
				}
			},
		},
		{
			name: "a small body after an interim response",
			turns: []observe.Turn{atClient(3, func() observe.TurnMessage {
				m := part(t0+ms, t0+5*ms, 517, 19)
				m.LastLarge = t0 + ms
				return m
			}(), part(t0+2*ms, t0+9*ms, 1217), 0)},
			records: []accesslog.Record{attempted(502, 1200)}, want: map[string]int{"exact/": 1},
			check: func(t *testing.T, o *observe.Observation) {
				if o.Request.First != t0+ms || o.Request.Last != t0+5*ms || o.Request.Bytes != 546 || o.Flags != 0 {
					t.Errorf("%+v %v", o.Request, o.Flags.Names())
				}
			},
		},
		{
			name:    "two bytes of data are no alert",
			turns:   []observe.Turn{atClient(3, plain(517), part(t0+8*ms, t0+9*ms, 1017, 217, 19), 0)},
			records: []accesslog.Record{attempted(500, 1202)}, want: map[string]int{"exact/": 1},
		},
		{
			name:    "the end of a chunked body is no KeyUpdate",
			turns:   []observe.Turn{atClient(3, plain(517), part(t0+8*ms, t0+9*ms, 1017, 217, 22), observe.TurnClosed)},
			records: []accesslog.Record{attempted(500, 1205)}, want: map[string]int{"exact/": 1},
		},
		{
			name: "a response that begins during the upload",
			turns: []observe.Turn{
				atClient(3, part(t0+ms, t0+ms, 217), part(t0+2*ms, t0+2*ms, 117), 0),
				atClient(4, part(t0+3*ms, t0+3*ms, 217), part(t0+4*ms, t0+4*ms, 117), 0),
				atClient(5, part(t0+5*ms, t0+5*ms, 117), part(t0+6*ms, t0+9*ms, 1017), 0),
			},
			want: map[string]int{"exact/": 1},
			check: func(t *testing.T, o *observe.Observation) {
				if o.Request.First != t0+ms || o.Request.Last != t0+5*ms || o.Response.First != t0+2*ms || o.Response.Last != t0+9*ms || o.Request.Packets != 3 {
					t.Errorf("%+v %+v", o.Request, o.Response)
				}
			},
		},
		{
			name: "a turn between is missing",
			turns: []observe.Turn{
				atClient(3, part(t0+ms, t0+ms, 217), part(t0+2*ms, t0+2*ms, 117), 0),
				atClient(5, part(t0+5*ms, t0+5*ms, 317), part(t0+6*ms, t0+9*ms, 1117), 0),
			},
			want: map[string]int{"unmatched/no_exchange": 1},
		},
		{
			name:  "another exchange within the window",
			turns: []observe.Turn{atClient(3, part(t0-ms, t0-ms, 517), part(t0+500*us, t0+600*us, 1217), 0), atClient(4, plain(517), answer, 0)},
			want:  map[string]int{"unmatched/no_exchange": 1},
		},
		{
			name:  "the connection was seen from the middle of the exchange",
			turns: []observe.Turn{atClient(0, plain(317), answer, observe.TurnMiddle)},
			want:  map[string]int{"unmatched/no_exchange": 1},
		},
		{
			name:  "the connection was open, the exchange was seen whole",
			turns: []observe.Turn{atClient(0, plain(517), answer, observe.TurnMiddle)},
			want:  map[string]int{"exact/": 1},
		},
		{
			name: "the connection was open, the exchange was seen whole, at the server", turns: []observe.Turn{atServer(0, plain(517), answer, observe.TurnMiddle)},
			records: []accesslog.Record{served(500, 1200)}, want: map[string]int{"exact/": 1},
		},
		{
			name:  "the connection was open, a ticket leads the response",
			turns: []observe.Turn{atClient(0, plain(517), part(t0+7*ms, t0+9*ms, 1373, 1217), observe.TurnMiddle)},
			want:  map[string]int{"exact/": 1},
			check: func(t *testing.T, o *observe.Observation) {
				if o.Response.First != t0+9*ms || o.Response.Bytes != 1217+recordHeader {
					t.Errorf("%+v", o.Response)
				}
			},
		},
		{
			name:    "the connection was open, sizes cannot be compared",
			turns:   []observe.Turn{atClient(0, plain(517), answer, observe.TurnMiddle)},
			records: []accesslog.Record{attempted(500, 1200, func(r *accesslog.Record) { r.SizesKnown = false })},
			want:    map[string]int{"unmatched/no_exchange": 1},
		},
		{
			name:    "the connection was open, and only the repeated request was seen",
			turns:   []observe.Turn{atClient(0, part(t0+250*ms, t0+250*ms, 517), part(t0+258*ms, t0+259*ms, 1217), observe.TurnMiddle)},
			records: []accesslog.Record{attempted(500, 1200, func(r *accesslog.Record) { r.ResponseFirst += 250 * ms; r.ResponseLast += 250 * ms })},
			want:    map[string]int{"unmatched/no_exchange": 1},
		},
		{
			name: "from the second exchange on",
			turns: []observe.Turn{
				atClient(0, part(t0-8*ms, t0-8*ms, 200), part(t0-6*ms, t0-5*ms, 300), observe.TurnMiddle), atClient(1, plain(517), answer, 0),
			},
			want: map[string]int{"exact/": 1},
		},
		{
			name:  "record headers were missed",
			turns: []observe.Turn{atClient(3, plain(200), answer, observe.TurnDesynchronized)},
			want:  map[string]int{"time/unseen": 1},
			check: func(t *testing.T, o *observe.Observation) {
				if o.Join != observe.JoinTime || o.Flags != observe.FlagPacketsMissing {
					t.Errorf("%s %v", o.Join, o.Flags.Names())
				}
			},
		},
		{
			name:  "out of order",
			turns: []observe.Turn{atClient(3, plain(517), answer, observe.TurnOutOfOrder)},
			want:  map[string]int{"exact/": 1},
			check: flagged(observe.FlagOutOfOrder),
		},
		{
			// Decision 017 has why.
			name:    "HTTP/2, alone as far as can be seen",
			records: []accesslog.Record{attempted(500, 1200, func(r *accesslog.Record) { r.Protocol = "HTTP/2" })}, want: map[string]int{"ambiguous/http2": 1},
		},
		{
			name: "HTTP/2, alone as far as can be seen, at the server", turns: []observe.Turn{atServer(3, plain(517), answer, 0)},
			records: []accesslog.Record{served(500, 1200, func(r *accesslog.Record) { r.Protocol = "HTTP/2" })}, want: map[string]int{"ambiguous/http2": 1},
		},
		{
			name:    "switching protocols",
			records: []accesslog.Record{attempted(500, 1200, func(r *accesslog.Record) { r.Status = 101 })}, want: map[string]int{"unmatched/upgraded": 1},
		},
		{
			name:    "another connection",
			records: []accesslog.Record{attempted(500, 1200, func(r *accesslog.Record) { r.Client = netip.MustParseAddrPort("10.0.1.1:40001") })},
			want:    map[string]int{"unmatched/no_connection": 1},
		},
		{
			name:  "at another time",
			turns: []observe.Turn{atClient(3, part(t0+901*ms, t0+901*ms, 517), part(t0+908*ms, t0+909*ms, 1217), 0)},
			want:  map[string]int{"unmatched/no_exchange": 1},
		},
		{
			name: "the server's own side", turns: []observe.Turn{atServer(3, plain(517), answer, 0)},
			records: []accesslog.Record{served(500, 1200)}, want: map[string]int{"exact/": 1},
		},
		{
			name: "the server's point is not the client's", turns: []observe.Turn{atServer(3, plain(517), answer, 0)},
			want: map[string]int{"unmatched/no_connection": 1},
		},
		{
			name:  "both sides on one node",
			turns: []observe.Turn{atClient(3, plain(517), answer, 0), atServer(3, plain(517), answer, 0)},
			records: []accesslog.Record{attempted(500, 1200), served(500, 1200, func(r *accesslog.Record) {
				r.OwnContext, r.Context = r.Context, tracecontext.Context{}
				r.OwnContext.SpanID = spanOf(1)
			})},
			want: map[string]int{"exact/": 2},
		},
		{
			name:    "several attempts, the last one logged",
			records: []accesslog.Record{attempted(1000, 1900, func(r *accesslog.Record) { r.Side, r.Attempts = accesslog.SideClient, 2 })},
			want:    map[string]int{"time/retried": 1},
			check: func(t *testing.T, o *observe.Observation) {
				if o.Join != observe.JoinTime || o.Flags != 0 {
					t.Errorf("%s %v", o.Join, o.Flags.Names())
				}
			},
		},
		{
			name:    "an attempt larger than all together",
			records: []accesslog.Record{attempted(400, 1900, func(r *accesslog.Record) { r.Side, r.Attempts = accesslog.SideClient, 2 })},
			want:    map[string]int{"ambiguous/sizes": 1},
		},
		{
			name:    "one attempt by the connection manager's log",
			records: []accesslog.Record{attempted(500, 1200, func(r *accesslog.Record) { r.Side, r.Attempts = accesslog.SideClient, 1 })},
			want:    map[string]int{"exact/": 1},
		},
		{
			name:    "the log of both is one exchange",
			records: []accesslog.Record{attempted(500, 1200), attempted(500, 1200, func(r *accesslog.Record) { r.Side, r.Attempts = accesslog.SideClient, 1 })},
			want:    map[string]int{"exact/": 1, "unmatched/double": 1},
		},
		{
			name:    "the same record twice",
			records: []accesslog.Record{attempted(500, 1200), attempted(500, 1200)}, want: map[string]int{"exact/": 1, "unmatched/double": 1},
		},
		{
			name:    "two requests for one exchange",
			records: []accesslog.Record{attempted(500, 1200), attempted(500, 1200, func(r *accesslog.Record) { r.Context.SpanID, r.RequestID = spanOf(5), "other" })},
			want:    map[string]int{"exact/": 1, "unmatched/taken": 1},
		},
		{
			name: "a response that is retried has no end", turns: []observe.Turn{
				atClient(3, plain(517), answer, 0), atClient(4, part(t0+12*ms, t0+12*ms, 517), part(t0+13*ms, t0+14*ms, 1217), 0),
			},
			records: []accesslog.Record{attempted(500, 1200, func(r *accesslog.Record) { r.ResponseLast = 0 })}, want: map[string]int{"exact/": 1},
		},
		{
			name: "broken off by the client: what never left", turns: []observe.Turn{atClient(3, plain(517), observe.TurnMessage{}, observe.TurnReset)},
			records: []accesslog.Record{attempted(900, 0, func(r *accesslog.Record) { r.ResponseFirst, r.ResponseLast, r.Status = 0, 0, 0 })},
			want:    map[string]int{"time/cut": 1},
			check: func(t *testing.T, o *observe.Observation) {
				if o.Flags != observe.FlagNoResponse|observe.FlagReset|observe.FlagIncomplete || o.Join != observe.JoinTime {
					t.Errorf("%s %v", o.Join, o.Flags.Names())
				}
			},
		},
		{
			name: "the server answers and stops reading", turns: []observe.Turn{atServer(3, part(t0+ms, t0+7*ms, 1017, 1017), answer, observe.TurnReset)},
			records: []accesslog.Record{served(1500, 1200)}, want: map[string]int{"time/cut": 1},
			check: func(t *testing.T, o *observe.Observation) {
				if o.Flags != observe.FlagReset|observe.FlagIncomplete || o.Response.Last != t0+9*ms {
					t.Errorf("%v %+v", o.Flags.Names(), o.Response)
				}
			},
		},
		{
			name: "the server answers, and the client sends more, which is not read",
			turns: []observe.Turn{
				atServer(3, plain(517), answer, 0), atServer(4, part(t0+10*ms, t0+12*ms, 1017), observe.TurnMessage{}, observe.TurnReset),
			},
			records: []accesslog.Record{served(500, 1200)}, want: map[string]int{"exact/": 1},
			check: flagged(observe.FlagEndGuessed | observe.FlagIncomplete),
		},
		{
			name: "the client sends more after an answer, as the client's record says",
			turns: []observe.Turn{
				atClient(3, plain(517), answer, 0), atClient(4, part(t0+12*ms, t0+12*ms, 1017), observe.TurnMessage{}, observe.TurnReset),
			},
			want:  map[string]int{"exact/": 1},
			check: flagged(0),
		},
		{
			name: "the client sends more after an answer, and the server answers that too",
			turns: []observe.Turn{
				atServer(3, plain(517), answer, 0), atServer(4, part(t0+10*ms, t0+12*ms, 1017), part(t0+13*ms, t0+14*ms, 217), observe.TurnClosed),
			},
			records: []accesslog.Record{served(500, 1200)}, want: map[string]int{"exact/": 1},
			check: flagged(0),
		},
		{
			name: "the client sends more after an answer, and the connection stays open",
			turns: []observe.Turn{
				atServer(3, plain(517), answer, 0), atServer(4, part(t0+10*ms, t0+12*ms, 1017), observe.TurnMessage{}, observe.TurnOpen),
			},
			records: []accesslog.Record{served(500, 1200)}, want: map[string]int{"exact/": 1},
			check: flagged(0),
		},
		{
			name: "the client sends more after an answer, and a turn between is missing",
			turns: []observe.Turn{
				atServer(3, plain(517), answer, 0), atServer(5, part(t0+10*ms, t0+12*ms, 1017), observe.TurnMessage{}, observe.TurnReset),
			},
			records: []accesslog.Record{served(500, 1200)}, want: map[string]int{"exact/": 1},
			check: flagged(0),
		},
		{
			name: "the server answers with other bytes", turns: []observe.Turn{atServer(3, part(t0+ms, t0+7*ms, 1017, 1017), answer, observe.TurnReset)},
			records: []accesslog.Record{served(1500, 1199)}, want: map[string]int{"ambiguous/sizes": 1},
		},
		{
			name: "the server answers, and the connection goes on", turns: []observe.Turn{atServer(3, part(t0+ms, t0+7*ms, 1017, 1017), answer, 0)},
			records: []accesslog.Record{served(1500, 1200)}, want: map[string]int{"ambiguous/sizes": 1},
		},
		{
			name:    "broken off at the first exchange: what the server sent are not only tickets",
			turns:   []observe.Turn{atClient(0, plain(517), part(t0+8*ms, t0+9*ms, 1017, 217), observe.TurnHandshake|observe.TurnReset)},
			records: []accesslog.Record{attempted(500, 0, func(r *accesslog.Record) { r.ResponseFirst, r.ResponseLast, r.Status = 0, 0, 0 })},
			want:    map[string]int{"ambiguous/sizes": 1},
		},
		{
			// The server's small records in a turn of their own have no time.
			name: "a small end of the response after the end of the upload",
			turns: []observe.Turn{
				atClient(3, part(t0+ms, t0+ms, 217), part(t0+2*ms, t0+3*ms, 1217), 0),
				atClient(4, part(t0+4*ms, t0+4*ms, 317), observe.TurnMessage{RecordBytes: 19, Records: 1, Alerts: 1}, 0),
			},
			records: []accesslog.Record{attempted(500, 1202)}, want: map[string]int{"exact/": 1},
			check: flagged(observe.FlagEndGuessed),
		},
		{
			name: "broken off, but more passed than was sent", turns: []observe.Turn{atClient(3, plain(917), observe.TurnMessage{}, observe.TurnReset)},
			records: []accesslog.Record{attempted(500, 0, func(r *accesslog.Record) { r.ResponseFirst, r.ResponseLast, r.Status = 0, 0, 0 })},
			want:    map[string]int{"ambiguous/sizes": 1},
		},
		{
			name: "broken off, and the connection goes on", turns: []observe.Turn{
				atClient(3, plain(517), observe.TurnMessage{}, 0), atClient(4, part(t0+12*ms, t0+12*ms, 517), part(t0+13*ms, t0+14*ms, 1217), 0),
			},
			records: []accesslog.Record{attempted(900, 0, func(r *accesslog.Record) { r.ResponseFirst, r.ResponseLast, r.Status = 0, 0, 0 })},
			want:    map[string]int{"ambiguous/sizes": 1},
		},
		{
			name:    "sizes unknown",
			records: []accesslog.Record{attempted(0, 0, func(r *accesslog.Record) { r.SizesKnown = false })}, want: map[string]int{"time/no_sizes": 1},
		},
		{
			name: "sizes unknown and two turns", turns: []observe.Turn{
				atClient(3, plain(517), part(t0+2*ms, t0+2*ms, 1217), 0), atClient(4, part(t0+4*ms, t0+4*ms, 517), part(t0+6*ms, t0+6*ms, 1217), 0),
			},
			// Nothing else passes meanwhile: both are of one exchange.
			records: []accesslog.Record{attempted(0, 0, func(r *accesslog.Record) { r.SizesKnown = false })}, want: map[string]int{"time/no_sizes": 1},
			check: func(t *testing.T, o *observe.Observation) {
				if o.Request.Last != t0+4*ms || o.Response.First != t0+2*ms || o.Response.Last != t0+6*ms {
					t.Errorf("%+v %+v", o.Request, o.Response)
				}
			},
		},
	} {
		t.Run(test.name, func(t *testing.T) {
			b := newBench()
			b.evidence.node.hits = minHits // other records: the clock is right
			if test.turns == nil {
				test.turns = []observe.Turn{atClient(3, plain(517), answer, 0)}
			}
			if test.records == nil {
				test.records = []accesslog.Record{attempted(500, 1200)}
			}
			for _, turn := range test.turns {
				b.seen.add(turn)
			}
			b.now = t0 + 1000*ms
			b.receive(test.records...)
			b.until(b.now + 5000*ms)
			if got := b.states(t); !maps.Equal(got, test.want) {
				t.Errorf("records became %v, want %v", got, test.want)
			}
			joined := 0
			for state, n := range test.want {
				if state[:2] == "ex" || state[:2] == "ti" {
					joined += n
				}
			}
			if len(b.out) != joined {
				t.Errorf("%d observations, want %d", len(b.out), joined)
			}
			if test.check != nil && len(b.out) == 1 {
				test.check(t, &b.out[0])
			}
		})
	}
}

// The sizes of an attempt are those of all so far: the record before says what to subtract,
// in whatever order they come; if it is lost, equal requests show that there was one.
func TestAttempts(t *testing.T) {
	first := attempted(500, 100, func(r *accesslog.Record) { r.ResponseLast = 0 })
	second := attempted(1000, 1300, func(r *accesslog.Record) {
		shift(r, 50*int64(ms))
	})
	turns := []observe.Turn{
		atClient(3, part(t0+ms, t0+ms, 517), part(t0+8*ms, t0+8*ms, 117), 0),
		atClient(4, part(t0+51*ms, t0+51*ms, 517), part(t0+58*ms, t0+59*ms, 1017, 217), 0),
	}
	for _, test := range []struct {
		name    string
		records []accesslog.Record
		want    map[string]int
	}{
		{"in order", []accesslog.Record{first, second}, map[string]int{"exact/": 2}},
		{"the later one first", []accesslog.Record{second, first}, map[string]int{"exact/": 2}},
		{"doubled", []accesslog.Record{first, first, second, second}, map[string]int{"exact/": 2, "unmatched/double": 2}},
		{"the first one lost", []accesslog.Record{second}, map[string]int{"time/retried": 1}},
		{"the second one lost", []accesslog.Record{first}, map[string]int{"exact/": 1}},
	} {
		t.Run(test.name, func(t *testing.T) {
			b := newBench()
			b.evidence.node.hits = minHits // other records: the clock is right
			for _, turn := range turns {
				b.seen.add(turn)
			}
			b.now = t0 + 1000*ms
			for _, r := range test.records {
				b.receive(r)
				b.until(b.now + 300*ms)
			}
			b.until(b.now + 5000*ms)
			if got := b.states(t); !maps.Equal(got, test.want) {
				t.Errorf("records became %v, want %v", got, test.want)
			}
		})
	}
}

// An exchange of several turns waited for as long as all of them, and a socket's windows of 0
// and the packets that were dropped are theirs together.
func TestWaitsOfTurns(t *testing.T) {
	b := newBench()
	b.evidence.node.hits = minHits // other records: the clock is right
	sockets := map[bool]*observe.Socket{true: {Cookie: 1, Client: true}, false: {Cookie: 2}}
	turn := func(number uint64, client bool, q, r observe.TurnMessage, scale uint64) observe.Turn {
		sent, arrived := &r, &q
		if client {
			sent, arrived = arrived, sent
		}
		sent.Waited, sent.Held, sent.Stalled, arrived.Unread = 4*scale, 3*scale, 2*scale, scale
		return observe.Turn{
			Key: ends, Socket: sockets[client], Number: number, Request: q, Response: r,
			Drops: uint32(scale), DropReason: "qdisc_drop", ZeroWindows: uint32(scale),
		}
	}
	for _, client := range []bool{true, false} {
		// The response begins during the upload.
		b.seen.add(turn(3, client, part(t0+ms, t0+2*ms, 317), part(t0+3*ms, t0+3*ms, 517), 1))
		b.seen.add(turn(4, client, part(t0+4*ms, t0+5*ms, 217), part(t0+8*ms, t0+9*ms, 517, 217), 10))
	}
	b.now = t0 + 1000*ms
	b.receive(attempted(500, 1200), served(500, 1200))
	b.until(b.now + 5000*ms)
	if len(b.out) != 2 {
		t.Fatalf("%d observations, want one at each socket: %v", len(b.out), b.states(t))
	}
	for _, o := range b.out {
		sent, arrived := o.Response, o.Request
		if o.Socket.Client {
			sent, arrived = arrived, sent
		}
		if sent.Waited != 44 || sent.Held != 33 || sent.Stalled != 22 || sent.Unread != 0 || arrived.Unread != 11 || arrived.Waited != 0 {
			t.Errorf("client %v: sent %+v, arrived %+v", o.Socket.Client, sent, arrived)
		}
		if o.Drops != 11 || o.DropReason != "qdisc_drop" || o.Socket.ZeroWindows != 11 {
			t.Errorf("client %v: %d drops because of %q, %d windows of 0", o.Socket.Client, o.Drops, o.DropReason, o.Socket.ZeroWindows)
		}
		if sockets[o.Socket.Client].ZeroWindows != 0 {
			t.Error("the socket of the turns was changed")
		}
	}
}

// A record that is alone, and whose exchange is not the only one of its size, is not joined:
// it may fit by chance. The second one is.
func TestAlone(t *testing.T) {
	b := newBench()
	for n := range uint64(2) {
		at := t0 + n*500*ms
		b.seen.add(atClient(n+3, part(at+ms, at+ms, 517), part(at+8*ms, at+9*ms, 1217), 0))
	}
	b.now = t0 + 1000*ms
	b.receive(attempted(500, 1200))
	b.until(b.now + 5000*ms)
	if got := b.states(t); got["ambiguous/clock"] != 1 || len(got) != 1 {
		t.Errorf("one record: %v", got)
	}
	b.receive(attempted(500, 1200, func(r *accesslog.Record) {
		r.RequestID = "other"
		shift(r, 500*int64(ms))
	}))
	b.until(b.now + 5000*ms)
	if got := b.states(t); got["exact/"] != 1 || len(got) != 2 {
		t.Errorf("two records: %v", got)
	}
}

// A record waits up to three seconds for its exchange, and is given up then.
func TestWaiting(t *testing.T) {
	for _, test := range []struct {
		after time.Duration
		want  string
	}{{0, "exact/"}, {2500 * time.Millisecond, "exact/"}, {3500 * time.Millisecond, "unmatched/no_connection"}} {
		b := newBench()
		b.now = t0 + 200*ms
		b.receive(attempted(500, 1200))
		b.until(b.now + uint64(test.after))
		b.seen.add(atClient(3, part(t0+ms, t0+ms, 517), part(t0+8*ms, t0+9*ms, 1017, 217), observe.TurnOpen))
		b.until(b.now + 5000*ms)
		if got := b.states(t); got[test.want] != 1 || len(got) != 1 {
			t.Errorf("seen after %v: %v", test.after, got)
		}
		if b.count != 0 || len(b.waiting) != 0 {
			t.Errorf("%d records wait", b.count)
		}
	}
}

// A record can come before the last bytes have passed: their lengths are known before they
// are there. The exchange is given when it is whole, with the time of its end.
func TestBytesOnTheirWay(t *testing.T) {
	b := newBench()
	turn := func(last, bytes uint64) observe.Turn {
		r := part(t0+8*ms, last, 16401, 817)
		r.Bytes = bytes
		return atServer(3, part(t0+ms, t0+ms, 517), r, observe.TurnOpen)
	}
	b.seen.add(turn(t0+9*ms, 12000))
	b.now = t0 + 10*ms
	b.receive(served(500, 17184))
	b.until(b.now + 50*ms)
	if len(b.out) != 0 {
		t.Fatalf("given with %d bytes of the response", b.out[0].Response.Bytes)
	}
	whole := turn(t0+40*ms, 16401+817+2*recordHeader)
	b.seen.turns[ends][pointOf(&whole)][0] = whole
	b.until(b.now + 5000*ms)
	if len(b.out) != 1 || b.out[0].Response.Last != t0+40*ms || b.out[0].Response.Bytes != 17228 {
		t.Errorf("%+v", b.out)
	}
	if b.evidence.node.misses > 0 {
		t.Errorf("that it was not there yet counts against the clock: %.1f", b.evidence.node.misses)
	}
}

// The points of a connection see the exchange at different times: each gives it once, when it
// has it.
func TestPoints(t *testing.T) {
	b := newBench()
	b.opts.Wants = func(_ *observe.Turn, client bool) bool { return client }
	turn := func(at int, done bool) observe.Turn {
		r := part(t0+8*ms, t0+9*ms, 1017)
		if done {
			r = part(t0+8*ms, t0+9*ms, 1017, 217)
		}
		return observe.Turn{Key: ends, Interface: at, Direction: observe.DirectionIngress, Number: 3, Request: part(t0+ms, t0+ms, 517), Response: r, Flags: observe.TurnOpen}
	}
	b.seen.add(turn(1, true))
	b.seen.add(turn(2, false))
	b.now = t0 + 100*ms
	b.receive(attempted(500, 1200))
	if len(b.out) != 1 || b.out[0].Interface != 1 {
		t.Fatalf("%d observations", len(b.out))
	}
	last := turn(2, true)
	b.seen.turns[ends][pointOf(&last)][0] = last
	b.until(b.now + 5000*ms)
	if len(b.out) != 2 || b.out[1].Interface != 2 {
		t.Errorf("%d observations", len(b.out))
	}
	if got := b.states(t); got["exact/"] != 1 || len(got) != 1 {
		t.Errorf("%v", got)
	}
}

// A point at which the exchange never shows, though another point of the connection has it, is
// counted.
func TestPointWithoutTheExchange(t *testing.T) {
	b := newBench()
	b.opts.Wants = func(*observe.Turn, bool) bool { return true }
	whole := atClient(3, part(t0+ms, t0+ms, 517), part(t0+8*ms, t0+9*ms, 1217), 0)
	b.seen.add(whole)
	before := whole
	before.Interface, before.Number = 7, 2
	before.Request, before.Response = part(t0-20*ms, t0-20*ms, 517), part(t0-12*ms, t0-11*ms, 1217)
	b.seen.add(before)
	b.now = t0 + 100*ms
	b.receive(attempted(500, 1200))
	b.until(b.now + 5000*ms)
	if got := b.states(t); len(b.out) != 1 || got["exact/"] != 1 || len(got) != 1 {
		t.Errorf("%d observations, %v", len(b.out), got)
	}
	if n := testutil.ToFloat64(b.partial); n != 1 {
		t.Errorf("%.0f records have an exchange at one point only, want 1", n)
	}
}

// A record that comes long after its end, or that cannot be looked up, is given up.
func TestGivenUp(t *testing.T) {
	b := newBench()
	b.seen.add(atClient(3, part(t0+ms, t0+ms, 517), part(t0+8*ms, t0+9*ms, 1017, 217), 0))
	b.now = t0 + uint64(maxAge) + 1000*ms
	b.receive(attempted(500, 1200))
	if got := b.states(t); got["unmatched/late"] != 1 {
		t.Errorf("late: %v", got)
	}
	b = newBench()
	b.now = t0 + 100*ms
	b.seen.fails = errors.New("no ring")
	b.receive(attempted(500, 1200))
	b.until(b.now + 5000*ms)
	if got := b.states(t); got["unmatched/unreadable"] != 1 {
		t.Errorf("unreadable: %v", got)
	}
}

// Forged values neither fail nor cost memory.
func TestForgedValues(t *testing.T) {
	b := newBench()
	b.now = t0 + 100*ms
	b.seen.add(atClient(3, part(t0+ms, t0+ms, 517), part(t0+8*ms, t0+9*ms, 1017, 217), 0))
	for _, times := range [][4]uint64{{1, 1, 1, 1}, {1 << 62, 1 << 62, 0, 1 << 63}, {wall(t0), wall(t0), wall(t0 - ms), wall(t0)}, {wall(0), wall(0), 0, 0}} {
		for _, side := range []accesslog.Side{accesslog.SideClient, accesslog.SideAttempt, accesslog.SideServer} {
			for _, n := range []uint64{0, 1, 1<<64 - 1} {
				b.receive(attempted(n, n, func(r *accesslog.Record) {
					r.Side, r.Start, r.RequestFirst, r.ResponseFirst, r.ResponseLast = side, times[0], times[1], times[2], times[3]
				}))
			}
		}
	}
	b.until(b.now + 5000*ms)
	if len(b.out) != 0 {
		t.Errorf("%d joined", len(b.out))
	}
}

// The number of records that wait is bounded, and all of it is freed.
func TestFull(t *testing.T) {
	b := newBench()
	b.now = t0
	taken := 0
	for i := range maxWaiting/64 + 2 {
		records := make([]accesslog.Record, 64)
		for n := range records {
			records[n] = attempted(500, 1200, func(r *accesslog.Record) { r.RequestID = fmt.Sprint(i, n) })
		}
		taken += b.add(records, b.time())
	}
	if taken != maxWaiting {
		t.Errorf("%d of %d were taken", taken, maxWaiting+128)
	}
	b.until(b.now + 5000*ms)
	if n := b.add(make([]accesslog.Record, 3), b.time()); n != 3 || b.count != 3 {
		t.Errorf("after their time %d were taken, %d wait", n, b.count)
	}
}

// What is remembered is bounded.
func TestRemembered(t *testing.T) {
	e := newEvidence()
	now := time.Unix(0, 0)
	r := attempted(500, 1200)
	for i := range 2*maxRemembered + 10 {
		r.Start, r.RequestID = uint64(i+1), fmt.Sprint(i)
		e.isDouble(&r)
		e.addAttempt(&r)
		e.forget(now)
	}
	for i := range 2 {
		if len(e.records[i]) > maxRemembered || len(e.attempts[i]) > maxRemembered {
			t.Errorf("%d records, %d requests", len(e.records[i]), len(e.attempts[i]))
		}
	}
	for range 100 {
		r.Start++
		e.addAttempt(&r)
	}
	if n := len(e.attempts[0][e.requestKey(&r)]); n > maxAttempts {
		t.Errorf("%d attempts of one request", n)
	}
}

// An application copies the ID of a request to all its calls, which the proxy logs with spans
// of their own: only records with the same span, or of equal calls, may be of one request.
func TestCallsOfARequestAreNotItsAttempts(t *testing.T) {
	e := newEvidence()
	first := attempted(500, 1200)
	first.RequestID, first.Start, first.Path = "id", 1, "/details"
	e.addAttempt(&first)
	call := first
	call.Start, call.Path, call.Context.SpanID[0] = 2, "/reviews", ^first.Context.SpanID[0]
	if got := e.wants(&call, false); len(got) != 1 || got[0].sizes != (sizes{500, 1200}) {
		t.Errorf("another call: %+v", got)
	}
	again := first
	again.Start, again.RequestBytes, again.ResponseBytes = 3, 1000, 1500
	if got := e.wants(&again, false); len(got) != 1 || got[0].sizes != (sizes{500, 300}) {
		t.Errorf("another attempt: %+v", got)
	}
	again.Context.SpanID[0] = ^first.Context.SpanID[0]
	if got := e.wants(&again, false); len(got) != 2 || got[0].sizes != (sizes{1000, 1500}) || got[1].sizes != (sizes{500, 300}) {
		t.Errorf("an attempt with a span of its own, or an equal call: %+v", got)
	}
}

// A proxy whose records have no exchange for reasons of its own does not lower the trust in
// the others; records whose exchange has other sizes lower no trust.
func TestTrust(t *testing.T) {
	good, bad, unknown := netip.MustParseAddr("10.0.0.1"), netip.MustParseAddr("10.0.0.2"), netip.MustParseAddr("10.0.0.3")
	e := newEvidence()
	if e.trusted(good, false) || e.trusted(good, true) {
		t.Error("nothing is known of the clock")
	}
	e.hit(good, false)
	e.hit(good, false)
	if e.trusted(good, false) || !e.trusted(good, true) {
		t.Error("with two records the clock is neither proven nor wrong")
	}
	for range 40 {
		e.hit(good, false)
	}
	if !e.trusted(good, false) || !e.trusted(unknown, false) {
		t.Error("40 of 40 records have an exchange")
	}
	for range 20 {
		e.miss(bad)
	}
	if !e.trusted(good, false) || e.trusted(bad, true) || e.trusted(unknown, true) {
		t.Error("20 of 20 records of one proxy have none")
	}
	b := newBench()
	b.seen.add(atClient(3, part(t0+ms, t0+ms, 517), part(t0+8*ms, t0+9*ms, 1217), 0))
	b.now = t0 + 100*ms
	for i := range 50 {
		b.receive(attempted(500, 1100, func(r *accesslog.Record) { r.RequestID = fmt.Sprint(i) }))
	}
	if b.evidence.node.misses != 0 {
		t.Errorf("%.1f misses by other sizes", b.evidence.node.misses)
	}
	b = newBench()
	b.seen.add(atClient(0, part(t0+5*ms, t0+5*ms, 317), part(t0+8*ms, t0+9*ms, 1217), observe.TurnMiddle))
	b.now = t0 + 100*ms
	b.receive(attempted(500, 1200))
	b.until(b.now + 5000*ms)
	if b.evidence.node.misses != 0 {
		t.Errorf("%.1f misses by an exchange that was not seen from its beginning", b.evidence.node.misses)
	}
}

// A record waits for its exchange for maxWait, and not longer: the agent keeps the other spans of
// the trace for that time.
func TestRecordWaits(t *testing.T) {
	for _, test := range []struct {
		shown time.Duration // after the record's arrival
		want  map[string]int
	}{
		{0, map[string]int{"exact/": 1}},
		{maxWait - tickInterval, map[string]int{"exact/": 1}},
		{maxWait + 2*tickInterval, map[string]int{"unmatched/no_connection": 1}},
	} {
		b := newBench()
		// Other exchanges show that the clock is right.
		for i := range uint64(minHits) {
			from := i * 20 * ms
			b.seen.add(atClient(i, part(t0+from+ms, t0+from+ms, 517), part(t0+from+8*ms, t0+from+9*ms, 1217), 0))
			b.now = t0 + from + 15*ms
			b.receive(attempted(500, 1200, func(r *accesslog.Record) { r.RequestID = fmt.Sprint("other", i); shift(r, int64(from)) }))
		}
		b.until(b.now + 5000*ms)
		before := len(b.out)
		if before != minHits {
			t.Fatalf("%d of %d others are joined", before, minHits)
		}
		late := atClient(0, part(b.now+ms, b.now+ms, 517), part(b.now+8*ms, b.now+9*ms, 1217), 0)
		late.Client = netip.AddrPortFrom(late.Client.Addr(), 41000)
		since := b.now - t0
		b.now += 15 * ms
		arrived := b.now
		b.receive(attempted(500, 1200, func(r *accesslog.Record) { r.Client = late.Client; shift(r, int64(since)) }))
		b.until(arrived + uint64(test.shown))
		b.seen.add(late)
		b.until(arrived + uint64(maxWait) + 500*ms)
		states := b.states(t)
		if states["exact/"] -= before; states["exact/"] == 0 {
			delete(states, "exact/")
		}
		if !maps.Equal(states, test.want) {
			t.Errorf("an exchange that is shown %v after its record: %v, want %v", test.shown, states, test.want)
		}
		if b.count != 0 {
			t.Errorf("%d records still wait", b.count)
		}
	}
}

// steady is a Source with an exchange every 20 ms, for ever.
type steady struct{}

// Turns implements Source.
func (steady) Turns(dst []observe.Turn, _, _ netip.AddrPort, from, to uint64) ([]observe.Turn, error) {
	for n := (max(from, t0) - t0) / (20 * ms); t0+n*20*ms <= to; n++ {
		at := t0 + n*20*ms
		dst = append(dst, atClient(n, part(at+ms, at+ms, 517), part(at+8*ms, at+9*ms, 1017, 217), 0))
	}
	return dst, nil
}

// What a record costs, with the tries that it needs, of a batch of 50 a second of one
// connection; the Source makes five turns for each.
func BenchmarkJoin(b *testing.B) {
	j := newBench()
	joined := 0
	j.opts.Source, j.opts.Out = steady{}, func(*observe.Observation) { joined++ }
	b.ReportAllocs()
	n := uint64(0)
	var batch []accesslog.Record
	for b.Loop() {
		since := n * 20 * ms
		batch = append(batch, attempted(500, 1200, func(r *accesslog.Record) {
			r.RequestID = ""
			shift(r, int64(since))
		}))
		if n++; len(batch) == 50 {
			j.now = t0 + since + 100*ms
			j.receive(batch...)
			batch = batch[:0]
		}
	}
	j.until(j.now + 5000*ms)
	if b.N > 1000 && joined < b.N-100 {
		b.Errorf("%d of %d joined", joined, b.N)
	}
}
