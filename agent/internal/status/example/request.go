// SPDX-License-Identifier: Apache-2.0

package main

import (
	"encoding/binary"
	"net/netip"

	"github.com/layertrace/layertrace/agent/internal/layer"
	"github.com/layertrace/layertrace/internal/exchange"
	"go.opentelemetry.io/otel/trace"
)

// Times of the made-up requests, in µs, each up to twice as long by chance.
const (
	inStack, inBridge, inQueue = 20, 15, 5
	onWire                     = 100 // and as long back
	inDetails                  = 800
	inCache                    = 200
)

// hop is a request under way: the clock of what it has passed so far.
type hop struct {
	id     trace.TraceID
	span   byte
	port   uint16
	server string
	chance func() float64
	now    uint64 // ns
}

// after lets time pass and returns the clock.
func (h *hop) after(us float64) uint64 {
	h.now += uint64(us * 1e3 * (1 + h.chance()))
	return h.now
}

func at(ns uint64) exchange.Message { return exchange.Message{First: ns, Last: ns} }

func handedOver(ns, handover uint64) exchange.Message {
	m := at(ns)
	m.Handover = exchange.Extent{First: handover, Last: handover}
	return m
}

func (h *hop) sighting(kind layer.Kind, node, service string, d exchange.Direction, request, response exchange.Message) layer.Sighting {
	return layer.Sighting{
		TraceID: h.id, SpanID: trace.SpanID{h.span}, Kind: kind, Node: node, Service: service, Interface: "eth0", Direction: d,
		Client: netip.AddrPortFrom(netip.MustParseAddr("10.0.1.1"), h.port), Server: netip.MustParseAddrPort("10.0.2.1:9080"),
		ClientName: "productpage", ServerName: h.server, Request: request, Response: response,
	}
}

// request returns what the agents of node1 and node2 see of a trace: the front
// page asks details, over the network, and then the cache, on its own node.
func request(number uint64, chance func() float64) (nodes [2][]layer.Sighting) {
	var id trace.TraceID
	binary.BigEndian.PutUint64(id[8:], number|1)
	far := &hop{id: id, span: 1, port: 4001, server: "details", chance: chance, now: 1e12}
	nodes[0], nodes[1] = far.remote()
	near := &hop{id: id, span: 2, port: 4002, server: "cache", chance: chance, now: far.now + 1e6}
	nodes[0] = append(nodes[0], near.local()...)
	return nodes
}

func (h *hop) remote() (client, server []layer.Sighting) {
	const ahead = 3600e9 // of node2's clock
	wrote, sent, veth1, out, driver1 := h.after(1), h.after(inStack), h.after(1), h.after(inBridge), h.after(inQueue)
	in, veth2, arrived, read := ahead+h.after(onWire), ahead+h.after(inBridge), ahead+h.after(1), ahead+h.after(inStack)
	answered, left, veth2Back, outBack, driver2 := ahead+h.after(inDetails), ahead+h.after(inStack), ahead+h.after(1), ahead+h.after(inBridge), ahead+h.after(inQueue)
	inBack, veth1Back, back, done := h.after(onWire), h.after(inBridge), h.after(1), h.after(inStack)
	sender := h.sighting(layer.Socket, "node1", "productpage", 0, handedOver(sent, wrote), handedOver(back, done))
	sender.Sender = true
	client = []layer.Sighting{
		sender,
		h.sighting(layer.VNIC, "node1", "productpage", exchange.DirectionIngress, at(veth1), at(veth1Back)),
		h.sighting(layer.PNIC, "node1", "", exchange.DirectionEgress, handedOver(out, driver1), at(inBack)),
	}
	return client, []layer.Sighting{
		h.sighting(layer.PNIC, "node2", "", exchange.DirectionIngress, at(in), handedOver(outBack, driver2)),
		h.sighting(layer.VNIC, "node2", "details", exchange.DirectionEgress, at(veth2), at(veth2Back)),
		h.sighting(layer.Socket, "node2", "details", 0, handedOver(arrived, read), handedOver(left, answered)),
	}
}

func (h *hop) local() []layer.Sighting {
	veth1, veth3 := h.after(1), h.after(inBridge)
	veth3Back, veth1Back := h.after(inCache), h.after(inBridge)
	return []layer.Sighting{
		h.sighting(layer.VNIC, "node1", "productpage", exchange.DirectionIngress, at(veth1), at(veth1Back)),
		h.sighting(layer.VNIC, "node1", "cache", exchange.DirectionEgress, at(veth3), at(veth3Back)),
	}
}
