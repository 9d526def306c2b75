// SPDX-License-Identifier: Apache-2.0

package probe

import (
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"hash/fnv"
	"net/netip"
	"strconv"
	"strings"
	"sync"
	"unsafe"

	"github.com/cilium/ebpf/btf"
	"golang.org/x/sys/unix"

	"github.com/layertrace/layertrace/bpf"
	"github.com/layertrace/layertrace/internal/observe"
	"github.com/layertrace/layertrace/internal/recent"
	"github.com/layertrace/layertrace/internal/tracecontext"
)

// sliceSize is the number of observations that are passed on together at most: some
// 50 µs of work.
const sliceSize = 64

// read passes records on until ctx is done and the ring is empty.
func (p *Probe) read(ctx context.Context, take func([]observe.Observation)) error {
	decoder := NewDecoder(p.drivers.seesDequeues())
	slice := make([]observe.Observation, 0, sliceSize)
	pass := func() {
		if len(slice) > 0 {
			take(slice)
			slice = slice[:0]
		}
	}
	return p.reader.read(ctx, p.opts.ReadInterval, func(raw []byte) {
		p.received.Add(1)
		slice = slice[:len(slice)+1]
		o := &slice[len(slice)-1]
		if err := decoder.Decode(raw, o); err != nil {
			slice = slice[:len(slice)-1]
			p.unreadable.Add(1)
			p.log.Error("cannot decode record", "error", err)
			return
		}
		if decoder.dequeues && !txKnown(o) {
			p.txMissing.Add(1)
		}
		if len(slice) == cap(slice) {
			pass()
		}
	}, pass)
}

// Decoder decodes records of the ring buffer. It makes no garbage but for sockets, which
// come in slabs, and for texts that were not seen recently. It is for one goroutine.
type Decoder struct {
	dequeues bool // packets that leave the qdiscs of interfaces are seen
	record   bpf.CaptureExchangeRecord
	sockets  []observe.Socket // the rest of the slab
	texts    *recent.Table[requestText, string]
	ids      *recent.Table[connectionID, []byte]
}

const (
	// socketSlab is the number of sockets in an allocation. One that is kept keeps all.
	socketSlab = 32
	// maxRecent is the number of paths, and of connection IDs, that are kept for the next
	// exchanges, some 120 bytes each.
	maxRecent = 2048
)

// requestText is a part of a request line, padded with zeros.
type requestText [len(bpf.CaptureExchangeRecord{}.RequestLine)]byte

// connectionID is an ID with its length.
type connectionID struct {
	bytes  [len(bpf.CaptureExchangeRecord{}.ConnectionId)]byte
	length int
}

// NewDecoder returns a decoder. dequeues: packets that leave the qdiscs of interfaces are
// seen.
func NewDecoder(dequeues bool) *Decoder {
	return &Decoder{
		dequeues: dequeues,
		texts:    recent.New(maxRecent, func(t requestText) string { return unix.ByteSliceToString(t[:]) }),
		ids:      recent.New(maxRecent, func(id connectionID) []byte { return id.bytes[:id.length] }),
	}
}

// text returns a part of a request line as text.
func (d *Decoder) text(part []byte) string {
	switch string(part) { // without garbage: the compiler compares in place
	case "":
		return ""
	case "GET":
		return "GET"
	case "POST":
		return "POST"
	}
	var key requestText
	copy(key[:], part)
	return d.texts.Get(key)
}

// socket returns a zero socket.
func (d *Decoder) socket() *observe.Socket {
	if len(d.sockets) == 0 {
		d.sockets = make([]observe.Socket, socketSlab)
	}
	s := &d.sockets[0]
	d.sockets = d.sockets[1:]
	return s
}

// Bytes of a record. That of an interface ends before what only sockets have (INTERFACE_RECORD_SIZE
// of bpf/include/exchange.h).
const (
	recordOfSocket    = int(unsafe.Sizeof(bpf.CaptureExchangeRecord{}))
	recordOfInterface = int(unsafe.Offsetof(bpf.CaptureExchangeRecord{}.Cookie))
)

