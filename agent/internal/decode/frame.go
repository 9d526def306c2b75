// SPDX-License-Identifier: Apache-2.0

package decode

import (
	"encoding/binary"
	"net/netip"

	"github.com/gopacket/gopacket/layers"

	"github.com/layertrace/layertrace/internal/observe"
)

// segment is one captured TCP segment.
type segment struct {
	time                uint64 // Unix time, ns
	point               point
	direction           observe.Direction // through the interface
	source, destination netip.AddrPort
	seq                 uint32 // of the payload's first byte
	ack                 uint32
	syn, isAck          bool
	fin, rst            bool
	payload             []byte // the captured part
	size                uint32 // of the payload on the wire
	option              option
}

// point is where a packet was captured.
type point struct {
	source         int           // Packet.Source
	interfaceIndex int           // in the packet; 0: unknown
	inside         encapsulation // of the outermost encapsulation: a packet can pass with and without
}

// Link types that differ between operating systems, or that gopacket does not name.
const (
	linkRawBSD     layers.LinkType = 12 // DLT_RAW
	linkRawOpenBSD layers.LinkType = 14
	linkPPPoE      layers.LinkType = 51
	linkPPP        layers.LinkType = 9
	linkPPPHDLC    layers.LinkType = 50
	linkLinuxPPP   layers.LinkType = 166 // DLT_PPP_PPPD
	linkNFLOG      layers.LinkType = 239
)

// result is what a packet turned out to be.
type result uint8

const (
	isSegment result = iota
	isNotTCP
	isFragment
	isUndecodable
	isOtherLink
	isSealed // encapsulated, and not readable
)

// frame is a packet being read, from the outside in.
type frame struct {
	segment
	depth int
	// missing is the number of bytes that the snapshot length cut off.
	missing int
	// kinds are the encapsulations passed through.
	kinds [maxDepth + 1]encapsulation
}

// readFrame returns the TCP segment of a packet, or counts why it has none.
func readFrame(p Packet, c *counts) (segment, bool) {
	f := frame{missing: max(p.Length-len(p.Data), 0)}
	f.time = uint64(p.Time.UnixNano())
	f.point.source = p.Source
	r := f.link(p.Link, p.Data)
	for _, kind := range f.kinds[:min(f.depth, len(f.kinds))] {
		c.encapsulated[kind]++
		if r == isSealed {
			c.sealed[kind]++
		}
	}
	switch r {
	case isSegment:
		if int(f.size) > len(f.payload) {
			c.cut++
		}
	case isNotTCP:
		c.notTCP++
	case isFragment:
		c.fragment++
	case isUndecodable:
		c.undecodable++
	case isOtherLink:
		c.otherLink++
	case isSealed:
		// counted by its kind
	}
	return f.segment, r == isSegment
}

// link reads the outermost header.
func (f *frame) link(link layers.LinkType, b []byte) result {
	switch link {
	case layers.LinkTypeEthernet:
		return f.ethernet(b)
	case layers.LinkTypeLinuxSLL:
		if len(b) < 16 {
			return isUndecodable
		}
		f.packetType(binary.BigEndian.Uint16(b))
		return f.etherType(binary.BigEndian.Uint16(b[14:]), b[16:])
	case layers.LinkTypeLinuxSLL2:
		if len(b) < 20 {
			return isUndecodable
		}
		f.point.interfaceIndex = int(binary.BigEndian.Uint32(b[4:]))
		f.packetType(uint16(b[10]))
		return f.etherType(binary.BigEndian.Uint16(b), b[20:])
	case layers.LinkTypeNull, layers.LinkTypeLoop:
		// The address family has the byte order of the capturing machine, and its
		// number for IPv6 depends on the system: the IP header knows better.
		if len(b) < 4 {
			return isUndecodable
		}
		return f.ip(b[4:])
	case layers.LinkTypeIPv4, layers.LinkTypeIPv6, layers.LinkTypeRaw, linkRawBSD, linkRawOpenBSD:
		return f.ip(b)
	case linkPPP, linkPPPHDLC, linkLinuxPPP:
		return f.ppp(b)
	case linkPPPoE:
		return f.etherType(etherPPPoE, b)
	case linkNFLOG:
		return f.nflog(b)
	}
	return isOtherLink
}

// packetType reads the direction in a Linux cooked header.
func (f *frame) packetType(kind uint16) {
	switch kind {
	case 4: // LINUX_SLL_OUTGOING
		f.direction = observe.DirectionEgress
	case 0: // LINUX_SLL_HOST
		f.direction = observe.DirectionIngress
	}
}

