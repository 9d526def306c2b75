// SPDX-License-Identifier: Apache-2.0

package decode

import (
	"bytes"
	"compress/gzip"
	"encoding/binary"
	"errors"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/gopacket/gopacket"
	"github.com/gopacket/gopacket/layers"
	"github.com/gopacket/gopacket/pcapgo"
	"github.com/layertrace/layertrace/internal/observe"
)

var capturedAt = time.Unix(1700000000, 123456789)

// rawGet returns a get in a packet without Ethernet.
func rawGet(t testing.TB) []byte {
	return serialize(t, ip4(layers.IPProtocolTCP), port(), gopacket.Payload(get))
}

func pcapFile(t testing.TB, nanoseconds bool) []byte {
	t.Helper()
	var file bytes.Buffer
	w := pcapgo.NewWriter(&file)
	if nanoseconds {
		w = pcapgo.NewWriterNanos(&file)
	}
	if err := w.WriteFileHeader(65535, layers.LinkTypeRaw); err != nil {
		t.Fatal(err)
	}
	data := rawGet(t)
	if err := w.WritePacket(gopacket.CaptureInfo{Timestamp: capturedAt, CaptureLength: len(data), Length: len(data)}, data); err != nil {
		t.Fatal(err)
	}
	return file.Bytes()
}

// pcapngFile returns a capture of two interfaces with different link types; the
// packet is the second one's.
func pcapngFile(t testing.TB) []byte {
	t.Helper()
	var file bytes.Buffer
	w, err := pcapgo.NewNgWriter(&file, layers.LinkTypeEthernet)
	if err != nil {
		t.Fatal(err)
	}
	second := pcapgo.NgInterface{LinkType: layers.LinkTypeRaw, TimestampResolution: 9}
	id, err := w.AddInterface(second)
	if err != nil {
		t.Fatal(err)
	}
	data := rawGet(t)
	info := gopacket.CaptureInfo{Timestamp: capturedAt, CaptureLength: len(data), Length: len(data), InterfaceIndex: id}
	if err := w.WritePacket(info, data); err != nil {
		t.Fatal(err)
	}
	if err := w.Flush(); err != nil {
		t.Fatal(err)
	}
	return file.Bytes()
}

// decodeBytes decodes a file's content.
func decodeBytes(content []byte, opts Options) (out []observe.Observation, d *Decoder, err error) {
	d = New(opts, func(o observe.Observation) { out = append(out, o) })
	err = ReadFile(bytes.NewReader(content), d.Packet)
	d.Flush()
	return out, d, err
}

// handmade returns a pcap file with one packet, written byte by byte.
func handmade(t testing.TB, order binary.AppendByteOrder, magic uint32, minor uint16, captured, length int) []byte {
	t.Helper()
	data := rawGet(t)
	file := order.AppendUint32(nil, magic)
	file = order.AppendUint16(order.AppendUint16(file, 2), minor)
	file = append(file, make([]byte, 8)...) // time zone and accuracy
	file = order.AppendUint32(order.AppendUint32(file, 65535), uint32(layers.LinkTypeRaw))
	sub := uint32(capturedAt.Nanosecond())
	if magic != magicNanos {
		sub /= 1000
	}
	file = order.AppendUint32(order.AppendUint32(file, uint32(capturedAt.Unix())), sub)
	file = order.AppendUint32(order.AppendUint32(file, uint32(captured)), uint32(length))
	if magic == magicModified {
		file = append(file, 1, 2, 3, 4, 8, 0, 4, 0) // interface, protocol, packet type
	}
	return append(file, data...)
}

