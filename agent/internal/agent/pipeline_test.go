// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"

	"github.com/layertrace/layertrace/agent/internal/breakdown/breakdowntest"
	"github.com/layertrace/layertrace/agent/internal/config"
	"github.com/layertrace/layertrace/agent/internal/span"
	"github.com/layertrace/layertrace/internal/observe"
	"github.com/layertrace/layertrace/internal/tracecontext"
)

func TestHold(t *testing.T) {
	waits := map[int]bool{7: true, 8: true}
	metrics := newPipelineMetrics(nil)
	p := pending{
		nameMayChange: func(o *observe.Observation) bool { return waits[o.Interface] },
		waits:         metrics.nameWaits, full: metrics.nameWaitFull,
	}
	start := time.Unix(1000, 0)
	var passed []int
	pass := func(x *observe.Observation) { passed = append(passed, x.Interface) }
	expect := func(what string, want ...int) {
		t.Helper()
		if len(passed) != len(want) {
			t.Errorf("%s: %v were passed on, want %v", what, passed, want)
			return
		}
		for i := range want {
			if passed[i] != want[i] {
				t.Errorf("%s: %v were passed on, want %v", what, passed, want)
			}
		}
		passed = nil
	}
	for _, ifindex := range []int{7, 8, 7, 9} {
		x := newExchange(ifindex, 0)
		if kept := p.keep(&x, start); kept != waits[ifindex] {
			t.Errorf("kept one of %d: %v", ifindex, kept)
		}
	}
	p.release(start.Add(time.Second), pass)
	expect("nothing is known")
	waits[7] = false
	p.release(start.Add(2*time.Second), pass)
	expect("7 is known", 7, 7)
	p.release(start.Add(pendingTime), pass)
	expect("time is up", 8)
	if p.waiting != nil || testutil.ToFloat64(p.waits) != 3 {
		t.Errorf("%d wait, %v did", len(p.waiting), testutil.ToFloat64(p.waits))
	}
	x := newExchange(8, 0)
	for range maxPending {
		p.keep(&x, start)
	}
	if p.keep(&x, start) || testutil.ToFloat64(p.full) != 1 {
		t.Errorf("more than %d wait; %v did not", maxPending, testutil.ToFloat64(p.full))
	}
	p.releaseAll(pass)
	if len(passed) != maxPending || len(p.waiting) != 0 {
		t.Errorf("%d were passed on at the end, %d wait", len(passed), len(p.waiting))
	}
}

// recorder keeps spans without attributes.
type recorder []span.Finished

func (r *recorder) Take(s *span.Finished) {
	kept := *s
	kept.Attributes = nil
	*r = append(*r, kept)
}

// split returns the durations of the layer spans that an agent makes of a page, and
// the number of segments that got none.
func split(t *testing.T, shortest time.Duration) (took []time.Duration, brief float64) {
	t.Helper()
	recorder := &recorder{}
	emitter := span.NewEmitter(span.Options{Sink: recorder, Offset: func() span.ClockOffset { return 0 }, Version: "v1"})
	world := breakdowntest.New()
	world.FrontPage()
	node := world.All[0].Point.Node
	l := newLayers(&config.Config{LayerMinDuration: shortest}, node, emitter, prometheus.NewRegistry())
	var own []observe.Observation
	for _, s := range world.All {
		if s.Point.Node == node {
			own = append(own, s)
		}
	}
	l.split(own, false, false)
	for _, s := range *recorder {
		took = append(took, time.Duration(s.End-s.Start))
	}
	return took, testutil.ToFloat64(l.belowMinimum)
}

func TestLayerMinDuration(t *testing.T) {
	all, brief := split(t, 0)
	if len(all) == 0 || brief != 0 {
		t.Fatalf("%d spans and %v brief without a limit", len(all), brief)
	}
	shortest := slices.Max(all)
	var want int
	for _, took := range all {
		if took >= shortest {
			want++
		}
	}
	got, brief := split(t, shortest)
	if len(got) != want || want == len(all) || want == 0 || brief != float64(len(all)-want) {
		t.Errorf("%v: %d spans and %v brief of %v, want %d spans", shortest, len(got), brief, all, want)
	}
	for _, took := range got {
		if took < shortest {
			t.Errorf("a span of %v", took)
		}
	}
}