// EtherTypes (IEEE 802 numbers, IANA).
const (
	etherIPv4      = 0x0800
	etherVLAN      = 0x8100
	etherTransBr   = 0x6558 // an Ethernet frame in GRE or Geneve
	etherIPv6      = 0x86dd
	etherMPLS      = 0x8847
	etherMPLSMulti = 0x8848
	etherPPPoE     = 0x8864
	etherQinQ      = 0x88a8
	etherQinQOld   = 0x9100
	// Below this the field is the length of an IEEE 802.3 frame.
	etherMin = 0x0600
)

func (f *frame) ethernet(b []byte) result {
	if len(b) < 14 {
		return isUndecodable
	}
	return f.etherType(binary.BigEndian.Uint16(b[12:]), b[14:])
}

// etherType reads what follows an EtherType.
func (f *frame) etherType(kind uint16, b []byte) result {
	for range 4 { // VLAN tags
		switch kind {
		case etherVLAN, etherQinQ, etherQinQOld:
		default:
			return f.network(kind, b)
		}
		if len(b) < 4 {
			return isUndecodable
		}
		kind, b = binary.BigEndian.Uint16(b[2:]), b[4:]
	}
	return isNotTCP
}

// network reads the protocol above the VLAN tags.
func (f *frame) network(kind uint16, b []byte) result {
	switch {
	case kind == etherIPv4 || kind == etherIPv6:
		return f.ip(b)
	case kind == etherMPLS || kind == etherMPLSMulti:
		return f.mpls(b)
	case kind == etherPPPoE:
		if !f.enter(inPPPoE) {
			return isSealed
		}
		if len(b) < 6 {
			return isUndecodable
		}
		return f.ppp(b[6:]) // RFC 2516, section 4
	case kind == etherTransBr:
		return f.ethernet(b)
	case kind < etherMin:
		return f.llc(b)
	}
	return isNotTCP
}

// llc reads an IEEE 802.2 header; only SNAP (RFC 1042) carries IP.
func (f *frame) llc(b []byte) result {
	if len(b) < 8 || b[0] != 0xaa || b[1] != 0xaa || b[2] != 3 {
		return isNotTCP
	}
	if kind := binary.BigEndian.Uint16(b[6:]); kind >= etherMin {
		return f.etherType(kind, b[8:])
	}
	return isNotTCP
}

// ppp reads a PPP header (RFC 1661, RFC 1662), its address and control fields and the
// first byte of the protocol may be absent.
func (f *frame) ppp(b []byte) result {
	if len(b) >= 2 && (b[0] == 0xff || b[0] == 0x0f || b[0] == 0x8f) && (b[1] == 3 || b[1] == 0) {
		if b[0] != 0xff { // Cisco HDLC has an EtherType
			if len(b) < 4 {
				return isUndecodable
			}
			return f.etherType(binary.BigEndian.Uint16(b[2:]), b[4:])
		}
		b = b[2:]
	}
	if len(b) < 2 {
		return isUndecodable
	}
	protocol := uint16(b[0])
	if protocol&1 == 0 {
		protocol = binary.BigEndian.Uint16(b)
		b = b[1:]
	}
	switch b = b[1:]; protocol {
	case 0x21, 0x57: // IPv4, IPv6
		return f.ip(b)
	case 0x281: // MPLS
		return f.mpls(b)
	}
	return isNotTCP
}

// nflog reads the header of iptables' own captures: TLVs, of which type 9 is the packet.
// Lengths have the byte order of the capturing machine, which is little-endian but for
// rare ones.
func (f *frame) nflog(b []byte) result {
	if len(b) < 4 {
		return isUndecodable
	}
	b = b[4:]
	for len(b) >= 4 {
		size, kind := int(binary.LittleEndian.Uint16(b)), binary.LittleEndian.Uint16(b[2:])
		if size < 4 || size > len(b) {
			if kind != 9 || size < 4 {
				return isUndecodable
			}
			size = len(b) // cut
		}
		switch kind {
		case 9: // NFULA_PAYLOAD
			return f.ip(b[4:size])
		case 4: // NFULA_IFINDEX_INDEV
			if size >= 8 {
				f.point.interfaceIndex, f.direction = int(binary.BigEndian.Uint32(b[4:])), observe.DirectionIngress
			}
		case 5: // NFULA_IFINDEX_OUTDEV
			if size >= 8 {
				f.point.interfaceIndex, f.direction = int(binary.BigEndian.Uint32(b[4:])), observe.DirectionEgress
			}
		}
		b = b[min((size+3)&^3, len(b)):]
	}
	return isNotTCP
}

// IP protocols.
const (
	protocolHopByHop    = 0
	protocolIPv4        = 4
	protocolTCP         = 6
	protocolUDP         = 17
	protocolIPv6        = 41
	protocolRouting     = 43
	protocolFragment    = 44
	protocolGRE         = 47
	protocolESP         = 50
	protocolAH          = 51
	protocolDestination = 60
	protocolMPLS        = 137
)

