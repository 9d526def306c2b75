// SPDX-License-Identifier: Apache-2.0

package cases

import (
	"bufio"
	"bytes"
	"compress/gzip"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"time"

	"github.com/gopacket/gopacket"
	"github.com/gopacket/gopacket/layers"
	"github.com/gopacket/gopacket/pcapgo"
)

// packet is a frame with its time after the first one of the capture.
type packet struct {
	at       time.Duration
	data     []byte
	toServer bool
}

// errNotEthernet is returned for captures that cannot be sent to an interface.
var errNotEthernet = errors.New("the capture is not of Ethernet")

// readPackets returns the frames of a capture. gopacket and tcpdump read it: the
// project's own reader is one of those under test.
func readPackets(path string) (packets []packet, err error) {
	content, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("read the case: %w", err)
	}
	if plain, err := gzip.NewReader(bytes.NewReader(content)); err == nil {
		if content, err = io.ReadAll(plain); err != nil {
			return nil, fmt.Errorf("decompress %s: %w", path, err)
		}
	}
	reader, err := openPackets(content)
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", path, err)
	}
	if reader.LinkType() != layers.LinkTypeEthernet {
		return nil, fmt.Errorf("read %s: %w", path, errNotEthernet)
	}
	var start time.Time
	for {
		data, info, err := reader.ReadPacketData()
		if errors.Is(err, io.EOF) {
			return packets, nil
		}
		if err != nil {
			return nil, fmt.Errorf("read %s: %w", path, err)
		}
		if start.IsZero() {
			start = info.Timestamp
		}
		packets = append(packets, packet{at: info.Timestamp.Sub(start), data: data, toServer: isToServer(data)})
	}
}

type linkReader interface {
	ReadPacketData() ([]byte, gopacket.CaptureInfo, error)
	LinkType() layers.LinkType
}

func openPackets(content []byte) (linkReader, error) {
	if bytes.HasPrefix(content, []byte{0x0a, 0x0d, 0x0d, 0x0a}) {
		return pcapgo.NewNgReader(bytes.NewReader(content), pcapgo.DefaultNgReaderOptions)
	}
	// tcpdump writes in today's format what it reads in any.
	convert := exec.Command("tcpdump", "-r", "-", "-w", "-")
	convert.Stdin = bytes.NewReader(content)
	converted, err := convert.Output()
	if err != nil {
		return nil, fmt.Errorf("convert by tcpdump: %w", err)
	}
	return pcapgo.NewReader(bufio.NewReader(bytes.NewReader(converted)))
}

// renumber moves the sequence numbers of a capture, each direction by an amount of its
// own for each n. Real connections begin at random numbers, by which the agent's programs
// recognize a segment at several capture points; captures made by hand begin at the same.
func renumber(packets []packet, n int) {
	ours, theirs := uint32(n+1)*0x01234567, uint32(n+1)*0x0765432b
	for _, p := range packets {
		decoded := gopacket.NewPacket(p.data, layers.LayerTypeEthernet, gopacket.NoCopy)
		for _, layer := range decoded.Layers() {
			tcp, ok := layer.(*layers.TCP)
			if !ok {
				continue
			}
			seq, ack := ours, theirs
			if !p.toServer {
				seq, ack = ack, seq
			}
			binary.BigEndian.PutUint32(tcp.Contents[4:], tcp.Seq+seq)
			if tcp.ACK {
				binary.BigEndian.PutUint32(tcp.Contents[8:], tcp.Ack+ack)
			}
		}
	}
}

// isToServer reports whether the innermost TCP segment goes to the lower port, which
// is the server's in all cases.
func isToServer(data []byte) bool {
	decoded := gopacket.NewPacket(data, layers.LayerTypeEthernet, gopacket.NoCopy)
	for _, layer := range decoded.Layers() {
		if tcp, ok := layer.(*layers.TCP); ok {
			return tcp.DstPort < tcp.SrcPort
		}
	}
	return true
}
