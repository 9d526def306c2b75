// SPDX-License-Identifier: Apache-2.0

package span

import (
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"math"
	"net/netip"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/trace"

	"github.com/layertrace/layertrace/internal/observe"
)

// A sighting travels as a span, because OpenTelemetry's Collector can route spans by an
// attribute, and logs only by their trace ID. It belongs to no trace yet: its trace ID is
// a hash of the connection ID, and its scope is another one than that of spans in traces,
// so that nothing takes it for a request.

// SightingScopeName is the instrumentation scope of sightings.
const SightingScopeName = ScopeName + "/device"

// KeyConnectionID is the attribute by which a Collector has to route spans and sightings
// to one of several joins: all of a connection to the same one.
const KeyConnectionID = "layertrace.connection_id"

// sightingName is the name of all sightings.
const sightingName = "sighting"

// sightingField is one attribute of a sighting.
type sightingField struct {
	key                attribute.Key
	typ, unit, meaning string
	// get returns the value and whether it is written.
	get func(s *observe.Sighting) (attribute.Value, bool)
	// set reads it; of an absent one, the default.
	set func(s *observe.Sighting, in input) error
}

var sightingFields = []sightingField{
	{KeyConnectionID, "string", "hex", "ID of the connection in the TCP option",
		func(s *observe.Sighting) (attribute.Value, bool) {
			return attribute.StringValue(s.ConnectionIDHex()), true
		},
		func(s *observe.Sighting, in input) (err error) {
			if s.ConnectionID, err = hex.DecodeString(in.text()); err != nil || len(s.ConnectionID) != 4 && len(s.ConnectionID) != 8 {
				return fmt.Errorf("%s is %q, not 8 or 16 hex digits", in.key, in.text())
			}
			return nil
		}},
	{"layertrace.direction", "string", "", "direction of the message through the interface: `ingress` (into the device) or `egress`",
		func(s *observe.Sighting) (attribute.Value, bool) {
			return attribute.StringValue(s.Direction.String()), true
		},
		func(s *observe.Sighting, in input) error {
			switch in.text() {
			case observe.DirectionIngress.String():
				s.Direction = observe.DirectionIngress
			case observe.DirectionEgress.String():
				s.Direction = observe.DirectionEgress
			default:
				return fmt.Errorf("%s is %q, neither ingress nor egress", in.key, in.text())
			}
			return nil
		}},
	sightingCount("layertrace.sighting.seq", "", "TCP sequence number of the first byte", func(s *observe.Sighting) *uint32 { return &s.Start }),
	sightingCount("layertrace.sighting.end_seq", "", "sequence number of the byte after the last", func(s *observe.Sighting) *uint32 { return &s.End }),
	{keyMonotonic, "int", "ns", "start of the span, when the first byte passed, on the device's `CLOCK_MONOTONIC`",
		func(s *observe.Sighting) (attribute.Value, bool) {
			return attribute.Int64Value(int64(s.First)), true
		},
		func(*observe.Sighting, input) error { return nil }},
	sightingTime("layertrace.sighting.last_ns", "last byte, from the span's start; absent: 0", func(s *observe.Sighting) *uint64 { return &s.Last }, true),
	sightingTime("layertrace.sighting.tx_first_ns", "the interface's queue gave the first byte to the driver; absent: unknown", func(s *observe.Sighting) *uint64 { return &s.Tx.First }, false),
	sightingTime("layertrace.sighting.tx_last_ns", "its last byte; absent: unknown", func(s *observe.Sighting) *uint64 { return &s.Tx.Last }, false),
	{"layertrace.sighting.option_time", "int", "", "the sender's time in the option, as it was on the wire; absent: the first segment had no option",
		func(s *observe.Sighting) (attribute.Value, bool) {
			return attribute.Int64Value(int64(s.OptionTime)), s.OptionTime != 0
		},
		func(s *observe.Sighting, in input) (err error) {
			s.OptionTime, err = in.count(0, math.MaxInt64)
			return err
		}},
	sightingAddress("source.address", "address of the sender, as seen at the interface", func(s *observe.Sighting) *netip.AddrPort { return &s.Source }),
	sightingPort("source.port", "its port", func(s *observe.Sighting) *netip.AddrPort { return &s.Source }),
	sightingAddress("destination.address", "address of the receiver", func(s *observe.Sighting) *netip.AddrPort { return &s.Destination }),
	sightingPort("destination.port", "its port", func(s *observe.Sighting) *netip.AddrPort { return &s.Destination }),
	sightingCount("layertrace.sighting.packets", "packets", "TCP segments as seen here", func(s *observe.Sighting) *uint32 { return &s.Packets }),
	sightingCount("layertrace.sighting.retransmits", "packets", "TCP segments that were seen again", func(s *observe.Sighting) *uint32 { return &s.Retransmits }),
	{"layertrace.sighting.watched_ns", "int", "ns", "for how long the interface had been watched when the first byte passed; absent: longer than 10 minutes",
		func(s *observe.Sighting) (attribute.Value, bool) {
			return attribute.Int64Value(int64(s.Watched)), s.Watched != 0
		},
		func(s *observe.Sighting, in input) (err error) {
			s.Watched, err = in.count(0, observe.MaxWatched)
			return err
		}},
	{"layertrace.sighting.ttl", "int", "", "time to live, or hop limit, of the first packet: each router takes one",
		func(s *observe.Sighting) (attribute.Value, bool) {
			return attribute.Int64Value(int64(s.TTL)), true
		},
		func(s *observe.Sighting, in input) error {
			ttl, err := in.count(0, math.MaxUint8)
			s.TTL = uint8(ttl)
			return err
		}},
	{keyFlags, "string[]", "", "remarks: " + list(observe.SightingFlagNames()),
		func(s *observe.Sighting) (attribute.Value, bool) {
			return attribute.StringSliceValue(s.Flags.Names()), s.Flags != 0
		},
		func(s *observe.Sighting, in input) error { s.Flags = observe.SightingFlagsOf(in.list()); return nil }},
}

