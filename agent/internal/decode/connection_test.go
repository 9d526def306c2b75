// SPDX-License-Identifier: Apache-2.0

package decode

import (
	"math/rand/v2"
	"testing"

	"github.com/layertrace/layertrace/internal/observe"
)

// TestStreamAgainstModel adds random segments and compares with a map of the
// bytes seen.
func TestStreamAgainstModel(t *testing.T) {
	random := rand.New(rand.NewPCG(1, 2))
	for range 200 {
		const start = uint32(0xfffffff0)
		s := stream{known: true, next: start}
		var seen [256]bool
		next := 0
		for range 40 {
			at, size := random.IntN(200), 1+random.IntN(40)
			o, fresh := s.add(start+uint32(at), uint32(size))
			unseen, filled := 0, 0
			for i := at; i < at+size; i++ {
				if !seen[i] {
					unseen++
					if i < next && at < next {
						filled++
					}
				}
				seen[i] = true
			}
			want := repeated
			switch {
			case at == next:
				want = inOrder
			case at > next:
				want = ahead
			case filled > 0:
				want = filling
			}
			if o != want || fresh != uint32(unseen) {
				t.Fatalf("add(%d, %d) with next %d = %v, %d; want %v, %d", at, size, next, o, fresh, want, unseen)
			}
			next = max(next, at+size)
		}
	}
}

func TestHolesAreBounded(t *testing.T) {
	s := stream{known: true}
	for i := range uint32(3 * maxGaps) {
		s.add(2*i+1, 1)
	}
	if len(s.gaps) > maxGaps {
		t.Fatalf("%d gaps are kept", len(s.gaps))
	}
	if o, _ := s.add(0, 1); o != repeated {
		t.Errorf("a dropped gap was filled: %v", o)
	}
}

func TestRetransmission(t *testing.T) {
	c := newTalk(t, Options{})
	c.handshake()
	c.client(get)
	c.clientAt(-len(get), get)
	c.client("body")
	c.clientAt(-4, "body and more") // 9 bytes are new
	c.server(ok)
	c.serverAt(-len(ok), ok)
	c.d.Flush()
	want := expected(message(4, 7, 3, len(get)+13), message(8, 8, 1, len(ok)), 200, 0)
	want.Retransmits = 3
	c.emitted(want)
	c.count("retransmits", 3)
	c.count("requests", 1)
}

func TestRetransmissionOfAnEarlierExchange(t *testing.T) {
	c := newTalk(t, Options{})
	c.handshake()
	c.client(get)
	c.server(ok)
	c.client(get)
	c.got = nil
	c.serverAt(-len(ok), ok)
	c.clientAt(-2*len(get), get)
	c.server(ok)
	c.d.Flush()
	c.emitted(expected(message(6, 6, 1, len(get)), message(9, 9, 1, len(ok)), 200, 0))
	c.count("retransmits", 2)
}

func TestReordering(t *testing.T) {
	for name, c := range map[string]struct {
		play func(*talk)
		want observe.Observation
	}{
		"request's body": {func(c *talk) {
			c.client(get)
			c.clientAt(3, "def")
			c.clientAt(0, "abc")
			c.server(ok)
		}, expected(message(4, 6, 3, len(get)+6), message(7, 7, 1, len(ok)), 200, outOfOrder)},
		"three parts backwards": {func(c *talk) {
			c.client(get)
			c.server(ok)
			c.serverAt(6, "ghi")
			c.serverAt(3, "def")
			c.serverAt(0, "abc")
		}, expected(message(4, 4, 1, len(get)), message(5, 8, 4, len(ok)+9), 200, outOfOrder)},
		"start of the response": {func(c *talk) {
			c.client(get)
			c.serverAt(len(ok), "more")
			c.server(ok)
		}, expected(message(4, 4, 1, len(get)), message(5, 6, 2, len(ok)+4), 200, outOfOrder)},
		"lost in the capture": {func(c *talk) {
			c.client(get)
			c.server(ok)
			c.sseq += 1000
			c.server("end")
		}, expected(message(4, 4, 1, len(get)), message(5, 6, 2, len(ok)+3), 200, outOfOrder)},
	} {
		t.Run(name, func(t *testing.T) {
			talk := newTalk(t, Options{})
			talk.handshake()
			c.play(talk)
			talk.d.Flush()
			talk.emitted(c.want)
			talk.count("retransmits", 0)
		})
	}
}

func TestRequestAfterAHole(t *testing.T) {
	c := newTalk(t, Options{})
	c.handshake()
	c.clientAt(10, get)
	c.cseq += uint32(10 + len(get))
	c.server(ok)
	c.clientAt(3, get) // its head is lost, or late
	c.clientAt(0, "abc")
	c.d.Flush()
	c.emitted(
		expected(message(4, 4, 1, len(get)), message(5, 5, 1, len(ok)), 200, outOfOrder),
		expected(message(6, 6, 1, len(get)), observe.Message{}, 0, outOfOrder|noResponse))
}

// TestHoleAfterACompleteExchange: the bytes may belong to a missed request.
func TestHoleAfterACompleteExchange(t *testing.T) {
	c := newTalk(t, Options{})
	c.handshake()
	c.client(get)
	c.server(ok)
	c.clientAt(50, "end of a head")
	c.d.Flush()
	c.emitted(expected(message(4, 4, 1, len(get)), message(5, 5, 1, len(ok)), 200, 0))
	c.count("out_of_order", 1)
}

