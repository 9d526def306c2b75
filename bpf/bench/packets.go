// SPDX-License-Identifier: Apache-2.0

package main

import (
	"errors"
	"fmt"
	"os"
	"strings"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/ringbuf"
	"github.com/gopacket/gopacket"
	"github.com/gopacket/gopacket/layers"

	"github.com/layertrace/layertrace/internal/stats"
)

// benchCase is one packet, repeated.
type benchCase struct {
	name   string
	packet []byte
	// before is a packet sent first to make the connection tracked, if any.
	before []byte
	// window is the search window in bytes.
	window uint32
	// step is added to the sequence number after each run.
	step uint32
	// messages: each segment begins a message, which only a device takes from it.
	messages bool
}

const (
	requestLine = "GET /productpage HTTP/1.1\r\nhost: productpage:9080\r\n"
	sampled     = "traceparent: 00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01\r\n"
	denied      = "traceparent: 00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-00\r\n"
	others      = "user-agent: curl/8.5.0\r\naccept: */*\r\nx-request-id: 5f1a7f0e-7a0d-9a3b-b7d2-3a1b6a0c4c55\r\n\r\n"
)

// metadata resembles Istio's peer metadata header: one long line.
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
		{name: "tracked-data", before: requestLine + sampled + "\r\n", payload: strings.Repeat("d", 1000)},
		{name: "request-context-first", payload: requestLine + sampled + metadata + others},
		// A window large enough to find the context.
		{name: "request-context-after-1100", payload: requestLine + metadata + sampled + others, window: 2048},
		// The window ends before it, and the search goes on.
		{name: "request-context-after-1100-searched", payload: requestLine + metadata + sampled + others},
		{name: "request-context-after-2100-searched", payload: requestLine + "cookie: " + strings.Repeat("c", 2100) + "\r\n" + sampled + others},
		{name: "unsampled-request", payload: requestLine + denied + metadata + others},
	} {
		packet, err := build(c.udp, false, c.payload)
		if err != nil {
			return nil, fmt.Errorf("build packet of case %s: %w", c.name, err)
		}
		one := benchCase{name: c.name, packet: packet, window: max(c.window, 1024), step: uint32(len(c.payload))}
		if c.before != "" {
			if one.before, err = build(false, false, c.before); err != nil {
				return nil, fmt.Errorf("build packet before case %s: %w", c.name, err)
			}
		}
		built = append(built, one)
	}
	return built, nil
}

// build returns a packet, with layertrace's option if it is TCP and marked.
func build(udp, marked bool, payload string) ([]byte, error) {
	return buildOf(udp, marked, payload, []byte{10, 0, 0, 1}, []byte{10, 0, 0, 2})
}

func buildOf(udp, marked bool, payload string, src, dst []byte) ([]byte, error) {
	eth := &layers.Ethernet{
		SrcMAC: []byte{2, 0, 0, 0, 0, 1}, DstMAC: []byte{2, 0, 0, 0, 0, 2},
		EthernetType: layers.EthernetTypeIPv4,
	}
	ip := &layers.IPv4{
		Version: 4, TTL: 64, Protocol: layers.IPProtocolTCP,
		SrcIP: src, DstIP: dst,
	}
	stack := []gopacket.SerializableLayer{eth, ip}
	if udp {
		ip.Protocol = layers.IPProtocolUDP
		u := &layers.UDP{SrcPort: 40000, DstPort: 9080}
		_ = u.SetNetworkLayerForChecksum(ip)
		stack = append(stack, u)
	} else {
		// With timestamps, as in nearly every segment.
		t := &layers.TCP{
			SrcPort: 40000, DstPort: 9080, ACK: true, Window: 1000,
			Options: []layers.TCPOption{
				{OptionType: layers.TCPOptionKindNop}, {OptionType: layers.TCPOptionKindNop},
				{OptionType: layers.TCPOptionKindTimestamps, OptionLength: 10, OptionData: make([]byte, 8)},
			},
		}
		if marked {
			t.Options = append(t.Options, layers.TCPOption{OptionType: 254, OptionLength: 16, OptionData: []byte("LT" + "connectn" + "time")})
		}
		_ = t.SetNetworkLayerForChecksum(ip)
		stack = append(stack, t)
	}
	buffer := gopacket.NewSerializeBuffer()
	err := gopacket.SerializeLayers(buffer, gopacket.SerializeOptions{FixLengths: true, ComputeChecksums: true}, append(stack, gopacket.Payload(payload))...)
	return buffer.Bytes(), err
}