// The early report of an open exchange only holds its trace; the later one also gets a
// span, unless --open-span-after is 0.
func TestOpenReports(t *testing.T) {
	const second = uint64(time.Second)
	for _, c := range []struct {
		age, after time.Duration
		flags      observe.Flags
		only, held bool
	}{
		{2 * time.Second, 30 * time.Second, observe.FlagStillOpen, true, true},
		{30 * time.Second, 30 * time.Second, observe.FlagStillOpen, false, true},
		{30 * time.Second, 0, observe.FlagStillOpen, true, true},
		{30 * time.Second, 30 * time.Second, 0, false, false},
	} {
		l := newLayers(&config.Config{RequestTimeout: time.Minute}, "node1", nil, prometheus.NewRegistry())
		p := pipeline{layers: l, openSpanAfter: c.after, monotonic: func() uint64 { return 100*second + uint64(c.age) }}
		o := newExchange(loopback, 0)
		o.Request.First, o.Flags = 100*second, c.flags
		now := time.Unix(1000, 0)
		if only := p.hold(&o, now); only != c.only {
			t.Errorf("age %v, span after %v: passed on %t, want %t", c.age, c.after, !only, !c.only)
		}
		l.buffer.Flush(now.Add(time.Minute))
		if _, expired := l.buffer.HoldCounts(); (expired == 1) != c.held {
			t.Errorf("age %v, flags %v: %d holds", c.age, c.flags.Names(), expired)
		}
	}
}

// longPage is what the node of productpage sees of a page that asks ratings, then waits
// for details, whose answer takes a time.
func longPage(takes time.Duration) (own []observe.Observation, w *breakdowntest.World) {
	w = breakdowntest.New()
	w.Hop(breakdowntest.Gateway, observe.Sidecar, breakdowntest.Page, observe.AppProcess).Run(func() {
		w.Spend(observe.Application, "productpage", 300_000)
		w.Hop(breakdowntest.Page, observe.AppProcess, breakdowntest.Ratings, observe.AppProcess).Run(func() {
			w.Spend(observe.Application, "ratings", 100_000)
		})
		w.Hop(breakdowntest.Page, observe.AppProcess, breakdowntest.Details, observe.AppProcess).Run(func() {
			w.Spend(observe.Application, "details", uint64(takes))
		})
		w.Spend(observe.Application, "productpage", 200_000)
	})
	for _, o := range w.All {
		if o.Point.Node == "node4" {
			own = append(own, o)
		}
	}
	return own, w
}

// layerSums returns the time per name of layer spans.
func layerSums(spans []span.Finished) map[string]time.Duration {
	sums := map[string]time.Duration{}
	for _, s := range spans {
		sums[s.Name] += time.Duration(s.End - s.Start)
	}
	return sums
}

