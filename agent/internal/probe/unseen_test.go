// SPDX-License-Identifier: Apache-2.0

package probe

import (
	"crypto/tls"
	"errors"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"github.com/gopacket/gopacket"
	"github.com/gopacket/gopacket/layers"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// firstWrite returns the first bytes that a client writes to a connection.
func firstWrite(t *testing.T, client func(net.Conn)) string {
	t.Helper()
	near, far := net.Pipe()
	done := make(chan struct{})
	go func() {
		defer close(done)
		client(near)
	}()
	t.Cleanup(func() { near.Close(); far.Close(); <-done })
	must(t, far.SetReadDeadline(time.Now().Add(10*time.Second)))
	buffer := make([]byte, 4096)
	n, err := far.Read(buffer)
	must(t, err)
	return string(buffer[:n])
}

// clientHello is what Go's TLS client sends first.
func clientHello(t *testing.T) string {
	t.Helper()
	return firstWrite(t, func(c net.Conn) {
		_ = tls.Client(c, &tls.Config{ServerName: "details"}).Handshake() // ends with the pipe
	})
}

// http2Preface is what Go's client of HTTP/2 without TLS sends first.
func http2Preface(t *testing.T) string {
	t.Helper()
	return firstWrite(t, func(c net.Conn) {
		transport := &http.Transport{
			Protocols: new(http.Protocols),
			Dial:      func(string, string) (net.Conn, error) { return c, nil }, //nolint:staticcheck // needs no context
		}
		transport.Protocols.SetUnencryptedHTTP2(true)
		response, err := (&http.Client{Transport: transport}).Get("http://details/")
		if err == nil {
			response.Body.Close()
		}
	})
}

// wantUnseen compares the counters of all kinds; those not in want are 0.
func (k *kernel) wantUnseen(want map[string]uint64) {
	k.t.Helper()
	got := map[string]uint64{}
	for name, count := range k.unseen() {
		if count > 0 {
			got[name] = count
		}
	}
	if diff := cmp.Diff(want, got, cmpopts.EquateEmpty()); diff != "" {
		k.t.Errorf("counters (-want +got):\n%s", diff)
	}
}

// unseen returns the counters that have a kind, by name/kind.
func (k *kernel) unseen() map[string]uint64 {
	k.t.Helper()
	values, err := k.probe.values()
	must(k.t, err)
	counts := map[string]uint64{}
	for _, v := range values {
		if v.kind != "" {
			counts[v.name+"/"+v.kind] = v.count
		}
	}
	return counts
}

const (
	unreadableTLS   = "layertrace_connections_unreadable_total/tls"
	unreadableHTTP2 = "layertrace_connections_unreadable_total/http2"
)

// A TLS connection begins with one ClientHello, in one or in several segments. The
// records that follow, and data that only resembles one, are not counted again.
func TestTLSIsCountedOncePerConnection(t *testing.T) {
	k := newKernel(t, Options{})
	hello := clientHello(t)
	whole, split := newConnection(5001), newConnection(5002)
	k.receive(whole.build(segment{seq: whole.clientSeq - 1, syn: true}))
	k.receive(whole.request(hello))
	k.receive(whole.response("\x16\x03\x03\x00\x7a\x02\x00\x00\x76\x03\x03")) // ServerHello
	k.receive(whole.request("\x14\x03\x03\x00\x01\x01"))
	k.receive(whole.request("\x17\x03\x03\x00\x20" + "application data, encrypted....."))
	k.receive(whole.build(segment{seq: whole.clientSeq, fin: true}))
	k.receive(split.request(hello[:100]))
	k.receive(split.request(hello[100:]))
	split.vlan = true
	k.receive(split.request("\x16\x03"))
	k.wantUnseen(map[string]uint64{unreadableTLS: 2})
	k.wantCount("requests", 0)
}

// A segment counts at each interface that it passes, read anew or from the cache.
func TestUnreadableConnectionAtSeveralPoints(t *testing.T) {
	onOneCPU(t)
	k := newKernel(t, Options{})
	c := newConnection(5001)
	hello := c.request(clientHello(t))
	for range 3 {
		k.receive(hello)
	}
	k.wantUnseen(map[string]uint64{unreadableTLS: 3})
}

// Ports that are not captured are not looked at.
func TestUnreadableConnectionOfOtherPorts(t *testing.T) {
	k := newKernel(t, Options{Ports: []uint16{80}})
	k.receive(newConnection(5001).request(clientHello(t)))
	k.wantUnseen(nil)
}

func TestHTTP2IsCounted(t *testing.T) {
	k := newKernel(t, Options{})
	preface := http2Preface(t)
	c, late := newConnection(5001), newConnection(5002)
	k.receive(c.request(preface))
	k.receive(c.response("\x00\x00\x00\x04\x00\x00\x00\x00\x00")) // SETTINGS
	k.receive(c.request("\x00\x00\x00\x04\x01\x00\x00\x00\x00"))
	k.receive(late.request("PRI /nothing HTTP/1.1\r\n" + traceparent + end)) // a method like others
	k.receive(late.response(ok200))
	k.wantUnseen(map[string]uint64{unreadableHTTP2: 1})
	if x := k.one(); x.Method != "PRI" {
		t.Errorf("method %q", x.Method)
	}
}

// A body is no connection, whatever it contains.
func TestBodyThatBeginsLikeTLS(t *testing.T) {
	k := newKernel(t, Options{})
	c := newConnection(5001)
	k.receive(c.request("POST / HTTP/1.1\r\ncontent-length: 40\r\n" + traceparent + end))
	k.receive(c.request(clientHello(t)[:40]))
	k.receive(c.response(ok200))
	k.wantUnseen(nil)
	if x := k.one(); x.Status != 200 {
		t.Errorf("status %d", x.Status)
	}
}

// Counted at sockets too.
func TestUnreadableConnectionAtSocket(t *testing.T) {
	if !inNamespace(t) {
		return
	}
	k := newLoopback(t)
	client, server := connect(t)
	send(t, client, server, http2Preface(t))
	if got := k.unseen()[unreadableHTTP2]; got != 2 {
		t.Errorf("counted %d times, want at both sockets", got)
	}
}

// carry returns a frame with these layers around a request.
func carry(t *testing.T, outer ...gopacket.SerializableLayer) []byte {
	t.Helper()
	inner := gopacket.Payload(newConnection(5001).request(get + traceparent + end))
	etherType := layers.EthernetTypeIPv4
	switch outer[0].(type) {
	case *layers.IPv6:
		etherType = layers.EthernetTypeIPv6
	case *layers.MPLS:
		etherType = layers.EthernetTypeMPLSUnicast
	case *layers.PPPoE:
		etherType = layers.EthernetTypePPPoESession
	}
	frame := []gopacket.SerializableLayer{&layers.Ethernet{SrcMAC: []byte{2, 0, 0, 0, 0, 1}, DstMAC: []byte{2, 0, 0, 0, 0, 2}, EthernetType: etherType}}
	buffer := gopacket.NewSerializeBuffer()
	must(t, gopacket.SerializeLayers(buffer, gopacket.SerializeOptions{FixLengths: true}, append(append(frame, outer...), inner)...))
	return buffer.Bytes()
}

func ipv4(protocol layers.IPProtocol) *layers.IPv4 {
	return &layers.IPv4{Version: 4, TTL: 64, Protocol: protocol, SrcIP: net.IPv4(192, 0, 2, 1).To4(), DstIP: net.IPv4(192, 0, 2, 2).To4()}
}

func ipv6(next layers.IPProtocol) *layers.IPv6 {
	return &layers.IPv6{Version: 6, HopLimit: 64, NextHeader: next, SrcIP: net.ParseIP("2001:db8::1"), DstIP: net.ParseIP("2001:db8::2")}
}

func udp(from, to layers.UDPPort) *layers.UDP { return &layers.UDP{SrcPort: from, DstPort: to} }

// Each encapsulation is counted by its kind; other packets of the same protocols are
// not.
func TestEncapsulatedPacketsAreCounted(t *testing.T) {
	const udpHeader = layers.IPProtocolUDP
	k := newKernel(t, Options{})
	want := map[string]uint64{}
	vxlan := &layers.VXLAN{ValidIDFlag: true, VNI: 7}
	wireguard := gopacket.Payload("\x04\x00\x00\x00\x01\x00\x00\x00")
	options := func(p *layers.IPv4) *layers.IPv4 {
		p.Options = []layers.IPv4Option{{OptionType: 148, OptionLength: 4, OptionData: []byte{0, 0}}}
		return p
	}
	fragment := func(p *layers.IPv4, offset uint16) *layers.IPv4 {
		p.FragOffset = offset
		return p
	}
	for name, c := range map[string]struct {
		kind  string // "" for none
		outer []gopacket.SerializableLayer
	}{
		"VXLAN":                           {"vxlan", []gopacket.SerializableLayer{ipv4(udpHeader), udp(40000, 4789), vxlan}},
		"VXLAN at Linux's port":           {"vxlan", []gopacket.SerializableLayer{ipv4(udpHeader), udp(40000, 8472), vxlan}},
		"VXLAN over IPv6":                 {"vxlan", []gopacket.SerializableLayer{ipv6(udpHeader), udp(40000, 4789), vxlan}},
		"VXLAN after IP options":          {"vxlan", []gopacket.SerializableLayer{options(ipv4(udpHeader)), udp(40000, 4789), vxlan}},
		"no VXLAN: no valid identifier":   {"", []gopacket.SerializableLayer{ipv4(udpHeader), udp(40000, 4789), &layers.VXLAN{}}},
		"no VXLAN: the source port":       {"", []gopacket.SerializableLayer{ipv4(udpHeader), udp(4789, 40000), vxlan}},
		"no VXLAN: a later fragment":      {"", []gopacket.SerializableLayer{fragment(ipv4(udpHeader), 100), udp(40000, 4789), vxlan}},
		"Geneve":                          {"geneve", []gopacket.SerializableLayer{ipv4(udpHeader), udp(40000, 6081), gopacket.Payload("\x00\x00\x65\x58\x00\x00\x07\x00")}},
		"no Geneve: another version":      {"", []gopacket.SerializableLayer{ipv4(udpHeader), udp(40000, 6081), gopacket.Payload("\x40\x00\x65\x58\x00\x00\x07\x00")}},
		"GRE":                             {"gre", []gopacket.SerializableLayer{ipv4(layers.IPProtocolGRE), &layers.GRE{Protocol: layers.EthernetTypeIPv4}}},
		"GRE over IPv6":                   {"gre", []gopacket.SerializableLayer{ipv6(layers.IPProtocolGRE), &layers.GRE{Protocol: layers.EthernetTypeIPv4}}},
		"IPv4 in IPv4":                    {"ipip", []gopacket.SerializableLayer{ipv4(layers.IPProtocolIPv4)}},
		"IPv4 in IPv6":                    {"ip_in_ip6", []gopacket.SerializableLayer{ipv6(layers.IPProtocolIPv4)}},
		"IPv6 in IPv4":                    {"ip_in_ip6", []gopacket.SerializableLayer{ipv4(layers.IPProtocolIPv6)}},
		"IPv6 in IPv6":                    {"ip_in_ip6", []gopacket.SerializableLayer{ipv6(layers.IPProtocolIPv6)}},
		"IPv4 in IPv6 after an option":    {"ip_in_ip6", []gopacket.SerializableLayer{ipv6(layers.IPProtocolIPv6Destination), gopacket.Payload("\x04\x00\x04\x01\x04\x01\x01\x00")}},
		"ESP":                             {"esp", []gopacket.SerializableLayer{ipv4(layers.IPProtocolESP)}},
		"MPLS":                            {"mpls", []gopacket.SerializableLayer{&layers.MPLS{Label: 100, StackBottom: true, TTL: 64}}},
		"MPLS in UDP":                     {"mpls", []gopacket.SerializableLayer{ipv4(udpHeader), udp(40000, 6635), &layers.MPLS{StackBottom: true}}},
		"PPPoE":                           {"pppoe", []gopacket.SerializableLayer{&layers.PPPoE{Version: 1, Type: 1, SessionId: 1}}},
		"WireGuard":                       {"wireguard", []gopacket.SerializableLayer{ipv4(udpHeader), udp(51820, 51820), wireguard}},
		"WireGuard of Cilium":             {"wireguard", []gopacket.SerializableLayer{ipv4(udpHeader), udp(51871, 51871), wireguard}},
		"WireGuard from its default port": {"wireguard", []gopacket.SerializableLayer{ipv4(udpHeader), udp(51820, 40000), wireguard}},
		"no WireGuard: another message":   {"", []gopacket.SerializableLayer{ipv4(udpHeader), udp(51820, 51820), gopacket.Payload("\x05\x00\x00\x00")}},
		"DNS":                             {"", []gopacket.SerializableLayer{ipv4(udpHeader), udp(40000, 53), gopacket.Payload("\x12\x34\x01\x00")}},
		"ICMP":                            {"", []gopacket.SerializableLayer{ipv4(layers.IPProtocolICMPv4)}},
	} {
		t.Run(name, func(t *testing.T) {
			k.t = t
			k.receive(carry(t, c.outer...))
			if c.kind != "" {
				want["layertrace_packets_encapsulated_total/"+c.kind]++
			}
			k.wantUnseen(want)
			k.wantCount("requests", 0)
		})
	}
}

// Packets that real devices of the kernel make, as far as this kernel has them (VXLAN
// always): counted by kind at the interface below.
func TestPacketsOfTunnelDevicesAreCounted(t *testing.T) {
	if !inNamespace(t) {
		return
	}
	n := newNetwork(t)
	local, remote := net.ParseIP(strings.TrimSuffix(clientAddr, "/24")), net.ParseIP(serverAddr)
	attrs := netlink.LinkAttrs{Name: "tunnel"}
	k := newKernel(t, Options{})
	must(t, k.probe.Attach(n.ifindex))
	for _, c := range []struct {
		kind, inside string
		device       netlink.Link
	}{
		{"vxlan", "10.92.0.", &netlink.Vxlan{LinkAttrs: attrs, VxlanId: 7, VtepDevIndex: n.ifindex, Group: remote, Port: 4789}},
		{"geneve", "10.92.0.", &netlink.Geneve{LinkAttrs: attrs, ID: 7, Remote: remote, Dport: 6081}},
		{"gre", "10.92.0.", &netlink.Gretun{LinkAttrs: attrs, Local: local, Remote: remote}},
		{"ipip", "10.92.0.", &netlink.Iptun{LinkAttrs: attrs, Local: local, Remote: remote}},
		{"ip_in_ip6", "fd92::", &netlink.Sittun{LinkAttrs: attrs, Local: local, Remote: remote}},
	} {
		t.Run(c.kind, func(t *testing.T) {
			k.t = t
			err := netlink.LinkAdd(c.device)
			if errors.Is(err, unix.EOPNOTSUPP) && c.kind != "vxlan" {
				t.Logf("this kernel has no %s device: %v", c.kind, err)
				return
			}
			must(t, err)
			defer func() { must(t, netlink.LinkDel(c.device)) }()
			must(t, netlink.LinkSetUp(c.device))
			to := net.ParseIP(c.inside + "2")
			bits := map[bool]string{true: "/24", false: "/64"}[to.To4() != nil]
			addr, err := netlink.ParseAddr(c.inside + "1" + bits)
			must(t, err)
			addr.Flags = unix.IFA_F_NODAD
			must(t, netlink.AddrAdd(c.device, addr))
			if hasEthernet(mustFind(t, "tunnel")) {
				must(t, netlink.NeighAdd(&netlink.Neigh{
					LinkIndex: mustFind(t, "tunnel").Attrs().Index, IP: to, HardwareAddr: net.HardwareAddr{2, 0, 0, 0, 0, 7}, State: netlink.NUD_PERMANENT,
				}))
			}
			conn, err := net.DialUDP("udp", nil, &net.UDPAddr{IP: to, Port: 9})
			must(t, err)
			defer conn.Close()
			poll(t, "a packet in "+c.kind, func() bool {
				_, _ = conn.Write([]byte("hello")) // may report an ICMP error of the packet before
				return k.unseen()["layertrace_packets_encapsulated_total/"+c.kind] > 0
			})
		})
	}
}

func mustFind(t *testing.T, name string) netlink.Link {
	t.Helper()
	device, err := netlink.LinkByName(name)
	must(t, err)
	return device
}
