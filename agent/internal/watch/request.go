// SPDX-License-Identifier: Apache-2.0

// Package watch shows requests as they pass, one line each: `layertrace try --local`. An agent
// in the same process captures them and splits their time into layers.
//
// The order of the story is request.go (a hop to what is shown), filter.go (which), line.go
// (the texts), unread.go (what is not shown, and why), view.go (all of it, live) and keys.go
// (the terminal).
package watch

import (
	"cmp"
	"net/netip"
	"slices"
	"strings"
	"time"

	"go.opentelemetry.io/otel/trace"

	"github.com/layertrace/layertrace/agent/internal/breakdown"
	"github.com/layertrace/layertrace/internal/observe"
	"github.com/layertrace/layertrace/internal/printable"
)

// Request is one request as a line shows it.
type Request struct {
	// Time is that of its first byte.
	Time time.Time
	// Client and Server are services, else addresses.
	Client, Server string
	Method, Path   string
	// Status is 0 if no final response was seen.
	Status int
	// Duration is from the first to the last point at which this machine saw it; 0: not known,
	// as no response was seen.
	Duration time.Duration
	// TraceID is "" without a sampled trace context.
	TraceID string
	// Layers are where the time went, longest first; nil if that is not known, and NotKnown
	// says why.
	Layers   []LayerTime
	NotKnown string
	Marks    Marks
	// Flags are the names of what any capture point remarked.
	Flags []string

	key         requestKey
	first, last uint64 // when it was seen, in ns of CLOCK_MONOTONIC
}

// requestKey is what all parts of a request have in common; others on its connection may have
// it too, at other times.
type requestKey struct {
	trace  trace.TraceID
	span   trace.SpanID
	client netip.AddrPort
}

// LayerTime is the time of a request in a layer, or in several that no capture point
// separates.
type LayerTime struct {
	Layers []observe.Layer
	// Location is the service of an application or protocol stack; "" elsewhere, as all is
	// on this machine, and for several layers.
	Location string
	// Beyond: all of it passed outside of this machine, which sees neither the network there
	// nor the peer.
	Beyond bool
	Time   time.Duration
	Share  float64 // of Duration
}

// Title names the layers as explain does.
func (l *LayerTime) Title() string {
	if l.Beyond {
		return "beyond this machine"
	}
	titles := make([]string, len(l.Layers))
	for i, layer := range l.Layers {
		titles[i] = layer.Title()
	}
	return strings.Join(titles, "+")
}

// isBeyond reports whether the time of a hop in layers, in the order of the path, passed outside
// of this machine. If others precede the relay network, or the response was not seen at the
// interface, no capture point separates this machine's own time from it.
func isBeyond(h *breakdown.Hop, layers []observe.Layer) bool {
	return layers[0] == observe.RelayNetwork && slices.Contains(layers, observe.Application) &&
		h.ClientPNIC != nil && h.ClientPNIC.Response.Last != 0
}

// isPartlyBeyond reports whether no capture point separates this machine from others.
func (l *LayerTime) isPartlyBeyond() bool {
	return !l.Beyond && len(l.Layers) > 1 && slices.Contains(l.Layers, observe.RelayNetwork)
}

// Marks say what a line's times are not. Each is one character.
type Marks uint8

// Marks of a request.
const (
	// MarkCut: times are not those of the whole request.
	MarkCut Marks = 1 << iota
	// MarkGuessed: something was guessed, or is missing.
	MarkGuessed
	// MarkNoContext: without a sampled trace context, the application's time includes what
	// it calls.
	MarkNoContext
)

// marks are all marks: how they look, and what they mean.
var marks = []struct {
	mark       Marks
	text, name string
	meaning    string
}{
	{MarkCut, "!", "cut", "the end was not seen, or not all of it: times are not those of the whole request"},
	{MarkGuessed, "?", "guessed", "something was guessed or is missing, such as the end of the response or both sockets"},
	{MarkNoContext, "*", "no_context", "no sampled trace context: what the application calls counts as its own time"},
}

// requestsOf returns the requests of a trace. cut: some of what was seen was left out.
func requestsOf(tree *breakdown.Tree, cut bool, wall func(uint64) time.Time) []Request {
	all := make([]Request, 0, len(tree.Hops))
	for _, h := range tree.Hops {
		all = append(all, requestOf(h, cut, wall))
	}
	return all
}

