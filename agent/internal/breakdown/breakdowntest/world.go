// SPDX-License-Identifier: Apache-2.0

// Package breakdowntest makes observations of requests with known times, for
// tests.
package breakdowntest

import (
	"encoding/binary"
	"net/netip"

	"go.opentelemetry.io/otel/trace"

	"github.com/layertrace/layertrace/internal/observe"
	"github.com/layertrace/layertrace/internal/tracecontext"
)

// World makes observations of requests between pods, sidecars and nodes, and keeps
// the true time of each layer to compare with. Each node's clock has its own
// offset.
type World struct {
	// Now is the true time in ns.
	Now   uint64
	clock map[string]uint64 // offset per node
	span  byte
	port  uint16
	// All are the observations so far, without those that Drop (if set) selects.
	All  []observe.Observation
	Drop func(*observe.Observation) bool
	// ID of the trace.
	ID trace.TraceID
	// Took is the true time per layer and location, in ns.
	Took   map[string]uint64
	change []func(*Hop)
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

// New returns a world without requests.
func New() *World {
	return &World{
		Now: 1e9, ID: trace.TraceID{1},
		clock: map[string]uint64{"node2": 5e12, "node3": 77, "node4": 9e15, "router1": 3e13},
		Took:  map[string]uint64{},
	}
}

// Spend lets time pass in a layer.
func (w *World) Spend(l observe.Layer, location string, ns uint64) {
	w.Now += ns
	w.Took[string(l)+" "+location] += ns
}

// Hop is a request from one process to another.
type Hop struct {
	w              *World
	from, to       Pod
	fromProc, proc observe.Process
	client, server netip.AddrPort
	span           trace.SpanID
	// Time of each step on the path, in ns.
	Stack, VNet, Driver, Relay uint64
	// Device is between two nodes, "" for none. A message is InDevice in it, and Relay on the
	// link at each side, with SlowLink more on that of the node SlowNode.
	Device             string
	InDevice, SlowLink uint64
	SlowNode           string
	// Time in ns for which the reader holds up the sender of a message, between its
	// first and its last write, and the service that is to blame.
	RequestStall, ResponseStall uint64
	Blamed                      string
	// Time in ns for which a message is in the receive queue of its reader.
	RequestLate, ResponseLate uint64

	enter, leave *observe.Observation // of the device
}

// Hop prepares a request from one process to another.
func (w *World) Hop(from Pod, fromProc observe.Process, to Pod, proc observe.Process) *Hop {
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

// Ends returns the services at both ends, and whether the hop is inside a pod.
func (h *Hop) Ends() (from, to string, inside bool) {
	return h.from.service, h.to.service, h.from == h.to
}

func (h *Hop) observation(kind observe.Kind, node string) *observe.Observation {
	o := &observe.Observation{
		Key: observe.Key{Client: h.client, Server: h.server}, Status: 200,
		Point: &observe.Point{Kind: kind, Node: node},
	}
	o.Context.TraceID, o.Context.SpanID = tracecontext.TraceID(h.w.ID), tracecontext.SpanID(h.span)
	if kind == observe.KindSocket {
		o.Socket = &observe.Socket{}
	}
	return o
}

func (h *Hop) at(node string) uint64 { return h.w.Now + h.w.clock[node] }

func request(o *observe.Observation) *observe.Message  { return &o.Request }
func response(o *observe.Observation) *observe.Message { return &o.Response }

func whole(first uint64) observe.Extent { return observe.Extent{First: first, Last: first} }

// Run sends the request, calls handle as the receiver, and returns the response.
func (h *Hop) Run(handle func()) {
	w := h.w
	sender, receiver := h.observation(observe.KindSocket, h.from.node), h.observation(observe.KindSocket, h.to.node)
	sender.Socket.Client, sender.Point.Workload.Service, sender.Point.Process = true, h.from.service, h.fromProc
	receiver.Point.Workload.Service, receiver.Point.Process = h.to.service, h.proc
	cv, sv := h.observation(observe.KindVNIC, h.from.node), h.observation(observe.KindVNIC, h.to.node)
	cv.Point.Workload.Service, cv.Point.Interface, cv.Direction = h.from.service, "veth-"+h.from.service, observe.DirectionIngress
	sv.Point.Workload.Service, sv.Point.Interface, sv.Direction = h.to.service, "veth-"+h.to.service, observe.DirectionEgress
	cp, sp := h.observation(observe.KindPNIC, h.from.node), h.observation(observe.KindPNIC, h.to.node)
	cp.Point.Interface, cp.Direction = "eth0", observe.DirectionEgress
	sp.Point.Interface, sp.Direction = "eth0", observe.DirectionIngress

	for _, change := range w.change {
		change(h)
	}
	if h.Device != "" && h.from.node != h.to.node {
		h.enter, h.leave = h.observation(observe.KindDevice, h.Device), h.observation(observe.KindDevice, h.Device)
		for i, o := range []*observe.Observation{h.enter, h.leave} {
			o.Point.Interface, o.Direction = []string{h.from.node, h.to.node}[i], []observe.Direction{observe.DirectionIngress, observe.DirectionEgress}[i]
			o.Request.TTL, o.Response.TTL = uint8(64-i), uint8(63+i)
		}
		for _, o := range []*observe.Observation{cp, sp, h.enter, h.leave} {
			o.ConnectionID, o.Request.Seq, o.Response.Seq = []byte{1, 2, 3, h.span[0]}, 100*uint32(h.span[0]), 5000
		}
	}
	h.path(request, h.from, h.to, sender, cv, cp, sp, sv, receiver)
	handle()
	h.path(response, h.to, h.from, receiver, sv, sp, cp, cv, sender)

	seen := []*observe.Observation{sender, receiver}
	if h.from != h.to {
		seen = append(seen, cv, sv)
		if h.from.node != h.to.node {
			seen = append(seen, cp, sp)
			if h.enter != nil {
				seen = append(seen, h.enter, h.leave)
			}
		}
	}
	for _, o := range seen {
		o.Wall = int64(o.Request.First - w.clock[o.Point.Node])
		if w.Drop == nil || !w.Drop(o) {
			w.All = append(w.All, *o)
		}
	}
}

// path passes a message along its path and notes its times.
func (h *Hop) path(message func(*observe.Observation) *observe.Message, from, to Pod, out, outNIC, outPhysical, inPhysical, inNIC, in *observe.Observation) {
	pass := func(o *observe.Observation) {
		m := message(o)
		m.First, m.Last, m.Bytes, m.Packets = h.at(o.Point.Node), h.at(o.Point.Node), 100, 1 // Seq and TTL stay
	}
	w := h.w
	written := whole(h.at(from.node))
	stall := h.RequestStall
	if message(out) == &out.Response {
		stall = h.ResponseStall
	}
	if stall > 0 {
		w.Spend(observe.ProtocolStack, h.Blamed, stall)
		message(out).Waited, message(out).Held, message(out).Stalled, written.Last = stall, stall, stall, h.at(from.node)
		message(in).Unread = stall
	}
	message(out).App = written
	w.Spend(observe.ProtocolStack, from.service, h.Stack)
	pass(out)
	message(out).First = written.First
	if from != to {
		w.Spend(observe.ProtocolStack, from.service, h.Stack)
		pass(outNIC)
		if from.node == to.node {
			w.Spend(observe.VirtualNetwork, from.node, h.VNet)
		} else {
			w.Spend(observe.VirtualNetwork, from.node, h.VNet)
			pass(outPhysical)
			w.Spend(observe.NodeDriver, from.node, h.Driver)
			message(outPhysical).Tx = whole(h.at(from.node))
			h.relay(message, from, to, pass)
			pass(inPhysical)
			w.Spend(observe.VirtualNetwork, to.node, h.VNet)
		}
		pass(inNIC)
	}
	w.Spend(observe.ProtocolStack, to.service, h.Stack)
	pass(in)
	w.Spend(observe.ProtocolStack, to.service, h.Stack)
	if message(in) == &in.Request {
		w.Spend(observe.ProtocolStack, to.service, h.RequestLate)
	} else {
		w.Spend(observe.ProtocolStack, to.service, h.ResponseLate)
	}
	message(in).App = whole(h.at(to.node))
}

// relay passes a message between two nodes, and notes when it is in the device.
func (h *Hop) relay(message func(*observe.Observation) *observe.Message, from, to Pod, pass func(*observe.Observation)) {
	w := h.w
	between := func(a, b string) string { return min(a, b) + "-" + max(a, b) }
	if h.enter == nil {
		w.Spend(observe.RelayNetwork, between(from.node, to.node), h.Relay)
		return
	}
	in, out := h.enter, h.leave
	if from == h.to {
		in, out = out, in
	}
	link := func(node string) uint64 {
		if node == h.SlowNode {
			return h.Relay + h.SlowLink
		}
		return h.Relay
	}
	w.Spend(observe.RelayNetwork, between(from.node, h.Device), link(from.node))
	pass(in)
	w.Spend(observe.RelayNetwork, h.Device, h.InDevice)
	pass(out)
	message(out).Tx = whole(h.at(h.Device))
	w.Spend(observe.RelayNetwork, between(h.Device, to.node), link(to.node))
}

// FrontPage is a request as in the lab: from the gateway to productpage, which
// calls details on another node. change may make hops slower.
func (w *World) FrontPage(change ...func(*Hop)) {
	w.change = change
	w.Hop(Gateway, observe.Sidecar, Page, observe.Sidecar).Run(func() {
		w.Spend(observe.Application, "productpage", 200_000)
		w.Hop(Page, observe.Sidecar, Page, observe.AppProcess).Run(func() {
			w.Spend(observe.Application, "productpage", 700_000)
			w.Hop(Page, observe.AppProcess, Page, observe.Sidecar).Run(func() {
				w.Spend(observe.Application, "productpage", 150_000)
				w.Hop(Page, observe.Sidecar, Details, observe.Sidecar).Run(func() {
					w.Spend(observe.Application, "details", 90_000)
					w.Hop(Details, observe.Sidecar, Details, observe.AppProcess).Run(func() {
						w.Spend(observe.Application, "details", 400_000)
					})
					w.Spend(observe.Application, "details", 60_000)
				})
				w.Spend(observe.Application, "productpage", 110_000)
			})
			w.Spend(observe.Application, "productpage", 300_000)
		})
		w.Spend(observe.Application, "productpage", 80_000)
	})
}

// Legs returns the observations of n requests of one trace, each seen at two pods' interfaces
// of one node: next to each other, or nested in one pod, each within the one before.
func Legs(n int, nested bool) []observe.Observation {
	client := &observe.Point{ID: "node/1", Kind: observe.KindVNIC, Node: "node", Interface: "veth1", Workload: observe.Workload{Service: "client", Pod: "client-1", Namespace: "default"}}
	server := &observe.Point{ID: "node/2", Kind: observe.KindVNIC, Node: "node", Interface: "veth2", Workload: observe.Workload{Service: "server", Pod: "server-1", Namespace: "default"}}
	if nested {
		server.Workload = client.Workload
	}
	all := make([]observe.Observation, 0, 2*n)
	for i := range uint64(n) {
		var o observe.Observation
		o.Context.TraceID[15] = 1
		binary.BigEndian.PutUint64(o.Context.SpanID[:], i+1)
		o.Client = netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, 0, 0, 1}), uint16(1024+i%60000))
		o.Server = netip.MustParseAddrPort("10.0.0.2:80")
		request, response := 1_000_000_000+1000*i, 1_000_000_000+1000*i+500
		if nested {
			response = 1_000_000_000 + (2*uint64(n)-i)*2000
		}
		for _, p := range []*observe.Point{client, server} {
			o.Point, o.Direction = p, observe.DirectionIngress
			o.Request.First, o.Request.Last, o.Response.First, o.Response.Last = request, request, response, response
			if p == server {
				o.Direction = observe.DirectionEgress
				o.Request.First, o.Request.Last, o.Response.First, o.Response.Last = request+100, request+100, response-100, response-100
			}
			o.Wall = int64(o.Request.First)
			all = append(all, o)
		}
	}
	return all
}
