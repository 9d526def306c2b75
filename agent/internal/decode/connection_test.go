// SPDX-License-Identifier: Apache-2.0

package decode

import (
	"strings"
	"testing"

	"github.com/gopacket/gopacket/layers"

	"github.com/layertrace/layertrace/internal/observe"
)

const (
	outOfOrder     = observe.FlagOutOfOrder
	packetsMissing = observe.FlagPacketsMissing
	incomplete     = observe.FlagIncomplete
	endGuessed     = observe.FlagEndGuessed
)

func TestRetransmission(t *testing.T) {
	c := newTalk(t, Options{})
	c.handshake()
	text := post("a body and more")
	c.client(text[:len(text)-15])
	c.clientAt(-50, text[len(text)-65:len(text)-15])
	c.client("a body")
	c.clientAt(-6, "a body and more") // 9 bytes are new
	c.cseq += 9
	c.server(ok)
	c.serverAt(-len(ok), ok)
	c.d.Flush()
	want := posted(message(4, 7, 3, len(text)), message(8, 8, 1, len(ok)), 200, 0)
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

// TestReordering: each byte counts when it passes first, in whatever order.
func TestReordering(t *testing.T) {
	text := post("abcdef")
	head := len(text) - 6
	long := respond(200, 9)
	for name, c := range map[string]struct {
		play func(*talk)
		want observe.Observation
	}{
		"request's body": {func(c *talk) {
			c.client(text[:head])
			c.clientAt(3, "def")
			c.clientAt(0, "abc")
			c.cseq += 6
			c.server(ok)
		}, posted(message(4, 6, 3, len(text)), message(7, 7, 1, len(ok)), 200, outOfOrder)},
		"request's head": {func(c *talk) {
			c.clientAt(40, text[40:])
			c.clientAt(0, text[:40])
			c.cseq += uint32(len(text))
			c.server(ok)
		}, posted(message(4, 5, 2, len(text)), message(6, 6, 1, len(ok)), 200, outOfOrder|multiSegment|observe.FlagOutsideWindow)},
		"three parts backwards": {func(c *talk) {
			c.client(get)
			c.serverAt(len(long)-3, long[len(long)-3:])
			c.serverAt(len(long)-6, long[len(long)-6:len(long)-3])
			c.serverAt(0, long[:len(long)-6])
		}, expected(message(4, 4, 1, len(get)), message(5, 7, 3, len(long)), 200, outOfOrder)},
		"status line last": {func(c *talk) {
			c.client(get)
			c.serverAt(10, ok[10:])
			c.serverAt(0, ok[:10])
		}, expected(message(4, 4, 1, len(get)), message(5, 6, 2, len(ok)), 200, outOfOrder)},
		"response before the request in the file": {func(c *talk) {
			c.cseq += uint32(len(get))
			c.server(ok)
			c.sseq -= uint32(len(ok))
			c.clientAt(-len(get), get)
		}, expected(message(5, 5, 1, len(get)), message(5, 5, 1, len(ok)), 200, outOfOrder)},
		"FIN before a hole": {func(c *talk) {
			c.client(get)
			text := "HTTP/1.1 200 OK\r\nConnection: close\r\n\r\nabcdef"
			c.server(text[:len(text)-6])
			c.packet(serverEnd, clientEnd, layers.TCP{ACK: true, FIN: true, Seq: c.sseq + 3, Ack: c.cseq}, "def")
			c.clientFIN()
			c.serverAt(0, "abc")
			c.sseq += 7
		}, expected(message(4, 4, 1, len(get)), message(5, 8, 3, 44), 200, outOfOrder)},
	} {
		t.Run(name, func(t *testing.T) {
			talk := newTalk(t, Options{})
			talk.handshake()
			c.play(talk)
			talk.d.Flush()
			talk.emitted(c.want)
			talk.count("retransmits", 0)
			talk.count("missed", 0)
		})
	}
}

// TestDelayedRequest: each request gets its own response.
func TestDelayedRequest(t *testing.T) {
	c := newTalk(t, Options{})
	c.handshake()
	c.clientAt(len(get), get)
	c.client(get)
	c.cseq += uint32(len(get))
	c.server(ok)
	c.server(respond(503, 0))
	c.d.Flush()
	const flags = observe.FlagPipelined | outOfOrder
	c.emitted(
		expected(message(5, 5, 1, len(get)), message(6, 6, 1, len(ok)), 200, flags),
		expected(message(4, 4, 1, len(get)), message(7, 7, 1, len(respond(503, 0))), 503, flags))
}

// TestCaptureLoss: bytes that a peer has acknowledged did not pass here. No response is
// given to another request.
func TestCaptureLoss(t *testing.T) {
	const noResponseMissing = noResponse | packetsMissing
	chunked := "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n"
	long := respond(200, 3000)
	none := observe.Message{}
	first := message(4, 4, 1, len(get))
	for name, c := range map[string]struct {
		play func(*talk)
		want []observe.Observation
	}{
		"a response": {func(c *talk) {
			c.client(get)
			c.sseq += uint32(len(ok))
			c.client(get)
			c.server(ok)
		}, []observe.Observation{
			expected(first, none, 0, noResponseMissing),
			expected(message(5, 5, 1, len(get)), message(6, 6, 1, len(ok)), 200, 0),
		}},
		"the response's beginning": {func(c *talk) {
			c.client(get)
			c.sseq += 1000
			c.server(long[1000:])
			c.client(get)
			c.server(ok)
		}, []observe.Observation{
			expected(first, none, 0, noResponseMissing),
			expected(message(6, 6, 1, len(get)), message(7, 7, 1, len(ok)), 200, 0),
		}},
		"the middle of a body": {func(c *talk) {
			c.client(get)
			c.server(long[:1000])
			c.sseq += 1000
			c.server(long[2000:])
			c.client(get)
			c.server(ok)
		}, []observe.Observation{
			expected(first, message(5, 6, 2, len(long)-1000), 200, packetsMissing),
			expected(message(7, 7, 1, len(get)), message(8, 8, 1, len(ok)), 200, 0),
		}},
		"the middle of a chunk's line": {func(c *talk) {
			c.client(get)
			c.server(chunked)
			c.sseq += 20
			c.server("more\r\n0\r\n\r\n")
			c.client(get)
			c.server(ok)
		}, []observe.Observation{
			expected(first, message(5, 6, 2, len(chunked)+11), 200, packetsMissing|endGuessed),
			expected(message(7, 7, 1, len(get)), message(8, 8, 1, len(ok)), 200, 0),
		}},
		"a response and the next request": {func(c *talk) {
			c.client(get)
			c.sseq += uint32(len(ok))
			c.cseq += uint32(len(get))
			c.server(respond(503, 0))
			c.client(get)
			c.server(ok)
		}, []observe.Observation{
			expected(first, none, 0, noResponseMissing),
			expected(message(6, 6, 1, len(get)), message(7, 7, 1, len(ok)), 200, 0),
		}},
		"a request": {func(c *talk) {
			c.client(get)
			c.server(ok)
			c.cseq += uint32(len(get))
			c.server(respond(503, 0))
			c.client(get)
			c.server(respond(404, 0))
		}, []observe.Observation{
			expected(first, message(5, 5, 1, len(ok)), 200, 0),
			expected(message(7, 7, 1, len(get)), message(8, 8, 1, len(respond(404, 0))), 404, 0),
		}},
		"the end of a request": {func(c *talk) {
			text := post("body")
			c.client(text[:len(text)-4])
			c.cseq += 4
			c.server(ok)
			c.client(get)
			c.server(ok)
		}, []observe.Observation{
			posted(message(4, 4, 1, len(post("body"))-4), message(5, 5, 1, len(ok)), 200, packetsMissing),
			expected(message(6, 6, 1, len(get)), message(7, 7, 1, len(ok)), 200, 0),
		}},
		"the end of a request's head": {func(c *talk) {
			c.client(get[:97])
			c.cseq += uint32(len(get) - 97)
			c.server(ok)
			c.client(get)
			c.server(ok)
		}, []observe.Observation{
			expected(message(4, 4, 1, 97), message(5, 5, 1, len(ok)), 200, packetsMissing),
			expected(message(6, 6, 1, len(get)), message(7, 7, 1, len(ok)), 200, 0),
		}},
	} {
		t.Run(name, func(t *testing.T) {
			talk := newTalk(t, Options{})
			talk.handshake()
			c.play(talk)
			talk.d.Flush()
			talk.emitted(c.want...)
		})
	}
}

// TestCaptureLossWithPipelining: which response is whose is not known, and none is given.
func TestCaptureLossWithPipelining(t *testing.T) {
	c := newTalk(t, Options{})
	c.handshake()
	c.client(get)
	c.client(get)
	c.client(get)
	c.sseq += uint32(len(ok))
	c.server(respond(503, 1))
	c.packet(clientEnd, serverEnd, layers.TCP{ACK: true, Seq: c.cseq, Ack: c.sseq}, "")
	c.d.Flush()
	if len(c.got) != 3 {
		t.Fatalf("%d exchanges, want 3", len(c.got))
	}
	for i, x := range c.got {
		if x.Status != 0 || x.Response.Packets != 0 || x.Flags&packetsMissing == 0 || x.Flags&noResponse == 0 {
			t.Errorf("exchange %d has status %d, response %+v, flags %v", i, x.Status, x.Response, x.Flags.Names())
		}
	}
	c.count("response_without_request", 1)
}

// TestOneWay: a capture of one direction has no response, and no wrong one.
func TestOneWay(t *testing.T) {
	c := newTalk(t, Options{})
	for range 3 {
		c.client(get)
		c.sseq += uint32(len(ok))
	}
	c.d.Flush()
	none := observe.Message{}
	c.emitted(
		expected(message(1, 1, 1, len(get)), none, 0, noResponse|packetsMissing),
		expected(message(2, 2, 1, len(get)), none, 0, noResponse|packetsMissing),
		expected(message(3, 3, 1, len(get)), none, 0, noResponse))
	c = newTalk(t, Options{})
	for range 3 {
		c.cseq += uint32(len(get))
		c.server(ok)
	}
	c.d.Flush()
	c.emitted()
	c.count("response_without_request", 3)
}

// TestCopiesOfTheSYN change nothing, whenever they pass.
func TestCopiesOfTheSYN(t *testing.T) {
	c := newTalk(t, Options{})
	syn := func() { c.packet(clientEnd, serverEnd, layers.TCP{SYN: true, Seq: 0xffffffc0 - 1}, "") }
	synACK := func() {
		c.packet(serverEnd, clientEnd, layers.TCP{SYN: true, ACK: true, Seq: 0xffffffe0 - 1, Ack: 0xffffffc0}, "")
	}
	syn()
	syn()
	synACK()
	c.client(get)
	syn()
	synACK()
	c.server(ok)
	syn()
	c.d.Flush()
	c.emitted(expected(message(4, 4, 1, len(get)), message(7, 7, 1, len(ok)), 200, 0))
}

// TestPortReuse: a SYN with another sequence number begins another connection.
func TestPortReuse(t *testing.T) {
	c := newTalk(t, Options{})
	c.handshake()
	c.client(get)
	c.cseq, c.sseq = 77777, 99999
	c.handshake()
	c.client(get)
	c.server(ok)
	c.d.Flush()
	c.emitted(
		expected(message(4, 4, 1, len(get)), observe.Message{}, 0, noResponse),
		expected(message(8, 8, 1, len(get)), message(9, 9, 1, len(ok)), 200, 0))
}

// TestFastOpen: a SYN has data (RFC 7413), and is sent again with or without them.
func TestFastOpen(t *testing.T) {
	for name, again := range map[string]func(*talk, layers.TCP){
		"with data":    func(c *talk, syn layers.TCP) { c.packet(clientEnd, serverEnd, syn, get) },
		"without data": func(c *talk, syn layers.TCP) { c.packet(clientEnd, serverEnd, syn, "") },
	} {
		t.Run(name, func(t *testing.T) {
			c := newTalk(t, Options{})
			syn := layers.TCP{SYN: true, Seq: c.cseq}
			c.packet(clientEnd, serverEnd, syn, get)
			again(c, syn)
			c.cseq += 1 + uint32(len(get))
			c.packet(serverEnd, clientEnd, layers.TCP{SYN: true, ACK: true, Seq: c.sseq, Ack: c.cseq}, "")
			c.sseq++
			c.clientAt(-len(get), get)
			c.server(ok)
			c.d.Flush()
			if len(c.got) == 1 {
				c.got[0].Retransmits = 0 // one or two
			}
			c.emitted(expected(message(1, 1, 1, len(get)), message(5, 5, 1, len(ok)), 200, 0))
		})
	}
}

// TestEstablishedConnection: a capture begins in the middle of messages.
func TestEstablishedConnection(t *testing.T) {
	for name, before := range map[string]func(*talk){
		"nothing":                    func(*talk) {},
		"a request's body":           func(c *talk) { c.client("rest of a body") },
		"a response":                 func(c *talk) { c.server(ok) },
		"body and response":          func(c *talk) { c.client("rest of a body"); c.server(ok) },
		"a response's body":          func(c *talk) { c.server("rest of a body") },
		"response and its body":      func(c *talk) { long := respond(200, 3000); c.server(long[:1000]); c.server(long[1000:]) },
		"response of unknown length": func(c *talk) { c.server("HTTP/1.1 200 OK\r\nContent-Length: 9999\r\n\r\n") },
		"acknowledgements":           func(c *talk) { c.packet(clientEnd, serverEnd, layers.TCP{ACK: true, Seq: c.cseq, Ack: c.sseq}, "") },
	} {
		t.Run(name, func(t *testing.T) {
			c := newTalk(t, Options{})
			before(c)
			c.now = 10000
			c.client(get)
			c.server(ok)
			c.client(get)
			c.server(respond(404, 0))
			c.d.Flush()
			c.emitted(
				expected(message(11, 11, 1, len(get)), message(12, 12, 1, len(ok)), 200, 0),
				expected(message(13, 13, 1, len(get)), message(14, 14, 1, len(respond(404, 0))), 404, 0))
		})
	}
}

func TestBinaryDataOnUnknownConnection(t *testing.T) {
	c := newTalk(t, Options{})
	c.server("GET \x00\x01\n\x02")
	c.client(get) // would be the server's if the data had determined the client
	c.d.Flush()
	c.emitted(expected(message(2, 2, 1, len(get)), observe.Message{}, 0, noResponse))
	c.count("untracked_data", 1)
}

// TestWrongGuess: the first packet of an established connection is a response's body
// that looks like a request.
func TestWrongGuess(t *testing.T) {
	c := newTalk(t, Options{})
	c.server("GET /in-a-body HTTP/1.1\r\n\r\n")
	c.client(get)
	c.server(ok)
	c.d.Flush()
	c.emitted(expected(message(2, 2, 1, len(get)), message(3, 3, 1, len(ok)), 200, 0))
}

// TestClockGoesBack: no duration is negative.
func TestClockGoesBack(t *testing.T) {
	c := newTalk(t, Options{})
	c.handshake()
	c.client(get)
	c.now -= 3000
	c.server(ok)
	c.d.Flush()
	c.emitted(expected(message(4, 4, 1, len(get)), message(4, 4, 1, len(ok)), 200, outOfOrder))
	c.count("clock_back", 1)
}

func TestOtherData(t *testing.T) {
	for name, data := range map[string]string{
		"TLS":    "\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
		"HTTP/2": "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
		"Redis":  "*1\r\n$4\r\nPING\r\n",
		"HTTP/0": "GET /\r\n",
		"zeros":  strings.Repeat("\x00", 1400),
	} {
		t.Run(name, func(t *testing.T) {
			c := newTalk(t, Options{All: true})
			c.handshake()
			c.client(data)
			c.server("+PONG\r\n")
			c.client(data)
			c.d.Flush()
			c.emitted()
			c.count("requests", 0)
		})
	}
}