// Decode sets o to the observation in a record. What o points to is never modified later.
func (d *Decoder) Decode(raw []byte, o *observe.Observation) error {
	// The kernel aligns records to 8 bytes, but Go's copy of them may not be.
	r := &d.record
	got := copy(unsafe.Slice((*byte)(unsafe.Pointer(r)), recordOfSocket), raw)
	switch {
	case got < recordOfInterface:
		return fmt.Errorf("record of %d bytes, want %d, or %d of a socket", len(raw), recordOfInterface, recordOfSocket)
	case got < recordOfSocket && r.IsSocket != 0:
		return fmt.Errorf("record of a socket of %d bytes, want %d", len(raw), recordOfSocket)
	}
	method, path := requestTarget(r.RequestLine[:])
	*o = observe.Observation{
		Interface: int(r.Ifindex),
		Direction: observe.Direction(r.Direction),
		Context: observe.Context{
			Context: tracecontext.Context{
				TraceID:  r.TraceId,
				SpanID:   r.SpanId,
				Sampling: tracecontext.Sampling(r.Sampling),
				Format:   tracecontext.Format(r.Format),
			},
			HeaderOffset: r.HeaderOffset,
		},
		Key: observe.Key{
			Client: endpoint(r.ClientAddr, r.ClientPort),
			Server: endpoint(r.ServerAddr, r.ServerPort),
		},
		Request: observe.Message{
			First: r.RequestFirst, Last: r.RequestLast,
			Bytes: r.RequestBytes, Packets: r.RequestPackets,
		},
		Response: observe.Message{
			First: r.ResponseFirst, Last: r.ResponseLast,
			Bytes: r.ResponseBytes, Packets: r.ResponsePackets,
		},
		Method: d.text(method), Path: d.text(path),
		Status:      int(r.Status),
		OptionTime:  r.OptionTime,
		Retransmits: r.Retransmits,
		Drops:       r.Drops,
		Flags:       observe.Flags(r.Flags),
	}
	if !o.HasContext() {
		o.Context.TraceID, o.Context.SpanID = madeUpIDs(o.Client, r.RequestSeq)
	}
	if r.Drops != 0 {
		o.DropReason = dropReason(r.DropReason)
	}
	farRequest := observe.Extent{First: r.FarRequestFirst, Last: r.FarRequestLast}
	farResponse := observe.Extent{First: r.FarResponseFirst, Last: r.FarResponseLast}
	if r.IsSocket == 0 {
		o.Request.Tx, o.Response.Tx = farRequest, farResponse
	} else {
		o.Request.App, o.Response.App = farRequest, farResponse
		o.Interface, o.Direction = 0, observe.DirectionUnknown
		o.Socket = d.socket()
		*o.Socket = observe.Socket{
			Cookie: r.Cookie, Netns: r.Netns, UID: r.Uid, Client: r.IsClient != 0,
			Cgroup: r.Cgroup, PID: r.Tgid, ProcessName: d.text(until(r.ProcessName[:], 0)),
			SRTT: uint64(r.SrttUs) * 1000, ZeroWindows: r.ZeroWindows,
		}
		sent(o).Waited, sent(o).Held, sent(o).Stalled = r.Waits.Waited, r.Waits.Held, r.Waits.Stalled
		arrived(o).Unread = r.Waits.Unread
		if r.EgressSeqDone == r.EgressSeqEnd {
			sent(o).Acknowledged = r.Acknowledged
		}
	}
	if out := egress(o); out != nil && d.dequeues {
		out.Tx = transmitted(out, dequeued{
			bypass: r.QdiscBypass != 0, whole: int32(r.EgressSeqDone-r.EgressSeqEnd) >= 0,
		})
	}
	if n := int(r.ConnectionIdLen); n > 0 && n <= len(r.ConnectionId) {
		o.ConnectionID = d.ids.Get(connectionID{r.ConnectionId, n})
		o.Request.Seq = r.RequestSeq
		if r.ResponseFirst != 0 {
			o.Response.Seq = r.ResponseSeq
		}
	}
	return nil
}