// A trace whose exchanges take longer than the trace buffer waits becomes one trace with
// all layers: reports of open exchanges hold it. Without them it is split, and the time
// of the application contains that of what it waited for.
func TestLongExchangesAreOneTrace(t *testing.T) {
	const sweep, read, idle = time.Second, time.Second, 2 * time.Second
	cfg := &config.Config{IdleTimeout: idle, ReadInterval: read, RequestTimeout: 15 * time.Minute}
	for _, takes := range []time.Duration{10 * time.Second, 45 * time.Second, 10 * time.Minute} {
		for _, held := range []bool{true, false} {
			own, world := longPage(takes)
			recorder := &recorder{}
			emitter := span.NewEmitter(span.Options{Sink: recorder, Offset: func() span.ClockOffset { return 0 }, Version: "v1"})
			l := newLayers(cfg, "node4", emitter, prometheus.NewRegistry())
			var now uint64
			p := pipeline{layers: l, openSpanAfter: 30 * time.Second, monotonic: func() uint64 { return now }}
			// A report is read up to a sweep and a read interval after it is due.
			type report struct {
				at uint64
				o  observe.Observation
			}
			var reports []report
			start, preliminary := own[0].Request.First, 0
			for _, o := range own {
				start = min(start, o.Request.First)
				reports = append(reports, report{o.Response.Last + uint64(idle+sweep+read), o})
				open := o
				open.Response, open.Flags = observe.Message{}, observe.FlagStillOpen|observe.FlagNoResponse
				for _, after := range []time.Duration{idle, p.openSpanAfter} {
					if at := o.Request.First + uint64(after); held && at < o.Response.Last {
						reports = append(reports, report{at + uint64(sweep+read), open})
					}
				}
			}
			slices.SortStableFunc(reports, func(a, b report) int { return cmp.Compare(a.at, b.at) })
			for now = start; now < start+uint64(takes+time.Minute); now += uint64(pendingInterval) {
				wall := time.Unix(0, int64(now))
				for len(reports) > 0 && reports[0].at <= now {
					o := reports[0].o
					reports = reports[1:]
					if p.hold(&o, wall) {
						continue
					}
					if o.Flags&observe.FlagStillOpen != 0 {
						preliminary++ // gets a span of its own
						continue
					}
					l.add(&o, wall)
				}
				l.buffer.Flush(wall)
			}
			go l.splitter.run()
			l.splitter.close(l.buffer.Close)
			_, late := l.buffer.Counts()
			got := layerSums(*recorder)["application"]
			right := time.Duration(world.Took["application productpage"])
			if (got == right) != held || held && late != 0 {
				t.Errorf("%v, held %v: %v in the application of %v, %d observations late", takes, held, got, right, late)
			}
			// At the sockets and interfaces of three hops, the longer two are reported again.
			if want := takes >= p.openSpanAfter && held; (preliminary == 6) != want || (preliminary == 0) == want {
				t.Errorf("%v, held %v: %d preliminary reports", takes, held, preliminary)
			}
			if _, expired := l.buffer.HoldCounts(); expired != 0 {
				t.Errorf("%v: %d holds expired", takes, expired)
			}
		}
	}
}

// The number of holds is bounded, and those above it are counted.
func TestHoldsAboveTheMaximumAreCounted(t *testing.T) {
	registry := prometheus.NewRegistry()
	l := newLayers(&config.Config{RequestTimeout: time.Minute}, "node1", nil, registry)
	for i := range maxHolds + 3 {
		o := newExchange(loopback, 0)
		o.Context.TraceID = tracecontext.TraceID{1, byte(i >> 8), byte(i)}
		l.buffer.Hold(&o, time.Unix(1000, 0))
	}
	const want = `
# HELP layertrace_trace_holds_full_total Open exchanges that did not keep their trace from being split, because too many others did.
# TYPE layertrace_trace_holds_full_total counter
layertrace_trace_holds_full_total 3
`
	if err := testutil.GatherAndCompare(registry, strings.NewReader(want), "layertrace_trace_holds_full_total"); err != nil {
		t.Error(err)
	}
}

// Of two interfaces of a node, one sees requests only.
func TestOneWay(t *testing.T) {
	world := breakdowntest.New()
	world.FrontPage()
	node := world.All[0].Point.Node
	for _, flag := range []observe.Flags{0, observe.FlagEvicted} {
		l := newLayers(&config.Config{}, node, nil, prometheus.NewRegistry())
		var own []observe.Observation
		blind := ""
		for _, o := range world.All {
			if o.Point.Node != node {
				continue
			}
			if blind == "" && o.Point.Kind == observe.KindPNIC {
				blind = o.Point.Interface
				o.Response, o.Flags = observe.Message{}, observe.FlagNoResponse|flag
			}
			own = append(own, o)
		}
		if blind == "" {
			t.Fatal("no physical interface saw the page")
		}
		l.split(own, false, false)
		want := 1.0
		if flag != 0 {
			want = 0
		}
		if n := testutil.ToFloat64(l.oneWay.WithLabelValues(blind)); n != want {
			t.Errorf("flags %v: %v counted at %s, want %v", flag.Names(), n, blind, want)
		}
	}
}

