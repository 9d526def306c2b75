// SPDX-License-Identifier: Apache-2.0

package faults

import (
	"bytes"
	"net/netip"
	"slices"
	"sync"
	"time"
)

// maxKept is how much of a segment's data a recorder keeps: enough for the trace
// context in the head of a request.
const maxKept = 4096

// recorder records the segments that passed an interface. The zero value is ready.
type recorder struct {
	mu       sync.Mutex
	segments []segment
}

// record records a segment; pass it to openCapture.
func (r *recorder) record(s segment) {
	s.Data = bytes.Clone(s.Data[:min(len(s.Data), maxKept)])
	r.mu.Lock()
	defer r.mu.Unlock()
	r.segments = append(r.segments, s)
}

// await returns when the first byte of a segment has been recorded, and with it all that
// passed before; or after the timeout.
func (r *recorder) await(s segment, timeout time.Duration) {
	for limit := time.Now().Add(timeout); !r.has(s) && time.Now().Before(limit); {
		time.Sleep(100 * time.Microsecond)
	}
}

// has reports whether the first byte of a segment has been recorded. The interface may have
// seen a larger segment than the one that is looked for.
func (r *recorder) has(s segment) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.ContainsFunc(r.segments, func(of segment) bool {
		return of.Src == s.Src && of.Dst == s.Dst && seqAfter(of.end(), s.Seq) && !seqAfter(of.Seq, s.Seq)
	})
}

// message is a request or a response: a range of one direction of a connection.
type message struct {
	Src, Dst netip.AddrPort
	// From and To are the sequence numbers of its first byte and after its last.
	From, To uint32
}

// length returns the number of bytes.
func (m message) length() int { return int(m.To - m.From) }

// exchange is a request and its response.
type exchange struct{ Request, Response message }

// exchangesOf returns the exchanges with a trace ID in the head of their request, in
// order. ports are the ports of the servers.
func (r *recorder) exchangesOf(traceID string, ports ...uint16) []exchange {
	r.mu.Lock()
	defer r.mu.Unlock()
	type ends struct{ client, server netip.AddrPort }
	open := map[ends]*openExchange{}
	var all []*openExchange
	for _, s := range r.segments {
		request := slices.Contains(ports, s.Dst.Port())
		if !request && !slices.Contains(ports, s.Src.Port()) {
			continue
		}
		key := ends{s.Src, s.Dst}
		if !request {
			key = ends{s.Dst, s.Src}
		}
		switch current := open[key]; {
		case request && (current == nil || current.hasResponse() && seqAfter(s.end(), current.Request.To)):
			open[key] = newOpenExchange(s)
			all = append(all, open[key])
		case request:
			current.addRequest(s)
		case current != nil:
			current.addResponse(s)
		}
	}
	var found []exchange
	for _, t := range all {
		if bytes.Contains(t.head, []byte(traceID)) {
			found = append(found, t.exchange)
		}
	}
	return found
}

// passed returns when all bytes of a message had passed, each for the first time. ok
// is false when some have not.
func (r *recorder) passed(m message) (at time.Time, ok bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	var got byteSet
	for _, s := range r.segments {
		if s.Src != m.Src || s.Dst != m.Dst {
			continue
		}
		if got.add(int(int32(s.Seq-m.From)), int(int32(s.end()-m.From))); got.has(m.length()) {
			return s.Time, true
		}
	}
	return time.Time{}, false
}

// began returns when the first segment of a message passed.
func (r *recorder) began(m message) (at time.Time, ok bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, s := range r.segments {
		if s.Src == m.Src && s.Dst == m.Dst && seqAfter(s.end(), m.From) && seqAfter(m.To, s.Seq) {
			return s.Time, true
		}
	}
	return time.Time{}, false
}

// openExchange is an exchange in progress, with the head of its request.
type openExchange struct {
	exchange
	head []byte
}

func newOpenExchange(s segment) *openExchange {
	return &openExchange{exchange: exchange{Request: newMessage(s)}, head: bytes.Clone(s.Data)}
}

func newMessage(s segment) message { return message{Src: s.Src, Dst: s.Dst, From: s.Seq, To: s.end()} }

func (t *openExchange) hasResponse() bool { return t.Response.Src.IsValid() }

// addRequest adds a segment to the request. A retransmission adds nothing.
func (t *openExchange) addRequest(s segment) {
	if !seqAfter(s.end(), t.Request.To) {
		return
	}
	t.Request.To = s.end()
	if len(t.head) < 2*maxKept {
		t.head = append(t.head, s.Data...)
	}
}

func (t *openExchange) addResponse(s segment) {
	switch {
	case !t.hasResponse():
		t.Response = newMessage(s)
	case seqAfter(s.end(), t.Response.To):
		t.Response.To = s.end()
	}
}

// seqAfter reports whether sequence number a is after b.
func seqAfter(a, b uint32) bool { return int32(a-b) > 0 }

// byteSet is a set of bytes, as disjoint intervals [from, to).
type byteSet [][2]int

// add adds the bytes [from, to).
func (c *byteSet) add(from, to int) {
	var rest byteSet
	for _, have := range *c {
		if have[1] < from || have[0] > to {
			rest = append(rest, have)
			continue
		}
		from, to = min(from, have[0]), max(to, have[1])
	}
	*c = append(rest, [2]int{from, to})
}

// has reports whether the set has the first n bytes.
func (c byteSet) has(n int) bool {
	return slices.ContainsFunc(c, func(have [2]int) bool { return have[0] <= 0 && have[1] >= n })
}
