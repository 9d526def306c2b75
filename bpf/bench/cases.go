// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"strings"

	"github.com/gopacket/gopacket"
	"github.com/gopacket/gopacket/layers"
)

// A benchmark case is one packet, repeated.
type benchCase struct {
	name   string
	packet []byte
	// before is a packet that makes the connection known, if any.
	before []byte
	// window is the searched prefix in bytes.
	window uint32
	// step is how far the sequence number moves on with each run.
	step uint32
}

const (
	requestLine = "GET /productpage HTTP/1.1\r\nhost: productpage:9080\r\n"
	context     = "traceparent: 00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01\r\n"
	denied      = "traceparent: 00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-00\r\n"
	others      = "user-agent: curl/8.5.0\r\naccept: */*\r\nx-request-id: 5f1a7f0e-7a0d-9a3b-b7d2-3a1b6a0c4c55\r\n\r\n"
)

// metadata is what Istio's peer metadata header looks like: one long line.
var metadata = "x-envoy-peer-metadata: " + strings.Repeat("Q2hBS0RrRlFVRjlEVD", 70)[:1100] + "\r\n"

func cases() ([]benchCase, error) {
	var built []benchCase
	for _, c := range []struct {
		name, before, payload string
		udp                   bool
		window                uint32
	}{
		{name: "udp", payload: strings.Repeat("u", 100), udp: true},
		{name: "ack"},
		{name: "untracked-data", payload: strings.Repeat("d", 1000)},
		{name: "tracked-data", before: requestLine + context + "\r\n", payload: strings.Repeat("d", 1000)},
		{name: "request-front", payload: requestLine + context + metadata + others},
		// A window in which the context is found, as in the front case.
		{name: "request-behind-1100", payload: requestLine + metadata + context + others, window: 2048},
		{name: "unsampled-request", payload: requestLine + denied + metadata + others},
	} {
		packet, err := build(c.udp, c.payload)
		if err != nil {
			return nil, fmt.Errorf("build packet of case %s: %w", c.name, err)
		}
		one := benchCase{name: c.name, packet: packet, window: max(c.window, 1024), step: uint32(len(c.payload))}
		if c.before != "" {
			if one.before, err = build(false, c.before); err != nil {
				return nil, fmt.Errorf("build packet before case %s: %w", c.name, err)
			}
		}
		built = append(built, one)
	}
	return built, nil
}

func build(udp bool, payload string) ([]byte, error) {
	eth := &layers.Ethernet{
		SrcMAC: []byte{2, 0, 0, 0, 0, 1}, DstMAC: []byte{2, 0, 0, 0, 0, 2},
		EthernetType: layers.EthernetTypeIPv4,
	}
	ip := &layers.IPv4{
		Version: 4, TTL: 64, Protocol: layers.IPProtocolTCP,
		SrcIP: []byte{10, 0, 0, 1}, DstIP: []byte{10, 0, 0, 2},
	}
	stack := []gopacket.SerializableLayer{eth, ip}
	if udp {
		ip.Protocol = layers.IPProtocolUDP
		u := &layers.UDP{SrcPort: 40000, DstPort: 9080}
		_ = u.SetNetworkLayerForChecksum(ip)
		stack = append(stack, u)
	} else {
		// Timestamps, as nearly every segment carries them.
		t := &layers.TCP{
			SrcPort: 40000, DstPort: 9080, ACK: true, Window: 1000,
			Options: []layers.TCPOption{
				{OptionType: layers.TCPOptionKindNop}, {OptionType: layers.TCPOptionKindNop},
				{OptionType: layers.TCPOptionKindTimestamps, OptionLength: 10, OptionData: make([]byte, 8)},
			},
		}
		_ = t.SetNetworkLayerForChecksum(ip)
		stack = append(stack, t)
	}
	buffer := gopacket.NewSerializeBuffer()
	err := gopacket.SerializeLayers(buffer, gopacket.SerializeOptions{FixLengths: true, ComputeChecksums: true}, append(stack, gopacket.Payload(payload))...)
	return buffer.Bytes(), err
}
