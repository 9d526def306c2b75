// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"sync/atomic"
	"time"

	"github.com/layertrace/layertrace/agent/internal/breakdown"
	"github.com/layertrace/layertrace/agent/internal/config"
	"github.com/layertrace/layertrace/agent/internal/span"
	"github.com/layertrace/layertrace/agent/internal/status"
	"github.com/layertrace/layertrace/internal/observe"
)

const (
	// maxObservations is how many observations wait for the rest of their traces.
	maxObservations = 65536
	// maxWorkloads is how many pods are remembered to describe layer spans.
	maxWorkloads = 4096
)

// layers splits what this node saw of each trace, and passes the parts on as
// spans and to the histograms.
type layers struct {
	names     naming
	emitter   *span.Emitter // nil: no spans
	times     *status.LayerTimes
	buffer    *breakdown.TraceBuffer
	workloads map[string]observe.Workload // by pod, or by service without one

	shortest int64 // ns, of a part that gets a span
	brief    atomic.Uint64
}

func newLayers(cfg *config.Config, names naming, emitter *span.Emitter, times *status.LayerTimes) *layers {
	l := &layers{names: names, emitter: emitter, times: times, workloads: map[string]observe.Workload{},
		shortest: cfg.LayerMinDuration.Nanoseconds()}
	l.buffer = breakdown.NewTraceBuffer(breakdown.TraceBufferOptions{
		// The last record of a trace leaves the kernel up to one and a half idle
		// timeouts behind the first (the sweep runs twice in one), and is read an
		// interval later.
		Wait: 2*cfg.IdleTimeout + cfg.ReadInterval, MaxObservations: maxObservations, Done: l.split,
	})
	return l
}

// add takes an observation of one capture point.
func (l *layers) add(o *observe.Observation) {
	if w := o.Point.Workload; w.Service != "" {
		if len(l.workloads) >= maxWorkloads {
			clear(l.workloads) // they come again
		}
		l.workloads[podOrService(w.Pod, w.Service)] = w
	}
	o.Wall = int64(o.Request.First) // one clock here
	l.buffer.Add(*o, time.Now())
}

func podOrService(pod, service string) string {
	if pod != "" {
		return "pod/" + pod
	}
	return "service/" + service
}

// split makes spans and measurements of one trace.
func (l *layers) split(observations []observe.Observation) {
	tree := breakdown.Split(observations, nil)
	for _, hop := range tree.Hops {
		l.times.Observe(hop)
		if l.emitter == nil {
			continue
		}
		for _, p := range hop.Coalesced() {
			if p.Node == l.names.node && p.Time < l.shortest { // of others there is no span
				l.brief.Add(1)
				continue
			}
			l.emitter.EmitLayer(&span.LayerSpan{
				TraceID: hop.TraceID, SpanID: hop.SpanID, Segment: p, Node: l.names.node, Workload: l.workload(hop, &p),
			})
		}
	}
}

// workload is who a part of a service's time is about.
func (l *layers) workload(hop *breakdown.Hop, p *breakdown.Segment) observe.Workload {
	if p.Layer != observe.Application && p.Layer != observe.ProtocolStack {
		return observe.Workload{}
	}
	for _, s := range hop.Observations() {
		if s.Point.Workload.Service == p.Location {
			return l.workloads[podOrService(s.Point.Workload.Pod, s.Point.Workload.Service)]
		}
	}
	return observe.Workload{}
}

func (l *layers) samples() ([]status.Sample, error) {
	early, late := l.buffer.Counts()
	return []status.Sample{
		{Name: "traces_split_early", Help: "Traces that were split before all of them was there, because too many waited.", Value: float64(early)},
		{Name: "observations_late", Help: "Exchanges that came when their trace had been split already: their layers are told without the rest.", Value: float64(late)},
		{Name: "layer_spans_below_minimum", Help: "Times in a layer that got no span, being shorter than --layer-min-duration.", Value: float64(l.brief.Load())},
	}, nil
}
