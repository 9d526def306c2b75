// SPDX-License-Identifier: Apache-2.0

// Package layertest makes sightings of requests whose times are known, for
// tests.
package layertest

import (
	"net/netip"

	"github.com/layertrace/layertrace/agent/internal/layer"
	"github.com/layertrace/layertrace/internal/exchange"
	"go.opentelemetry.io/otel/trace"
)

// World makes sightings of requests that go through pods, sidecars and nodes,
// with times that are given: what the tests compare with. Each node's clock
// has an offset of its own.
type World struct {
	// Now is the true time in ns.
	Now   uint64
	clock map[string]uint64 // offset per node
	span  byte
	port  uint16
	// All are the sightings so far; Drop says which points are missing.
	All  []layer.Sighting
	Drop func(*layer.Sighting) bool
	// ID is the trace's.
	ID trace.TraceID
	// Took are the true times per layer and place.
	Took   map[string]uint64
	change []func(*Hop)
}

// Ends returns the services at both ends, and whether the hop is inside a pod.
func (h *Hop) Ends() (from, to string, inside bool) {
	return h.from.service, h.to.service, h.from == h.to
}

// Pod is where a process runs.
type Pod struct{ service, node, ip string }

// Pods of the paper's testbed.
var (
	Gateway = Pod{"gateway", "node2", "10.244.2.11"}
	Page    = Pod{"productpage", "node4", "10.244.4.11"}
	Details = Pod{"details", "node3", "10.244.3.11"}
	Ratings = Pod{"ratings", "node3", "10.244.3.14"}
)

// New returns a world in which nothing happened yet.
func New() *World {
	return &World{
		Now: 1e9, ID: trace.TraceID{1},
		clock: map[string]uint64{"node2": 5e12, "node3": 77, "node4": 9e15},
		Took:  map[string]uint64{},
	}
}

// Spend lets time pass in a layer.
func (w *World) Spend(l layer.Layer, place string, ns uint64) {
	w.Now += ns
	w.Took[string(l)+" "+place] += ns
}

// Hop is a request from a process to another: the sightings get their times
// while it runs, and handle is what the receiver does.
type Hop struct {
	w              *World
	from, to       Pod
	fromProc, proc layer.Process
	client, server netip.AddrPort
	span           trace.SpanID
	// What each crossing costs, in ns.
	Stack, VNet, Driver, Relay uint64
}

// Hop prepares a request from a process to another.
func (w *World) Hop(from Pod, fromProc layer.Process, to Pod, proc layer.Process) *Hop {
	w.span++
	w.port++
	h := &Hop{
		w: w, from: from, to: to, fromProc: fromProc, proc: proc, span: trace.SpanID{w.span},
		Stack: 100_000, VNet: 20_000, Driver: 3_000, Relay: 50_000,
	}
	ip := from.ip
	if from == to {
		ip = "127.0.0.1"
	}
	h.client = netip.AddrPortFrom(netip.MustParseAddr(ip), 40000+w.port)
	h.server = netip.AddrPortFrom(netip.MustParseAddr(to.ip), 9080)
	return h
}

func (h *Hop) sighting(kind layer.Kind, node string) *layer.Sighting {
	return &layer.Sighting{
		TraceID: h.w.ID, SpanID: h.span, Kind: kind, Node: node,
		Client: h.client, Server: h.server, Status: 200,
	}
}

func (h *Hop) at(node string) uint64 { return h.w.Now + h.w.clock[node] }

func request(s *layer.Sighting) *exchange.Message  { return &s.Request }
func response(s *layer.Sighting) *exchange.Message { return &s.Response }

func whole(first uint64) exchange.Extent { return exchange.Extent{First: first, Last: first} }

