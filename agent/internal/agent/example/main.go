// SPDX-License-Identifier: Apache-2.0

// Command example serves the metrics of two agents on made-up nodes, with the
// agent's own code, to show the dashboard and alert rules of istio/monitoring
// without a cluster. A front page on node1 calls details on node2 and a cache on
// node1.
//
//	go run ./agent/internal/agent/example 127.0.0.1:9464 127.0.0.1:9465
//
// It prints the addresses. Port 0 selects a free port.
package main

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net/netip"
	"os"
	"os/signal"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/layertrace/layertrace/agent/internal/agent"
	"github.com/layertrace/layertrace/agent/internal/breakdown"
	"github.com/layertrace/layertrace/agent/internal/probe"
	"github.com/layertrace/layertrace/internal/observe"
	"github.com/layertrace/layertrace/internal/tracecontext"
	"go.opentelemetry.io/otel/trace"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "example:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, addresses []string) error {
	if len(addresses) != 2 {
		return errors.New("give two addresses to listen on, such as 127.0.0.1:9464 127.0.0.1:9465")
	}
	var times []*agent.LayerTimes // of the nodes
	var requests atomic.Uint64
	for _, address := range addresses {
		server, err := agent.Listen(address)
		if err != nil {
			return err
		}
		defer server.Close(ctx)
		metrics, layerTimes := agent.ExampleMetrics("example")
		metrics.MustRegister(counters(&requests))
		server.Serve(metrics, func() (string, error) { return "", nil }, slog.Default())
		times = append(times, layerTimes)
		fmt.Println(server.Address())
	}
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for {
		requests.Add(1)
		for node, observations := range request(rand.Uint64(), rand.Float64) {
			for _, hop := range breakdown.Split(observations, nil).Hops {
				times[node].Observe(hop)
			}
		}
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
	}
}

// behindOf is the number of requests of which one has its trace context beyond the prefix
// window.
const behindOf = 50

// counters returns those of a probe that saw so many requests.
func counters(requests *atomic.Uint64) probe.ZeroCounters {
	return probe.ZeroCounters{Values: map[string]func() uint64{
		"layertrace_requests_total":               requests.Load,
		"layertrace_contexts_found_total":         requests.Load,
		"layertrace_contexts_behind_window_total": func() uint64 { return requests.Load() / behindOf },
	}}
}

// Durations of the made-up requests in µs. Each is extended at random, at most
// doubled.
const (
	inStack, inBridge, inQueue = 20, 15, 5
	onWire                     = 100 // each direction
	inDetails                  = 800
	inCache                    = 200
)

// hop is a request on its way.
type hop struct {
	id     trace.TraceID
	span   byte
	port   uint16
	server string
	random func() float64
	now    uint64 // ns
}

// after advances the clock and returns it.
func (h *hop) after(us float64) uint64 {
	h.now += uint64(us * 1e3 * (1 + h.random()))
	return h.now
}

func at(ns uint64) observe.Message { return observe.Message{First: ns, Last: ns} }

// withFarSide is a message with the time at the other side of the capture point: the
// application at a socket, the driver at an interface.
func withFarSide(ns, farSide uint64) observe.Message {
	m := at(ns)
	m.App = observe.Extent{First: farSide, Last: farSide}
	m.Tx = m.App
	return m
}

// namespace of the services.
const namespace = "bookinfo"

// workload of a service; a node has none.
func workload(service string) observe.Workload {
	if service == "" {
		return observe.Workload{}
	}
	return observe.Workload{Service: service, Namespace: namespace}
}

func (h *hop) observation(kind observe.Kind, node, service string, d observe.Direction, request, response observe.Message) observe.Observation {
	o := observe.Observation{
		Key:       observe.Key{Client: netip.AddrPortFrom(netip.MustParseAddr("10.0.1.1"), h.port), Server: netip.MustParseAddrPort("10.0.2.1:9080")},
		Point:     &observe.Point{Kind: kind, Node: node, Interface: "eth0", Workload: workload(service)},
		Direction: d, Request: request, Response: response,
		Peers: observe.Peers{Client: observe.Peer{Service: "productpage", Namespace: namespace}, Server: observe.Peer{Service: h.server, Namespace: namespace}},
	}
	o.Context.TraceID, o.Context.SpanID = tracecontext.TraceID(h.id), tracecontext.SpanID{h.span}
	if kind == observe.KindSocket {
		o.Socket = &observe.Socket{}
	}
	return o
}

// request returns the observations of a trace on node1 and node2: the front page
// calls details over the network, and then the cache on its own node.
func request(number uint64, random func() float64) (nodes [2][]observe.Observation) {
	var id trace.TraceID
	binary.BigEndian.PutUint64(id[8:], number|1)
	far := &hop{id: id, span: 1, port: 4001, server: "details", random: random, now: 1e12}
	nodes[0], nodes[1] = far.remote()
	near := &hop{id: id, span: 2, port: 4002, server: "cache", random: random, now: far.now + 1e6}
	nodes[0] = append(nodes[0], near.local()...)
	return nodes
}

func (h *hop) remote() (client, server []observe.Observation) {
	const ahead = 3600e9 // node2's clock is an hour ahead
	wrote, sent, veth1, out, driver1 := h.after(1), h.after(inStack), h.after(1), h.after(inBridge), h.after(inQueue)
	in, veth2, arrived, read := ahead+h.after(onWire), ahead+h.after(inBridge), ahead+h.after(1), ahead+h.after(inStack)
	responded, left, veth2Back, outBack, driver2 := ahead+h.after(inDetails), ahead+h.after(inStack), ahead+h.after(1), ahead+h.after(inBridge), ahead+h.after(inQueue)
	inBack, veth1Back, back, done := h.after(onWire), h.after(inBridge), h.after(1), h.after(inStack)
	sender := h.observation(observe.KindSocket, "node1", "productpage", 0, withFarSide(sent, wrote), withFarSide(back, done))
	sender.Socket.Client = true
	client = []observe.Observation{
		sender,
		h.observation(observe.KindVNIC, "node1", "productpage", observe.DirectionIngress, at(veth1), at(veth1Back)),
		h.observation(observe.KindPNIC, "node1", "", observe.DirectionEgress, withFarSide(out, driver1), at(inBack)),
	}
	return client, []observe.Observation{
		h.observation(observe.KindPNIC, "node2", "", observe.DirectionIngress, at(in), withFarSide(outBack, driver2)),
		h.observation(observe.KindVNIC, "node2", "details", observe.DirectionEgress, at(veth2), at(veth2Back)),
		h.observation(observe.KindSocket, "node2", "details", 0, withFarSide(arrived, read), withFarSide(left, responded)),
	}
}

func (h *hop) local() []observe.Observation {
	veth1, veth3 := h.after(1), h.after(inBridge)
	veth3Back, veth1Back := h.after(inCache), h.after(inBridge)
	return []observe.Observation{
		h.observation(observe.KindVNIC, "node1", "productpage", observe.DirectionIngress, at(veth1), at(veth1Back)),
		h.observation(observe.KindVNIC, "node1", "cache", observe.DirectionEgress, at(veth3), at(veth3Back)),
	}
}
