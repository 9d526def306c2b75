// SPDX-License-Identifier: Apache-2.0

package layer

import (
	"net/netip"

	"github.com/layertrace/layertrace/internal/exchange"
	"go.opentelemetry.io/otel/trace"
)

// world makes sightings of requests that go through pods, sidecars and nodes,
// with times that are given: what the tests compare with. Each node's clock
// has an offset of its own.
type world struct {
	now   uint64            // true time in ns
	clock map[string]uint64 // offset per node
	span  byte
	port  uint16
	all   []Sighting
	drop  func(*Sighting) bool // points that are missing
	// took are the true times per layer and place.
	took map[string]uint64
}

type pod struct{ service, node, ip string }

var (
	gateway = pod{"gateway", "node2", "10.244.2.11"}
	page    = pod{"productpage", "node4", "10.244.4.11"}
	details = pod{"details", "node3", "10.244.3.11"}
	ratings = pod{"ratings", "node3", "10.244.3.14"}
)

func newWorld() *world {
	return &world{
		now:   1e9,
		clock: map[string]uint64{"node2": 5e12, "node3": 77, "node4": 9e15},
		took:  map[string]uint64{},
	}
}

// spend lets time pass in a layer.
func (w *world) spend(l Layer, place string, ns uint64) {
	w.now += ns
	w.took[string(l)+" "+place] += ns
}

// hop is a request from a process to another: the sightings get their times
// while it runs, and handle is what the receiver does.
type hop struct {
	w              *world
	from, to       pod
	fromProc, proc Process
	client, server netip.AddrPort
	span           trace.SpanID
	// what each crossing costs, in ns
	stack, vnet, driver, relay uint64
}

func (w *world) hop(from pod, fromProc Process, to pod, proc Process) *hop {
	w.span++
	w.port++
	h := &hop{
		w: w, from: from, to: to, fromProc: fromProc, proc: proc, span: trace.SpanID{w.span},
		stack: 100_000, vnet: 20_000, driver: 3_000, relay: 50_000,
	}
	ip := from.ip
	if from == to {
		ip = "127.0.0.1"
	}
	h.client = netip.AddrPortFrom(netip.MustParseAddr(ip), 40000+w.port)
	h.server = netip.AddrPortFrom(netip.MustParseAddr(to.ip), 9080)
	return h
}

func (h *hop) sighting(kind Kind, node string) *Sighting {
	return &Sighting{
		TraceID: trace.TraceID{1}, SpanID: h.span, Kind: kind, Node: node,
		Client: h.client, Server: h.server, Status: 200,
	}
}

func (h *hop) at(node string) uint64 { return h.w.now + h.w.clock[node] }

func whole(first uint64) exchange.Extent { return exchange.Extent{First: first, Last: first} }

// run sends the request, lets handle happen and brings the response back.
func (h *hop) run(handle func()) {
	w := h.w
	sender, receiver := h.sighting(Socket, h.from.node), h.sighting(Socket, h.to.node)
	sender.Sender, sender.Service, sender.Process = true, h.from.service, h.fromProc
	receiver.Service, receiver.Process = h.to.service, h.proc
	cv, sv := h.sighting(VNIC, h.from.node), h.sighting(VNIC, h.to.node)
	cv.Service, cv.Interface, cv.Direction = h.from.service, "veth-"+h.from.service, exchange.DirectionIngress
	sv.Service, sv.Interface, sv.Direction = h.to.service, "veth-"+h.to.service, exchange.DirectionEgress
	cp, sp := h.sighting(PNIC, h.from.node), h.sighting(PNIC, h.to.node)
	cp.Interface, cp.Direction = "eth0", exchange.DirectionEgress
	sp.Interface, sp.Direction = "eth0", exchange.DirectionIngress

	h.way(requestOf, h.from, h.to, sender, cv, cp, sp, sv, receiver)
	handle()
	h.way(responseOf, h.to, h.from, receiver, sv, sp, cp, cv, sender)

	seen := []*Sighting{sender, receiver}
	if h.from != h.to {
		seen = append(seen, cv, sv)
		if h.from.node != h.to.node {
			seen = append(seen, cp, sp)
		}
	}
	for _, s := range seen {
		s.Wall = int64(s.Request.First - w.clock[s.Node])
		if w.drop == nil || !w.drop(s) {
			w.all = append(w.all, *s)
		}
	}
}

// way takes a message along its positions.
func (h *hop) way(message func(*Sighting) *exchange.Message, from, to pod, out, outNIC, outPhysical, inPhysical, inNIC, in *Sighting) {
	pass := func(s *Sighting) {
		m := message(s)
		m.First, m.Last, m.Bytes, m.Packets = h.at(s.Node), h.at(s.Node), 100, 1
	}
	w := h.w
	message(out).Handover = whole(h.at(from.node))
	w.spend(ProtocolStack, from.service, h.stack)
	pass(out)
	if from != to {
		w.spend(ProtocolStack, from.service, h.stack)
		pass(outNIC)
		if from.node == to.node {
			w.spend(VirtualNetwork, from.node, h.vnet)
		} else {
			w.spend(VirtualNetwork, from.node, h.vnet)
			pass(outPhysical)
			w.spend(NodeDriver, from.node, h.driver)
			message(outPhysical).Handover = whole(h.at(from.node))
			w.spend(RelayNetwork, between(from.node, to.node), h.relay)
			pass(inPhysical)
			w.spend(VirtualNetwork, to.node, h.vnet)
		}
		pass(inNIC)
	}
	w.spend(ProtocolStack, to.service, h.stack)
	pass(in)
	w.spend(ProtocolStack, to.service, h.stack)
	message(in).Handover = whole(h.at(to.node))
}

// frontPage is a request as in the lab: gateway, productpage and its sidecar,
// which asks details on another node.
func (w *world) frontPage() {
	w.hop(gateway, Sidecar, page, Sidecar).run(func() {
		w.spend(Application, "productpage", 200_000)
		w.hop(page, Sidecar, page, AppProcess).run(func() {
			w.spend(Application, "productpage", 700_000)
			w.hop(page, AppProcess, page, Sidecar).run(func() {
				w.spend(Application, "productpage", 150_000)
				w.hop(page, Sidecar, details, Sidecar).run(func() {
					w.spend(Application, "details", 90_000)
					w.hop(details, Sidecar, details, AppProcess).run(func() {
						w.spend(Application, "details", 400_000)
					})
					w.spend(Application, "details", 60_000)
				})
				w.spend(Application, "productpage", 110_000)
			})
			w.spend(Application, "productpage", 300_000)
		})
		w.spend(Application, "productpage", 80_000)
	})
}
