// SPDX-License-Identifier: Apache-2.0

package tap

import (
	"bytes"
	"net/netip"
	"slices"
	"sync"
	"time"
)

// keep is how much of a segment's data a Recorder keeps: the trace context is
// in the head of a request.
const keep = 4096

// Recorder keeps what passed an interface. The zero value is ready.
type Recorder struct {
	mu       sync.Mutex
	segments []Segment
}

// Record is to be called for each segment; hand it to Open.
func (r *Recorder) Record(s Segment) {
	s.Data = bytes.Clone(s.Data[:min(len(s.Data), keep)])
	r.mu.Lock()
	defer r.mu.Unlock()
	r.segments = append(r.segments, s)
}

// Message is a request or a response: a piece of one direction of a connection.
type Message struct {
	Src, Dst netip.AddrPort
	// From and To are the sequence numbers of its first byte and behind its last.
	From, To uint32
}

// Length is the number of bytes.
func (m Message) Length() int { return int(m.To - m.From) }

// Exchange is a request and its response.
type Exchange struct{ Request, Response Message }

// Exchanges returns those whose request has the trace ID in its head, in their
// order. ports are those of the servers.
func (r *Recorder) Exchanges(traceID string, ports ...uint16) []Exchange {
	r.mu.Lock()
	defer r.mu.Unlock()
	type ends struct{ client, server netip.AddrPort }
	open := map[ends]*talk{}
	var all []*talk
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
		case request && (current == nil || current.answered() && after(s.end(), current.Request.To)):
			open[key] = begin(s)
			all = append(all, open[key])
		case request:
			current.ask(s)
		case current != nil:
			current.answer(s)
		}
	}
	var found []Exchange
	for _, t := range all {
		if bytes.Contains(t.head, []byte(traceID)) {
			found = append(found, t.Exchange)
		}
	}
	return found
}

// Passed is when the last byte of a message had passed: each byte counts when
// it came first. ok is false while some have not.
func (r *Recorder) Passed(m Message) (at time.Time, ok bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	var got cover
	for _, s := range r.segments {
		if s.Src != m.Src || s.Dst != m.Dst {
			continue
		}
		if got.add(int(int32(s.Seq-m.From)), int(int32(s.end()-m.From))); got.has(m.Length()) {
			return s.Time, true
		}
	}
	return time.Time{}, false
}

// Began is when a byte of a message passed first.
func (r *Recorder) Began(m Message) (at time.Time, ok bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, s := range r.segments {
		if s.Src == m.Src && s.Dst == m.Dst && after(s.end(), m.From) && after(m.To, s.Seq) {
			return s.Time, true
		}
	}
	return time.Time{}, false
}
