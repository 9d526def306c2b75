// SPDX-License-Identifier: Apache-2.0

package decode

import (
	"bufio"
	"bytes"
	"compress/gzip"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math"
	"math/bits"
	"time"

	"github.com/gopacket/gopacket/layers"
)

// ErrNotCapture is returned for a file that is neither pcap nor pcapng.
var ErrNotCapture = errors.New("not a pcap or pcapng file (tcpdump -w writes one)")

// maxPacket is the largest captured packet in bytes, of a BIG TCP segment or a USB
// transfer; a longer one is a broken file. maxBlock is that of a pcapng block.
const (
	maxPacket = 16 << 20
	maxBlock  = maxPacket + 1<<16
)

// ReadFile calls packet with each packet of a pcap or pcapng file, which may be
// compressed by gzip. It returns nil at the end of the file, ErrNotCapture, or the error
// that ended the reading; packets before that have been passed on. The data of a packet
// is valid until packet returns.
func ReadFile(r io.Reader, packet func(Packet)) error {
	buffered := bufio.NewReaderSize(r, 1<<16)
	magic, err := buffered.Peek(4)
	if err != nil && !errors.Is(err, io.EOF) {
		return fmt.Errorf("read the file header: %w", err)
	}
	f := file{in: buffered, packet: packet}
	switch {
	case bytes.HasPrefix(magic, gzipMagic):
		plain, err := gzip.NewReader(buffered)
		if err != nil {
			return fmt.Errorf("%w: %w", ErrNotCapture, err)
		}
		return ReadFile(plain, packet)
	case bytes.Equal(magic, pcapngMagic):
		err = f.pcapng()
	default:
		err = f.pcap()
	}
	switch {
	case errors.Is(err, io.EOF):
		return nil
	case errors.Is(err, io.ErrUnexpectedEOF):
		return fmt.Errorf("the capture ends within packet %d; was tcpdump still writing?", f.count+1)
	case err != nil && !errors.Is(err, ErrNotCapture):
		return fmt.Errorf("packet %d: %w", f.count+1, err)
	}
	return err
}

// pcapngMagic is the type of the section header block at the start of a pcapng file, the
// same in both byte orders. gzipMagic begins a compressed file (RFC 1952, section 2.3.1).
var (
	pcapngMagic = []byte{0x0a, 0x0d, 0x0d, 0x0a}
	gzipMagic   = []byte{0x1f, 0x8b}
)

// file is a capture being read.
type file struct {
	in     *bufio.Reader
	packet func(Packet)
	count  int
	buffer []byte
}

// read returns the next n bytes, valid until the next call: io.EOF if there are none,
// io.ErrUnexpectedEOF if there are fewer.
func (f *file) read(n int) ([]byte, error) {
	if n > cap(f.buffer) {
		f.buffer = make([]byte, n)
	}
	b := f.buffer[:n]
	_, err := io.ReadFull(f.in, b)
	return b, err
}

// rest is read in the middle of something: the end of the file is unexpected.
func (f *file) rest(n int) ([]byte, error) {
	b, err := f.read(n)
	if errors.Is(err, io.EOF) {
		err = io.ErrUnexpectedEOF
	}
	return b, err
}

// Magic numbers of pcap files, as in libpcap's sf-pcap.c: times in µs or ns, and the
// modified format of A. Kuznetzov, with a longer packet header.
const (
	magicMicros   = 0xa1b2c3d4
	magicNanos    = 0xa1b23c4d
	magicModified = 0xa1b2cd34
)

// pcap reads a pcap file (draft-ietf-opsawg-pcap).
func (f *file) pcap() error {
	header, err := f.read(24)
	if err != nil {
		return fmt.Errorf("%w: it is too short", ErrNotCapture)
	}
	var order binary.ByteOrder = binary.LittleEndian
	var headerSize, unit int
	for _, o := range []binary.ByteOrder{binary.LittleEndian, binary.BigEndian} {
		switch o.Uint32(header) {
		case magicMicros:
			order, headerSize, unit = o, 16, 1000
		case magicNanos:
			order, headerSize, unit = o, 16, 1
		case magicModified:
			order, headerSize, unit = o, 24, 1000
		}
	}
	if headerSize == 0 {
		return fmt.Errorf("%w: it begins with %x", ErrNotCapture, header[:4])
	}
	major, minor := order.Uint16(header[4:]), order.Uint16(header[6:])
	if major != 2 || minor > 4 {
		return fmt.Errorf("%w: pcap version %d.%d is unknown", ErrNotCapture, major, minor)
	}
	link := layers.LinkType(order.Uint32(header[20:]) & 0xffff)
	for {
		header, err := f.read(headerSize)
		if err != nil {
			return err
		}
		sec, sub := order.Uint32(header), order.Uint32(header[4:])
		captured, length := order.Uint32(header[8:]), order.Uint32(header[12:])
		// Before version 2.3 the lengths were in the other order, in 2.3 in either
		// (libpcap, sf-pcap.c).
		if minor < 3 || minor == 3 && captured > length {
			captured, length = length, captured
		}
		if captured > maxPacket {
			return fmt.Errorf("%d captured bytes: the file is broken", captured)
		}
		data, err := f.rest(int(captured))
		if err != nil {
			return err
		}
		f.emit(Packet{Time: time.Unix(int64(sec), int64(sub)*int64(unit)), Link: link, Data: data, Length: int(length)})
	}
}