// madeUpIDs returns IDs for a request without a context (Options.AllRequests). All capture
// points on its way see the client's endpoint and the sequence number of its first byte, unless
// its source is translated. Those of other requests differ, but for chance.
func madeUpIDs(client netip.AddrPort, seq uint32) (id tracecontext.TraceID, span tracecontext.SpanID) {
	h := fnv.New128a()
	address := client.Addr().As16()
	_, _ = h.Write(address[:])
	_, _ = h.Write(binary.BigEndian.AppendUint32(binary.BigEndian.AppendUint16(nil, client.Port()), seq))
	h.Sum(id[:0])
	id[0] |= 1 // never zero, which is no ID
	copy(span[:], id[:])
	return id, span
}

// until returns what comes before the first byte that is end.
func until(b []byte, end byte) []byte {
	if at := bytes.IndexByte(b, end); at >= 0 {
		return b[:at]
	}
	return b
}

// requestTarget returns method and path of the start of a request line (RFC 9112,
// section 3), without the query: the path in origin and absolute form, else the target.
func requestTarget(line []byte) (method, path []byte) {
	line = until(until(line, '\r'), 0)
	space := bytes.IndexByte(line, ' ')
	if space < 0 {
		return nil, nil
	}
	method, target := line[:space], until(until(line[space+1:], ' '), '?')
	if len(target) == 0 || target[0] == '/' {
		return method, target
	}
	if _, rest, ok := bytes.Cut(target, []byte("://")); ok {
		if at := bytes.IndexByte(rest, '/'); at >= 0 {
			target = rest[at:]
		} else {
			target = []byte("/")
		}
	}
	return method, target
}

func endpoint(addr [16]byte, port uint16) netip.AddrPort {
	return netip.AddrPortFrom(netip.AddrFrom16(addr).Unmap(), port)
}

// sent returns the message that the socket sent.
func sent(o *observe.Observation) *observe.Message {
	if o.Socket.Client {
		return &o.Request
	}
	return &o.Response
}

// arrived returns the message that the socket received.
func arrived(o *observe.Observation) *observe.Message {
	if o.Socket.Client {
		return &o.Response
	}
	return &o.Request
}

// egress returns the message that leaves through the interface, nil at a socket.
func egress(o *observe.Observation) *observe.Message {
	switch {
	case o.Socket != nil:
		return nil
	case o.Direction == observe.DirectionIngress:
		return &o.Response
	default:
		return &o.Request
	}
}

// dequeued describes what was seen of a message at the qdisc of its interface.
type dequeued struct {
	bypass bool // packets bypass the qdisc while it is empty, or there is none
	whole  bool // the last byte was seen
}

// transmitted returns the times at which the driver got the first and the last
// byte of a message, given those seen at the qdisc (out.Tx). A message that no
// qdisc released bypassed it: the driver got it at the time of the capture. The
// result is zero if the first or the last byte passed the qdisc unseen: tracepoint
// programs may miss packets, and a driver may get some after the exchange was
// emitted.
func transmitted(out *observe.Message, d dequeued) observe.Extent {
	seen := out.Tx
	switch {
	case seen.Last == 0:
		return observe.Extent{First: out.First, Last: out.Last}
	case d.bypass:
		if seen.First == 0 {
			seen.First = out.First
		}
		if !d.whole {
			seen.Last = max(seen.Last, out.Last)
		}
		return seen
	case seen.First == 0 || !d.whole:
		return observe.Extent{}
	default:
		return seen
	}
}

// txKnown reports whether the transmit times of the message that left through the
// interface are known, if there was one.
func txKnown(o *observe.Observation) bool {
	out := egress(o)
	return out == nil || out.Packets == 0 || out.Tx != (observe.Extent{})
}

// dropReasons are the running kernel's names by number, which differ between
// versions.
var dropReasons = sync.OnceValue(func() map[uint32]string {
	names := map[uint32]string{}
	kernel, err := btf.LoadKernelSpec()
	if err != nil {
		return names // numbers are used instead
	}
	var enum *btf.Enum
	if err := kernel.TypeByName("skb_drop_reason", &enum); err != nil {
		return names
	}
	for _, v := range enum.Values {
		names[uint32(v.Value)] = strings.ToLower(strings.TrimPrefix(v.Name, "SKB_DROP_REASON_"))
	}
	return names
})

// dropReason returns the name of a reason, or its number.
func dropReason(reason uint32) string {
	if name, ok := dropReasons()[reason]; ok {
		return name
	}
	return strconv.FormatUint(uint64(reason), 10)
}
