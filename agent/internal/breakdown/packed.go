// SPDX-License-Identifier: Apache-2.0

package breakdown

// Observations wait for seconds in the trace buffer, tens of thousands per second at a busy
// node, and have a size of some 700 bytes. Packed they have about 100: what no layer is made of
// (the request line, the status, counters of TCP) is left out, numbers that are zero take a
// bit, times are differences, and the names of both ends are shared.

import (
	"encoding/binary"
	"net/netip"
	"unique"
	"unsafe"

	"github.com/layertrace/layertrace/internal/observe"
	"github.com/layertrace/layertrace/internal/tracecontext"
)

// packed is an observation without its trace ID.
type packed struct {
	point *observe.Point
	names unique.Handle[names]
	rest  string // the fields of cursor.fields
}

// names are the texts that many observations have in common.
type names struct {
	peers observe.Peers
	join  observe.Join
}

// size is the memory of a packed observation in bytes, with what allocation adds.
func (p *packed) size() int { return int(unsafe.Sizeof(*p)) + (len(p.rest)+15)&^15 }

// pack packs an observation. scratch is reused by the next call.
func pack(o *observe.Observation, scratch *[]byte) packed {
	c := cursor{packing: true, bytes: append((*scratch)[:0], make([]byte, maskSize)...), base: o.Request.First}
	c.fields(o)
	binary.LittleEndian.PutUint64(c.bytes, c.mask)
	*scratch = c.bytes
	return packed{point: o.Point, names: unique.Make(names{o.Peers, o.Join}), rest: string(c.bytes)}
}

// requestName is what a request is called. It is only kept to be shown.
type requestName struct {
	method, path string
	status       int
	format       tracecontext.Format
}

func nameOf(o *observe.Observation) requestName {
	return requestName{o.Method, o.Path, o.Status, o.Context.Format}
}

// size is the memory in bytes, as if no text were shared.
func (r *requestName) size() int { return int(unsafe.Sizeof(*r)) + len(r.method) + len(r.path) }

// Unpacker unpacks traces, one after the other, into the same memory.
type Unpacker struct {
	observations []observe.Observation
	sockets      []observe.Socket
}

// Unpack returns the observations of a trace, with what layers are made of. They are valid
// until the next call.
func (u *Unpacker) Unpack(t *BufferedTrace) []observe.Observation {
	if n := len(t.packed); n > cap(u.observations) {
		u.observations, u.sockets = make([]observe.Observation, n), make([]observe.Socket, n)
	}
	u.observations = u.observations[:len(t.packed)]
	for i := range t.packed {
		p, o := &t.packed[i], &u.observations[i]
		u.sockets[i] = observe.Socket{}
		names := p.names.Value()
		*o = observe.Observation{Point: p.point, Peers: names.peers, Join: names.join, Socket: &u.sockets[i]}
		o.Context.TraceID = [16]byte(t.id)
		// The bytes are never written: a string's.
		c := cursor{bytes: unsafe.Slice(unsafe.StringData(p.rest), len(p.rest))}
		c.mask, c.bytes = binary.LittleEndian.Uint64(c.bytes), c.bytes[maskSize:]
		c.fields(o)
		if i < len(t.requests) {
			r := &t.requests[i]
			o.Method, o.Path, o.Status, o.Context.Format = r.method, r.path, r.status, r.format
		}
	}
	return u.observations
}

// cursor packs or unpacks the fields of an observation, in the same order. A number that is
// not zero has its bit in mask, and is a varint.
type cursor struct {
	packing bool
	bytes   []byte // packing: what is written, else what is left to read
	mask    uint64
	next    uint   // bit in mask
	base    uint64 // which times are differences to, once it is known
}

// maskSize is the size of mask in bytes, before the numbers.
const maskSize = 8

