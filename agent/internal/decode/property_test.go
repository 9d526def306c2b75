// SPDX-License-Identifier: Apache-2.0

package decode

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/gopacket/gopacket"
	"github.com/gopacket/gopacket/layers"

	"github.com/layertrace/layertrace/internal/observe"
)

// The conversations of these tests are random, and their truth is known from how they are
// made: each byte belongs to a message, and passes first at a known time.

// Numbers of conversations, and the first of their seeds.
const (
	orderSeeds = 500
	lossSeeds  = 1000
)

// written is one exchange of a random conversation.
type written struct {
	trace    int
	sampled  bool
	status   int
	path     string
	request  [2]int // range of its bytes in the client's stream
	response [2]int // range of the final response in the server's stream
}

// flight is a segment of a random conversation.
type flight struct {
	fromClient bool
	at, size   int // in its stream
	ack        int // bytes of the other stream
	fin        bool
}

// randomTalk is a random conversation.
type randomTalk struct {
	random         *rand.Rand
	client, server []byte
	exchanges      []written
	flights        []flight
	// closes: the last response ends with the connection.
	closes bool
	// evil: bodies look like messages.
	evil bool
}

func (r *randomTalk) chance(percent int) bool { return r.random.IntN(100) < percent }

func (r *randomTalk) body() string {
	if r.evil && r.chance(30) {
		return []string{
			"GET /evil HTTP/1.1\r\n" + traceLine + "\r\n", "HTTP/1.1 299 evil\r\nContent-Length: 7\r\n\r\n",
			"\r\n\r\nHTTP/1.1 100 evil\r\n\r\n", "0\r\n\r\n",
		}[r.random.IntN(4)]
	}
	return strings.Repeat("b", r.random.IntN(3000))
}

// chunked encodes a body in random chunks.
func (r *randomTalk) chunked(body string) string {
	var out strings.Builder
	for body != "" {
		n := 1 + r.random.IntN(len(body))
		fmt.Fprintf(&out, "%x\r\n%s\r\n", n, body[:n])
		body = body[n:]
	}
	out.WriteString("0\r\n")
	if r.chance(30) {
		out.WriteString("X-Trailer: 1\r\n")
	}
	return out.String() + "\r\n"
}

func (r *randomTalk) writeRequest(trace int) (method string) {
	w := written{trace: trace, sampled: r.chance(80), path: fmt.Sprintf("/%d", trace), status: 300 + trace, request: [2]int{len(r.client)}}
	if w.status == 304 {
		w.status = 200
	}
	method = []string{"GET", "POST", "HEAD", "POST"}[r.random.IntN(4)]
	text := fmt.Sprintf("%s %s?q=1 HTTP/1.1\r\nHost: a\r\nX-Pad: %s\r\n", method, w.path, strings.Repeat("p", r.random.IntN(400)))
	if w.sampled {
		text += fmt.Sprintf("traceparent: 00-%032x-%016x-01\r\n", trace, trace)
	}
	switch body := r.body(); {
	case method != "POST":
		text += "\r\n"
	case r.chance(50):
		text += fmt.Sprintf("Content-Length: %d\r\n\r\n%s", len(body), body)
	default:
		text += "Transfer-Encoding: chunked\r\n\r\n" + r.chunked(body)
	}
	r.client = append(r.client, text...)
	w.request[1] = len(r.client)
	r.exchanges = append(r.exchanges, w)
	return method
}

func (r *randomTalk) writeResponse(w *written, method string, last bool) {
	for r.chance(20) {
		r.server = append(r.server, "HTTP/1.1 103 Early Hints\r\nLink: </"+strings.Repeat("l", r.random.IntN(300))+">\r\n\r\n"...)
	}
	w.response[0] = len(r.server)
	text := fmt.Sprintf("HTTP/1.1 %d x\r\nServer: s\r\n", w.status)
	switch body := r.body(); {
	case method == "HEAD":
		text += "Content-Length: 999\r\n\r\n"
	case last && r.closes:
		text += "Connection: close\r\n\r\n" + body
	case r.chance(50):
		text += fmt.Sprintf("Content-Length: %d\r\n\r\n%s", len(body), body)
	default:
		text += "Transfer-Encoding: chunked\r\n\r\n" + r.chunked(body)
	}
	r.server = append(r.server, text...)
	w.response[1] = len(r.server)
}