func (f *file) emit(p Packet) {
	f.count++
	if p.Length < len(p.Data) {
		p.Length = len(p.Data) // some programs write so: what was captured, was there
	}
	f.packet(p)
}

// Block types of pcapng (draft-ietf-opsawg-pcapng, section 4).
const (
	blockSection   = 0x0a0d0d0a
	blockInterface = 1
	blockPacket    = 2 // obsolete
	blockSimple    = 3
	blockEnhanced  = 6
)

const byteOrderMagic = 0x1a2b3c4d

// captureInterface is an interface of a pcapng section.
type captureInterface struct {
	link    layers.LinkType
	snaplen int
	// Times are in units of 2^-resolution or 10^-resolution seconds, after offset.
	resolution uint8
	binary     bool
	offset     int64 // s
	source     int
}

// pcapng reads a pcapng file block by block. Each section has its own byte order and
// interfaces.
func (f *file) pcapng() error {
	var order binary.ByteOrder = binary.LittleEndian
	var interfaces []captureInterface
	sources := 0
	for {
		head, err := f.read(8)
		if err != nil {
			return err
		}
		if bytes.Equal(head[:4], pcapngMagic) {
			next, err := f.in.Peek(4)
			if err != nil {
				return io.ErrUnexpectedEOF
			}
			switch uint32(byteOrderMagic) {
			case binary.LittleEndian.Uint32(next):
				order = binary.LittleEndian
			case binary.BigEndian.Uint32(next):
				order = binary.BigEndian
			default:
				return fmt.Errorf("%w: the section header has the byte order %x", ErrNotCapture, next)
			}
			interfaces = nil
		}
		kind, size := order.Uint32(head), order.Uint32(head[4:])
		if size < 12 || size > maxBlock || size%4 != 0 {
			return fmt.Errorf("a block of %d bytes: the file is broken", size)
		}
		body, err := f.rest(int(size) - 8)
		if err != nil {
			return err
		}
		body = body[:len(body)-4] // the size again
		switch kind {
		case blockInterface:
			if len(body) < 8 {
				return errors.New("an interface block is too short")
			}
			i := readInterface(body, order)
			i.source = sources
			sources++
			interfaces = append(interfaces, i)
		case blockEnhanced, blockPacket, blockSimple:
			p, err := readBlock(kind, body, order, interfaces)
			if err != nil {
				return err
			}
			f.emit(p)
		}
	}
}

// Options of an interface block.
const (
	optionEnd        = 0
	optionResolution = 9
	optionOffset     = 14
)

func readInterface(body []byte, order binary.ByteOrder) captureInterface {
	i := captureInterface{link: layers.LinkType(order.Uint16(body)), snaplen: int(order.Uint32(body[4:])), resolution: 6}
	for options := body[8:]; len(options) >= 4; {
		code, size := order.Uint16(options), int(order.Uint16(options[2:]))
		options = options[4:]
		if code == optionEnd || size > len(options) {
			break
		}
		switch value := options[:size]; {
		case code == optionResolution && size == 1:
			i.resolution, i.binary = value[0]&0x7f, value[0]&0x80 != 0
		case code == optionOffset && size == 8:
			i.offset = int64(order.Uint64(value))
		}
		options = options[min((size+3)&^3, len(options)):]
	}
	return i
}

// readBlock reads a block with a packet.
func readBlock(kind uint32, body []byte, order binary.ByteOrder, interfaces []captureInterface) (p Packet, err error) {
	short := errors.New("a packet block is too short")
	var index, captured, length int
	var stamp uint64
	var data []byte
	switch kind {
	case blockSimple:
		if len(body) < 4 {
			return p, short
		}
		length, data = int(order.Uint32(body)), body[4:]
		captured = length
		if len(interfaces) > 0 && interfaces[0].snaplen > 0 {
			captured = min(captured, interfaces[0].snaplen)
		}
		captured = min(captured, len(data))
	default:
		if len(body) < 20 {
			return p, short
		}
		index = int(order.Uint32(body))
		if kind == blockPacket {
			index = int(order.Uint16(body))
		}
		stamp = uint64(order.Uint32(body[4:]))<<32 | uint64(order.Uint32(body[8:]))
		captured, length, data = int(order.Uint32(body[12:])), int(order.Uint32(body[16:])), body[20:]
	}
	if index >= len(interfaces) {
		return p, fmt.Errorf("interface %d is not in the file", index)
	}
	if captured > len(data) {
		return p, short
	}
	i := interfaces[index]
	return Packet{Time: i.time(stamp), Link: i.link, Data: data[:captured], Length: length, Source: i.source}, nil
}

// time converts a timestamp without loss of ns.
func (i *captureInterface) time(stamp uint64) time.Time {
	perSecond := uint64(1) << min(i.resolution, 63)
	if !i.binary {
		perSecond = uint64(math.Pow10(int(min(i.resolution, 19))))
	}
	sec, rest := stamp/perSecond, stamp%perSecond
	high, low := bits.Mul64(rest, 1e9)
	ns, _ := bits.Div64(high, low, perSecond) // rest < perSecond: no overflow
	return time.Unix(int64(sec)+i.offset, int64(ns))
}
