// SPDX-License-Identifier: Apache-2.0

package probe

import (
	"fmt"
	"net/netip"
	"unsafe"

	"github.com/layertrace/layertrace/bpf"
	"github.com/layertrace/layertrace/internal/observe"
	"github.com/layertrace/layertrace/internal/tracecontext"
)

// decodeRecord turns a record of the ring buffer into an exchange. drivers: the
// kernel tells when they get packets.
func decodeRecord(raw []byte, drivers bool) (observe.Observation, error) {
	const size = int(unsafe.Sizeof(bpf.CaptureExchangeRecord{}))
	if len(raw) < size {
		return observe.Observation{}, fmt.Errorf("record of %d bytes, want %d", len(raw), size)
	}
	// The kernel aligns records to 8 bytes, but Go's copy of them need not be.
	var r bpf.CaptureExchangeRecord
	copy(unsafe.Slice((*byte)(unsafe.Pointer(&r)), size), raw)
	x := observe.Observation{
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
		Status:      int(r.Status),
		OptionTime:  r.OptionTime,
		Retransmits: r.Retransmits,
		Drops:       r.Drops,
		Flags:       observe.Flags(r.Flags),
	}
	if r.Drops != 0 {
		x.DropReason = dropReason(r.DropReason)
	}
	farRequest := observe.Extent{First: r.FarRequestFirst, Last: r.FarRequestLast}
	farResponse := observe.Extent{First: r.FarResponseFirst, Last: r.FarResponseLast}
	if r.IsSocket == 0 {
		x.Request.Tx, x.Response.Tx = farRequest, farResponse
	} else {
		x.Request.App, x.Response.App = farRequest, farResponse
		x.Interface, x.Direction = 0, observe.DirectionUnknown
		x.Socket = &observe.Socket{
			Cookie: r.Cookie, Netns: r.Netns, UID: r.Uid, Client: r.IsClient != 0,
			SRTT: uint64(r.SrttUs) * 1000, ZeroWindows: r.ZeroWindows,
		}
		if r.EgressSeqDone == r.EgressSeqEnd {
			sent(&x).Acknowledged = r.Acknowledged
		}
	}
	if out := leaving(&x); out != nil && drivers {
		out.Tx = transmitted(out, release{
			bypassed: r.QdiscBypass != 0, whole: int32(r.EgressSeqDone-r.EgressSeqEnd) >= 0,
		})
	}
	if n := int(r.ConnectionIdLen); n > 0 && n <= len(r.ConnectionId) {
		x.ConnectionID = append([]byte(nil), r.ConnectionId[:n]...)
	}
	return x, nil
}

// sent returns the message that the socket sent.
func sent(x *observe.Observation) *observe.Message {
	if x.Socket.Client {
		return &x.Request
	}
	return &x.Response
}

func endpoint(addr [16]byte, port uint16) netip.AddrPort {
	return netip.AddrPortFrom(netip.AddrFrom16(addr).Unmap(), port)
}
