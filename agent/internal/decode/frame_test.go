// SPDX-License-Identifier: Apache-2.0

package decode

import (
	"net/netip"
	"testing"
	"time"

	"github.com/gopacket/gopacket"
	"github.com/gopacket/gopacket/layers"

	"github.com/layertrace/layertrace/internal/observe"
)

// stack is what stands in front of a get in one packet.
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

// octets are a header that gopacket does not write.
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
		"two VLAN tags":      {layers.LinkTypeEthernet, stack{ethernet(layers.EthernetTypeDot1Q), vlan(layers.EthernetTypeDot1Q), vlan(layers.EthernetTypeIPv4), ip4(tcp), port()}, "", "not_tcp"},
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
		"IP in IP":           {layers.LinkTypeRaw, stack{ip4(layers.IPProtocolIPv4), ip4(tcp), port()}, "", "not_tcp"},
		"UDP":                {layers.LinkTypeRaw, stack{ip4(layers.IPProtocolUDP), &layers.UDP{}}, "", "not_tcp"},
		"ARP":                {layers.LinkTypeEthernet, stack{ethernet(layers.EthernetTypeARP)}, "", "not_tcp"},
		"broken IP header":   {layers.LinkTypeRaw, stack{octets(0x41)}, "", "undecodable"},
		"empty":              {layers.LinkTypeRaw, nil, "", "undecodable"},
		"unknown link type":  {layers.LinkTypePPP, stack{ip4(tcp), port()}, "", "other_link"},
		"extension too long": {layers.LinkTypeRaw, stack{ip6(layers.IPProtocolIPv6Routing), octets(6, 255)}, "", "undecodable"},
	} {
		t.Run(name, func(t *testing.T) {
			talk := newTalk(t, Options{})
			data := []byte{}
			if c.stack != nil {
				data = serialize(t, append(c.stack, gopacket.Payload(get))...)
			}
			// What Ethernet pads a frame with does not belong to the segment.
			if c.link == layers.LinkTypeEthernet {
				data = append(data, "padding"...)
			}
			talk.d.Packet(Packet{Time: time.Unix(0, 1000), Link: c.link, Data: data})
			talk.d.Flush()
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

// TestSeveralInterfaces: a packet that passes three interfaces in one capture
// is one request at each, not one with retransmissions.
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

// TestCut: two requests, cut by the snapshot length behind the context or
// within it. Their sizes and sequence numbers are still right.
func TestCut(t *testing.T) {
	const text = get + "body"
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