// repeat is the number of runs in a row: few enough for the ring buffer to hold an
// exchange of each.
const repeat = 20000

// measured is one case in one mode.
type measured struct {
	Case  string  `json:"case"`
	Mode  string  `json:"mode"`
	NS    float64 `json:"ns"`
	Ratio float64 `json:"ratio"`

	emptyNS           float64
	packet            []byte
	program, empty    *ebpf.Program
	ring              *ringbuf.Reader
	times, emptyTimes []float64
}

func prepare(c benchCase, mode string) (*measured, error) {
	spec, err := LoadBench()
	if err != nil {
		return nil, err
	}
	// No budget: the cases repeat more than any machine sends.
	err = errors.Join(spec.Variables["bench_step"].Set(c.step), spec.Variables["prefix_window"].Set(c.window),
		spec.Variables["deep_budget"].Set(uint64(BenchWindowDEEP_BUDGET_MAX)))
	if err != nil {
		return nil, err
	}
	names := map[string][2]string{"tcx": {"bench_tcx", "empty_tcx"}, "socket-filter": {"bench_sock", "empty_sock"}}[mode]
	for name := range spec.Programs {
		if name != names[0] && name != names[1] {
			delete(spec.Programs, name)
		}
	}
	coll, err := ebpf.NewCollection(spec)
	if err != nil {
		return nil, err
	}
	ring, err := ringbuf.NewReader(coll.Maps["exchanges"])
	if err != nil {
		return nil, err
	}
	m := &measured{
		Case: c.name, Mode: mode, packet: c.packet,
		program: coll.Programs[names[0]], empty: coll.Programs[names[1]], ring: ring,
	}
	first := c.before
	if first == nil {
		first = c.packet
	}
	answer, err := answerTo(first)
	if err != nil {
		return nil, err
	}
	// Connections count once the server has acknowledged something.
	for _, packet := range [][]byte{first, answer} {
		if _, err := m.program.Run(&ebpf.RunOptions{Data: packet}); err != nil {
			return nil, err
		}
	}
	return m, nil
}

// answerTo returns a bare acknowledgement to a packet that build has built.
func answerTo(packet []byte) ([]byte, error) {
	answer, err := build(false, false, "")
	if err != nil {
		return nil, err
	}
	const addresses, ports = 14 + 12, 14 + 20 // in the packet
	copy(answer[addresses:], packet[addresses+4:addresses+8])
	copy(answer[addresses+4:], packet[addresses:addresses+4])
	copy(answer[ports:], packet[ports+2:ports+4])
	copy(answer[ports+2:], packet[ports:ports+2])
	return answer, nil
}

func (m *measured) round() error {
	for _, one := range []struct {
		program *ebpf.Program
		times   *[]float64
	}{{m.empty, &m.emptyTimes}, {m.program, &m.times}} {
		_, took, err := one.program.Benchmark(m.packet, repeat, func() {})
		if err != nil {
			return err
		}
		*one.times = append(*one.times, float64(took.Nanoseconds()))
	}
	return m.drain()
}

// drain empties the ring, to make room for the next round.
func (m *measured) drain() error {
	if m.ring == nil {
		return nil
	}
	var record ringbuf.Record
	m.ring.SetDeadline(time.Now().Add(-time.Second))
	for {
		err := m.ring.ReadInto(&record)
		if errors.Is(err, os.ErrDeadlineExceeded) {
			return nil
		}
		if err != nil {
			return err
		}
	}
}

func (m *measured) summarise() {
	ratios := make([]float64, len(m.times))
	for i := range m.times {
		ratios[i] = m.times[i] / m.emptyTimes[i]
	}
	m.NS, m.emptyNS, m.Ratio = stats.Median(m.times), stats.Median(m.emptyTimes), stats.Median(ratios)
}