func TestFileFormats(t *testing.T) {
	micros := capturedAt.Truncate(time.Microsecond)
	size := len(rawGet(t))
	little, big := binary.LittleEndian, binary.BigEndian
	for name, c := range map[string]struct {
		content []byte
		time    time.Time
	}{
		"pcap":                 {pcapFile(t, false), micros},
		"pcap ns":              {pcapFile(t, true), capturedAt},
		"pcapng":               {pcapngFile(t), capturedAt},
		"big-endian":           {handmade(t, big, magicMicros, 4, size, size), micros},
		"big-endian ns":        {handmade(t, big, magicNanos, 4, size, size), capturedAt},
		"little-endian ns":     {handmade(t, little, magicNanos, 4, size, size), capturedAt},
		"modified":             {handmade(t, little, magicModified, 4, size, size), micros},
		"modified, big-endian": {handmade(t, big, magicModified, 4, size, size), micros},
		"version 2.3":          {handmade(t, little, magicMicros, 3, size, size), micros},
		"2.3, lengths swapped": {handmade(t, little, magicMicros, 3, size+7, size), micros},
		"version 2.2":          {handmade(t, little, magicMicros, 2, size+7, size), micros},
		"captured > length":    {handmade(t, little, magicMicros, 4, size, size-7), micros},
	} {
		for form, content := range map[string][]byte{"plain": c.content, "gzip": compressed(t, c.content)} {
			t.Run(name+", "+form, func(t *testing.T) {
				got, d, err := decodeBytes(content, Options{})
				if err != nil {
					t.Fatal(err)
				}
				if len(got) != 1 || got[0].Request.First != uint64(c.time.UnixNano()) || got[0].Context.TraceID.String() != hex32 {
					t.Errorf("got %+v", got)
				}
				for name, want := range map[string]uint64{"packets": 1, "exchanges": 1, "found": 1} {
					checkCounter(t, d, name, want)
				}
			})
		}
	}
	for name, content := range map[string][]byte{
		"unknown version": handmade(t, little, magicMicros, 5, size, size),
		"unknown magic":   handmade(t, little, 0xa1b2c3d5, 4, size, size),
		"empty":           nil,
		"gzip of nothing": compressed(t, nil),
	} {
		if _, _, err := decodeBytes(content, Options{}); !errors.Is(err, ErrNotCapture) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// TestPcapngTimes: timestamps in units of any power of 10 or 2, and with an offset.
func TestPcapngTimes(t *testing.T) {
	for _, c := range []struct {
		i     captureInterface
		stamp uint64
		want  time.Time
	}{
		{captureInterface{resolution: 6}, 1_700_000_000_123_456, time.Unix(1_700_000_000, 123_456_000)},
		{captureInterface{resolution: 9}, 1_700_000_000_123_456_789, time.Unix(1_700_000_000, 123_456_789)},
		{captureInterface{resolution: 0, offset: 1_699_999_999}, 1, time.Unix(1_700_000_000, 0)},
		{captureInterface{resolution: 32, binary: true}, 5<<32 + 1<<31, time.Unix(5, 500_000_000)},
		{captureInterface{resolution: 12}, 3_000_000_001_999, time.Unix(3, 1)},
		{captureInterface{resolution: 127, binary: true}, 1 << 62, time.Unix(0, 500_000_000)},
		{captureInterface{resolution: 127}, 1 << 62, time.Unix(0, 461_168_601)},
	} {
		if got := c.i.time(c.stamp); !got.Equal(c.want) {
			t.Errorf("%+v: %d is %v, want %v", c.i, c.stamp, got, c.want)
		}
	}
}

func compressed(t *testing.T, content []byte) []byte {
	t.Helper()
	var out bytes.Buffer
	w := gzip.NewWriter(&out)
	if _, err := w.Write(content); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

// TestBrokenFiles: each prefix of a capture is an error of one line, or just
// fewer packets if it ends between two of them.
func TestBrokenFiles(t *testing.T) {
	second := pcapFile(t, false)[24:]
	for name, c := range map[string]struct {
		content []byte
		packet1 int // length of the file up to the end of the first packet
	}{
		"pcap":   {append(pcapFile(t, false), second...), 24 + len(second)},
		"pcapng": {pcapngFile(t), len(pcapngFile(t))},
	} {
		t.Run(name, func(t *testing.T) {
			for n := range c.content {
				out, _, err := decodeBytes(c.content[:n], Options{})
				endsBetween := n == 24 || n == c.packet1
				if name == "pcap" && endsBetween != (err == nil) {
					t.Errorf("%d bytes: error %v", n, err)
				}
				if err != nil && strings.Contains(err.Error(), "\n") {
					t.Errorf("%d bytes: more than one line: %v", n, err)
				}
				if want := n >= c.packet1; want != (len(out) == 1) {
					t.Errorf("%d bytes: %d exchanges", n, len(out))
				}
			}
		})
	}
}

// stack is the headers before a get in one packet.
type stack []gopacket.SerializableLayer

func ethernet(next layers.EthernetType) *layers.Ethernet {
	return &layers.Ethernet{SrcMAC: make([]byte, 6), DstMAC: make([]byte, 6), EthernetType: next}
}

func vlan(next layers.EthernetType) *layers.Dot1Q {
	return &layers.Dot1Q{VLANIdentifier: 7, Type: next}
}

func ip4(protocol layers.IPProtocol) *layers.IPv4 {
	return &layers.IPv4{Version: 4, TTL: 64, Protocol: protocol, SrcIP: clientEnd.Addr().AsSlice(), DstIP: serverEnd.Addr().AsSlice()}
}

func ip6(next layers.IPProtocol) *layers.IPv6 {
	return &layers.IPv6{Version: 6, HopLimit: 64, NextHeader: next,
		SrcIP: netip.MustParseAddr("fd00::1").AsSlice(), DstIP: netip.MustParseAddr("fd00::2").AsSlice()}
}

func port() *layers.TCP { return &layers.TCP{SrcPort: 40000, DstPort: 80, Seq: 1, ACK: true} }

func udp(port layers.UDPPort) *layers.UDP { return &layers.UDP{SrcPort: 50000, DstPort: port} }

// octets is a header that gopacket cannot write.
func octets(b ...byte) gopacket.Payload { return gopacket.Payload(b) }

func TestFrames(t *testing.T) {
	const tcp = layers.IPProtocolTCP
	v6 := "[fd00::1]:40000"
	fragment := ip4(tcp)
	fragment.Flags = layers.IPv4MoreFragments
	lastFragment := ip4(tcp)
	lastFragment.FragOffset = 100
	// Hop-by-hop and destination options of 8 bytes: padding of 4 bytes (RFC
	// 8200, section 4.2). Routing of type 0 without segments left (4.4).
	padded := func(next layers.IPProtocol) gopacket.Payload { return octets(byte(next), 0, 1, 4, 0, 0, 0, 0) }
	routing := octets(byte(layers.IPProtocolIPv6Destination), 0, 0, 0, 0, 0, 0, 0)
	sll2 := append([]byte{0x08, 0x00, 0, 0, 0, 0, 0, 3, 0, 1, 4, 6}, make([]byte, 8)...)
	sll := append([]byte{0, 0, 0, 1, 0, 6}, append(make([]byte, 8), 0x86, 0xdd)...)
	for name, c := range map[string]struct {
		link    layers.LinkType
		stack   stack
		client  string
		counter string
	}{
		"Ethernet, IPv4":     {layers.LinkTypeEthernet, stack{ethernet(layers.EthernetTypeIPv4), ip4(tcp), port()}, clientEnd.String(), "found"},
		"Ethernet, IPv6":     {layers.LinkTypeEthernet, stack{ethernet(layers.EthernetTypeIPv6), ip6(tcp), port()}, v6, "found"},
		"VLAN":               {layers.LinkTypeEthernet, stack{ethernet(layers.EthernetTypeDot1Q), vlan(layers.EthernetTypeIPv4), ip4(tcp), port()}, clientEnd.String(), "found"},
		"two VLAN tags":      {layers.LinkTypeEthernet, stack{ethernet(layers.EthernetTypeDot1Q), vlan(layers.EthernetTypeDot1Q), vlan(layers.EthernetTypeIPv4), ip4(tcp), port()}, clientEnd.String(), "found"},
		"raw IPv4":           {layers.LinkTypeRaw, stack{ip4(tcp), port()}, clientEnd.String(), "found"},
		"raw IPv6":           {layers.LinkTypeRaw, stack{ip6(tcp), port()}, v6, "found"},
		"raw, BSD":           {12, stack{ip4(tcp), port()}, clientEnd.String(), "found"},
		"IPv4 alone":         {layers.LinkTypeIPv4, stack{ip4(tcp), port()}, clientEnd.String(), "found"},
		"IPv6 alone":         {layers.LinkTypeIPv6, stack{ip6(tcp), port()}, v6, "found"},
		"Linux SLL":          {layers.LinkTypeLinuxSLL, stack{octets(sll...), ip6(tcp), port()}, v6, "found"},
		"Linux SLL2":         {layers.LinkTypeLinuxSLL2, stack{octets(sll2...), ip4(tcp), port()}, clientEnd.String(), "found"},
		"BSD loopback":       {layers.LinkTypeNull, stack{octets(2, 0, 0, 0), ip4(tcp), port()}, clientEnd.String(), "found"},
		"hop-by-hop":         {layers.LinkTypeRaw, stack{ip6(layers.IPProtocolIPv6HopByHop), padded(tcp), port()}, v6, "found"},
		"three extensions":   {layers.LinkTypeRaw, stack{ip6(layers.IPProtocolIPv6HopByHop), padded(layers.IPProtocolIPv6Routing), routing, padded(tcp), port()}, v6, "found"},
		"IPv6 fragment":      {layers.LinkTypeRaw, stack{ip6(layers.IPProtocolIPv6Fragment), octets(6, 0, 0, 1, 0, 0, 0, 9), port()}, "", "fragment"},
		"first fragment":     {layers.LinkTypeRaw, stack{fragment, port()}, "", "fragment"},
		"last fragment":      {layers.LinkTypeRaw, stack{lastFragment, port()}, "", "fragment"},
		"IP in IP":           {layers.LinkTypeRaw, stack{ip4(layers.IPProtocolIPv4), ip4(tcp), port()}, clientEnd.String(), "found"},
		"802.3 SNAP":         {layers.LinkTypeEthernet, stack{ethernet(100), octets(0xaa, 0xaa, 3, 0, 0, 0, 8, 0), ip4(tcp), port()}, clientEnd.String(), "found"},
		"802.1ad, 802.1Q":    {layers.LinkTypeEthernet, stack{ethernet(layers.EthernetTypeQinQ), vlan(layers.EthernetTypeDot1Q), vlan(layers.EthernetTypeIPv6), ip6(tcp), port()}, v6, "found"},
		"IPv4 in IPv6":       {layers.LinkTypeRaw, stack{ip6(layers.IPProtocolIPv4), ip4(tcp), port()}, clientEnd.String(), "encapsulated_ip_in_ip6"},
		"IPv6 in IPv4":       {layers.LinkTypeRaw, stack{ip4(layers.IPProtocolIPv6), ip6(tcp), port()}, v6, "encapsulated_ip_in_ip6"},
		"IPIP":               {layers.LinkTypeEthernet, stack{ethernet(layers.EthernetTypeIPv4), ip4(layers.IPProtocolIPv4), ip4(tcp), port()}, clientEnd.String(), "encapsulated_ipip"},
		"GRE":                {layers.LinkTypeRaw, stack{ip4(layers.IPProtocolGRE), &layers.GRE{Protocol: layers.EthernetTypeIPv4}, ip4(tcp), port()}, clientEnd.String(), "encapsulated_gre"},
		"GRE with key":       {layers.LinkTypeRaw, stack{ip4(layers.IPProtocolGRE), &layers.GRE{Protocol: layers.EthernetTypeTransparentEthernetBridging, KeyPresent: true, Key: 7}, ethernet(layers.EthernetTypeIPv4), ip4(tcp), port()}, clientEnd.String(), "encapsulated_gre"},
		"VXLAN":              {layers.LinkTypeEthernet, stack{ethernet(layers.EthernetTypeIPv4), ip4(layers.IPProtocolUDP), udp(4789), &layers.VXLAN{ValidIDFlag: true, VNI: 7}, ethernet(layers.EthernetTypeIPv4), ip4(tcp), port()}, clientEnd.String(), "encapsulated_vxlan"},
		"VXLAN on 8472":      {layers.LinkTypeEthernet, stack{ethernet(layers.EthernetTypeIPv6), ip6(layers.IPProtocolUDP), udp(8472), &layers.VXLAN{ValidIDFlag: true, VNI: 7}, ethernet(layers.EthernetTypeDot1Q), vlan(layers.EthernetTypeIPv4), ip4(tcp), port()}, clientEnd.String(), "encapsulated_vxlan"},
		"Geneve":             {layers.LinkTypeRaw, stack{ip4(layers.IPProtocolUDP), udp(6081), octets(1, 0, 0x65, 0x58, 0, 0, 7, 0, 1, 2, 3, 0), ethernet(layers.EthernetTypeIPv6), ip6(tcp), port()}, v6, "encapsulated_geneve"},
		"MPLS":               {layers.LinkTypeEthernet, stack{ethernet(layers.EthernetTypeMPLSUnicast), &layers.MPLS{Label: 5, TTL: 9}, &layers.MPLS{Label: 6, TTL: 9, StackBottom: true}, ip4(tcp), port()}, clientEnd.String(), "encapsulated_mpls"},
		"PPPoE":              {layers.LinkTypeEthernet, stack{ethernet(layers.EthernetTypePPPoESession), octets(0x11, 0, 0, 1, 0, 140, 0, 0x21), ip4(tcp), port()}, clientEnd.String(), "encapsulated_pppoe"},
		"PPP":                {layers.LinkTypePPP, stack{octets(0xff, 3, 0, 0x57), ip6(tcp), port()}, v6, "found"},
		"PPP, compressed":    {layers.LinkTypePPP, stack{octets(0x21), ip4(tcp), port()}, clientEnd.String(), "found"},
		"NFLOG":              {linkNFLOG, stack{octets(2, 0, 0, 0, 5, 0, 10, 0, 0, 0, 0, 0, 142, 0, 9, 0), ip4(tcp), port()}, clientEnd.String(), "found"},
		"three levels":       {layers.LinkTypeRaw, stack{ip4(layers.IPProtocolIPv4), ip4(layers.IPProtocolIPv4), ip4(layers.IPProtocolIPv4), ip4(tcp), port()}, "", "not_decoded_ipip"},
		"ESP":                {layers.LinkTypeRaw, stack{ip4(layers.IPProtocolESP), octets(1, 2, 3, 4, 5, 6, 7, 8)}, "", "not_decoded_esp"},
		"WireGuard":          {layers.LinkTypeRaw, stack{ip4(layers.IPProtocolUDP), udp(51820), octets(4, 0, 0, 0)}, "", "not_decoded_wireguard"},
		"AH":                 {layers.LinkTypeRaw, stack{ip4(layers.IPProtocolAH), octets(6, 4, 0, 0, 0, 0, 0, 1, 0, 0, 0, 1, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12), port()}, clientEnd.String(), "found"},
		"UDP":                {layers.LinkTypeRaw, stack{ip4(layers.IPProtocolUDP), &layers.UDP{}}, "", "not_tcp"},
		"ARP":                {layers.LinkTypeEthernet, stack{ethernet(layers.EthernetTypeARP)}, "", "not_tcp"},
		"broken IP header":   {layers.LinkTypeRaw, stack{octets(0x41)}, "", "undecodable"},
		"empty":              {layers.LinkTypeRaw, nil, "", "undecodable"},
		"unknown link type":  {layers.LinkTypeIEEE802_11, stack{ip4(tcp), port()}, "", "other_link"},
		"extension too long": {layers.LinkTypeRaw, stack{ip6(layers.IPProtocolIPv6Routing), octets(6, 255)}, "", "undecodable"},
	} {
		t.Run(name, func(t *testing.T) {
			talk := newTalk(t, Options{})
			data := []byte{}
			if c.stack != nil {
				data = serialize(t, append(c.stack, gopacket.Payload(get))...)
			}
			// The padding of an Ethernet frame is not part of the segment.
			if c.link == layers.LinkTypeEthernet {
				data = append(data, "padding"...)
			}
			talk.d.Packet(Packet{Time: time.Unix(0, 1000), Link: c.link, Data: data})
			talk.d.Flush()
			if c.counter == "not_decoded_ipip" {
				talk.count(c.counter, 3) // it is in three
				talk.emitted()
				return
			}
			talk.count(c.counter, 1)
			if c.client == "" {
				talk.emitted()
				return
			}
			want := expected(message(1, 1, 1, len(get)), observe.Message{}, 0, noResponse)
			want.Client = netip.MustParseAddrPort(c.client)
			if want.Client.Addr().Is6() {
				want.Server = netip.MustParseAddrPort("[fd00::2]:80")
			}
			switch c.link {
			case layers.LinkTypeLinuxSLL:
				want.Direction = observe.DirectionIngress
			case layers.LinkTypeLinuxSLL2:
				want.Direction, want.Interface = observe.DirectionEgress, 3
			}
			talk.emitted(want)
		})
	}
}

// TestSeveralInterfaces: a packet captured at several interfaces is one request
// at each, not one with retransmissions.
func TestSeveralInterfaces(t *testing.T) {
	talk := newTalk(t, Options{})
	for index := range 3 {
		header := append([]byte{0x08, 0x00, 0, 0, 0, 0, 0, byte(index), 0, 1, 4, 6}, make([]byte, 8)...)
		data := serialize(t, octets(header...), ip4(layers.IPProtocolTCP), port(), gopacket.Payload(get))
		talk.d.Packet(Packet{Link: layers.LinkTypeLinuxSLL2, Time: time.Unix(0, 1000), Data: data})
	}
	talk.d.Packet(Packet{Link: layers.LinkTypeRaw, Time: time.Unix(0, 1000), Source: 1,
		Data: serialize(t, ip4(layers.IPProtocolTCP), port(), gopacket.Payload(get))})
	talk.d.Flush()
	talk.count("exchanges", 4)
	talk.count("retransmits", 0)
}

// TestCut: two requests, cut by the snapshot length after or within the context.
// Their sizes and sequence numbers are still right.
func TestCut(t *testing.T) {
	text := post("body")
	for missing, exchanges := range map[int]int{1: 2, 4: 2, 40: 0} {
		talk := newTalk(t, Options{})
		for i := range 2 {
			tcp := port()
			tcp.Seq += uint32(i * len(text))
			data := serialize(t, ip4(layers.IPProtocolTCP), tcp, gopacket.Payload(text))
			talk.d.Packet(Packet{Time: time.Unix(0, 1000), Link: layers.LinkTypeRaw, Data: data[:len(data)-missing], Length: len(data)})
		}
		talk.d.Flush()
		talk.count("cut", 2)
		talk.count("requests", 2)
		if len(talk.got) != exchanges {
			t.Errorf("%d bytes missing: %d exchanges, want %d", missing, len(talk.got), exchanges)
		}
		for _, x := range talk.got {
			if x.Request.Bytes != uint64(len(text)) {
				t.Errorf("%d bytes missing: the request has %d", missing, x.Request.Bytes)
			}
		}
	}
}

func TestPorts(t *testing.T) {
	for port, exchanges := range map[uint16]int{80: 1, 40000: 1, 81: 0} {
		talk := newTalk(t, Options{Ports: []uint16{9, port}})
		talk.client(get)
		talk.d.Flush()
		if len(talk.got) != exchanges {
			t.Errorf("port %d: %d exchanges, want %d", port, len(talk.got), exchanges)
		}
		talk.count("other_port", uint64(1-exchanges))
	}
}

func tcpOption(kind layers.TCPOptionKind, data string) layers.TCPOption {
	return layers.TCPOption{OptionType: kind, OptionLength: uint8(2 + len(data)), OptionData: []byte(data)}
}

var (
	compact   = tcpOption(254, "LT\x01\x02\x03\x04\x05\x06\x07\x08\xff\x00\x00\x01")
	paperID   = tcpOption(253, "\xde\xad\xbe\xef")
	paperTime = tcpOption(254, "\x00\x00\x00\x01\x00\x00\x00\x02")
	other     = tcpOption(254, "XX\x01\x02\x03\x04\x05\x06\x07\x08\xff\x00\x00\x01")
	nop       = layers.TCPOption{OptionType: layers.TCPOptionKindNop, OptionLength: 1}
)

func TestOptions(t *testing.T) {
	const lost = observe.FlagOptionLost
	for name, c := range map[string]struct {
		syn, request []layers.TCPOption
		id           string
		time         uint64
		flags        observe.Flags
	}{
		"off":              {},
		"compact":          {[]layers.TCPOption{compact}, []layers.TCPOption{nop, nop, compact}, "0102030405060708", 0xff000001, 0},
		"compact, no SYN":  {nil, []layers.TCPOption{compact}, "0102030405060708", 0xff000001, 0},
		"compact, lost":    {[]layers.TCPOption{compact}, nil, "0102030405060708", 0xff000001, lost},
		"paper":            {nil, []layers.TCPOption{paperID, paperTime}, "deadbeef", 1<<32 + 2, 0},
		"paper, backwards": {nil, []layers.TCPOption{paperTime, nop, paperID}, "deadbeef", 1<<32 + 2, 0},
		"paper, lost":      {[]layers.TCPOption{paperID, paperTime}, []layers.TCPOption{nop}, "deadbeef", 1<<32 + 2, lost},
		"time alone":       {nil, []layers.TCPOption{paperTime}, "", 0, 0},
		"another's":        {nil, []layers.TCPOption{other}, "", 0, 0},
		"short ID":         {nil, []layers.TCPOption{tcpOption(253, "abc")}, "", 0, 0},
	} {
		t.Run(name, func(t *testing.T) {
			talk := newTalk(t, Options{})
			talk.handshake(c.syn...)
			talk.client(post("body"), c.request...)
			talk.server(ok)
			talk.client(get, c.request...)
			for i, x := range talk.got {
				if x.ConnectionIDHex() != c.id || x.OptionTime != c.time || x.Flags&lost != c.flags {
					t.Errorf("exchange %d: ID %s, time %#x, flags %v", i, x.ConnectionIDHex(), x.OptionTime, x.Flags.Names())
				}
			}
			if len(talk.got) != 1 {
				t.Errorf("%d exchanges, want 1", len(talk.got))
			}
			if c.flags != 0 {
				talk.count("option_lost", 2)
			}
		})
	}
}

// FuzzReadFile checks invariants for every file, broken ones included.
func FuzzReadFile(f *testing.F) {
	f.Add(pcapFile(f, true), false)
	f.Add(pcapngFile(f), true)
	two := pcapFile(f, false)
	f.Add(append(two, two[24:]...), true)
	f.Fuzz(func(t *testing.T, file []byte, deep bool) {
		emitted := uint64(0)
		d := New(Options{Deep: deep}, func(x observe.Observation) {
			emitted++
			if x.Context.TraceID.IsZero() || x.Request.Packets == 0 || x.Request.First == 0 && x.Request.Last != 0 {
				t.Errorf("half an exchange: %+v", x)
			}
			if unanswered := x.Flags&observe.FlagNoResponse != 0; unanswered != (x.Response.Packets == 0) {
				t.Errorf("response %+v, flags %v", x.Response, x.Flags.Names())
			}
		})
		err := ReadFile(bytes.NewReader(file), d.Packet)
		d.Flush()
		for _, c := range d.Counters() {
			if c.Name == "found" && c.Value != emitted {
				t.Errorf("%d contexts found, %d exchanges (%v)", c.Value, emitted, err)
			}
		}
	})
}
