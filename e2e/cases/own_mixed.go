// SPDX-License-Identifier: Apache-2.0

package cases

import (
	"strings"

	"github.com/gopacket/gopacket/layers"
)

// head is request as a HEAD, and lengthOnly what answers it.
func head(trace int) string { return strings.Replace(request(trace), "GET", "HEAD", 1) }

const lengthOnly = "HTTP/1.1 200 OK\r\nContent-Length: 500\r\n\r\n"

// chunkedPost returns a POST whose body has a request in its data and in its trailer.
func chunkedPost(trace int) string {
	return strings.Replace(request(trace, "Transfer-Encoding: chunked\r\n"), "GET", "POST", 1) +
		"14\r\nGET / HTTP/1.1\r\nA: b\r\n0\r\nX: GET / HTTP/1.1\r\n\r\n"
}

// next is a second exchange after the one under test.
func (c *conversation) next() {
	c.after(100)
	c.client(request(2))
	c.after(110)
	c.server(answer(404, 7))
	c.close()
}

var nextTruth = exchange(2, 404, 110, 110, len(answer(404, 7)))

// ownMixed are connections with mixed messages, and with packets that are not in order.
var ownMixed = []own{
	{"pipelined_mixed", func(c *conversation) {
		c.client(head(1) + request(2) + post(3, "GET / HTTP/1.1\r\n\r\n") + head(4))
		c.after(5)
		c.server(lengthOnly + answer(202, 2))
		c.after(15)
		c.server(answer(203, 3) + lengthOnly)
		c.close()
	}, []Expected{
		exchange(1, 200, 5, 5, len(lengthOnly)), exchange(2, 202, 5, 5, len(answer(202, 2))),
		exchange(3, 203, 15, 15, len(answer(203, 3))), exchange(4, 200, 15, 15, len(lengthOnly)),
	}},
	{"pipelined_interim", func(c *conversation) {
		c.client(request(1) + post(2, "abc"))
		c.after(5)
		c.server(answer(201, 3) + "HTTP/1.1 100 Continue\r\n\r\n")
		c.after(15)
		c.server("HTTP/1.1 103 Early Hints\r\nContent-Length: 9\r\n\r\n" + answer(202, 3))
		c.close()
	}, []Expected{exchange(1, 201, 5, 5, len(answer(201, 3))), exchange(2, 202, 15, 15, len(answer(202, 3)), "interim")}},
	{"pipelined_connect", func(c *conversation) {
		c.client(request(1) + strings.Replace(request(2), "GET /2", "CONNECT a.example:80", 1))
		c.after(5)
		c.server(answer(201, 3) + "HTTP/1.1 200 Connected\r\n\r\n" + answer(203, 3))
		c.after(50)
		c.client(request(3))
		c.server(answer(500, 3))
		c.close()
	}, []Expected{exchange(1, 201, 5, 5, len(answer(201, 3))), exchange(2, 200, 5, 5, 26, "upgraded")}},
	{"connect_refused", func(c *conversation) {
		c.client(strings.Replace(request(1), "GET /1", "CONNECT a.example:80", 1))
		c.after(5)
		c.server(answer(407, 5))
		c.next()
	}, []Expected{exchange(1, 407, 5, 5, len(answer(407, 5))), nextTruth}},
	{"upgrade_split", func(c *conversation) {
		c.client(request(1, "Upgrade: h2c\r\n", "Connection: Upgrade\r\n"))
		c.after(5)
		c.server("HTTP/1.1 1")
		c.after(7)
		c.server("01 x\r\nUpgrade: h2c\r\n\r")
		c.after(9)
		c.server("\n" + answer(500, 3))
		c.after(50)
		c.client(request(2))
		c.server(answer(500, 3))
		c.close()
	}, []Expected{exchange(1, 101, 5, 9, 32, "upgraded")}},
	{"chunked_request", func(c *conversation) {
		c.client(chunkedPost(1) + request(2))
		c.after(5)
		c.server(answer(201, 3))
		c.after(15)
		c.server(answer(202, 3))
		c.close()
	}, []Expected{exchange(1, 201, 5, 5, len(answer(201, 3))), exchange(2, 202, 15, 15, len(answer(202, 3)))}},
	{"early_answer", func(c *conversation) {
		text := post(1, strings.Repeat("GET / HTTP/1.1\r\n\r\n", 10))
		c.client(text[:len(text)-180])
		c.after(5)
		c.server(answer(413, 3))
		c.after(15)
		c.client(text[len(text)-180:])
		c.next()
	}, []Expected{exchange(1, 413, 5, 5, len(answer(413, 3))), nextTruth}},
	{"half_close", func(c *conversation) {
		c.send(true, c.cseq, layers.TCP{ACK: true, FIN: true, PSH: true}, request(1))
		c.cseq += uint32(len(request(1))) + 1
		c.after(500)
		c.server("HTTP/1.1 200 OK\r\n\r\nabc")
		c.after(1500)
		c.serverFIN("def")
		c.clientACK()
	}, []Expected{exchange(1, 200, 500, 1500, 25)}},
	{"length_with_blank", func(c *conversation) {
		const text = "HTTP/1.1 200 OK\r\nContent-Length : 5\r\n\r\nhello"
		c.client(request(1))
		c.after(5)
		c.server(text)
		c.next()
	}, []Expected{exchange(1, 200, 5, 5, 44, "end_guessed"), nextTruth}},
	{"no_framing_and_next", func(c *conversation) {
		const text = "HTTP/1.1 200 OK\r\n\r\n"
		c.client(request(1))
		c.after(5)
		c.server(text)
		c.next()
	}, []Expected{exchange(1, 200, 5, 5, len("HTTP/1.1 200 OK\r\n\r\n"), "end_guessed"), nextTruth}},
	{"overlapping_segments", func(c *conversation) {
		text := answer(201, 3) + answer(202, 3)
		c.client(request(1) + request(2))
		c.after(5)
		c.server(text[:30])
		c.after(15)
		c.serverAt(-20, text[10:])
		c.sseq += uint32(len(text) - 30)
		c.close()
	}, []Expected{exchange(1, 201, 5, 15, len(answer(201, 3))), exchange(2, 202, 15, 15, len(answer(202, 3)))}},
	{"fin_before_data", func(c *conversation) {
		text := answer(200, 100)
		c.client(request(1))
		c.after(5)
		c.send(false, c.sseq+60, layers.TCP{ACK: true, FIN: true}, text[60:])
		c.after(7)
		c.server(text[:60])
		c.sseq += uint32(len(text)-60) + 1
		c.clientFIN()
		c.serverACK()
	}, []Expected{exchange(1, 200, 5, 7, len(answer(200, 100)))}},
	{"keep_alive_probes", func(c *conversation) {
		c.client(request(1))
		c.after(20)
		c.clientAt(-1, "")
		c.serverAt(-1, "\x00")
		c.clientACK()
		c.after(30)
		c.server(answer(200, 3))
		c.after(40)
		c.clientAt(-1, "\x00")
		c.serverACK()
		c.next()
	}, []Expected{exchange(1, 200, 30, 30, len(answer(200, 3))), nextTruth}},
	{"lost_last_chunk", func(c *conversation) {
		c.client(request(1))
		c.after(5)
		c.server(chunkedHead + "5\r\nhello\r\n")
		c.sseq += 5
		c.next()
	}, []Expected{{Trace: 1, Status: 200, Flags: []string{"packets_missing"}}, nextTruth}},
	{"lost_request", func(c *conversation) {
		c.client(request(1))
		c.after(5)
		c.server(answer(200, 3))
		c.cseq += uint32(len(request(3))) // passed elsewhere
		c.after(50)
		c.server(answer(500, 20))
		c.clientACK()
		c.next()
	}, []Expected{exchange(1, 200, 5, 5, len(answer(200, 3))), nextTruth}},
	{"lost_body_part", func(c *conversation) {
		text := answer(200, 2000)
		c.client(request(1))
		c.after(5)
		c.server(text[:500])
		c.sseq += 500
		c.server(text[1000:])
		c.next()
	}, []Expected{{Trace: 1, Status: 200, Flags: []string{"packets_missing"}}, nextTruth}},
	{"lost_answer_end_and_request", func(c *conversation) {
		text := answer(200, 2000)
		c.client(request(1))
		c.after(5)
		c.server(text[:500])
		c.sseq += uint32(len(text) - 500)
		c.cseq += 150
		c.after(50)
		c.server(answer(500, 20)) // to the lost request
		c.clientACK()
		c.next()
	}, []Expected{{Trace: 1, Status: 200, Flags: []string{"packets_missing"}}, nextTruth}},
	{"foreign_reset", func(c *conversation) {
		c.client(request(1))
		c.after(5)
		c.send(false, c.sseq-400_000_000, layers.TCP{ACK: true, RST: true}, "")
		c.after(9)
		c.server(answer(200, 3))
		c.next()
	}, []Expected{exchange(1, 200, 9, 9, len(answer(200, 3))), nextTruth}},
	{"middle_of_answer", func(c *conversation) {
		c.packets = nil // no handshake
		c.server("HTTP/1.1 500 x\r\nContent-Length: 900\r\n\r\n")
		c.now = requestAt
		c.client(request(1))
		c.after(5)
		c.server(answer(200, 3))
		c.next()
	}, []Expected{exchange(1, 200, 5, 5, len(answer(200, 3))), nextTruth}},
}
