// SPDX-License-Identifier: Apache-2.0

package mtls

import (
	"cmp"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/netip"
	"os"
	"slices"

	"github.com/gopacket/gopacket/pcapgo"

	"github.com/layertrace/layertrace/e2e/lab"
)

// side is an end of a connection, and the direction of what it sends.
type side int

const (
	client side = iota
	server
)

// connection identifies a TCP connection between pods. A later one of the same
// ends has another initial sequence number.
type connection struct {
	client, server netip.AddrPort
	initial        uint32
}

// packet is a TCP segment of a connection at an interface.
type packet struct {
	connection
	from side
	// begin and end are the offsets of its payload in the stream of its direction.
	begin, end uint32
	at         int64  // Unix time in ns
	payload    []byte // as far as it was captured; valid until the next packet
}

// tracker gives packets their connection: by the SYNs, so that a connection that was open
// before the capture is not known.
type tracker struct {
	open map[[2]netip.AddrPort]*[2]uint32 // the initial sequence numbers
}

const flagSYN = 2

// errNotTracked is for packets that are of no known connection.
var errNotTracked = errors.New("not of a known connection")

// parse parses an IPv4 packet.
func (t *tracker) parse(ip []byte, at int64) (p packet, err error) {
	if len(ip) < 20 || ip[0]>>4 != 4 || ip[9] != 6 {
		return p, errNotTracked
	}
	header := int(ip[0]&15) * 4
	if len(ip) < header+20 {
		return p, errNotTracked
	}
	tcp := ip[header:]
	src := netip.AddrPortFrom(netip.AddrFrom4([4]byte(ip[12:16])), binary.BigEndian.Uint16(tcp))
	dst := netip.AddrPortFrom(netip.AddrFrom4([4]byte(ip[16:20])), binary.BigEndian.Uint16(tcp[2:]))
	p.client, p.server = src, dst
	if src.Port() == lab.AppPort {
		p.from, p.client, p.server = server, dst, src
	}
	offset := int(tcp[12]>>4) * 4
	sequence, flags := binary.BigEndian.Uint32(tcp[4:]), tcp[13]
	ends := [2]netip.AddrPort{p.client, p.server}
	if flags&flagSYN != 0 {
		if t.open == nil {
			t.open = map[[2]netip.AddrPort]*[2]uint32{}
		}
		if p.from == client {
			if initial := t.open[ends]; initial == nil || initial[client] != sequence {
				t.open[ends] = &[2]uint32{client: sequence}
			}
		} else if initial := t.open[ends]; initial != nil {
			initial[server] = sequence
		}
	}
	initial := t.open[ends]
	if initial == nil {
		return p, errNotTracked
	}
	p.initial, p.at = initial[client], at
	// GSO can leave the length out of the header; the capture's is right then.
	length := int(binary.BigEndian.Uint16(ip[2:])) - header - offset
	p.begin = sequence - initial[p.from] - 1
	p.end = p.begin + uint32(max(length, 0))
	if offset <= len(tcp) && length > 0 {
		p.payload = tcp[offset:min(len(tcp), offset+length)]
	}
	return p, nil
}

// readPackets calls handle for each packet in a capture file of tcpdump, with its bytes from
// the link layer's header on and the time in ns.
func readPackets(path string, handle func(data []byte, at int64) error) error {
	f, err := os.Open(path)
	if err != nil {
		return fmt.Errorf("read a capture: %w", err)
	}
	defer f.Close()
	reader, err := pcapgo.NewReader(f)
	for err == nil {
		data, info, end := reader.ZeroCopyReadPacketData()
		if errors.Is(end, io.EOF) {
			return nil
		}
		if err = end; err == nil {
			err = handle(data, info.Timestamp.UnixNano())
		}
	}
	return fmt.Errorf("read %s: %w", path, err)
}

// passages are the segments with payload that passed an interface.
type passages map[connection]*[2][]passage

// passage is a segment: offsets of its payload, and its time.
type passage struct {
	begin, end uint32
	at         int64
}

