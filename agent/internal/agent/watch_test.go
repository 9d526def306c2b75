// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"context"
	"sync"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"

	"github.com/layertrace/layertrace/internal/observe"
	"github.com/layertrace/layertrace/internal/testkit"
	"github.com/layertrace/layertrace/internal/tracecontext"
)

// Who watches an agent gets each trace with the names of its requests, also those that were
// open at the end, and the metrics once more when all of that has come.
func TestWatch(t *testing.T) {
	probe := newFakeProbe()
	named := func(id byte, path string) observe.Observation {
		o := newExchange(loopback, 0)
		o.Context.TraceID, o.Method, o.Path = tracecontext.TraceID{id}, "GET", path
		o.Response = observe.Message{First: 2e9, Last: 2e9, Bytes: 100, Packets: 1}
		return o
	}
	probe.flush = []observe.Observation{named(2, "/open")}
	opts := options(t, probe, "--spans=layers", "--idle-timeout=10ms", "--read-interval=10ms")
	opts.Config.Watched = true

	var mu sync.Mutex
	paths := map[string]int{}
	var handled float64
	var closed bool
	opts.Watch = &Watch{
		Trace: func(tr Trace) {
			mu.Lock()
			defer mu.Unlock()
			for _, h := range tr.Tree.Hops {
				for o := range h.Each {
					paths[o.Method+" "+o.Path]++
					if tr.Cut || tr.Again || !o.HasContext() || o.Status != 200 || tr.Wall(o.Request.First).IsZero() {
						t.Errorf("trace %+v, observation %+v", tr, o)
					}
				}
			}
		},
		Metrics: func(all []*dto.MetricFamily) {
			mu.Lock()
			defer mu.Unlock()
			handled = valueOf(all, "layertrace_exchanges_handled_total")
			closed = probe.closed > 0
		},
	}
	ctx, stop := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- Run(ctx, opts) }()
	testkit.Eventually(t, "the agent is attached", func() bool { return probe.attachedTo(loopback) })
	probe.out <- named(1, "/a")
	testkit.Eventually(t, "the trace is shown and counted", func() bool {
		mu.Lock()
		defer mu.Unlock()
		return paths["GET /a"] == 1 && handled == 1
	})
	stop()
	if err := <-ended; err != nil {
		t.Fatal(err)
	}
	if len(paths) != 2 || paths["GET /open"] != 1 || handled != 2 || closed {
		t.Errorf("%v, %v handled, closed before the last metrics: %t", paths, handled, closed)
	}
}

func valueOf(families []*dto.MetricFamily, name string) (sum float64) {
	for _, f := range families {
		for _, m := range f.GetMetric() {
			if f.GetName() == name {
				sum += m.GetCounter().GetValue()
			}
		}
	}
	return sum
}

// Without someone who watches, nothing is kept for it.
func TestNotWatched(t *testing.T) {
	l := newLayers(options(t, newFakeProbe(), "--spans=layers").Config, "node2", nil, prometheus.NewRegistry())
	if l.showTo(nil, nil); l.show != nil {
		t.Error("traces are shown without a watcher")
	}
}
