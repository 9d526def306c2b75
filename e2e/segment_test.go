// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os"
	"testing"

	"github.com/gopacket/gopacket"
	"github.com/gopacket/gopacket/layers"
	"github.com/gopacket/gopacket/pcapgo"
)

// segment is a captured TCP segment.
type segment struct {
	from, to netip.AddrPort
	seq      uint32
	syn      bool // without ACK
	payload  []byte
	options  []layers.TCPOption
}

// option is layertrace's TCP option.
type option struct{ id, time []byte }

func (s segment) String() string {
	return fmt.Sprintf("segment %v -> %v, SYN %v, %d bytes", s.from, s.to, s.syn, len(s.payload))
}

func (s segment) isRequest() bool { return bytes.HasPrefix(s.payload, []byte("GET ")) }

// beginsMessage reports whether the segment is the first of a request or a
// response.
func (s segment) beginsMessage() bool {
	return s.isRequest() || bytes.HasPrefix(s.payload, []byte("HTTP/1.1 "))
}

// connection names the connection by its client and server.
func (s segment) connection() string {
	if s.syn || s.isRequest() {
		return s.from.String() + "-" + s.to.String()
	}
	return s.to.String() + "-" + s.from.String()
}

func readSegments(t *testing.T, file string) (segments []segment) {
	t.Helper()
	f, err := os.Open(file)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	reader, err := pcapgo.NewReader(f)
	if err != nil {
		t.Fatal(err)
	}
	for {
		data, _, err := reader.ReadPacketData()
		if errors.Is(err, io.EOF) {
			return segments
		}
		if err != nil {
			t.Fatal(err)
		}
		packet := gopacket.NewPacket(data, reader.LinkType(), gopacket.Default)
		ip, isIP := packet.Layer(layers.LayerTypeIPv4).(*layers.IPv4)
		tcp, isTCP := packet.Layer(layers.LayerTypeTCP).(*layers.TCP)
		if !isIP || !isTCP {
			t.Fatalf("not TCP over IPv4: %v", packet)
		}
		from, _ := netip.AddrFromSlice(ip.SrcIP.To4())
		to, _ := netip.AddrFromSlice(ip.DstIP.To4())
		segments = append(segments, segment{
			from: netip.AddrPortFrom(from, uint16(tcp.SrcPort)), to: netip.AddrPortFrom(to, uint16(tcp.DstPort)),
			seq: tcp.Seq, syn: tcp.SYN && !tcp.ACK, payload: tcp.Payload, options: tcp.Options,
		})
	}
}

// experimental returns the options of kinds 253 and 254.
func (s segment) experimental() (found []layers.TCPOption) {
	for _, o := range s.options {
		if o.OptionType == 253 || o.OptionType == 254 {
			found = append(found, o)
		}
	}
	return found
}

// expected says whether the option must be on a segment; elsewhere it must
// not, for receivers do not merge segments whose options differ.
func (s segment) expected(found int) error {
	if want := s.syn || s.beginsMessage(); want != (found > 0) {
		return fmt.Errorf("%d experimental options, expected on this segment: %v", found, want)
	}
	return nil
}

func readNone(s segment) (option, error) {
	if found := s.experimental(); len(found) > 0 {
		return option{}, fmt.Errorf("options %v", found)
	}
	return option{}, nil
}

// readCompact reads kind 254, length 16, ExID, 8 bytes of ID, 4 of time.
func readCompact(s segment) (option, error) {
	found := s.experimental()
	if err := s.expected(len(found)); err != nil || len(found) == 0 {
		return option{}, err
	}
	o := found[0]
	if len(found) != 1 || o.OptionType != 254 || o.OptionLength != 16 || binary.BigEndian.Uint16(o.OptionData) != 0x4c54 {
		return option{}, fmt.Errorf("options %v", found)
	}
	return option{id: o.OptionData[2:10], time: o.OptionData[10:]}, nil
}

// readPaper reads kind 253, length 6, 4 bytes of ID, and kind 254, length 10,
// 8 bytes of time.
func readPaper(s segment) (option, error) {
	found := s.experimental()
	if err := s.expected(len(found)); err != nil || len(found) == 0 {
		return option{}, err
	}
	if len(found) != 2 || found[0].OptionType != 253 || found[0].OptionLength != 6 ||
		found[1].OptionType != 254 || found[1].OptionLength != 10 {
		return option{}, fmt.Errorf("options %v", found)
	}
	return option{id: found[0].OptionData, time: found[1].OptionData}, nil
}
