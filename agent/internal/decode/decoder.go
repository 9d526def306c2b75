// SPDX-License-Identifier: Apache-2.0

// Package decode turns captured packets into the exchanges that a probe would
// have seen at the same point. It reads request heads with
// internal/tracecontext and shares no code with the BPF programs, so that each
// can be checked against the other.
package decode

import (
	"cmp"
	"net/netip"
	"slices"
	"time"

	"github.com/gopacket/gopacket/layers"

	"github.com/layertrace/layertrace/internal/observe"
	"github.com/layertrace/layertrace/internal/tracecontext"
)

// Options select packets, and how much of a request to search.
type Options struct {
	// Ports are the TCP ports to decode, at either end; empty: all.
	Ports []uint16
	// PrefixWindow is the number of bytes of a request's first segment to
	// search for a trace context; 0: tracecontext.DefaultPrefixWindow.
	PrefixWindow int
	// Deep searches the first DeepWindow bytes of the request, in any number of
	// segments; 0: tracecontext.DefaultDeepWindow.
	Deep       bool
	DeepWindow int
	// Headers are additional headers with a trace context.
	Headers []tracecontext.ContextHeader
	// Formats are those to read, the most preferred one first; none: all.
	Formats []tracecontext.Format
}

// Packet is one captured packet.
type Packet struct {
	Time time.Time
	Link layers.LinkType
	// Data is the captured part; Length is the packet's size on the wire, more
	// than that if the snapshot length cut it. 0: the length of Data.
	Data   []byte
	Length int
	// Source is the interface of the capture (pcapng: the interface ID). Each
	// is a capture point, as is each interface in a Linux cooked header v2.
	Source int
}

// Decoder tracks the TCP connections in a sequence of packets. It is not safe
// for concurrent use.
type Decoder struct {
	opts        Options
	emit        func(observe.Observation)
	frames      *frameReader
	connections map[flow]*connection
	counts      counts
}

// New returns a Decoder that calls emit at the end of each exchange.
func New(opts Options, emit func(observe.Observation)) *Decoder {
	opts.PrefixWindow = cmp.Or(opts.PrefixWindow, tracecontext.DefaultPrefixWindow)
	opts.DeepWindow = cmp.Or(opts.DeepWindow, tracecontext.DefaultDeepWindow)
	d := &Decoder{opts: opts, frames: newFrameReader(), connections: map[flow]*connection{}}
	d.emit = func(x observe.Observation) {
		d.counts.exchanges++
		emit(x)
	}
	return d
}

// Packet decodes the next packet. Packets that cannot be used are counted, see
// Counters.
func (d *Decoder) Packet(p Packet) {
	d.counts.packets++
	s, ok := d.frames.read(p, &d.counts)
	if !ok {
		return
	}
	if len(d.opts.Ports) > 0 && !slices.Contains(d.opts.Ports, s.source.Port()) && !slices.Contains(d.opts.Ports, s.destination.Port()) {
		d.counts.otherPort++
		return
	}
	d.segment(s)
}

// Flush ends open exchanges, as at the end of a capture, oldest request first.
func (d *Decoder) Flush() {
	var open []*connection
	for _, c := range d.connections {
		if c.current != nil {
			open = append(open, c)
		}
	}
	slices.SortFunc(open, func(a, b *connection) int {
		return cmp.Or(
			cmp.Compare(a.current.Request.First, b.current.Request.First),
			cmp.Compare(a.current.Interface, b.current.Interface),
			a.current.Client.Compare(b.current.Client),
			a.current.Server.Compare(b.current.Server))
	})
	for _, c := range open {
		c.end(0)
	}
}

// searchOptions are the options of the search in a request head.
func (d *Decoder) searchOptions() tracecontext.Options {
	opts := tracecontext.Options{Window: d.opts.PrefixWindow, Headers: d.opts.Headers, Preferred: d.opts.Formats}
	if d.opts.Deep {
		opts.Window, opts.MaxLine = d.opts.DeepWindow, tracecontext.DeepMaxLine
	}
	return opts
}

// flow identifies a connection at a capture point. Both directions have the
// same flow: the ends are in ascending order.
type flow struct {
	point point
	ends  [2]netip.AddrPort
}

func (s *segment) flow() flow {
	if s.source.Compare(s.destination) < 0 {
		return flow{s.point, [2]netip.AddrPort{s.source, s.destination}}
	}
	return flow{s.point, [2]netip.AddrPort{s.destination, s.source}}
}

// Counter is the number of packets, segments or exchanges of one kind.
type Counter struct {
	Name, Help string
	Value      uint64
}

type counts struct {
	packets, exchanges uint64

	otherLink, undecodable, notTCP, fragment, cut, otherPort uint64

	requests, malformed, several, multiSegment, optionLost uint64
	outcomes                                               [tracecontext.Unparsable + 1]uint64
	requestInResponse, lateRequests                        uint64
	responseWithoutRequest, responseOfOther                uint64
	retransmits, outOfOrder, missed, pipelined, untracked  uint64
}

// Counters returns the numbers of all that was decoded or skipped.
func (d *Decoder) Counters() []Counter {
	c := &d.counts
	return []Counter{
		{"packets", "packets read", c.packets},
		{"exchanges", "exchanges reported", c.exchanges},
		{"requests", "segments that start a request", c.requests},
		{"found", "requests with a sampled trace context", c.outcomes[tracecontext.Found]},
		{"unsampled", "requests with sampling denied", c.outcomes[tracecontext.Unsampled]},
		{"no_context", "requests without a trace context", c.outcomes[tracecontext.None]},
		{"truncated", "requests whose head extends beyond the window", c.outcomes[tracecontext.Truncated]},
		{"unparsable", "segments that start like a request but have no HTTP/1 request line, treated as data", c.outcomes[tracecontext.Unparsable]},
		{"malformed_context", "trace headers with a malformed value", c.malformed},
		{"several_contexts", "requests with trace contexts of different IDs; see --context-format", c.several},
		{"multi_segment", "trace contexts found after the first segment", c.multiSegment},
		{"option_lost", "exchanges with the TCP option on the SYN only", c.optionLost},
		{"pipelined", "requests sent before the response to the previous one", c.pipelined},
		{"retransmits", "segments seen again", c.retransmits},
		{"out_of_order", "segments that leave or fill a gap", c.outOfOrder},
		{"missed", "acknowledged gaps: packets missing in the capture", c.missed},
		{"late_request", "requests seen after one that was sent later, skipped", c.lateRequests},
		{"request_in_response", "segments from a server that start like a request, treated as data", c.requestInResponse},
		{"response_without_request", "responses on connections without a request", c.responseWithoutRequest},
		{"response_of_other", "responses to pipelined requests that were reported before", c.responseOfOther},
		{"untracked_data", "segments with payload on unknown connections", c.untracked},
		{"other_port", "segments on other ports", c.otherPort},
		{"not_tcp", "packets other than TCP over IPv4 or IPv6", c.notTCP},
		{"fragment", "IP fragments, skipped", c.fragment},
		{"cut", "segments cut by the snapshot length", c.cut},
		{"undecodable", "packets with an invalid header", c.undecodable},
		{"other_link", "packets of an unknown link type", c.otherLink},
	}
}