func (p passages) add(k packet) {
	if k.end == k.begin {
		return
	}
	of := p[k.connection]
	if of == nil {
		of = &[2][]passage{}
		p[k.connection] = of
	}
	of[k.from] = append(of[k.from], passage{k.begin, k.end, k.at})
}

// sort makes the passages ready for at.
func (p passages) sort() {
	for _, of := range p {
		for _, direction := range of {
			slices.SortStableFunc(direction, func(a, b passage) int { return cmp.Compare(a.begin, b.begin) })
		}
	}
}

// at returns when the byte at an offset passed first, 0 if it did not.
func (p passages) at(c connection, from side, offset uint32) (first int64) {
	of := p[c]
	if of == nil {
		return 0
	}
	all := of[from]
	i, _ := slices.BinarySearchFunc(all, offset, func(a passage, o uint32) int { return cmp.Compare(a.begin, o) })
	// A repeated segment can begin earlier than the byte's first one.
	for i = min(i, len(all)-1); i >= 0 && all[i].begin+maxSegment > offset; i-- {
		if all[i].begin <= offset && offset < all[i].end && (first == 0 || all[i].at < first) {
			first = all[i].at
		}
	}
	return first
}

// maxSegment is the largest payload of a captured segment: offloading merges up to 64 KiB.
const maxSegment = 1 << 16

// readPassages reads a capture of all interfaces of a node (lab.CaptureHeaders), and returns
// what passed by the name of the interface.
func readPassages(path string, interfaces map[int]string) (map[string]passages, error) {
	const header = 20 // of LINUX_SLL2, see pcap-linktype(7)
	trackers, result := map[int]*tracker{}, map[string]passages{}
	err := readPackets(path, func(data []byte, at int64) error {
		if len(data) < header {
			return nil
		}
		index := int(binary.BigEndian.Uint32(data[4:]))
		name := interfaces[index]
		if trackers[index] == nil {
			trackers[index], result[name] = &tracker{}, passages{}
		}
		if p, err := trackers[index].parse(data[header:], at); err == nil {
			result[name].add(p)
		}
		return nil
	})
	for _, p := range result {
		p.sort()
	}
	return result, err
}

// record is a TLS record of one direction: offsets of its header and of its end, and its type.
type record struct {
	begin, end uint32
	kind       uint8
}

// recordApplicationData is a type of records, RFC 8446, section 5.1.
const recordApplicationData = 23

// recordReader finds the records in a direction of a connection.
type recordReader struct {
	next    uint32 // offset of the next byte that is wanted
	header  []byte // of the record that next is in, as far as it is there
	begin   uint32 // of that record
	waiting map[uint32][]byte
}

// add adds a segment and returns the records that it ends. Segments that come early wait.
func (r *recordReader) add(begin uint32, payload []byte) (ended []record) {
	if begin > r.next {
		if r.waiting == nil {
			r.waiting = map[uint32][]byte{}
		}
		if len(payload) > len(r.waiting[begin]) {
			r.waiting[begin] = slices.Clone(payload)
		}
		return nil
	}
	ended = r.read(begin, payload)
	for _, begin := range slices.Sorted(maps.Keys(r.waiting)) {
		if begin > r.next {
			break
		}
		ended = append(ended, r.read(begin, r.waiting[begin])...)
		delete(r.waiting, begin)
	}
	return ended
}

// read reads a segment that begins at or before the next byte.
func (r *recordReader) read(begin uint32, data []byte) (ended []record) {
	const headerLength = 5
	data = data[min(uint32(len(data)), r.next-begin):] // without what was read before
	for len(data) > 0 {
		if missing := headerLength - len(r.header); missing > 0 {
			n := min(missing, len(data))
			r.header, data, r.next = append(r.header, data[:n]...), data[n:], r.next+uint32(n)
			if len(r.header) < headerLength {
				return ended
			}
		}
		end := r.begin + headerLength + uint32(binary.BigEndian.Uint16(r.header[3:]))
		n := min(end-r.next, uint32(len(data)))
		data, r.next = data[n:], r.next+n
		if r.next == end {
			ended = append(ended, record{r.begin, end, r.header[0]})
			r.begin, r.header = end, nil
		}
	}
	return ended
}