// Run sends the request, lets handle happen and brings the response back.
func (h *Hop) Run(handle func()) {
	w := h.w
	sender, receiver := h.sighting(layer.Socket, h.from.node), h.sighting(layer.Socket, h.to.node)
	sender.Sender, sender.Service, sender.Process = true, h.from.service, h.fromProc
	receiver.Service, receiver.Process = h.to.service, h.proc
	cv, sv := h.sighting(layer.VNIC, h.from.node), h.sighting(layer.VNIC, h.to.node)
	cv.Service, cv.Interface, cv.Direction = h.from.service, "veth-"+h.from.service, exchange.DirectionIngress
	sv.Service, sv.Interface, sv.Direction = h.to.service, "veth-"+h.to.service, exchange.DirectionEgress
	cp, sp := h.sighting(layer.PNIC, h.from.node), h.sighting(layer.PNIC, h.to.node)
	cp.Interface, cp.Direction = "eth0", exchange.DirectionEgress
	sp.Interface, sp.Direction = "eth0", exchange.DirectionIngress

	for _, change := range w.change {
		change(h)
	}
	h.way(request, h.from, h.to, sender, cv, cp, sp, sv, receiver)
	handle()
	h.way(response, h.to, h.from, receiver, sv, sp, cp, cv, sender)

	seen := []*layer.Sighting{sender, receiver}
	if h.from != h.to {
		seen = append(seen, cv, sv)
		if h.from.node != h.to.node {
			seen = append(seen, cp, sp)
		}
	}
	for _, s := range seen {
		s.Wall = int64(s.Request.First - w.clock[s.Node])
		if w.Drop == nil || !w.Drop(s) {
			w.All = append(w.All, *s)
		}
	}
}

// way takes a message along its positions.
func (h *Hop) way(message func(*layer.Sighting) *exchange.Message, from, to Pod, out, outNIC, outPhysical, inPhysical, inNIC, in *layer.Sighting) {
	pass := func(s *layer.Sighting) {
		m := message(s)
		m.First, m.Last, m.Bytes, m.Packets = h.at(s.Node), h.at(s.Node), 100, 1
	}
	w := h.w
	message(out).Handover = whole(h.at(from.node))
	w.Spend(layer.ProtocolStack, from.service, h.Stack)
	pass(out)
	if from != to {
		w.Spend(layer.ProtocolStack, from.service, h.Stack)
		pass(outNIC)
		if from.node == to.node {
			w.Spend(layer.VirtualNetwork, from.node, h.VNet)
		} else {
			w.Spend(layer.VirtualNetwork, from.node, h.VNet)
			pass(outPhysical)
			w.Spend(layer.NodeDriver, from.node, h.Driver)
			message(outPhysical).Handover = whole(h.at(from.node))
			w.Spend(layer.RelayNetwork, min(from.node, to.node)+"-"+max(from.node, to.node), h.Relay)
			pass(inPhysical)
			w.Spend(layer.VirtualNetwork, to.node, h.VNet)
		}
		pass(inNIC)
	}
	w.Spend(layer.ProtocolStack, to.service, h.Stack)
	pass(in)
	w.Spend(layer.ProtocolStack, to.service, h.Stack)
	message(in).Handover = whole(h.at(to.node))
}

// FrontPage is a request as in the lab: from the gateway to productpage and its
// sidecar, which asks details on another node. change may make hops slower.
func (w *World) FrontPage(change ...func(*Hop)) {
	w.change = change
	w.Hop(Gateway, layer.Sidecar, Page, layer.Sidecar).Run(func() {
		w.Spend(layer.Application, "productpage", 200_000)
		w.Hop(Page, layer.Sidecar, Page, layer.AppProcess).Run(func() {
			w.Spend(layer.Application, "productpage", 700_000)
			w.Hop(Page, layer.AppProcess, Page, layer.Sidecar).Run(func() {
				w.Spend(layer.Application, "productpage", 150_000)
				w.Hop(Page, layer.Sidecar, Details, layer.Sidecar).Run(func() {
					w.Spend(layer.Application, "details", 90_000)
					w.Hop(Details, layer.Sidecar, Details, layer.AppProcess).Run(func() {
						w.Spend(layer.Application, "details", 400_000)
					})
					w.Spend(layer.Application, "details", 60_000)
				})
				w.Spend(layer.Application, "productpage", 110_000)
			})
			w.Spend(layer.Application, "productpage", 300_000)
		})
		w.Spend(layer.Application, "productpage", 80_000)
	})
}
