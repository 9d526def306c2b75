// SPDX-License-Identifier: Apache-2.0

// Package decode turns captured packets into the exchanges that passed. It puts the
// segments of each connection in order and reads the messages by their framing, so it is
// the reference for what a probe reports. It reads request heads with
// internal/tracecontext and shares no code with the BPF programs, so that each can be
// checked against the other.
package decode

import (
	"cmp"
	"fmt"
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
	// PrefixWindow is the number of bytes of a request's first segment to search for a
	// trace context, as an agent does; 0: the whole head, up to 64 KiB.
	PrefixWindow int
	// Deep searches the first DeepWindow bytes of the request, in any number of
	// segments, as an agent does; 0: tracecontext.DefaultDeepWindow. DeepAuto does so if
	// the window of PrefixWindow bytes (0: tracecontext.DefaultPrefixWindow) has no context.
	Deep, DeepAuto bool
	DeepWindow     int
	// Headers are additional headers with a trace context.
	Headers []tracecontext.ContextHeader
	// Formats are those to read, the most preferred one first; none: all.
	Formats []tracecontext.Format
	// All also reports requests without a sampled context.
	All bool
	// NoPaths leaves the paths of requests out.
	NoPaths bool
}

// Packet is one captured packet.
type Packet struct {
	Time time.Time
	Link layers.LinkType
	// Data is the captured part; Length is the packet's size on the wire, more
	// than that if the snapshot length cut it. 0: the length of Data.
	Data   []byte
	Length int
	// Source is the interface of the capture (pcapng: its number in the file). Each
	// is a capture point, as is each interface in a Linux cooked header v2.
	Source int
}

// Decoder tracks the TCP connections in a sequence of packets. It is not safe
// for concurrent use.
type Decoder struct {
	opts        Options
	emit        func(observe.Observation)
	connections map[flow]*connection
	counts      counts
	latest      time.Time // of all packets
	nextSweep   time.Time
}

// New returns a Decoder that calls emit for each exchange, in the order of their ends.
func New(opts Options, emit func(observe.Observation)) *Decoder {
	opts.DeepWindow = cmp.Or(opts.DeepWindow, tracecontext.DefaultDeepWindow)
	return &Decoder{opts: opts, emit: emit, connections: map[flow]*connection{}}
}

// Packet decodes the next packet. Packets that cannot be used are counted, see
// Counters.
func (d *Decoder) Packet(p Packet) {
	d.counts.packets++
	if p.Time.Before(d.latest) {
		d.counts.clockBack++
	} else {
		d.latest = p.Time
	}
	s, ok := readFrame(p, &d.counts)
	if !ok {
		return
	}
	if len(d.opts.Ports) > 0 && !slices.Contains(d.opts.Ports, s.source.Port()) && !slices.Contains(d.opts.Ports, s.destination.Port()) {
		d.counts.otherPort++
		return
	}
	d.segment(s)
	if d.latest.After(d.nextSweep) || len(d.connections) > maxConnections {
		d.sweep()
		d.nextSweep = d.latest.Add(settleTime)
	}
}

// maxConnections bounds the memory for connections. forgetTime is how long one that is
// closed, or that has nothing open, is kept to recognize late copies of its segments.
const (
	maxConnections = 1 << 17
	forgetTime     = 2 * time.Minute
)

// sweep reports exchanges that are complete, forgets connections that are over, and, if
// there are too many, those that were idle for the longest.
func (d *Decoder) sweep() {
	now := uint64(d.latest.UnixNano())
	for key, c := range d.connections {
		idle := time.Duration(now - min(now, c.last))
		if idle > settleTime {
			c.talk.settle()
		}
		if idle > forgetTime && (c.closed || c.talk.idle() && c.toServer.held+c.toClient.held == 0) {
			delete(d.connections, key)
		}
	}
	if len(d.connections) <= maxConnections {
		return
	}
	oldest := d.sorted(func(a, b *connection) int { return cmp.Compare(a.last, b.last) })
	for _, k := range oldest[:len(oldest)-maxConnections*3/4] {
		d.connections[k].end(observe.FlagEvicted)
		delete(d.connections, k)
		d.counts.evicted++
	}
}

// sorted returns the keys of the connections in an order.
func (d *Decoder) sorted(order func(a, b *connection) int) []flow {
	keys := make([]flow, 0, len(d.connections))
	for k := range d.connections {
		keys = append(keys, k)
	}
	slices.SortFunc(keys, func(a, b flow) int {
		return cmp.Or(order(d.connections[a], d.connections[b]),
			cmp.Compare(a.point.source, b.point.source),
			cmp.Compare(a.point.interfaceIndex, b.point.interfaceIndex),
			cmp.Compare(a.point.inside, b.point.inside),
			a.ends[0].Compare(b.ends[0]), a.ends[1].Compare(b.ends[1]))
	})
	return keys
}

