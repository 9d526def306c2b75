// SPDX-License-Identifier: Apache-2.0

package main

import (
	"encoding/binary"
	"net/netip"

	"github.com/layertrace/layertrace/internal/observe"
	"github.com/layertrace/layertrace/internal/tracecontext"
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

func at(ns uint64) observe.Message { return observe.Message{First: ns, Last: ns} }

// withFar is a message with the time at the other side of the capture point,
// which is the application's at a socket and the driver's at an interface.
func withFar(ns, far uint64) observe.Message {
	m := at(ns)
	m.App, m.Tx = observe.Extent{First: far, Last: far}, observe.Extent{First: far, Last: far}
	return m
}

func (h *hop) sighting(kind observe.Kind, node, service string, d observe.Direction, request, response observe.Message) observe.Observation {
	o := observe.Observation{
		Key:       observe.Key{Client: netip.AddrPortFrom(netip.MustParseAddr("10.0.1.1"), h.port), Server: netip.MustParseAddrPort("10.0.2.1:9080")},
		Point:     &observe.Point{Kind: kind, Node: node, Interface: "eth0", Workload: observe.Workload{Service: service}},
		Direction: d, Request: request, Response: response,
		Peers: observe.Peers{Client: observe.Peer{Service: "productpage"}, Server: observe.Peer{Service: h.server}},
	}
	o.Context.TraceID, o.Context.SpanID = tracecontext.TraceID(h.id), tracecontext.SpanID{h.span}
	if kind == observe.KindSocket {
		o.Socket = &observe.Socket{}
	}
	return o
}

// request returns what the agents of node1 and node2 see of a trace: the front
// page asks details, over the network, and then the cache, on its own node.
func request(number uint64, chance func() float64) (nodes [2][]observe.Observation) {
	var id trace.TraceID
	binary.BigEndian.PutUint64(id[8:], number|1)
	far := &hop{id: id, span: 1, port: 4001, server: "details", chance: chance, now: 1e12}
	nodes[0], nodes[1] = far.remote()
	near := &hop{id: id, span: 2, port: 4002, server: "cache", chance: chance, now: far.now + 1e6}
	nodes[0] = append(nodes[0], near.local()...)
	return nodes
}

func (h *hop) remote() (client, server []observe.Observation) {
	const ahead = 3600e9 // of node2's clock
	wrote, sent, veth1, out, driver1 := h.after(1), h.after(inStack), h.after(1), h.after(inBridge), h.after(inQueue)
	in, veth2, arrived, read := ahead+h.after(onWire), ahead+h.after(inBridge), ahead+h.after(1), ahead+h.after(inStack)
	answered, left, veth2Back, outBack, driver2 := ahead+h.after(inDetails), ahead+h.after(inStack), ahead+h.after(1), ahead+h.after(inBridge), ahead+h.after(inQueue)
	inBack, veth1Back, back, done := h.after(onWire), h.after(inBridge), h.after(1), h.after(inStack)
	sender := h.sighting(observe.KindSocket, "node1", "productpage", 0, withFar(sent, wrote), withFar(back, done))
	sender.Socket.Client = true
	client = []observe.Observation{
		sender,
		h.sighting(observe.KindVNIC, "node1", "productpage", observe.DirectionIngress, at(veth1), at(veth1Back)),
		h.sighting(observe.KindPNIC, "node1", "", observe.DirectionEgress, withFar(out, driver1), at(inBack)),
	}
	return client, []observe.Observation{
		h.sighting(observe.KindPNIC, "node2", "", observe.DirectionIngress, at(in), withFar(outBack, driver2)),
		h.sighting(observe.KindVNIC, "node2", "details", observe.DirectionEgress, at(veth2), at(veth2Back)),
		h.sighting(observe.KindSocket, "node2", "details", 0, withFar(arrived, read), withFar(left, answered)),
	}
}

func (h *hop) local() []observe.Observation {
	veth1, veth3 := h.after(1), h.after(inBridge)
	veth3Back, veth1Back := h.after(inCache), h.after(inBridge)
	return []observe.Observation{
		h.sighting(observe.KindVNIC, "node1", "productpage", observe.DirectionIngress, at(veth1), at(veth1Back)),
		h.sighting(observe.KindVNIC, "node1", "cache", observe.DirectionEgress, at(veth3), at(veth3Back)),
	}
}
