// SPDX-License-Identifier: Apache-2.0

package span

import (
	"net/netip"

	"github.com/layertrace/layertrace/internal/exchange"
	"go.opentelemetry.io/otel/attribute"
	semconv "go.opentelemetry.io/otel/semconv/v1.43.0"
)

// compactIDBytes is the length of the connection ID of the compact option.
const compactIDBytes = 8

// usualAttributes is how many a span has, if hardly anything was unusual.
const usualAttributes = 16

// attributes returns the attributes of the exchange's span, which starts at the
// monotonic time start. Each one costs agent, wire and store about as much as
// any other, and a mesh makes many spans: so what was not seen, what is as usual
// and what the point's resource tells has none.
func attributes(p *Point, x *exchange.Exchange, start uint64, peers Peers) []attribute.KeyValue {
	kv := make([]attribute.KeyValue, 0, usualAttributes)
	if x.Socket == nil { // sockets see the same bytes
		kv = append(kv,
			keyDirection.String(x.Direction.String()),
			keyFormat.String(x.Context.Format.String()),
			keyHeaderOffset.Int64(int64(x.HeaderOffset)),
		)
	}
	kv = append(kv,
		keyMonotonic.Int64(int64(start)),
		semconv.ClientAddress(x.Client.Addr().Unmap().String()),
		semconv.ClientPort(int(x.Client.Port())),
		semconv.ServerAddress(x.Server.Addr().Unmap().String()),
		semconv.ServerPort(int(x.Server.Port())),
	)
	if !x.Server.Addr().Unmap().Is4() {
		kv = append(kv, semconv.NetworkTypeIPv6)
	}
	if x.Status != 0 {
		kv = append(kv, semconv.HTTPResponseStatusCode(x.Status))
	}
	kv = appendTimes(kv, x, start)
	kv = appendSizes(kv, x)
	kv = appendSocket(kv, x)
	kv = appendOption(kv, x)
	if x.Flags != 0 {
		kv = append(kv, keyFlags.StringSlice(x.Flags.Names()))
	}
	kv = appendPeer(kv, p, peers, x.Client, start, keyClientService, keyClientNode)
	return appendPeer(kv, p, peers, x.Server, start, keyServerService, keyServerNode)
}

// appendTimes adds the times as offsets from start. A request usually begins
// with the span and, like many responses, ends with the segment it began with.
func appendTimes(kv []attribute.KeyValue, x *exchange.Exchange, start uint64) []attribute.KeyValue {
	for _, t := range [...]struct {
		key       attribute.Key
		ns, usual uint64
	}{
		{keyRequestFirst, x.Request.First, start}, {keyRequestLast, x.Request.Last, x.Request.First},
		{keyResponseFirst, x.Response.First, 0}, {keyResponseLast, x.Response.Last, x.Response.First},
		{keyRequestHandoverFirst, x.Request.Handover.First, 0}, {keyRequestHandoverLast, x.Request.Handover.Last, x.Request.Handover.First},
		{keyResponseHandoverFirst, x.Response.Handover.First, 0}, {keyResponseHandoverLast, x.Response.Handover.Last, x.Response.Handover.First},
		{keyRequestAcknowledged, x.Request.Acknowledged, 0}, {keyResponseAcknowledged, x.Response.Acknowledged, 0},
	} {
		if t.ns != 0 && t.ns != t.usual {
			kv = append(kv, t.key.Int64(int64(t.ns-start)))
		}
	}
	return kv
}

// appendSizes adds what was counted: no bytes, a single packet and no
// retransmission are usual.
func appendSizes(kv []attribute.KeyValue, x *exchange.Exchange) []attribute.KeyValue {
	for _, c := range [...]struct {
		key      attribute.Key
		n, usual uint64
	}{
		{keyRequestBytes, x.Request.Bytes, 0}, {keyRequestPackets, uint64(x.Request.Packets), 1},
		{keyResponseBytes, x.Response.Bytes, 0}, {keyResponsePackets, uint64(x.Response.Packets), 1},
		{keyRetransmits, uint64(x.Retransmits), 0}, {keyDrops, uint64(x.Drops), 0},
	} {
		if c.n != 0 && c.n != c.usual {
			kv = append(kv, c.key.Int64(int64(c.n)))
		}
	}
	return kv
}

// appendSocket adds what is known at a socket only, and why packets were dropped.
func appendSocket(kv []attribute.KeyValue, x *exchange.Exchange) []attribute.KeyValue {
	if x.DropReason != "" {
		kv = append(kv, keyDropReason.String(x.DropReason))
	}
	s := x.Socket
	if s == nil {
		return kv
	}
	side := "server"
	if s.Client {
		side = "client"
	}
	kv = append(kv, keySide.String(side), keyCookie.Int64(int64(s.Cookie)))
	if s.SRTT != 0 {
		kv = append(kv, keySRTT.Int64(int64(s.SRTT)))
	}
	if s.ZeroWindows != 0 {
		kv = append(kv, keyZeroWindows.Int64(int64(s.ZeroWindows)))
	}
	return kv
}

// appendOption adds what the TCP option told.
func appendOption(kv []attribute.KeyValue, x *exchange.Exchange) []attribute.KeyValue {
	if len(x.ConnectionID) != 0 {
		kv = append(kv, keyConnectionID.String(x.ConnectionIDHex()))
	}
	if x.OptionTime != 0 {
		ns := x.OptionTime
		if len(x.ConnectionID) == compactIDBytes {
			ns *= 1000 // the compact option counts µs
		}
		kv = append(kv, keyOptionTime.Int64(int64(ns)))
	}
	if x.Flags&exchange.FlagOptionLost != 0 {
		kv = append(kv, keyOptionLost.Bool(true))
	}
	return kv
}

// appendPeer adds the service that had an address then, unless it is the one that
// the point's resource is about; of an address without a service the node.
func appendPeer(kv []attribute.KeyValue, p *Point, peers Peers, e netip.AddrPort, at uint64, service, node attribute.Key) []attribute.KeyValue {
	if peers == nil {
		return kv
	}
	w, _ := peers.Peer(e.Addr(), at)
	switch {
	case w.Service == "" && w.Node != "":
		kv = append(kv, node.String(w.Node))
	case w.Service != "" && w.Service != p.Workload.Service:
		kv = append(kv, service.String(w.Service))
	}
	return kv
}