// send cuts what was written to a stream since a position into segments.
func (r *randomTalk) send(fromClient bool, from int) {
	text, ack := r.server, len(r.client)
	if fromClient {
		text, ack = r.client, len(r.server)
	}
	most := []int{1, 40, 300, 1448, 9000}[r.random.IntN(5)]
	if len(text)-from > 2000 {
		most = max(most, 300)
	}
	for from < len(text) {
		n := min(1+r.random.IntN(most), len(text)-from)
		r.flights = append(r.flights, flight{fromClient: fromClient, at: from, size: n, ack: ack})
		from += n
	}
}

// newRandomTalk writes a conversation of some exchanges, of which some are pipelined.
func newRandomTalk(random *rand.Rand, evil bool) *randomTalk {
	r := &randomTalk{random: random, evil: evil}
	r.closes = r.chance(30)
	count := 1 + random.IntN(6)
	for trace := 1; trace <= count; {
		together := 1
		if r.chance(25) {
			together = min(1+random.IntN(4), count-trace+1)
		}
		from := len(r.client)
		var methods []string
		for n := range together {
			methods = append(methods, r.writeRequest(trace+n))
		}
		r.send(true, from)
		from = len(r.server)
		for n := range together {
			r.writeResponse(&r.exchanges[trace+n-1], methods[n], trace+n == count)
		}
		r.send(false, from)
		// The client acknowledges.
		r.flights = append(r.flights, flight{fromClient: true, at: len(r.client), ack: len(r.server)})
		trace += together
	}
	r.flights = append(r.flights,
		flight{at: len(r.server), ack: len(r.client), fin: true},
		flight{fromClient: true, at: len(r.client), ack: len(r.server) + 1, fin: true})
	return r
}

// disturb changes the order of segments, and repeats some, as networks and captures do.
func (r *randomTalk) disturb() {
	for i := range r.flights[1:] {
		if r.chance(15) && !r.flights[i].fin && !r.flights[i+1].fin {
			r.flights[i], r.flights[i+1] = r.flights[i+1], r.flights[i]
		}
	}
	for range r.random.IntN(4) {
		copied := r.random.IntN(len(r.flights))
		at := copied + r.random.IntN(len(r.flights)-copied)
		again := r.flights[copied]
		if again.size > 1 && r.chance(50) { // cut in another way
			again.size = 1 + r.random.IntN(again.size)
		}
		if !again.fin {
			r.flights = slices.Insert(r.flights, at+1, again)
		}
	}
}

// play passes the segments to a decoder, 1 µs apart, and returns the times at which each
// byte passed first. Segments in lost are left out.
func (r *randomTalk) play(t *testing.T, d *Decoder, lost map[int]bool) (client, server []uint64) {
	client, server = make([]uint64, len(r.client)), make([]uint64, len(r.server))
	const cseq, sseq = uint32(0xfffffe00), uint32(0xffffff00) // both wrap
	now := uint64(1000)
	send := func(fromClient bool, tcp layers.TCP, payload []byte) {
		from, to := clientEnd, serverEnd
		if !fromClient {
			from, to = to, from
		}
		tcp.SrcPort, tcp.DstPort = layers.TCPPort(from.Port()), layers.TCPPort(to.Port())
		ip := &layers.IPv4{Version: 4, TTL: 64, Protocol: layers.IPProtocolTCP, SrcIP: from.Addr().AsSlice(), DstIP: to.Addr().AsSlice()}
		d.Packet(Packet{Time: time.Unix(0, int64(now)), Link: layers.LinkTypeRaw, Data: serialize(t, ip, &tcp, gopacket.Payload(payload))})
		now += 1000
	}
	send(true, layers.TCP{SYN: true, Seq: cseq - 1}, nil)
	send(false, layers.TCP{SYN: true, ACK: true, Seq: sseq - 1, Ack: cseq}, nil)
	for i, f := range r.flights {
		stream, times, seq, ack := r.server, server, sseq, cseq
		if f.fromClient {
			stream, times, seq, ack = r.client, client, cseq, sseq
		}
		if lost[i] {
			now += 1000
			continue
		}
		for b := f.at; b < f.at+f.size; b++ {
			if times[b] == 0 {
				times[b] = now
			}
		}
		send(f.fromClient, layers.TCP{ACK: true, FIN: f.fin, Seq: seq + uint32(f.at), Ack: ack + uint32(f.ack)}, stream[f.at:f.at+f.size])
	}
	d.Flush()
	return client, server
}

// extent returns first and last time and the number of the bytes of a range that passed.
func extent(times []uint64, in [2]int) (m observe.Message) {
	for _, at := range times[in[0]:in[1]] {
		if at == 0 {
			continue
		}
		if m.First == 0 || at < m.First {
			m.First = at
		}
		m.Last = max(m.Last, at)
		m.Bytes++
	}
	return m
}

