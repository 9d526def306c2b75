// SPDX-License-Identifier: Apache-2.0

package decode

import (
	"bufio"
	"bytes"
	"compress/gzip"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"slices"

	"github.com/gopacket/gopacket"
	"github.com/gopacket/gopacket/layers"
	"github.com/gopacket/gopacket/pcapgo"

	"github.com/layertrace/layertrace/internal/observe"
)

// ErrNotCapture is returned for a file that is neither pcap nor pcapng.
var ErrNotCapture = errors.New("not a pcap or pcapng file (tcpdump -w writes one)")

// ReadFile calls packet with each packet of a pcap or pcapng file. It returns
// nil at the end of the file, ErrNotCapture, or the error that ended the
// reading; packets before that have been passed on.
func ReadFile(r io.Reader, packet func(Packet)) error {
	buffered := bufio.NewReaderSize(r, 1<<16)
	reader, link, err := openCapture(buffered)
	if err != nil {
		return err
	}
	for n := 1; ; n++ {
		data, info, err := reader.ReadPacketData()
		switch {
		case errors.Is(err, io.EOF) && info.CaptureLength == 0:
			return nil
		case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
			return fmt.Errorf("the capture ends within packet %d; was tcpdump still writing?", n)
		case err != nil:
			return fmt.Errorf("packet %d: %w", n, err)
		}
		packet(Packet{Time: info.Timestamp, Link: link(info), Data: data, Length: info.Length, Source: info.InterfaceIndex})
	}
}

// packetReader reads either file format.
type packetReader interface {
	ReadPacketData() ([]byte, gopacket.CaptureInfo, error)
}

// pcapngMagic is the type of the section header block at the start of a pcapng
// file, the same in both byte orders.
var pcapngMagic = []byte{0x0a, 0x0d, 0x0d, 0x0a}

// gzipMagic begins a compressed file (RFC 1952, section 2.3.1).
var gzipMagic = []byte{0x1f, 0x8b}

// openCapture detects the format, which may be compressed by gzip. link returns the link type of a packet, which
// in pcapng depends on the packet's interface.
func openCapture(r *bufio.Reader) (reader packetReader, link func(gopacket.CaptureInfo) layers.LinkType, err error) {
	magic, err := r.Peek(len(pcapngMagic))
	if err != nil && !errors.Is(err, io.EOF) {
		return nil, nil, fmt.Errorf("read the file header: %w", err)
	}
	if bytes.HasPrefix(magic, gzipMagic) {
		plain, err := gzip.NewReader(r)
		if err != nil {
			return nil, nil, fmt.Errorf("%w: %w", ErrNotCapture, err)
		}
		return openCapture(bufio.NewReader(plain))
	}
	if !bytes.Equal(magic, pcapngMagic) {
		pcap, err := pcapgo.NewReader(r)
		if err != nil {
			return nil, nil, fmt.Errorf("%w: %w", ErrNotCapture, err)
		}
		return pcap, func(gopacket.CaptureInfo) layers.LinkType { return pcap.LinkType() }, nil
	}
	ng, err := pcapgo.NewNgReader(r, pcapgo.NgReaderOptions{WantMixedLinkType: true})
	if err != nil {
		return nil, nil, fmt.Errorf("%w: %w", ErrNotCapture, err)
	}
	return ng, func(info gopacket.CaptureInfo) layers.LinkType {
		link, _ := info.AncillaryData[0].(layers.LinkType) // set by WantMixedLinkType
		return link
	}, nil
}

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
	source         int // Packet.Source
	interfaceIndex int // in the packet; 0: unknown
}

// Link types of raw IP that differ between operating systems (DLT_RAW).
const (
	linkRawBSD     layers.LinkType = 12
	linkRawOpenBSD layers.LinkType = 14
)

// frameReader decodes packets: link, at most one VLAN tag, IP, TCP.
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

// read returns the packet's TCP segment, or counts why it has none.
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

// firstLayer returns the outermost layer of a packet.
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

func (f *frameReader) has(t gopacket.LayerType) bool { return slices.Contains(f.found, t) }

func (f *frameReader) isFragment() bool {
	if f.has(layers.LayerTypeIPv6Fragment) {
		return true
	}
	return f.has(layers.LayerTypeIPv4) && (f.ip4.Flags&layers.IPv4MoreFragments != 0 || f.ip4.FragOffset != 0)
}

// isNested reports a second VLAN tag, or IP in IP.
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
	f.readCookedHeader(&s)
	if s.syn {
		s.seq++ // a SYN occupies one sequence number (RFC 9293, section 3.4)
	}
	return s
}

// readCookedHeader reads interface and direction from a Linux cooked header.
func (f *frameReader) readCookedHeader(s *segment) {
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

// option is the TCP option that layertrace's sockops program writes: the
// connection ID and the sender's time.
type option struct {
	id   []byte // nil: none
	time uint64
}

// Kinds for experiments (RFC 4727), and the identifier that distinguishes our
// use of one (RFC 6994).
const (
	kindID   = 253 // paper: 4 random bytes
	kindTime = 254 // paper: 8 bytes of time
	kindBoth = 254 // compact: identifier, 8 bytes of ID, 4 bytes of time

	identifier = "LT"
)

// readOption finds either layout among the options of a TCP header.
func readOption(options []layers.TCPOption) option {
	var paper option
	for _, o := range options {
		data := o.OptionData
		switch {
		case o.OptionType == kindBoth && len(data) == 14 && bytes.HasPrefix(data, []byte(identifier)):
			return option{
				id:   bytes.Clone(data[2:10]),
				time: uint64(binary.BigEndian.Uint32(data[10:])),
			}
		case o.OptionType == kindID && len(data) == 4:
			paper.id = bytes.Clone(data)
		case o.OptionType == kindTime && len(data) == 8:
			paper.time = binary.BigEndian.Uint64(data)
		}
	}
	if paper.id == nil {
		return option{} // a time alone may be another protocol's
	}
	return paper
}
