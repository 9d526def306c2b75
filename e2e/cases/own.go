// SPDX-License-Identifier: Apache-2.0

package cases

import (
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

// own is one of the project's own cases: how its packets are written, and the truth.
type own struct {
	name  string
	write func(*conversation)
	truth []Expected
}

// request returns a GET with a context whose trace has a number.
func request(trace int, lines ...string) string {
	return fmt.Sprintf("GET /%d HTTP/1.1\r\nHost: a\r\ntraceparent: 00-%032x-%016x-01\r\n%s\r\n", trace, trace, trace, strings.Join(lines, ""))
}

// answer returns a response with a body of some bytes.
func answer(status, body int) string {
	return fmt.Sprintf("HTTP/1.1 %d x\r\nContent-Length: %d\r\n\r\n%s", status, body, strings.Repeat("b", body))
}

// exchange returns the truth of one exchange, with times in ms after the first request.
func exchange(trace, status int, first, last float64, size int, flags ...string) Expected {
	bytes := uint64(size)
	return Expected{Trace: trace, Status: status, FirstMS: &first, LastMS: &last, ResponseBytes: &bytes, Flags: flags}
}

// after sets the time of the next packet, in ms after the first request.
func (c *conversation) after(ms float64) { c.now = requestAt + time.Duration(ms*1e6) }

// requestAt is when the first request passes: after the handshake.
const requestAt = 300 * time.Microsecond

// post returns a POST with a body.
func post(trace int, body string) string {
	head, _ := strings.CutSuffix(strings.Replace(request(trace), "GET", "POST", 1), "\r\n")
	return head + fmt.Sprintf("Content-Length: %d\r\n\r\n", len(body)) + body
}

const chunkedHead = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"

const chunks = chunkedHead + "A\r\n0123456789\r\n10;x=y\r\n0123456789abcdef\r\n0\r\nT: 1\r\n\r\n"

var ownCaptures = []own{
	{"keep_alive", func(c *conversation) {
		c.client(request(1))
		c.after(5)
		c.server(answer(200, 10))
		c.after(20)
		c.client(request(2))
		c.after(30)
		c.server(answer(404, 20))
		c.close()
	}, []Expected{exchange(1, 200, 5, 5, len(answer(200, 10))), exchange(2, 404, 30, 30, len(answer(404, 20)))}},
	{"pause_in_answer", func(c *conversation) {
		text := answer(200, 100)
		c.client(request(1))
		c.after(5)
		c.server(text[:40])
		c.clientACK()
		c.after(3005)
		c.server(text[40:])
		c.clientACK()
	}, []Expected{exchange(1, 200, 5, 3005, len(answer(200, 100)))}},
	{"chunks_with_pauses", func(c *conversation) {
		c.client(request(1))
		c.after(5)
		c.server(chunkedHead + "5\r\nfirst\r\n")
		c.after(2600)
		c.server("6\r\nsecond\r\n")
		c.after(2700)
		c.server("0\r\n\r\n")
		c.after(2800)
		c.client(request(2))
		c.after(2810)
		c.server(answer(404, 0))
	}, []Expected{exchange(1, 200, 5, 2700, len(chunkedHead)+26), exchange(2, 404, 2810, 2810, len(answer(404, 0)))}},
	{"chunk_line_split", func(c *conversation) {
		text := chunks
		c.client(request(1))
		c.after(5)
		for _, part := range []string{text[:len(chunkedHead)+1], text[len(chunkedHead)+1 : len(chunkedHead)+20], text[len(chunkedHead)+20 : len(text)-3], text[len(text)-3:]} {
			c.server(part)
		}
		c.after(20)
		c.client(request(2))
		c.after(25)
		c.server(answer(201, 3))
		c.close()
	}, []Expected{exchange(1, 200, 5, 5.3, len(chunks)), exchange(2, 201, 25, 25, len(answer(201, 3)))}},
	{"until_close", func(c *conversation) {
		const head = "HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n"
		c.client(request(1))
		c.after(5)
		c.server(head)
		c.after(40)
		c.server("body")
		c.serverFIN("")
		c.clientFIN()
	}, []Expected{exchange(1, 200, 5, 40, 42)}},
	{"head_request", func(c *conversation) {
		const text = "HTTP/1.1 200 OK\r\nContent-Length: 5000\r\n\r\n"
		c.client(strings.Replace(request(1), "GET", "HEAD", 1))
		c.after(5)
		c.server(text)
		c.after(10)
		c.client(request(2))
		c.after(15)
		c.server(answer(404, 0))
		c.close()
	}, []Expected{exchange(1, 200, 5, 5, 41), exchange(2, 404, 15, 15, len(answer(404, 0)))}},
	{"not_modified", func(c *conversation) {
		const text = "HTTP/1.1 304 Not Modified\r\nContent-Length: 5000\r\n\r\n"
		c.client(request(1))
		c.after(5)
		c.server(text)
		c.after(10)
		c.client(request(2))
		c.after(15)
		c.server(answer(404, 0))
		c.close()
	}, []Expected{exchange(1, 304, 5, 5, 51), exchange(2, 404, 15, 15, len(answer(404, 0)))}},
	{"pipelined", func(c *conversation) {
		c.client(request(1))
		c.client(request(2))
		c.client(request(3))
		c.after(5)
		c.server(answer(201, 3))
		c.after(20)
		c.server(answer(202, 4) + answer(203, 5))
		c.close()
	}, []Expected{
		exchange(1, 201, 5, 5, len(answer(201, 3))), exchange(2, 202, 20, 20, len(answer(202, 4))), exchange(3, 203, 20, 20, len(answer(203, 5))),
	}},
	{"body_end_and_next_request", func(c *conversation) {
		text := post(1, "a body of some length")
		c.client(text[:len(text)-6])
		c.client(text[len(text)-6:] + request(2))
		c.after(5)
		c.server(answer(200, 3))
		c.after(30)
		c.server(answer(503, 3))
		c.close()
	}, []Expected{exchange(1, 200, 5, 5, len(answer(200, 3))), exchange(2, 503, 30, 30, len(answer(503, 3)))}},
	{"upgrade", func(c *conversation) {
		const text = "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n"
		c.client(request(1, "Upgrade: websocket\r\n", "Connection: Upgrade\r\n"))
		c.after(5)
		c.server(text)
		c.after(50)
		c.client(request(2)) // what passes now only looks like it
		c.server(answer(500, 3))
		c.close()
	}, []Expected{exchange(1, 101, 5, 5, 77, "upgraded")}},
	{"connect", func(c *conversation) {
		c.client(strings.Replace(request(1), "GET /1", "CONNECT a.example:80", 1))
		c.after(5)
		c.server("HTTP/1.1 200 Connected\r\n\r\n")
		c.after(50)
		c.client(request(2))
		c.server(answer(500, 3))
		c.close()
	}, []Expected{exchange(1, 200, 5, 5, 26, "upgraded")}},
	{"continue", func(c *conversation) {
		text := post(1, "the body")
		c.client(text[:len(text)-8])
		c.after(2)
		c.server("HTTP/1.1 100 Continue\r\n\r\n")
		c.client(text[len(text)-8:])
		c.after(10)
		c.server(answer(201, 3))
		c.close()
	}, []Expected{exchange(1, 201, 10, 10, len(answer(201, 3)), "interim")}},
	{"no_answer", func(c *conversation) {
		c.client(request(1))
		c.after(5)
		c.serverFIN("")
		c.clientFIN()
	}, []Expected{{Trace: 1, Flags: []string{"no_response"}}}},
	{"reset_before_answer", func(c *conversation) {
		c.client(request(1))
		c.after(5)
		c.reset()
	}, []Expected{{Trace: 1, Flags: []string{"no_response", "reset"}}}},
	{"fin_in_answer", func(c *conversation) {
		text := answer(200, 1000)[:400]
		c.client(request(1))
		c.after(5)
		c.serverFIN(text)
		c.clientFIN()
	}, []Expected{exchange(1, 200, 5, 5, 400, "incomplete")}},
	{"answer_lost_in_capture", func(c *conversation) {
		c.client(request(1))
		c.serverACK()
		c.sseq += uint32(len(answer(200, 30))) // passed elsewhere
		c.after(20)
		c.client(request(2))
		c.after(25)
		c.server(answer(404, 5))
		c.close()
	}, []Expected{
		{Trace: 1, Flags: []string{"no_response", "packets_missing"}},
		exchange(2, 404, 25, 25, len(answer(404, 5))),
	}},
	{"middle_of_connection", func(c *conversation) {
		c.packets = nil // no handshake
		c.client("the rest of a body")
		c.server(answer(200, 3))
		c.now = requestAt
		c.client(request(1))
		c.after(5)
		c.server(answer(201, 5))
		c.close()
	}, []Expected{exchange(1, 201, 5, 5, len(answer(201, 5)))}},
	{"retransmitted", func(c *conversation) {
		c.client(request(1))
		c.clientAt(-len(request(1)), request(1))
		c.after(5)
		c.server(answer(200, 1000))
		c.after(205)
		c.serverAt(-len(answer(200, 1000)), answer(200, 1000))
		c.clientACK()
		c.close()
	}, []Expected{exchange(1, 200, 5, 5, len(answer(200, 1000)))}},
}

// ownCases writes the project's own captures to a directory.
func ownCases(dir string) (cases []Case, err error) {
	for _, o := range slices.Concat(ownCaptures, ownMixed) {
		c := newConversation(40000)
		c.handshake()
		o.write(c)
		name := "own_" + o.name + ".pcap"
		path := filepath.Join(dir, name)
		if err := writeCapture(path, c.packets); err != nil {
			return nil, err
		}
		cases = append(cases, Case{Name: name, Path: path, Truth: Truth{Expected: o.truth}})
	}
	return cases, nil
}
