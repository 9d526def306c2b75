// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"sync/atomic"
	"time"

	"github.com/layertrace/layertrace/agent/internal/config"
	"github.com/layertrace/layertrace/agent/internal/gather"
	"github.com/layertrace/layertrace/agent/internal/identity"
	"github.com/layertrace/layertrace/agent/internal/layer"
	"github.com/layertrace/layertrace/agent/internal/span"
	"github.com/layertrace/layertrace/agent/internal/status"
	"github.com/layertrace/layertrace/internal/exchange"
	"go.opentelemetry.io/otel/trace"
)

const (
	// maxSightings is how many sightings wait for the rest of their traces.
	maxSightings = 65536
	// maxWorkloads is how many pods are remembered to describe layer spans.
	maxWorkloads = 4096
)

// layers splits what this node saw of each trace, and passes the parts on as
// spans and to the histograms.
type layers struct {
	names     naming
	emitter   *span.Emitter // nil: no spans
	times     *status.LayerTimes
	gather    *gather.Gatherer
	workloads map[string]identity.Workload // by pod, or by service without one

	shortest int64 // ns, of a part that gets a span
	brief    atomic.Uint64
}

func newLayers(cfg *config.Config, names naming, emitter *span.Emitter, times *status.LayerTimes) *layers {
	l := &layers{names: names, emitter: emitter, times: times, workloads: map[string]identity.Workload{},
		shortest: cfg.LayerMinDuration.Nanoseconds()}
	l.gather = gather.New(gather.Options{
		// The last record of a trace leaves the kernel up to one and a half idle
		// timeouts behind the first (the sweep runs twice in one), and is read an
		// interval later.
		Wait: 2*cfg.IdleTimeout + cfg.ReadInterval, MaxSightings: maxSightings, Done: l.split,
	})
	return l
}

// add takes what one capture point saw.
func (l *layers) add(p *span.Point, x *exchange.Exchange) {
	if w := p.Workload; w.Service != "" {
		if len(l.workloads) >= maxWorkloads {
			clear(l.workloads) // they come again
		}
		l.workloads[podOrService(w.Pod, w.Service)] = w
	}
	l.gather.Add(l.sighting(p, x), time.Now())
}

func (l *layers) sighting(p *span.Point, x *exchange.Exchange) layer.Sighting {
	s := layer.Sighting{
		TraceID: trace.TraceID(x.Context.TraceID), SpanID: trace.SpanID(x.Context.SpanID),
		Kind: p.Kind(), Node: p.Node, Service: p.Workload.Service, Pod: p.Workload.Pod,
		Process: p.Process, Interface: p.Interface.Name, Direction: x.Direction,
		Client: x.Client, Server: x.Server, ConnectionID: x.ConnectionIDHex(),
		Request: x.Request, Response: x.Response, Status: x.Status,
		Retransmits: x.Retransmits, Drops: x.Drops, DropReason: x.DropReason, Flags: x.Flags,
		Wall: int64(x.Request.First),
	}
	if x.Socket != nil {
		s.Sender, s.ZeroWindows, s.SRTT = x.Socket.Client, x.Socket.ZeroWindows, x.Socket.SRTT
	}
	client, _ := l.names.Peer(x.Client.Addr(), x.Request.First)
	server, _ := l.names.Peer(x.Server.Addr(), x.Request.First)
	s.ClientName, s.ServerName = client.Service, server.Service
	return s
}

func podOrService(pod, service string) string {
	if pod != "" {
		return "pod/" + pod
	}
	return "service/" + service
}

// split makes spans and measurements of one trace.
func (l *layers) split(sightings []layer.Sighting) {
	tree := layer.Split(sightings, nil)
	for _, leg := range tree.Legs {
		l.times.Observe(leg)
		if l.emitter == nil {
			continue
		}
		for _, p := range leg.Joined() {
			if p.Node == l.names.node && p.Time < l.shortest { // of others there is no span
				l.brief.Add(1)
				continue
			}
			l.emitter.EmitLayer(&span.LayerSpan{
				TraceID: leg.TraceID, SpanID: leg.SpanID, Part: p, Node: l.names.node, Workload: l.workload(leg, &p),
			})
		}
	}
}

// workload is who a part of a service's time is about.
func (l *layers) workload(leg *layer.Leg, p *layer.Part) identity.Workload {
	if p.Layer != layer.Application && p.Layer != layer.ProtocolStack {
		return identity.Workload{}
	}
	for _, s := range leg.Sightings() {
		if s.Service == p.Place {
			return l.workloads[podOrService(s.Pod, s.Service)]
		}
	}
	return identity.Workload{}
}

func (l *layers) samples() ([]status.Sample, error) {
	early, late := l.gather.Counts()
	return []status.Sample{
		{Name: "traces_split_early", Help: "Traces that were split before all of them was there, because too many waited.", Value: float64(early)},
		{Name: "observations_late", Help: "Exchanges that came when their trace had been split already: their layers are told without the rest.", Value: float64(late)},
		{Name: "layer_spans_below_minimum", Help: "Times in a layer that got no span, being shorter than --layer-min-duration.", Value: float64(l.brief.Load())},
	}, nil
}
