// SPDX-License-Identifier: Apache-2.0

// Package decode turns packets, as tcpdump captured them, into the exchanges
// that a probe would have seen at the same place. It reads request heads with
// internal/tracecontext and shares no code with the BPF programs, so that one
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

// Options says which packets a Decoder looks at, and how far into them.
type Options struct {
	// Ports are the TCP ports to look at, at either end; empty: all.
	Ports []uint16
	// PrefixWindow is the number of bytes of a request's first segment that
	// are searched for a trace context; 0: DefaultPrefixWindow.
	PrefixWindow int
	// Deep searches the first DeepWindow bytes (0: DefaultDeepWindow) of the
	// request, over as many segments as it takes.
	Deep       bool
	DeepWindow int
	// Headers are the configured names.
	Headers []tracecontext.ContextHeader
}

// Windows in bytes, as those of the probe.
const (
	DefaultPrefixWindow = 1024
	DefaultDeepWindow   = 65536
)

// Packet is one captured packet.
type Packet struct {
	Time time.Time
	Link layers.LinkType
	// Data is what was captured; Length is the packet's size on the wire, which
	// is more when the capture's snapshot length cut it. 0: as long as Data.
	Data   []byte
	Length int
	// Source tells the interfaces of a capture apart (pcapng: the interface
	// ID). Each is a capture point of its own, as are those that the Linux
	// cooked header v2 names in the packet.
	Source int
}

// Decoder follows the TCP connections in a sequence of packets. It is not safe for concurrent use.
type Decoder struct {
	opts        Options
	emit        func(observe.Observation)
	frames      *frameReader
	connections map[flow]*connection
	counts      counts
}

// New returns a Decoder that calls emit for each exchange as it ends.
func New(opts Options, emit func(observe.Observation)) *Decoder {
	opts.PrefixWindow = cmp.Or(opts.PrefixWindow, DefaultPrefixWindow)
	opts.DeepWindow = cmp.Or(opts.DeepWindow, DefaultDeepWindow)
	d := &Decoder{opts: opts, frames: newFrameReader(), connections: map[flow]*connection{}}
	d.emit = func(x observe.Observation) {
		d.counts.exchanges++
		emit(x)
	}
	return d
}

// walkOptions are those for a request head.
func (d *Decoder) walkOptions() tracecontext.Options {
	opts := tracecontext.Options{Window: d.opts.PrefixWindow, Headers: d.opts.Headers}
	if d.opts.Deep {
		opts.Window, opts.MaxLine = d.opts.DeepWindow, tracecontext.DeepMaxLine
	}
	return opts
}

// Packet takes the next packet. What cannot be used is counted, see Counters.
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

// Flush ends what is open, as at the end of a capture, oldest request first.
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

// flow names a connection at a capture point, in both directions: its ends
// are in ascending order.
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