// TestDelayedRequest: a late request does not end the one sent after it.
func TestDelayedRequest(t *testing.T) {
	c := newTalk(t, Options{})
	c.handshake()
	c.clientAt(len(get), get)
	c.client(get)
	c.cseq += uint32(len(get))
	c.server(ok)
	c.d.Flush()
	c.emitted(expected(message(4, 4, 1, len(get)), message(6, 6, 1, len(ok)), 200, outOfOrder))
	c.count("late_request", 1)
}

func TestRequestFromTheServer(t *testing.T) {
	c := newTalk(t, Options{})
	c.handshake()
	c.client(get)
	c.server(ok)
	c.server(get)
	c.d.Flush()
	c.emitted(expected(message(4, 4, 1, len(get)), message(5, 6, 2, len(ok)+len(get)), 200, 0))
	c.count("request_in_response", 1)
}

func TestPipelining(t *testing.T) {
	const pipelined = observe.FlagPipelined
	c := newTalk(t, Options{})
	c.handshake()
	c.client(get)
	c.client(get)
	c.client(get)
	none := observe.Message{}
	c.emitted(
		expected(message(4, 4, 1, len(get)), none, 0, pipelined|noResponse),
		expected(message(5, 5, 1, len(get)), none, 0, pipelined|noResponse))
	c.server(ok)
	c.server("first's body")
	c.server(ok)
	c.server("second's body")
	c.server("HTTP/1.1 404 Not Found\r\n\r\n")
	c.client(get)
	c.emitted(expected(message(6, 6, 1, len(get)), message(11, 11, 1, 26), 404, pipelined))
	c.server(ok)
	c.d.Flush()
	c.emitted(expected(message(12, 12, 1, len(get)), message(13, 13, 1, len(ok)), 200, 0))
	c.count("pipelined", 2)
	c.count("response_of_other", 2)
}

func TestPipeliningDuringTheResponse(t *testing.T) {
	c := newTalk(t, Options{})
	c.handshake()
	c.client(get)
	c.server(ok)
	c.client(get)
	c.server("the first one's last bytes")
	c.server("HTTP/1.1 404 Not Found\r\n\r\n")
	c.d.Flush()
	c.emitted(
		expected(message(4, 4, 1, len(get)), message(5, 5, 1, len(ok)), 200, 0),
		expected(message(6, 6, 1, len(get)), message(8, 8, 1, 26), 404, observe.FlagPipelined))
}

func TestPipeliningAfterUnsampled(t *testing.T) {
	c := newTalk(t, Options{})
	c.handshake()
	c.client("GET /u HTTP/1.1\r\nb3: 0\r\n\r\n")
	c.client(get)
	c.server("HTTP/1.1 500 No\r\n\r\n")
	c.server(ok)
	c.d.Flush()
	c.emitted(expected(message(5, 5, 1, len(get)), message(7, 7, 1, len(ok)), 200, observe.FlagPipelined))
}

// TestBodyThatLooksLikeARequest: before the response, only data with a complete
// request line in the window is a request.
func TestBodyThatLooksLikeARequest(t *testing.T) {
	for name, body := range map[string]string{
		"no request line": "GET \x00\x01\x02\n", "no line": "PUT " + string(make([]byte, 2000)),
	} {
		t.Run(name, func(t *testing.T) {
			c := newTalk(t, Options{})
			c.handshake()
			c.client(get)
			c.client(body)
			c.server(ok)
			c.client(get)
			c.server(ok)
			c.d.Flush()
			c.emitted(
				expected(message(4, 5, 2, len(get)+len(body)), message(6, 6, 1, len(ok)), 200, 0),
				expected(message(7, 7, 1, len(get)), message(8, 8, 1, len(ok)), 200, 0))
			c.count("unparsable", 1)
		})
	}
}

const outOfOrder = observe.FlagOutOfOrder

// TestCaptureLostTheResponse: the next request acknowledges an unseen response,
// so it is not pipelined, and the next response is its own.
func TestCaptureLostTheResponse(t *testing.T) {
	c := newTalk(t, Options{})
	c.handshake()
	c.client(get)
	c.sseq += uint32(len(ok))
	c.client(get)
	c.server(ok)
	c.serverAt(-2*len(ok), ok) // only delayed: not the second one's
	c.d.Flush()
	c.emitted(
		expected(message(4, 4, 1, len(get)), observe.Message{}, 0, noResponse|outOfOrder),
		expected(message(5, 5, 1, len(get)), message(6, 6, 1, len(ok)), 200, 0))
	c.count("missed", 1)
}

// TestCaptureLostTheRequestsEnd: the response acknowledges it, so the next
// request is in order.
func TestCaptureLostTheRequestsEnd(t *testing.T) {
	c := newTalk(t, Options{})
	c.handshake()
	c.client(get)
	c.cseq += 5
	c.server(ok)
	c.client(get)
	c.server(ok)
	c.d.Flush()
	c.emitted(
		expected(message(4, 4, 1, len(get)), message(5, 5, 1, len(ok)), 200, outOfOrder),
		expected(message(6, 6, 1, len(get)), message(7, 7, 1, len(ok)), 200, 0))
}

func TestCaptureLostARequest(t *testing.T) {
	c := newTalk(t, Options{Deep: true})
	c.handshake()
	c.client(get[:50])
	c.cseq += uint32(len(get) - 50)
	c.server(ok)
	c.cseq += uint32(len(get))
	c.server(ok)
	c.client(get)
	c.server(ok)
	c.d.Flush()
	c.emitted(expected(message(7, 7, 1, len(get)), message(8, 8, 1, len(ok)), 200, 0))
	c.count("missed", 2)
	c.count("truncated", 1)
}