// ip reads an IPv4 or IPv6 header.
func (f *frame) ip(b []byte) result {
	if len(b) < 1 {
		return isUndecodable
	}
	switch b[0] >> 4 {
	case 4:
		return f.ipv4(b)
	case 6:
		return f.ipv6(b)
	}
	return isUndecodable
}

// payload is that of an IP packet with its addresses: what was captured of it, and its
// size on the wire.
type payload struct {
	source, destination netip.Addr
	captured            []byte
	size                int
}

func (f *frame) ipv4(b []byte) result {
	if len(b) < 20 {
		return isUndecodable
	}
	header, total := int(b[0]&15)*4, int(binary.BigEndian.Uint16(b[2:]))
	if total == 0 { // before segmentation by the network card, or BIG TCP
		total = len(b) + f.missing
	}
	if header < 20 || header > len(b) || total < header {
		return isUndecodable
	}
	if fragment := binary.BigEndian.Uint16(b[6:]); fragment&0x3fff != 0 {
		return isFragment // more fragments, or an offset
	}
	p := payload{netip.AddrFrom4([4]byte(b[12:])), netip.AddrFrom4([4]byte(b[16:])), b[header:min(total, len(b))], total - header}
	return f.transport(b[9], p, inIPIP)
}

// maxExtensions bounds the number of IPv6 extension headers.
const maxExtensions = 8

func (f *frame) ipv6(b []byte) result {
	if len(b) < 40 {
		return isUndecodable
	}
	next, size := b[6], int(binary.BigEndian.Uint16(b[4:]))
	p := payload{netip.AddrFrom16([16]byte(b[8:])), netip.AddrFrom16([16]byte(b[24:])), b[40:], size}
	if size == 0 { // a jumbogram (RFC 2675), as BIG TCP makes
		p.size = len(p.captured) + f.missing
	}
	p.captured = p.captured[:min(p.size, len(p.captured))]
	for range maxExtensions {
		switch next {
		case protocolHopByHop, protocolRouting, protocolDestination, protocolAH:
		case protocolFragment:
			return isFragment
		default:
			return f.transport(next, p, inIPv6)
		}
		if len(p.captured) < 8 {
			return isUndecodable
		}
		length := 8 + 8*int(p.captured[1])
		if next == protocolAH {
			length = 8 + 4*int(p.captured[1]) // RFC 4302, section 2.2
		}
		if length > len(p.captured) {
			return isUndecodable
		}
		next = p.captured[0]
		p.captured, p.size = p.captured[length:], p.size-length
	}
	return isUndecodable
}

// transport reads the payload of an IP packet; outer is the name of IP in it.
func (f *frame) transport(protocol uint8, p payload, outer encapsulation) result {
	switch protocol {
	case protocolTCP:
		return f.tcp(p)
	case protocolIPv4, protocolIPv6:
		if protocol == protocolIPv6 {
			outer = inIPv6
		}
		if !f.enter(outer) {
			return isSealed
		}
		return f.ip(p.captured)
	case protocolGRE:
		return f.gre(p.captured)
	case protocolMPLS:
		return f.mpls(p.captured)
	case protocolAH:
		if len(p.captured) < 12 {
			return isUndecodable
		}
		length := 8 + 4*int(p.captured[1])
		if length > len(p.captured) {
			return isUndecodable
		}
		next := p.captured[0]
		if next == protocolAH {
			return isUndecodable
		}
		p.captured, p.size = p.captured[length:], p.size-length
		return f.transport(next, p, outer)
	case protocolESP:
		f.enter(inESP)
		return isSealed
	case protocolUDP:
		return f.udp(p.captured)
	}
	return isNotTCP
}

func (f *frame) tcp(p payload) result {
	b := p.captured
	if len(b) < 20 {
		return isUndecodable
	}
	header := int(b[12]>>4) * 4
	if header < 20 || header > p.size {
		return isUndecodable
	}
	options := b[20:min(header, len(b))]
	flags := b[13]
	f.source = netip.AddrPortFrom(p.source, binary.BigEndian.Uint16(b))
	f.destination = netip.AddrPortFrom(p.destination, binary.BigEndian.Uint16(b[2:]))
	f.seq, f.ack = binary.BigEndian.Uint32(b[4:]), binary.BigEndian.Uint32(b[8:])
	f.fin, f.syn, f.rst, f.isAck = flags&1 != 0, flags&2 != 0, flags&4 != 0, flags&16 != 0
	f.payload, f.size = b[min(header, len(b)):], uint32(p.size-header)
	if f.rst {
		f.payload, f.size = nil, 0 // its text is not of the stream (RFC 9293, section 3.5.3)
	}
	if f.syn {
		f.seq++ // a SYN occupies one sequence number (RFC 9293, section 3.4)
	}
	f.option = readOption(options)
	return isSegment
}