// fields are those that layers are made of, 42 numbers.
func (c *cursor) fields(o *observe.Observation) {
	c.number(&c.base)
	c.raw(o.Context.SpanID[:])
	c.endpoint(&o.Client)
	c.endpoint(&o.Server)
	small(c, &o.Stream)
	small(c, &o.Direction)
	small(c, &o.Flags)
	wall := uint64(o.Wall)
	if c.time(&wall); !c.packing {
		o.Wall = int64(wall)
	}
	c.message(&o.Request)
	c.message(&o.Response)
	c.socket(o)
	length := uint64(len(o.ConnectionID))
	if c.number(&length); c.packing {
		c.bytes = append(c.bytes, o.ConnectionID...)
	} else if length > 0 {
		o.ConnectionID = c.bytes[:length:length]
	}
}

func (c *cursor) message(m *observe.Message) {
	c.time(&m.First)
	c.time(&m.Last)
	small(c, &m.Seq)
	small(c, &m.TTL)
	c.number(&m.Bytes)
	small(c, &m.Packets)
	c.time(&m.App.First)
	c.time(&m.App.Last)
	c.time(&m.Tx.First)
	c.time(&m.Tx.Last)
	c.time(&m.Acknowledged)
	c.number(&m.Waited)
	c.number(&m.Held)
	c.number(&m.Stalled)
	c.number(&m.Unread)
}

// socket packs which end of the connection the socket is, and its network namespace.
func (c *cursor) socket(o *observe.Observation) {
	const none, server, client = 0, 1, 2
	end := uint64(none)
	if c.packing && o.Socket != nil {
		if end = server; o.Socket.Client {
			end = client
		}
	}
	if c.number(&end); end == none {
		o.Socket = nil
		return
	}
	if !c.packing {
		o.Socket.Client = end == client
	}
	small(c, &o.Socket.Netns)
}

// endpoint packs an address and port. No address of a record has a zone.
func (c *cursor) endpoint(e *netip.AddrPort) {
	addr, port := e.Addr(), uint64(e.Port())
	size := uint64(addr.BitLen() / 8)
	c.number(&size)
	switch size {
	case net4:
		b := [net4]byte{}
		if c.packing {
			b = addr.As4()
		}
		c.raw(b[:])
		addr = netip.AddrFrom4(b)
	case net6:
		b := [net6]byte{}
		if c.packing {
			b = addr.As16()
		}
		c.raw(b[:])
		addr = netip.AddrFrom16(b)
	}
	if c.number(&port); !c.packing {
		*e = netip.AddrPortFrom(addr, uint16(port))
	}
}

// net4 and net6 are the bytes of an address.
const net4, net6 = 4, 16

// raw packs bytes as they are.
func (c *cursor) raw(b []byte) {
	if c.packing {
		c.bytes = append(c.bytes, b...)
	} else {
		c.bytes = c.bytes[copy(b, c.bytes):]
	}
}

// time packs a time as its difference to base; 0 is no time.
func (c *cursor) time(at *uint64) {
	if c.packing && *at != 0 {
		since := int64(*at - c.base)
		c.put(uint64(since<<1) ^ uint64(since>>63)) // small if it is before base, too
	} else if !c.packing && c.mask>>c.next&1 != 0 {
		zigzag := c.get()
		*at = c.base + (zigzag>>1 ^ -(zigzag & 1))
	}
	c.next++
}

func (c *cursor) number(n *uint64) {
	if c.packing && *n != 0 {
		c.put(*n)
	} else if !c.packing && c.mask>>c.next&1 != 0 {
		*n = c.get()
	}
	c.next++
}

func (c *cursor) put(n uint64) {
	c.mask |= 1 << c.next
	c.bytes = binary.AppendUvarint(c.bytes, n)
}

func (c *cursor) get() uint64 {
	n, size := binary.Uvarint(c.bytes)
	c.bytes = c.bytes[size:]
	return n
}

// small packs a number of few bits.
func small[T ~uint8 | ~uint32](c *cursor, v *T) {
	n := uint64(*v)
	if c.number(&n); !c.packing {
		*v = T(n)
	}
}