// splitting returns the work on one trace after the buffer: layers, their spans without the
// delivery, and their histograms. made counts spans.
func splitting(node string, trace []observe.Observation) (run func(), observations int, made *counting) {
	made = &counting{}
	emitter := span.NewEmitter(span.Options{Sink: made, Offset: func() span.ClockOffset { return 0 }, Version: "v1"})
	l := newLayers(&config.Config{}, node, emitter, prometheus.NewRegistry())
	own := slices.DeleteFunc(slices.Clone(trace), func(o observe.Observation) bool { return o.Point.Node != node })
	for i := range own {
		own[i].Peers = observe.Peers{Client: observe.Peer{Service: "details"}, Server: observe.Peer{Service: "ratings"}}
	}
	return func() { l.split(own, false, false) }, len(own), made
}

// oneHop is a request between two pods of node3.
func oneHop() []observe.Observation {
	w := breakdowntest.New()
	w.Hop(breakdowntest.Details, observe.AppProcess, breakdowntest.Ratings, observe.AppProcess).Run(func() {
		w.Spend(observe.Application, "ratings", 300_000)
	})
	return w.All
}

// page is a request to node4 that asks another service.
func page() []observe.Observation {
	w := breakdowntest.New()
	w.FrontPage()
	return w.All
}

// The reader of the ring rests after it has handed on what it read, while the sender of spans needs
// the CPU more than the ring needs room.
func TestReaderRestsForTheSender(t *testing.T) {
	for _, c := range []struct{ queueCrowded, ringCrowded, rests bool }{
		{false, false, false},
		{false, true, false},
		{true, false, true},
		{true, true, false},
	} {
		var did []string
		take := patiently(
			func(some []observe.Observation) { did = append(did, fmt.Sprint("take ", len(some))) },
			func() bool { return c.queueCrowded },
			func() bool { return c.ringCrowded },
			func(d time.Duration) { did = append(did, fmt.Sprint("rest ", d)) },
		)
		take(make([]observe.Observation, 3))
		want := []string{"take 3"}
		if c.rests {
			want = append(want, "rest 1ms")
		}
		if !slices.Equal(did, want) {
			t.Errorf("queue crowded %v, ring crowded %v: %q, want %q", c.queueCrowded, c.ringCrowded, did, want)
		}
	}
}

// Splitting leaves little garbage: at 10,000 traces/s it would be most of the work.
func TestAllocationsOfATrace(t *testing.T) {
	for name, c := range map[string]struct {
		node  string
		trace []observe.Observation
		most  float64
	}{"hop": {"node3", oneHop(), 25}, "page": {"node4", page(), 160}} {
		run, observations, made := splitting(c.node, c.trace)
		run()
		spans := made.spans
		got := testing.AllocsPerRun(100, run)
		t.Logf("%s: %.0f allocations for %d observations and %d spans", name, got, observations, spans)
		if got > c.most || spans < observations {
			t.Errorf("%s: %.0f allocations and %d spans, want %v allocations at most", name, got, spans, c.most)
		}
	}
}

// BenchmarkSplit is the work on one trace after the buffer, without the delivery of its spans.
func BenchmarkSplit(b *testing.B) {
	for name, c := range map[string]struct {
		node  string
		trace []observe.Observation
	}{"hop": {"node3", oneHop()}, "page": {"node4", page()}} {
		b.Run(name, func(b *testing.B) {
			run, observations, made := splitting(c.node, c.trace)
			b.ReportAllocs()
			for b.Loop() {
				run()
			}
			b.ReportMetric(float64(observations), "observations")
			b.ReportMetric(float64(made.spans)/float64(b.N), "spans")
		})
	}
}

// counting counts spans.
type counting struct{ spans int }

// Take implements span.Sink.
func (c *counting) Take(*span.Finished) { c.spans++ }
