// SPDX-License-Identifier: Apache-2.0

package decode

import (
	"strings"
	"testing"

	"github.com/gopacket/gopacket/layers"

	"github.com/layertrace/layertrace/internal/observe"
)

// FuzzSegments passes segments of two fixed streams, or of other bytes, in any order,
// with any flags and acknowledgements, and checks what must always hold. Three bytes are
// a segment: flags, position and length.
func FuzzSegments(f *testing.F) {
	requests := post("first") + get + strings.Replace(get, "GET /x", "CONNECT a:1", 1) + "\r\n" + get
	responses := "HTTP/1.1 100 Continue\r\n\r\n" + respond(200, 20) + "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n" + respond(404, 3)
	f.Add([]byte{1, 0, 0, 0, 0, 200, 4, 0, 100, 0, 50, 200, 4, 25, 200})
	f.Add([]byte{0, 0, 255, 4, 0, 255, 12, 100, 9, 36, 0, 0})
	f.Add([]byte{0, 10, 255, 4, 30, 255, 68, 3, 90, 0, 0, 20, 4, 0, 40})
	f.Fuzz(func(t *testing.T, script []byte) {
		if len(script) > 3000 {
			return
		}
		c := newTalk(t, Options{All: true})
		reported := uint64(0)
		c.d.emit = func(x observe.Observation) {
			reported++
			switch {
			case x.Request.Packets == 0 || x.Request.First > x.Request.Last || x.Response.First > x.Response.Last:
				t.Errorf("times of %+v", x)
			case x.Response.Packets > 0 && x.Response.First < x.Request.First:
				t.Errorf("a negative duration: %+v", x)
			case (x.Flags&noResponse != 0) != (x.Response.Packets == 0):
				t.Errorf("response %+v, flags %v", x.Response, x.Flags.Names())
			case x.Status != 0 && (x.Status < 100 || x.Status > 599 || isInterim(x.Status)):
				t.Errorf("status %d", x.Status)
			}
		}
		for ; len(script) >= 3; script = script[3:] {
			flags, at, size := script[0], 2*int(script[1]), int(script[2])
			from, to, text, seq, ack := clientEnd, serverEnd, requests, c.cseq, c.sseq
			if flags&4 != 0 {
				from, to, text, seq, ack = to, from, responses, ack, seq
			}
			at = min(at, len(text))
			text = text[at:min(at+size, len(text))]
			if flags&64 != 0 {
				text = strings.Repeat("\x00", size)
			}
			tcp := layers.TCP{
				SYN: flags&1 != 0, RST: flags&2 != 0 && flags&32 != 0, FIN: flags&8 != 0, ACK: flags&1 == 0 || flags&16 != 0,
				Seq: seq + uint32(at), Ack: ack + uint32(size)*uint32(flags>>4),
			}
			if flags&128 != 0 {
				c.now -= min(c.now, 5000)
			}
			c.packet(from, to, tcp, text)
		}
		c.d.Flush()
		for _, connection := range c.d.connections {
			if held := connection.toServer.held + connection.toClient.held; held != 0 {
				t.Errorf("%d bytes are held after the end", held)
			}
		}
		for _, counter := range c.d.Counters() {
			if counter.Name == "requests" && counter.Value != reported {
				t.Errorf("%d requests, %d exchanges", counter.Value, reported)
			}
		}
	})
}
