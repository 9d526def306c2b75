// SPDX-License-Identifier: Apache-2.0

package decode

import (
	"net/netip"
	"slices"

	"github.com/gopacket/gopacket"
	"github.com/gopacket/gopacket/layers"

	"github.com/layertrace/layertrace/internal/observe"
)

// Link types of raw IP that differ between operating systems (DLT_RAW).
const (
	linkRawBSD     layers.LinkType = 12
	linkRawOpenBSD layers.LinkType = 14
)

// frameReader takes packets apart: link, at most one VLAN tag, IP, TCP.
type frameReader struct {
	ethernet   layers.Ethernet
	vlan       layers.Dot1Q
	loopback   layers.Loopback
	cooked     layers.LinuxSLL
	cooked2    layers.LinuxSLL2
	ip4        layers.IPv4
	ip6        layers.IPv6
	extensions layers.IPv6ExtensionSkipper
	tcp        layers.TCP

	parsers map[gopacket.LayerType]*gopacket.DecodingLayerParser
	found   []gopacket.LayerType
}

func newFrameReader() *frameReader {
	return &frameReader{parsers: map[gopacket.LayerType]*gopacket.DecodingLayerParser{}}
}

// firstLayer returns what a packet of the link type begins with.
func firstLayer(link layers.LinkType, data []byte) (gopacket.LayerType, bool) {
	switch link {
	case layers.LinkTypeEthernet:
		return layers.LayerTypeEthernet, true
	case layers.LinkTypeLinuxSLL:
		return layers.LayerTypeLinuxSLL, true
	case layers.LinkTypeLinuxSLL2:
		return layers.LayerTypeLinuxSLL2, true
	case layers.LinkTypeNull, layers.LinkTypeLoop:
		return layers.LayerTypeLoopback, true
	case layers.LinkTypeIPv4:
		return layers.LayerTypeIPv4, true
	case layers.LinkTypeIPv6:
		return layers.LayerTypeIPv6, true
	case layers.LinkTypeRaw, linkRawBSD, linkRawOpenBSD:
		if len(data) > 0 && data[0]>>4 == 6 {
			return layers.LayerTypeIPv6, true
		}
		return layers.LayerTypeIPv4, true
	}
	return gopacket.LayerTypeZero, false
}

func (f *frameReader) parser(first gopacket.LayerType) *gopacket.DecodingLayerParser {
	p := f.parsers[first]
	if p == nil {
		p = gopacket.NewDecodingLayerParser(first, &f.ethernet, &f.vlan, &f.loopback, &f.cooked, &f.cooked2,
			&f.ip4, &f.ip6, &f.extensions, &f.tcp)
		p.IgnoreUnsupported = true
		f.parsers[first] = p
	}
	return p
}

// read returns the packet's TCP segment, or counts why there is none.
func (f *frameReader) read(p Packet, c *counts) (segment, bool) {
	first, ok := firstLayer(p.Link, p.Data)
	if !ok {
		c.otherLink++
		return segment{}, false
	}
	parser := f.parser(first)
	err := parser.DecodeLayers(p.Data, &f.found)
	switch {
	case f.isFragment():
		c.fragment++
	case err != nil:
		c.undecodable++
	case !f.has(layers.LayerTypeTCP) || f.isNested():
		c.notTCP++
	default:
		s := f.segment(p)
		if parser.Truncated && p.Length > len(p.Data) {
			c.cut++
			s.size += uint32(p.Length - len(p.Data))
		}
		return s, true
	}
	return segment{}, false
}

func (f *frameReader) has(t gopacket.LayerType) bool { return slices.Contains(f.found, t) }

// isFragment reports whether the packet is a part of a larger one.
func (f *frameReader) isFragment() bool {
	if f.has(layers.LayerTypeIPv6Fragment) {
		return true
	}
	return f.has(layers.LayerTypeIPv4) && (f.ip4.Flags&layers.IPv4MoreFragments != 0 || f.ip4.FragOffset != 0)
}

// isNested reports whether there is a second VLAN tag, or IP in IP.
func (f *frameReader) isNested() bool {
	tags, headers := 0, 0
	for _, t := range f.found {
		switch t {
		case layers.LayerTypeDot1Q:
			tags++
		case layers.LayerTypeIPv4, layers.LayerTypeIPv6:
			headers++
		}
	}
	return tags > 1 || headers > 1
}

func (f *frameReader) segment(p Packet) segment {
	source, destination := f.ip4.SrcIP, f.ip4.DstIP
	if f.has(layers.LayerTypeIPv6) {
		source, destination = f.ip6.SrcIP, f.ip6.DstIP
	}
	s := segment{
		time:        uint64(p.Time.UnixNano()),
		source:      endpoint(source, f.tcp.SrcPort),
		destination: endpoint(destination, f.tcp.DstPort),
		seq:         f.tcp.Seq,
		ack:         f.tcp.Ack,
		syn:         f.tcp.SYN,
		isAck:       f.tcp.ACK,
		fin:         f.tcp.FIN,
		rst:         f.tcp.RST,
		payload:     f.tcp.Payload,
		size:        uint32(len(f.tcp.Payload)),
		option:      readOption(f.tcp.Options),
	}
	s.point.source = p.Source
	f.cookedHeader(&s)
	if s.syn {
		s.seq++ // a SYN takes one number itself (RFC 9293, section 3.4)
	}
	return s
}

// cookedHeader takes what a capture on any interface tells about this one.
func (f *frameReader) cookedHeader(s *segment) {
	var sent, received bool
	switch {
	case f.has(layers.LayerTypeLinuxSLL2):
		s.point.interfaceIndex = int(f.cooked2.InterfaceIndex)
		sent = f.cooked2.PacketType == layers.LinuxSLL2PacketTypeOutgoing
		received = f.cooked2.PacketType == layers.LinuxSLL2PacketTypeHost
	case f.has(layers.LayerTypeLinuxSLL):
		sent = f.cooked.PacketType == layers.LinuxSLLPacketTypeOutgoing
		received = f.cooked.PacketType == layers.LinuxSLLPacketTypeHost
	}
	switch {
	case sent:
		s.direction = observe.DirectionEgress
	case received:
		s.direction = observe.DirectionIngress
	}
}

func endpoint(ip []byte, port layers.TCPPort) netip.AddrPort {
	addr, _ := netip.AddrFromSlice(ip) // 4 or 16 bytes, by the layer's decoder
	return netip.AddrPortFrom(addr, uint16(port))
}