// differs returns how an exchange differs from what was written, "" if it does not.
func (w *written) differs(x *observe.Observation, client, server []uint64) string {
	var wrong []string
	request, response := extent(client, w.request), extent(server, w.response)
	for _, m := range []struct {
		name      string
		got, want observe.Message
	}{{"request", x.Request, request}, {"response", x.Response, response}} {
		m.got.Packets = 0
		if m.name == "response" && x.Flags&outOfOrder != 0 && m.want.First < request.First && m.want.First != 0 {
			continue // an answer before its question: captures do that
		}
		if m.got != m.want {
			wrong = append(wrong, fmt.Sprintf("%s %+v, want %+v", m.name, m.got, m.want))
		}
	}
	if x.Status != w.status {
		wrong = append(wrong, fmt.Sprintf("status %d, want %d", x.Status, w.status))
	}
	if x.Path != w.path {
		wrong = append(wrong, fmt.Sprintf("path %s, want %s", x.Path, w.path))
	}
	return strings.Join(wrong, "; ")
}

func (r *randomTalk) describe(lost map[int]bool) string {
	var out strings.Builder
	for i, f := range r.flights {
		fmt.Fprintf(&out, "\n%d: client %v, %d+%d, ack %d, fin %v, lost %v", i+2, f.fromClient, f.at, f.size, f.ack, f.fin, lost[i])
	}
	for _, w := range r.exchanges {
		fmt.Fprintf(&out, "\n%+v", w)
	}
	return out.String()
}

// TestRandomConversations: in whatever segments, order and repetition the bytes pass,
// each exchange has its own messages, with exact times and sizes.
func TestRandomConversations(t *testing.T) {
	for seed := range uint64(orderSeeds) {
		r := newRandomTalk(rand.New(rand.NewPCG(seed, 1)), true)
		if seed%3 > 0 {
			r.disturb()
		}
		got := map[string]observe.Observation{}
		d := New(Options{All: true}, func(x observe.Observation) { got[x.Path] = x })
		client, server := r.play(t, d, nil)
		if len(got) != len(r.exchanges) {
			t.Errorf("seed %d: %d exchanges, want %d", seed, len(got), len(r.exchanges))
		}
		for _, w := range r.exchanges {
			x := got[w.path]
			if why := w.differs(&x, client, server); why != "" || x.Flags&observe.Cut != 0 || (x.Context.TraceID[15] == byte(w.trace)) != w.sampled {
				t.Errorf("seed %d: exchange %d: %s; flags %v", seed, w.trace, why, x.Flags.Names())
			}
		}
		if t.Failed() {
			t.Fatal(r.describe(nil))
		}
	}
}

// TestRandomLoss: the capture has lost segments that the peers have received. What is
// reported is right, or flagged; no response is given to another request.
func TestRandomLoss(t *testing.T) {
	right, flagged := 0, 0
	for seed := range uint64(lossSeeds) {
		random := rand.New(rand.NewPCG(seed, 2))
		r := newRandomTalk(random, false)
		if seed%3 == 0 {
			r.disturb()
		}
		lost := map[int]bool{}
		for range 1 + random.IntN(4) {
			lost[random.IntN(len(r.flights))] = true
		}
		got := map[string]observe.Observation{}
		d := New(Options{}, func(x observe.Observation) { got[x.Path] = x })
		client, server := r.play(t, d, lost)
		for _, w := range r.exchanges {
			x, ok := got[w.path]
			delete(got, w.path)
			if !ok {
				continue // its head was not captured
			}
			if x.Status != 0 && x.Status != w.status {
				t.Errorf("seed %d: exchange %d has the response with status %d, want %d", seed, w.trace, x.Status, w.status)
			}
			whole := extent(client, w.request).Bytes == uint64(w.request[1]-w.request[0]) &&
				extent(server, w.response).Bytes == uint64(w.response[1]-w.response[0])
			why := w.differs(&x, client, server)
			switch {
			case x.Flags&(observe.Cut|noResponse) != 0:
				flagged++
			case why != "" || !whole:
				t.Errorf("seed %d: exchange %d is not flagged (%v), whole %v: %s", seed, w.trace, x.Flags.Names(), whole, why)
			default:
				right++
			}
		}
		for path := range got {
			t.Errorf("seed %d: an exchange %s that was not written", seed, path)
		}
		if t.Failed() {
			t.Fatal(r.describe(lost))
		}
	}
	t.Logf("%d exchanges right, %d flagged", right, flagged)
	if right < flagged {
		t.Errorf("%d exchanges right, %d flagged: too few are known", right, flagged)
	}
}