func requestOf(h *breakdown.Hop, cut bool, wall func(uint64) time.Time) Request {
	var r Request
	var flags observe.Flags
	var first, last uint64
	traced := false
	var client, server netip.AddrPort
	for o := range h.Each {
		start, end := o.Extent()
		if first == 0 || start < first {
			first = start
		}
		last = max(last, end)
		flags |= o.Flags
		traced = traced || o.HasContext()
		r.Method, r.Path = cmp.Or(r.Method, o.Method), cmp.Or(r.Path, o.Path)
		r.Status = cmp.Or(r.Status, o.Status)
		if !client.IsValid() {
			client, server = o.Client, o.Server
		}
	}
	r.key, r.first, r.last = requestKey{h.TraceID, h.SpanID, client}, first, last
	r.Time = wall(first)
	r.Client = printable.Text(cmp.Or(h.ClientService(), addressOf(client.Addr())))
	r.Server = printable.Text(cmp.Or(h.ServerService(), server.String()))
	r.Method, r.Path = printable.Text(r.Method), printable.Text(r.Path)
	r.Flags = flags.Names()
	r.Duration = time.Duration(h.Total)
	switch {
	case !isAnswered(h):
		r.Duration = 0
	case h.Total <= 0:
		r.Duration = time.Duration(last - first)
	}
	if traced {
		r.TraceID = h.TraceID.String()
	}
	r.findLayers(h, flags, cut)
	r.mark(h, flags, cut, traced)
	return r
}

func addressOf(a netip.Addr) string {
	if !a.IsValid() {
		return "?"
	}
	return a.String()
}

// endNotSeen are the flags of exchanges that were reported before their end.
const endNotSeen = observe.FlagIdle | observe.FlagEvicted | observe.FlagStillOpen

// findLayers sets Layers, or NotKnown.
func (r *Request) findLayers(h *breakdown.Hop, flags observe.Flags, cut bool) {
	switch {
	case !isAnswered(h) && flags&observe.FlagReset != 0:
		r.NotKnown = "the connection was reset"
	case !isAnswered(h):
		r.NotKnown = "no response was seen"
	case flags&endNotSeen != 0:
		r.NotKnown = "its end was not seen"
	case cut:
		r.NotKnown = "parts of its trace were left out"
	case h.Total <= 0:
		r.NotKnown = "its times contradict each other"
	default:
		var s sums
		s.add(h)
		r.Layers, r.NotKnown = s.layers(h.Total)
	}
}

func isAnswered(h *breakdown.Hop) bool {
	return slices.ContainsFunc(h.Observations(), func(o *observe.Observation) bool { return o.Response.First != 0 })
}

func (r *Request) mark(h *breakdown.Hop, flags observe.Flags, cut, traced bool) {
	cuts := observe.Cut &^ observe.FlagEndGuessed
	if isAnswered(h) {
		cuts |= observe.FlagReset // within the response
	}
	if cut || flags&cuts != 0 {
		r.Marks |= MarkCut
	}
	if flags&observe.FlagEndGuessed != 0 || r.NotKnown == "" && (len(h.Notes) > 0 || h.Sender == nil && h.Receiver == nil || r.Layers[0].isPartlyBeyond()) {
		r.Marks |= MarkGuessed
	}
	if !traced && len(r.Layers) > 0 && slices.Contains(r.Layers[0].Layers, observe.Application) && !r.Layers[0].Beyond {
		r.Marks |= MarkNoContext
	}
}

// sums are the times of a request by layer, with those of the requests that it waited for.
type sums struct {
	all  []LayerTime
	from []string // locations of all, which are not always shown
}

func (s *sums) add(h *breakdown.Hop) {
	for i := range h.Segments {
		seg := &h.Segments[i]
		layers := seg.MergedLayers
		if len(layers) == 0 {
			layers = []observe.Layer{seg.Layer}
		}
		s.addTime(layers, seg.Location, isBeyond(h, layers), seg.Time)
	}
	for _, child := range h.Children {
		if child.Awaited {
			s.add(child)
		}
	}
}

func (s *sums) addTime(layers []observe.Layer, location string, beyond bool, ns int64) {
	for i := range s.all {
		if s.from[i] == location && s.all[i].Beyond == beyond && slices.Equal(s.all[i].Layers, layers) {
			s.all[i].Time += time.Duration(ns)
			return
		}
	}
	t := LayerTime{Layers: slices.Clone(layers), Beyond: beyond, Time: time.Duration(ns)}
	if len(layers) == 1 && (layers[0] == observe.Application || layers[0] == observe.ProtocolStack) && location != "?" {
		t.Location = printable.Text(location)
	}
	s.all, s.from = append(s.all, t), append(s.from, location)
}

// maxTwice is the part of a request's time that layers may have twice before they say nothing.
const maxTwice = 0.05

// layers returns the layers of a request that took total ns, longest first, or why they are
// not known.
func (s *sums) layers(total int64) (all []LayerTime, notKnown string) {
	slices.SortStableFunc(s.all, func(a, b LayerTime) int { return cmp.Compare(b.Time, a.Time) })
	rest := time.Duration(total)
	for i := range s.all {
		l := &s.all[i]
		rest -= l.Time
		l.Share = min(float64(l.Time)/float64(total), 1)
	}
	switch {
	case len(s.all) == 0 || rest >= s.all[0].Time:
		return nil, "most of the time is in no layer"
	case float64(-rest) > maxTwice*float64(total):
		return nil, "its times contradict each other"
	}
	return s.all, ""
}