// Flush ends open exchanges, as at the end of a capture, oldest request first.
func (d *Decoder) Flush() {
	for _, k := range d.sorted(func(a, b *connection) int { return cmp.Compare(a.talk.since(), b.talk.since()) }) {
		d.connections[k].end(0)
	}
}

// since returns the time of the first request that was not reported yet, 0 if all were.
func (t *conversation) since() (first uint64) {
	for _, list := range [][]*exchange{t.settled, t.queue} {
		for _, x := range list {
			if at := x.Request.First; !x.unseen && (first == 0 || at < first) {
				first = at
			}
		}
	}
	return first
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
	packets, exchanges, clockBack uint64

	otherLink, undecodable, notTCP, fragment, cut, otherPort uint64
	// encapsulated are the packets inside of a protocol, sealed those of them whose
	// segment was not read.
	encapsulated, sealed [encapsulations]uint64

	requests, unparsable, malformed, multiSegment uint64
	optionLost, outsideWindow, several            uint64
	outcomes                                      [tracecontext.Unparsable + 1]uint64
	requestInResponse, responseWithoutRequest     uint64
	retransmits, outOfOrder, missed               uint64
	pipelined, untracked, tunnel                  uint64
	reassemblyFull, evicted, resetIgnored         uint64
}

// Counters returns the numbers of all that was decoded or skipped.
func (d *Decoder) Counters() []Counter {
	c := &d.counts
	all := []Counter{
		{"packets", "packets read", c.packets},
		{"exchanges", "exchanges reported", c.exchanges},
		{"requests", "requests seen", c.requests},
		{"found", "requests with a sampled trace context", c.outcomes[tracecontext.Found]},
		{"unsampled", "requests with sampling denied", c.outcomes[tracecontext.Unsampled]},
		{"no_context", "requests without a trace context", c.outcomes[tracecontext.None]},
		{"truncated", "requests whose head ends after what was captured or searched of it", c.outcomes[tracecontext.Truncated]},
		{"unparsable", "segments that start like a request but have no HTTP/1 request line, treated as data", c.unparsable + c.outcomes[tracecontext.Unparsable]},
		{"outside_window", "trace contexts that an agent does not find by default", c.outsideWindow},
		{"malformed_context", "trace headers with a malformed value", c.malformed},
		{"several_contexts", "requests with trace contexts of different IDs; see --context-format", c.several},
		{"multi_segment", "trace contexts found after the first segment", c.multiSegment},
		{"option_lost", "exchanges with the TCP option on the SYN only", c.optionLost},
		{"pipelined", "requests sent before the end of the response to the previous one", c.pipelined},
		{"retransmits", "segments seen again", c.retransmits},
		{"out_of_order", "segments that leave or fill a gap", c.outOfOrder},
		{"missed", "acknowledged gaps: packets missing in the capture", c.missed},
		{"reassembly_full", "gaps skipped because too much was waiting for their bytes", c.reassemblyFull},
		{"reset_ignored", "RST segments whose sequence number is not of their connection", c.resetIgnored},
		{"evicted", "connections forgotten because there were too many", c.evicted},
		{"clock_back", "packets with a time before that of an earlier packet", c.clockBack},
		{"request_in_response", "segments from a server that start like a request, treated as data", c.requestInResponse},
		{"response_without_request", "responses to no request that was seen", c.responseWithoutRequest},
		{"untracked_data", "segments with payload outside of any message", c.untracked},
		{"tunnel", "segments with payload after CONNECT or Upgrade", c.tunnel},
		{"other_port", "segments on other ports", c.otherPort},
		{"not_tcp", "packets other than TCP over IPv4 or IPv6", c.notTCP},
		{"fragment", "IP fragments, skipped", c.fragment},
		{"cut", "segments cut by the snapshot length", c.cut},
		{"undecodable", "packets with an invalid header", c.undecodable},
		{"other_link", "packets of an unknown link type", c.otherLink},
	}
	for kind := notEncapsulated + 1; kind < encapsulations; kind++ {
		name := encapsulationTitles[kind]
		all = append(all,
			Counter{"encapsulated_" + encapsulationNames[kind], fmt.Sprintf("packets encapsulated in %s", name), c.encapsulated[kind]},
			Counter{"not_decoded_" + encapsulationNames[kind], fmt.Sprintf("packets encapsulated in %s and not decoded", name), c.sealed[kind]})
	}
	return all
}
