// SPDX-License-Identifier: Apache-2.0

package decode

import "encoding/binary"

// encapsulation is a protocol that carries whole IP packets or Ethernet frames.
type encapsulation uint8

const (
	notEncapsulated encapsulation = iota
	inVXLAN
	inGeneve
	inGRE
	inIPIP
	inIPv6 // IPv4 or IPv6 in IPv6, IPv6 in IPv4
	inMPLS
	inPPPoE
	inESP
	inWireGuard
	encapsulations // their number
)

var encapsulationNames = [encapsulations]string{"", "vxlan", "geneve", "gre", "ipip", "ip_in_ip6", "mpls", "pppoe", "esp", "wireguard"}

// encapsulationTitles are their names in sentences.
var encapsulationTitles = [encapsulations]string{"", "VXLAN", "Geneve", "GRE", "IPIP (IPv4 in IPv4)", "IPv6, or IPv6 in IP", "MPLS", "PPPoE", "IPsec ESP", "WireGuard"}

// UDP ports of encapsulations: assigned by IANA, Linux's old default of VXLAN, and the
// default of WireGuard.
const (
	portVXLAN      = 4789
	portVXLANLinux = 8472
	portGeneve     = 6081
	portMPLS       = 6635
	portWireGuard  = 51820
)

// maxDepth is the number of encapsulations inside of one another that are read.
const maxDepth = 2

// enter notes an encapsulation, and reports whether what is inside can be read.
func (f *frame) enter(kind encapsulation) bool {
	if f.depth == 0 {
		f.point.inside = kind
	}
	if f.depth < len(f.kinds) {
		f.kinds[f.depth] = kind
	}
	f.depth++
	return f.depth <= maxDepth
}

func (f *frame) mpls(b []byte) result {
	if !f.enter(inMPLS) {
		return isSealed
	}
	for len(b) >= 4 {
		bottom := b[2]&1 != 0
		if b = b[4:]; !bottom {
			continue
		}
		switch {
		case len(b) == 0:
			return isUndecodable
		case b[0]>>4 == 4 || b[0]>>4 == 6:
			return f.ip(b)
		case len(b) > 4 && b[0]>>4 == 0: // control word of an Ethernet pseudowire (RFC 4448)
			return f.ethernet(b[4:])
		}
		return isNotTCP
	}
	return isUndecodable
}

// gre reads a GRE header (RFC 2784, RFC 2890); version 1 (PPTP) is not read.
func (f *frame) gre(b []byte) result {
	if !f.enter(inGRE) {
		return isSealed
	}
	if len(b) < 4 || b[1]&7 != 0 {
		return isUndecodable
	}
	length := 4
	for _, bit := range []byte{0x80, 0x20, 0x10} { // checksum, key, sequence number
		if b[0]&bit != 0 {
			length += 4
		}
	}
	if len(b) < length {
		return isUndecodable
	}
	return f.etherType(binary.BigEndian.Uint16(b[2:]), b[length:])
}

// udp reads the encapsulations that have a port of their own.
func (f *frame) udp(b []byte) result {
	if len(b) < 8 {
		return isUndecodable
	}
	ports := [2]uint16{binary.BigEndian.Uint16(b[2:]), binary.BigEndian.Uint16(b)}
	b = b[8:]
	switch ports[0] {
	case portVXLAN, portVXLANLinux:
		if len(b) < 8 || b[0]&8 == 0 { // RFC 7348, section 5: the I flag must be set
			return isNotTCP
		}
		if !f.enter(inVXLAN) {
			return isSealed
		}
		return f.ethernet(b[8:])
	case portGeneve: // RFC 8926, section 3.4
		if len(b) < 8 || b[0]>>6 != 0 {
			return isNotTCP
		}
		length := 8 + 4*int(b[0]&0x3f)
		if !f.enter(inGeneve) {
			return isSealed
		}
		if len(b) < length {
			return isUndecodable
		}
		return f.etherType(binary.BigEndian.Uint16(b[2:]), b[length:])
	case portMPLS:
		return f.mpls(b)
	}
	if ports[0] == portWireGuard || ports[1] == portWireGuard {
		f.enter(inWireGuard)
		return isSealed
	}
	return isNotTCP
}
