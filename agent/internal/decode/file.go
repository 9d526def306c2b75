// SPDX-License-Identifier: Apache-2.0

package decode

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"

	"github.com/gopacket/gopacket"
	"github.com/gopacket/gopacket/layers"
	"github.com/gopacket/gopacket/pcapgo"
)

// ErrNotCapture tells that a file is neither pcap nor pcapng.
var ErrNotCapture = errors.New("not a pcap or pcapng file (tcpdump -w writes one)")

// packetReader is what both file formats have in common.
type packetReader interface {
	ReadPacketData() ([]byte, gopacket.CaptureInfo, error)
}

// pcapngMagic is the type of the section header block that a pcapng file
// begins with, the same in both byte orders.
var pcapngMagic = []byte{0x0a, 0x0d, 0x0d, 0x0a}

// ReadFile hands each packet of a pcap or pcapng file to the function. It
// returns nil at the end of the file, ErrNotCapture, or what broke off the
// reading; the packets before that have been handed on.
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

// openCapture tells the formats apart. link returns the link type of a packet,
// which in pcapng depends on the packet's interface.
func openCapture(r *bufio.Reader) (reader packetReader, link func(gopacket.CaptureInfo) layers.LinkType, err error) {
	magic, err := r.Peek(len(pcapngMagic))
	if err != nil && !errors.Is(err, io.EOF) {
		return nil, nil, fmt.Errorf("read the file header: %w", err)
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
		link, _ := info.AncillaryData[0].(layers.LinkType) // as NgReaderOptions.WantMixedLinkType says
		return link
	}, nil
}