func sightingCount(key attribute.Key, unit, meaning string, at func(*observe.Sighting) *uint32) sightingField {
	return sightingField{key, "int", unit, meaning + "; absent: 0",
		func(s *observe.Sighting) (attribute.Value, bool) {
			return attribute.Int64Value(int64(*at(s))), *at(s) != 0
		},
		func(s *observe.Sighting, in input) error { return in.count32(at(s), 0) }}
}

// sightingTime is a time as the offset from First; its default is First or unknown.
func sightingTime(key attribute.Key, meaning string, at func(*observe.Sighting) *uint64, first bool) sightingField {
	absent := func(s *observe.Sighting) uint64 {
		if first {
			return s.First
		}
		return 0
	}
	return sightingField{key, "int", "ns", meaning,
		func(s *observe.Sighting) (attribute.Value, bool) {
			return attribute.Int64Value(int64(*at(s) - s.First)), *at(s) != absent(s)
		},
		func(s *observe.Sighting, in input) (err error) {
			*at(s), err = in.time(s.First, absent(s))
			return err
		}}
}

func sightingAddress(key attribute.Key, meaning string, at func(*observe.Sighting) *netip.AddrPort) sightingField {
	return sightingField{key, "string", "", meaning,
		func(s *observe.Sighting) (attribute.Value, bool) {
			return attribute.StringValue(at(s).Addr().Unmap().String()), true
		},
		func(s *observe.Sighting, in input) error {
			ip, err := netip.ParseAddr(in.text())
			if err != nil {
				return fmt.Errorf("%s is %q, not an address", in.key, in.text())
			}
			*at(s) = netip.AddrPortFrom(ip.Unmap(), at(s).Port())
			return nil
		}}
}

func sightingPort(key attribute.Key, meaning string, at func(*observe.Sighting) *netip.AddrPort) sightingField {
	return sightingField{key, "int", "", meaning,
		func(s *observe.Sighting) (attribute.Value, bool) {
			return attribute.Int64Value(int64(at(s).Port())), true
		},
		func(s *observe.Sighting, in input) error {
			n, err := in.count(0, math.MaxUint16)
			*at(s) = netip.AddrPortFrom(at(s).Addr(), uint16(n))
			return err
		}}
}

// EmitSighting makes the span of a sighting, whose Point must be set, and passes it to the
// sink.
func (e *Emitter) EmitSighting(s *observe.Sighting) {
	if s.First == 0 {
		return
	}
	offset := e.opts.Offset()
	made := &e.span
	made.Origin, made.Name = e.point(s.Point, Resource).sightings, sightingName
	made.TraceID, made.ID = sightingIDs(s)
	made.Parent = made.ID
	made.Start, made.End = offset.unixNano(s.First), offset.unixNano(max(s.Last, s.Tx.Last))
	made.Attributes = made.Attributes[:0]
	for i := range sightingFields {
		if v, ok := sightingFields[i].get(s); ok {
			made.Attributes = append(made.Attributes, attribute.KeyValue{Key: sightingFields[i].key, Value: v})
		}
	}
	e.opts.Sink.Take(made)
}

// sightingIDs returns the IDs of a sighting's span. A sighting that is sent again has the
// same. It is its own parent: spans without one begin a trace.
func sightingIDs(s *observe.Sighting) (trace.TraceID, trace.SpanID) {
	sum := sha256.Sum256(s.ConnectionID)
	id := trace.TraceID(sum[:16])
	b := append([]byte{byte(s.Direction)}, s.ConnectionID...)
	b = binary.BigEndian.AppendUint32(b, s.Start)
	b = binary.BigEndian.AppendUint64(b, s.First)
	b = append(b, s.Point.ID...)
	return id, spanIDOf(sha256.Sum256(b))
}

// IsSighting reports whether a stored span is a sighting.
func (s *Stored) IsSighting() bool { return s.Scope == SightingScopeName }

// DecodeSighting is the inverse of EmitSighting. The error names what is missing or
// inconsistent.
func DecodeSighting(stored *Stored) (*observe.Sighting, error) {
	s := &observe.Sighting{Wall: stored.Start.UnixNano()}
	point, err := decodePoint(stored)
	if err != nil {
		return nil, err
	}
	if point.Kind != observe.KindDevice || point.ID == "" {
		return nil, fmt.Errorf("%s is %q with the ID %q: a sighting is of a device", keyKind, point.Kind, point.ID)
	}
	s.Point = point
	if s.First, err = (input{stored.Attributes, keyMonotonic}).start(); err != nil {
		return nil, err
	}
	for i := range sightingFields {
		if err := sightingFields[i].set(s, input{stored.Attributes, sightingFields[i].key}); err != nil {
			return nil, err
		}
	}
	switch {
	case s.Wall <= 0:
		return nil, errors.New("the span has no start")
	case s.Start == s.End:
		return nil, errors.New("it has no bytes")
	case s.Last < s.First:
		return nil, errors.New("it ends before it begins")
	case s.Tx.Last < s.Tx.First || s.Tx.First == 0 && s.Tx.Last != 0:
		return nil, errors.New("its transmit time ends before it begins")
	}
	return s, nil
}
