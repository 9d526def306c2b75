// SPDX-License-Identifier: Apache-2.0

package cases

import (
	"fmt"
	"path/filepath"
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
		c.client(request(1))
		c.after(5)
		head, body := answer(200, 100)[:40], answer(200, 100)[40:]
		c.server(head)
		c.clientACK()
		c.after(3005)
		c.server(body)
		c.clientACK()
	}, []Expected{exchange(1, 200, 5, 3005, len(answer(200, 100)))}},
}

// ownCases writes the project's own captures to a directory.
func ownCases(dir string) (cases []Case, err error) {
	for _, o := range ownCaptures {
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
