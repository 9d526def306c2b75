// SPDX-License-Identifier: Apache-2.0

package observe

import (
	"encoding/hex"
	"encoding/json"
	"net/netip"
	"slices"
	"time"
)

// Sighting is a message, or a part of one, as it passed an interface of a device that
// reads nothing but headers: the bytes that one end of a connection sent without having
// received any in between. It has no trace context. The connection ID and the sequence
// numbers, which address translation does not change, say which message it is. All times
// are in ns of the device's CLOCK_MONOTONIC.
type Sighting struct {
	// Point is the capture point, nil until it is resolved from Interface.
	Point *Point
	// Interface is the index of the network interface in the device's network namespace.
	Interface int
	// Direction is the direction of the message through the interface.
	Direction Direction
	// Source and Destination are the endpoints as seen at the interface.
	Source, Destination netip.AddrPort
	// ConnectionID is that of the TCP option: 8 bytes (compact) or 4 (paper).
	ConnectionID []byte
	// OptionTime is the sender's time in the option, as in Observation; 0 without one.
	OptionTime uint64
	// Start is the sequence number of the first byte, End that of the byte after the last.
	Start, End uint32
	// First is when the first byte passed, Last when the last and all before it had.
	First, Last uint64
	// Tx is when the driver began to transmit. It is set for what leaves through the
	// interface only.
	Tx Extent
	// Packets is the number of TCP segments as seen here, Retransmits of those that were
	// seen again.
	Packets, Retransmits uint32
	// Watched is for how long in ns the interface had been watched when the first byte passed;
	// 0: longer than MaxWatched.
	Watched uint64
	// TTL is the time to live, or hop limit, of the first packet: each router takes one.
	TTL uint8
	// Flags are remarks.
	Flags SightingFlags
	// Wall is the Unix time in ns of First, for display only; 0 until it is stored.
	Wall int64
}

// ConnectionIDHex returns the connection ID in lower-case hex.
func (s *Sighting) ConnectionIDHex() string { return hex.EncodeToString(s.ConnectionID) }

// Bytes returns the number of bytes, without retransmissions.
func (s *Sighting) Bytes() uint32 { return s.End - s.Start }

// MaxWatched is the longest time in ns that Sighting.Watched distinguishes.
const MaxWatched = uint64(10 * time.Minute)

// SightingFlags is a set of remarks about a sighting. The values are those of the BPF side
// (bpf/device.bpf.c, enum sighting_flag).
type SightingFlags uint32

// Flags of a sighting.
const (
	// SightingUnmarked: the first segment had no option; its place in the stream shows that
	// a message may begin there.
	SightingUnmarked SightingFlags = 1 << iota
	// SightingIncomplete: some of the bytes did not pass the interface.
	SightingIncomplete
	// SightingOutOfOrder: segments passed in a different order than they were sent.
	SightingOutOfOrder
	// SightingFromOpener: the sender has opened the connection.
	SightingFromOpener
	// SightingBothWays: the other direction of the connection passes the interface too, or may:
	// the device stopped watching before it could.
	SightingBothWays
)

var sightingFlagNames = []string{"unmarked", "incomplete", "out_of_order", "from_opener", "both_ways"}

// Names returns the names of the set flags, never nil.
func (f SightingFlags) Names() []string {
	names := []string{}
	for i, name := range sightingFlagNames {
		if f&(1<<i) != 0 {
			names = append(names, name)
		}
	}
	return names
}

// SightingFlagNames returns the names of all flags.
func SightingFlagNames() []string { return sightingFlagNames }

// SightingFlagsOf returns the flags with the names, and ignores unknown names.
func SightingFlagsOf(names []string) (f SightingFlags) {
	for i, name := range sightingFlagNames {
		if slices.Contains(names, name) {
			f |= 1 << i
		}
	}
	return f
}

// MarshalJSON encodes the sighting as one JSON object; times are in ns of the device's
// CLOCK_MONOTONIC.
func (s *Sighting) MarshalJSON() ([]byte, error) {
	w := struct {
		Device       string         `json:"device"`
		Interface    string         `json:"interface"`
		Direction    string         `json:"direction"`
		Source       netip.AddrPort `json:"source"`
		Destination  netip.AddrPort `json:"destination"`
		ConnectionID string         `json:"connection_id"`
		OptionTime   uint64         `json:"option_time"`
		Seq          uint32         `json:"seq"`
		EndSeq       uint32         `json:"end_seq"`
		FirstNS      uint64         `json:"first_ns"`
		LastNS       uint64         `json:"last_ns"`
		TxFirstNS    uint64         `json:"tx_first_ns,omitempty"`
		TxLastNS     uint64         `json:"tx_last_ns,omitempty"`
		Packets      uint32         `json:"packets"`
		Retransmits  uint32         `json:"retransmits"`
		TTL          uint8          `json:"ttl"`
		Flags        []string       `json:"flags"`
	}{
		Direction: s.Direction.String(), Source: s.Source, Destination: s.Destination,
		ConnectionID: s.ConnectionIDHex(), OptionTime: s.OptionTime, Seq: s.Start, EndSeq: s.End,
		FirstNS: s.First, LastNS: s.Last, TxFirstNS: s.Tx.First, TxLastNS: s.Tx.Last,
		Packets: s.Packets, Retransmits: s.Retransmits, TTL: s.TTL, Flags: s.Flags.Names(),
	}
	if s.Point != nil {
		w.Device, w.Interface = s.Point.Node, s.Point.Interface
	}
	return json.Marshal(w)
}
