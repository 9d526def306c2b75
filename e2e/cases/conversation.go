// SPDX-License-Identifier: Apache-2.0

package cases

import (
	"bytes"
	"fmt"
	"os"
	"time"

	"github.com/gopacket/gopacket"
	"github.com/gopacket/gopacket/layers"
	"github.com/gopacket/gopacket/pcapgo"
)

// conversation writes the packets of one TCP connection, 100 µs apart.
type conversation struct {
	port       uint16
	now        time.Duration
	cseq, sseq uint32 // the next bytes
	packets    []packet
}

const serverPort = 80

func newConversation(port uint16) *conversation {
	return &conversation{port: port, cseq: 1000 + 100_003*uint32(port), sseq: 5000 + 300_007*uint32(port)}
}

// send adds a segment at offsets from the next bytes of both directions.
func (c *conversation) send(toServer bool, seq uint32, tcp layers.TCP, payload string) {
	client, server := []byte{10, 0, 0, 1}, []byte{10, 0, 0, 2}
	ip := &layers.IPv4{Version: 4, TTL: 64, Protocol: layers.IPProtocolTCP, SrcIP: client, DstIP: server}
	tcp.SrcPort, tcp.DstPort, tcp.Seq, tcp.Window = layers.TCPPort(c.port), serverPort, seq, 65535
	if tcp.ACK {
		tcp.Ack = c.sseq
	}
	if !toServer {
		ip.SrcIP, ip.DstIP = server, client
		tcp.SrcPort, tcp.DstPort = tcp.DstPort, tcp.SrcPort
		if tcp.ACK {
			tcp.Ack = c.cseq
		}
	}
	ethernet := &layers.Ethernet{SrcMAC: []byte{2, 0, 0, 0, 0, 1}, DstMAC: []byte{2, 0, 0, 0, 0, 2}, EthernetType: layers.EthernetTypeIPv4}
	buffer := gopacket.NewSerializeBuffer()
	if err := tcp.SetNetworkLayerForChecksum(ip); err != nil {
		panic(err) // IPv4 is a network layer
	}
	options := gopacket.SerializeOptions{FixLengths: true, ComputeChecksums: true}
	if err := gopacket.SerializeLayers(buffer, options, ethernet, ip, &tcp, gopacket.Payload(payload)); err != nil {
		panic(fmt.Sprintf("serialize a segment of %d bytes: %v", len(payload), err))
	}
	c.packets = append(c.packets, packet{at: c.now, data: bytes.Clone(buffer.Bytes()), toServer: toServer})
	c.now += 100 * time.Microsecond
}

func (c *conversation) handshake() {
	c.send(true, c.cseq, layers.TCP{SYN: true}, "")
	c.cseq++
	c.send(false, c.sseq, layers.TCP{SYN: true, ACK: true}, "")
	c.sseq++
	c.clientACK()
}

func (c *conversation) clientACK() { c.send(true, c.cseq, layers.TCP{ACK: true}, "") }
func (c *conversation) serverACK() { c.send(false, c.sseq, layers.TCP{ACK: true}, "") }

// client and server send payload in order; the At forms at an offset, and the stream
// does not move on.
func (c *conversation) client(payload string) {
	c.clientAt(0, payload)
	c.cseq += uint32(len(payload))
}

func (c *conversation) clientAt(offset int, payload string) {
	c.send(true, c.cseq+uint32(offset), layers.TCP{ACK: true, PSH: true}, payload)
}

func (c *conversation) server(payload string) {
	c.serverAt(0, payload)
	c.sseq += uint32(len(payload))
}

func (c *conversation) serverAt(offset int, payload string) {
	c.send(false, c.sseq+uint32(offset), layers.TCP{ACK: true, PSH: true}, payload)
}

func (c *conversation) clientFIN() {
	c.send(true, c.cseq, layers.TCP{ACK: true, FIN: true}, "")
	c.cseq++
}

func (c *conversation) serverFIN(payload string) {
	c.send(false, c.sseq, layers.TCP{ACK: true, FIN: true}, payload)
	c.sseq += uint32(len(payload)) + 1
}

func (c *conversation) reset() { c.send(false, c.sseq, layers.TCP{ACK: true, RST: true}, "") }

func (c *conversation) close() {
	c.clientFIN()
	c.serverFIN("")
	c.clientACK()
}

// writeCapture writes packets to a pcap file.
func writeCapture(path string, packets []packet) error {
	var file bytes.Buffer
	w := pcapgo.NewWriterNanos(&file)
	if err := w.WriteFileHeader(1<<18, layers.LinkTypeEthernet); err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	for _, p := range packets {
		info := gopacket.CaptureInfo{Timestamp: captureStart.Add(p.at), CaptureLength: len(p.data), Length: len(p.data)}
		if err := w.WritePacket(info, p.data); err != nil {
			return fmt.Errorf("write %s: %w", path, err)
		}
	}
	if err := os.WriteFile(path, file.Bytes(), 0o644); err != nil {
		return fmt.Errorf("write the capture: %w", err)
	}
	return nil
}

var captureStart = time.Unix(1700000000, 0)
