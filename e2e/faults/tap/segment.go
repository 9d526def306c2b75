// SPDX-License-Identifier: Apache-2.0

// Package tap watches TCP at an interface with a packet socket of its own, and
// tells when a request or response of a trace had passed there. It is the fault
// laboratory's own clock: nothing of it is shared with layertrace.
package tap

import (
	"encoding/binary"
	"net/netip"
	"time"
)

// Segment is a TCP segment with data, as it passed an interface.
type Segment struct {
	Src, Dst netip.AddrPort
	Seq      uint32
	// Length is that of the data; Data are its first bytes.
	Length int
	Data   []byte
	Time   time.Time
}

// end is the sequence number behind the segment.
func (s Segment) end() uint32 { return s.Seq + uint32(s.Length) }

const (
	etherLength = 14
	etherIPv4   = 0x0800
	protocolTCP = 6
)

// Parse reads an Ethernet frame; ok is false unless it is TCP with data over
// IPv4. Data of the frame is not copied.
func Parse(frame []byte) (s Segment, ok bool) {
	if len(frame) < etherLength || binary.BigEndian.Uint16(frame[12:]) != etherIPv4 {
		return s, false
	}
	return ParseIP(frame[etherLength:])
}

// ParseIP reads an IPv4 packet in the same way.
func ParseIP(packet []byte) (s Segment, ok bool) {
	if len(packet) < 20 || packet[0]>>4 != 4 || packet[9] != protocolTCP {
		return s, false
	}
	header, total := int(packet[0]&15)*4, int(binary.BigEndian.Uint16(packet[2:]))
	if header < 20 || total > len(packet) || binary.BigEndian.Uint16(packet[6:])&0x1fff != 0 {
		return s, false
	}
	src, dst := netip.AddrFrom4([4]byte(packet[12:16])), netip.AddrFrom4([4]byte(packet[16:20]))
	if total < header+20 {
		return s, false
	}
	tcp := packet[header:total]
	offset := int(tcp[12]>>4) * 4
	if offset < 20 || offset >= len(tcp) {
		return s, false
	}
	return Segment{
		Src:    netip.AddrPortFrom(src, binary.BigEndian.Uint16(tcp)),
		Dst:    netip.AddrPortFrom(dst, binary.BigEndian.Uint16(tcp[2:])),
		Seq:    binary.BigEndian.Uint32(tcp[4:]),
		Length: len(tcp) - offset,
		Data:   tcp[offset:],
	}, true
}
