// SPDX-License-Identifier: Apache-2.0

package decode

import (
	"testing"

	"github.com/gopacket/gopacket/layers"

	"github.com/layertrace/layertrace/internal/observe"
)

// TestUnclearFraming: recipients read these fields differently, so that the end of the
// response is guessed. The next exchange is right.
func TestUnclearFraming(t *testing.T) {
	for name, text := range map[string]string{
		"folded coding":       "HTTP/1.1 200 OK\r\nTransfer-Encoding:\r\n chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
		"folded list":         "HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip,\r\n\tchunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
		"folded length":       "HTTP/1.1 200 OK\r\nContent-Length: 1\r\n 2\r\n\r\nhello, world",
		"blank before colon":  "HTTP/1.1 200 OK\r\nContent-Length : 5\r\n\r\nhello",
		"lengths that differ": "HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 50\r\n\r\nhello",
	} {
		c := newTalk(t, Options{})
		c.handshake()
		c.client(get)
		c.server(text)
		c.client(get)
		c.server(ok)
		c.d.Flush()
		c.emitted(
			expected(message(4, 4, 1, len(get)), message(5, 5, 1, len(text)), 200, endGuessed),
			expected(message(6, 6, 1, len(get)), message(7, 7, 1, len(ok)), 200, 0))
		if t.Failed() {
			t.Fatal(name)
		}
	}

	// A folded field before is another one.
	const other = "HTTP/1.1 200 OK\r\nX: y\r\n Content-Length: 900\r\nContent-Length: 5\r\n\r\nhello"
	c := newTalk(t, Options{})
	c.handshake()
	c.client(get)
	c.server(other)
	c.client(get)
	c.server(ok)
	c.d.Flush()
	c.emitted(
		expected(message(4, 4, 1, len(get)), message(5, 5, 1, len(other)), 200, 0),
		expected(message(6, 6, 1, len(get)), message(7, 7, 1, len(ok)), 200, 0))
}

// TestRequestAfterResponseUntilClose: a client that has read the head of a response
// without a length, and sends the next request, takes the response to be over. One that
// had not read it has pipelined, and gets nothing.
func TestRequestAfterResponseUntilClose(t *testing.T) {
	const text = "HTTP/1.1 200 OK\r\n\r\nbody"
	c := newTalk(t, Options{})
	c.handshake()
	c.client(get)
	c.server(text)
	c.client(get)
	c.server(respond(404, 3))
	c.d.Flush()
	c.emitted(
		expected(message(4, 4, 1, len(get)), message(5, 5, 1, len(text)), 200, endGuessed),
		expected(message(6, 6, 1, len(get)), message(7, 7, 1, len(respond(404, 3))), 404, 0))

	// The rest of the body passes after all.
	c = newTalk(t, Options{})
	c.handshake()
	c.client(get)
	c.server(text)
	c.client(get)
	c.serverFIN("more of it")
	c.d.Flush()
	c.emitted(
		expected(message(4, 4, 1, len(get)), message(5, 5, 1, len(text)), 200, endGuessed),
		expected(message(6, 6, 1, len(get)), message(7, 7, 1, 10), 0, endGuessed))

	c = newTalk(t, Options{})
	c.handshake()
	c.client(get)
	c.client(get)
	c.server(text)
	c.serverFIN(ok)
	c.d.Flush()
	c.emitted(
		expected(message(4, 4, 1, len(get)), message(6, 7, 2, len(text)+len(ok)), 200, observe.FlagPipelined),
		expected(message(5, 5, 1, len(get)), observe.Message{}, 0, noResponse|observe.FlagPipelined))
}

// TestForeignReset: a RST far from the window of its connection ends nothing.
func TestForeignReset(t *testing.T) {
	for _, away := range []uint32{65 << 20, 400_000_000, 3_000_000_000, 1<<32 - 65<<20} {
		c := newTalk(t, Options{})
		c.handshake()
		c.client(get)
		c.packet(serverEnd, clientEnd, layers.TCP{RST: true, Seq: c.sseq + away}, "")
		c.server(ok[:20])
		c.packet(clientEnd, serverEnd, layers.TCP{RST: true, ACK: true, Seq: c.cseq + away, Ack: c.sseq}, "")
		c.server(ok[20:])
		c.d.Flush()
		c.emitted(expected(message(4, 4, 1, len(get)), message(6, 8, 2, len(ok)), 200, 0))
		c.count("reset_ignored", 2)
	}
}

// TestUnreadResponses: the end of a response and most of the next were lost, or cannot be
// read. That the requests after it have no response is not certain.
func TestUnreadResponses(t *testing.T) {
	const pipelined = observe.FlagPipelined
	long := respond(200, 500)
	c := newTalk(t, Options{})
	c.handshake()
	c.client(get + get)
	c.server(long[:100])
	c.sseq += uint32(len(long)-100) + 20
	c.server(ok[20:])
	c.packet(clientEnd, serverEnd, layers.TCP{ACK: true, Seq: c.cseq, Ack: c.sseq}, "")
	c.now += uint64(patience)
	at := int(c.now/1000) + 1
	c.client(get)
	c.server(ok)
	c.d.Flush()
	missing := observe.FlagPacketsMissing
	c.emitted(
		expected(message(4, 4, 1, len(get)), message(5, 6, 2, 100+len(ok)-20), 200, pipelined|endGuessed|missing),
		expected(message(4, 4, 1, len(get)), observe.Message{}, 0, pipelined|noResponse|missing),
		expected(message(at, at, 1, len(get)), observe.Message{}, 0, noResponse|missing))

	const broken = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nno size\r\n"
	c = newTalk(t, Options{})
	c.handshake()
	c.client(get + get)
	c.server(broken + ok)
	c.client(get)
	c.server(ok)
	c.d.Flush()
	c.emitted(
		expected(message(4, 4, 1, len(get)), message(5, 5, 1, len(broken+ok)), 200, pipelined|endGuessed),
		expected(message(4, 4, 1, len(get)), observe.Message{}, 0, pipelined|noResponse|endGuessed),
		expected(message(6, 6, 1, len(get)), observe.Message{}, 0, noResponse|endGuessed))
}
