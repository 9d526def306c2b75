// SPDX-License-Identifier: Apache-2.0

package span

import (
	"net/netip"

	"github.com/layertrace/layertrace/agent/internal/identity"
	"github.com/layertrace/layertrace/internal/exchange"
	"go.opentelemetry.io/otel/attribute"
	semconv "go.opentelemetry.io/otel/semconv/v1.43.0"
)

// compactIDBytes is the length of the connection ID of the compact option.
const compactIDBytes = 8

// attributes returns the attributes of the exchange's span, which starts at
// the monotonic time start. What was not seen has no attribute.
func attributes(p *Point, x *exchange.Exchange, start uint64, peers Peers) []attribute.KeyValue {
	kv := make([]attribute.KeyValue, 0, len(spanKeys))
	kv = append(kv,
		keyLayer.String(string(p.Interface.Role)),
		keyPoint.String(p.ID),
		keyDirection.String(x.Direction.String()),
		keyFormat.String(x.Context.Format.String()),
		keyHeaderOffset.Int64(int64(x.HeaderOffset)),
		keyMonotonic.Int64(int64(start)),
		keyRequestBytes.Int64(int64(x.Request.Bytes)),
		keyRequestPackets.Int64(int64(x.Request.Packets)),
		keyResponseBytes.Int64(int64(x.Response.Bytes)),
		keyResponsePackets.Int64(int64(x.Response.Packets)),
		keyRetransmits.Int64(int64(x.Retransmits)),
		semconv.NetworkTransportTCP,
		networkType(x.Server),
		semconv.NetworkProtocolName("http"),
		semconv.NetworkInterfaceName(p.Interface.Name),
		semconv.ClientAddress(x.Client.Addr().Unmap().String()),
		semconv.ClientPort(int(x.Client.Port())),
		semconv.ServerAddress(x.Server.Addr().Unmap().String()),
		semconv.ServerPort(int(x.Server.Port())),
	)
	if x.Status != 0 {
		kv = append(kv, semconv.HTTPResponseStatusCode(x.Status))
	}
	kv = appendTimes(kv, x, start)
	kv = appendOption(kv, x)
	if x.Flags != 0 {
		kv = append(kv, keyFlags.StringSlice(x.Flags.Names()))
	}
	kv = appendPeer(kv, peers, x.Client, keyClientService, keyClientNode)
	return appendPeer(kv, peers, x.Server, keyServerService, keyServerNode)
}

// appendTimes adds the four times as offsets from start.
func appendTimes(kv []attribute.KeyValue, x *exchange.Exchange, start uint64) []attribute.KeyValue {
	for _, t := range []struct {
		key attribute.Key
		ns  uint64
	}{
		{keyRequestFirst, x.Request.First}, {keyRequestLast, x.Request.Last},
		{keyResponseFirst, x.Response.First}, {keyResponseLast, x.Response.Last},
	} {
		if t.ns != 0 {
			kv = append(kv, t.key.Int64(int64(t.ns-start)))
		}
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

func appendPeer(kv []attribute.KeyValue, peers Peers, e netip.AddrPort, service, node attribute.Key) []attribute.KeyValue {
	var w identity.Workload
	if peers != nil {
		w, _ = peers.Peer(e.Addr())
	}
	if w.Service != "" {
		kv = append(kv, service.String(w.Service))
	}
	if w.Node != "" {
		kv = append(kv, node.String(w.Node))
	}
	return kv
}

func networkType(e netip.AddrPort) attribute.KeyValue {
	if e.Addr().Unmap().Is4() {
		return semconv.NetworkTypeIPv4
	}
	return semconv.NetworkTypeIPv6
}
