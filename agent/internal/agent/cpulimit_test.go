// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"bytes"
	"context"
	"errors"
	"io"
	"log/slog"
	"math"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"

	"github.com/layertrace/layertrace/agent/internal/config"
	"github.com/layertrace/layertrace/agent/internal/identity"
	"github.com/layertrace/layertrace/agent/internal/iface"
	"github.com/layertrace/layertrace/agent/internal/probe"
	"github.com/layertrace/layertrace/agent/internal/span"
	"github.com/layertrace/layertrace/internal/observe"
	"github.com/layertrace/layertrace/internal/testkit"
)

// play lets a governor decide every cpuInterval on what each step costs, and returns the
// steps as they follow each other.
func play(g *governor, now *time.Time, lasts time.Duration, cost map[step]float64) (taken []step) {
	at := g.steps[g.at]
	for end := now.Add(lasts); now.Before(end); {
		*now = now.Add(cpuInterval)
		if s := g.decide(cost[at], *now); s != at {
			taken, at = append(taken, s), s
		}
	}
	return taken
}

var allSteps = []step{stepNone, stepLayers, stepDeep, stepNew}

func TestGovernor(t *testing.T) {
	always := func(cpus float64) map[step]float64 {
		return map[step]float64{stepNone: cpus, stepLayers: cpus, stepDeep: cpus, stepNew: cpus}
	}
	for name, test := range map[string]struct {
		steps []step
		cost  map[step]float64
		want  []step
	}{
		"below the limit":           {allSteps, always(0.44), nil},
		"before the limit":          {allSteps, map[step]float64{stepNone: 0.46, stepLayers: 0.3}, []step{stepLayers}},
		"one step is not enough":    {allSteps, map[step]float64{stepNone: 0.6, stepLayers: 0.55, stepDeep: 0.4}, []step{stepLayers, stepDeep}},
		"far beyond, at once":       {allSteps, map[step]float64{stepNone: 1.2, stepNew: 0.3}, []step{stepNew}},
		"nothing is enough":         {allSteps, always(0.7), []step{stepLayers, stepDeep, stepNew}},
		"there are no layers":       {[]step{stepNone, stepDeep, stepNew}, map[step]float64{stepNone: 0.6, stepDeep: 0.4}, []step{stepDeep}},
		"not enough room to return": {allSteps, map[step]float64{stepNone: 0.6, stepLayers: 0.26}, []step{stepLayers}},
	} {
		now := time.Unix(1000, 0)
		if got := play(newGovernor(0.5, test.steps), &now, 10*time.Minute, test.cost); !slices.Equal(got, test.want) {
			t.Errorf("%s: steps %v, want %v", name, got, test.want)
		}
	}
}

// A single peak is no reason for a step, and what was measured before a step none for the
// next.
func TestGovernorIsNotHasty(t *testing.T) {
	now := time.Unix(1000, 0)
	g := newGovernor(1, allSteps)
	for _, used := range []float64{0.3, 0.3, 1.5, 0.3, 0.3} {
		if s := g.decide(used, now); s != stepNone {
			t.Errorf("step %v after a peak", s)
		}
	}
	for i := range cpuWindow {
		if s := g.decide(1, now); (s == stepNone) != (i < cpuWindow-1) {
			t.Errorf("step %v after %d measurements", s, i+1)
		}
	}
	for range cpuWindow - 1 {
		if s := g.decide(1, now); s != stepLayers {
			t.Errorf("step %v before there are measurements of the one before", s)
		}
	}
}

// Once there is room the agent returns, step by step.
func TestGovernorReturns(t *testing.T) {
	now := time.Unix(1000, 0)
	g := newGovernor(1, allSteps)
	busy := map[step]float64{stepNone: 3, stepLayers: 3, stepDeep: 3, stepNew: 3}
	if got := play(g, &now, time.Minute, busy); !slices.Equal(got, []step{stepNew}) {
		t.Fatalf("steps %v", got)
	}
	idle := map[step]float64{stepNone: 0.1, stepLayers: 0.1, stepDeep: 0.1, stepNew: 0.1}
	if got := play(g, &now, calmAtFirst, idle); len(got) != 0 {
		t.Errorf("steps %v before there was room for %v", got, calmAtFirst)
	}
	if got := play(g, &now, 3*calmAtFirst+time.Minute, idle); !slices.Equal(got, []step{stepDeep, stepLayers, stepNone}) {
		t.Errorf("steps %v", got)
	}
}

// What was too much an hour ago, and is again at each attempt, is tried ever more rarely.
func TestGovernorDoesNotSwing(t *testing.T) {
	now := time.Unix(1000, 0)
	g := newGovernor(1, allSteps)
	cost := map[step]float64{stepNone: 1.2, stepLayers: 0.2}
	hour := play(g, &now, time.Hour, cost)
	if len(hour) < 6 || len(hour) > 24 {
		t.Errorf("%d steps in the first hour: %v", len(hour), hour)
	}
	if hour = play(g, &now, time.Hour, cost); len(hour) > 2*6 {
		t.Errorf("%d steps in the second hour: %v", len(hour), hour)
	}
	// One attempt that succeeds for long, and the next is as soon as the first.
	if got := play(g, &now, time.Hour, map[step]float64{stepNone: 0.2, stepLayers: 0.2}); len(got) > 1 || g.at != 0 {
		t.Fatalf("steps %v without load", got)
	}
	if got := play(g, &now, time.Minute+calmAtFirst, cost); !slices.Equal(got, []step{stepLayers, stepNone, stepLayers}) &&
		!slices.Equal(got, []step{stepLayers, stepNone}) {
		t.Errorf("steps %v after an hour without load", got)
	}
}

func TestStepsOf(t *testing.T) {
	for _, test := range []struct {
		cfg  config.Config
		want []step
	}{
		{config.Config{Spans: config.SpansLayers, Search: config.Search{Deep: probe.DeepAuto}}, allSteps},
		{config.Config{Search: config.Search{Deep: probe.DeepOn}}, []step{stepNone, stepDeep, stepNew}},
		{config.Config{Search: config.Search{Deep: probe.DeepOff}}, []step{stepNone, stepNew}},
	} {
		if got := stepsOf(&test.cfg); !slices.Equal(got, test.want) {
			t.Errorf("steps %v, want %v", got, test.want)
		}
	}
}

// Each step is applied once and visible: in the metrics, in /readyz, and in the log at most
// once a minute.
func TestCPULimitIsVisible(t *testing.T) {
	var log bytes.Buffer
	var applied []step
	metrics := prometheus.NewRegistry()
	l := newCPULimit(&config.Config{CPULimit: 0.5, Spans: config.SpansLayers, Search: config.Search{Deep: probe.DeepAuto}},
		newCPUMeter(slog.New(slog.DiscardHandler)), func(s step) error { applied = append(applied, s); return nil },
		slog.New(slog.NewTextHandler(&log, nil)), metrics)
	if l.remark() != "" || testutil.CollectAndCount(l, "layertrace_cpu_usage_cores") != 0 {
		t.Error("something is left out, or measured, at the start")
	}
	now := time.Unix(1000, 0)
	take := func(u cpuUsage) {
		t.Helper()
		if err := l.take(u, now); err != nil {
			t.Fatal(err)
		}
		now = now.Add(cpuInterval)
	}
	for range 2 * cpuWindow {
		take(cpuUsage{agent: 0.2, programs: 0.4})
	}
	if want := []step{stepLayers, stepDeep}; !slices.Equal(applied, want) {
		t.Errorf("applied %v, want %v", applied, want)
	}
	want := "keeping within --cpu-limit=0.5: the agent leaves out layers and contexts beyond the prefix window; raise it, or sample less"
	if got := l.remark(); got != want {
		t.Errorf("/readyz remarks %q, want %q", got, want)
	}
	const exposed = `
# HELP layertrace_cpu_limit_step What the agent leaves out to keep within cpu-limit: 0 nothing, 1 layers, 2 also trace contexts beyond the prefix window, 3 also new requests.
# TYPE layertrace_cpu_limit_step gauge
layertrace_cpu_limit_step 2
# HELP layertrace_cpu_limit_steps_total Changes of what the agent leaves out to keep within cpu-limit, by direction: down is more, up is less.
# TYPE layertrace_cpu_limit_steps_total counter
layertrace_cpu_limit_steps_total{direction="down"} 2
layertrace_cpu_limit_steps_total{direction="up"} 0
# HELP layertrace_cpu_usage_cores CPUs taken lately, measured with cpu-limit: by the agent itself (agent), and by its BPF programs in the time of others (programs; absent without the permission to measure them).
# TYPE layertrace_cpu_usage_cores gauge
layertrace_cpu_usage_cores{part="agent"} 0.2
layertrace_cpu_usage_cores{part="programs"} 0.4
`
	if err := testutil.GatherAndCompare(metrics, strings.NewReader(exposed)); err != nil {
		t.Error(err)
	}
	if n := strings.Count(log.String(), "\n"); n != 1 || !strings.Contains(log.String(), "leaves out layers") {
		t.Errorf("%d log lines: %s", n, &log)
	}
	// Without the permission to measure programs, the agent's own time counts.
	for range 40 {
		take(cpuUsage{agent: 0.1, programs: math.NaN()})
	}
	if want := []step{stepLayers, stepDeep, stepLayers, stepNone}; !slices.Equal(applied, want) || l.remark() != "" {
		t.Errorf("applied %v, want %v; remark %q", applied, want, l.remark())
	}
	if n := testutil.CollectAndCount(l, "layertrace_cpu_usage_cores"); n != 1 {
		t.Errorf("%d parts are measured, want 1", n)
	}
	if n := strings.Count(log.String(), "\n"); n != 2 || !strings.Contains(log.String(), "everything is captured") {
		t.Errorf("%d log lines, want one at the start and one about the end: %s", n, &log)
	}
}

// A running agent that takes too much makes its programs leave new requests out, says so in
// /readyz, and marks what was open meanwhile.
func TestRunLeavesOut(t *testing.T) {
	fake := newFakeProbe()
	receiver := &testkit.Receiver{}
	opts := options(t, fake, "--cpu-limit=0.5", "--export=otlp-grpc", "--otlp-insecure", "--otlp-endpoint="+receiver.Serve(t, "127.0.0.1:0"))
	usage := make(chan cpuUsage)
	opts.measure = func(ctx context.Context) (cpuUsage, error) {
		select {
		case u := <-usage:
			return u, nil
		case <-ctx.Done():
			return cpuUsage{}, nil
		}
	}
	ctx, stop := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- Run(ctx, opts) }()
	for range cpuWindow {
		usage <- cpuUsage{agent: 0.2, programs: 4}
	}
	testkit.Eventually(t, "the step is visible", func() bool {
		code, text := get(t, opts.Config.MetricsAddress, "/readyz")
		_, metrics := get(t, opts.Config.MetricsAddress, "/metrics")
		return code == http.StatusOK && strings.Contains(text, "leaves out new requests") && strings.Contains(metrics, "layertrace_cpu_limit_step 3\n")
	})
	testkit.Eventually(t, "the programs leave new requests out", func() bool {
		fake.mu.Lock()
		defer fake.mu.Unlock()
		return fake.limits == probe.Limits{Sockets: true, Deep: true, New: true}
	})
	open := newExchange(loopback, 1)
	open.Response.First, open.Response.Last = span.Monotonic(), span.Monotonic()
	fake.out <- open
	stop()
	if err := <-ended; err != nil {
		t.Fatal(err)
	}
	spans := receiver.Spans()
	if len(spans) != 1 || !strings.Contains(spans[0].String(), "trace_limited") {
		t.Errorf("spans %v, want one with the flag", spans)
	}
}

// No step is taken where it fails to be applied, and the agent ends with the reason.
func TestCPULimitFails(t *testing.T) {
	failure := errors.New("no such map")
	l := newCPULimit(&config.Config{CPULimit: 1}, newCPUMeter(slog.New(slog.DiscardHandler)),
		func(step) error { return failure }, slog.New(slog.DiscardHandler), prometheus.NewRegistry())
	l.measure = func(context.Context) (cpuUsage, error) { return cpuUsage{agent: 5}, nil }
	started := make(chan struct{})
	close(started)
	if err := l.run(t.Context(), started); !errors.Is(err, failure) || !strings.Contains(err.Error(), "--cpu-limit") {
		t.Errorf("got %v", err)
	}
	// Without layers none are left out.
	if got := l.text(stepDeep); got != "the agent leaves out contexts beyond the prefix window" {
		t.Errorf("without layers: %q", got)
	}
	// Without a limit nothing is measured.
	l = newCPULimit(&config.Config{}, newCPUMeter(slog.New(slog.DiscardHandler)), nil, slog.New(slog.DiscardHandler), prometheus.NewRegistry())
	if err := l.run(t.Context(), nil); err != nil {
		t.Error(err)
	}
}

type closeFunc func() error

func (f closeFunc) Close() error { return f() }

// The meter adds up its programs while the kernel measures them, for a part of the time.
func TestCPUMeter(t *testing.T) {
	var log bytes.Buffer
	measuring, switched := false, 0
	calls := 0
	program := func() (time.Duration, error) {
		if !measuring {
			t.Error("read while the kernel does not measure")
		}
		calls++
		return time.Duration(calls) * time.Hour, nil // far more than passes: no clock matters
	}
	m := newCPUMeter(slog.New(slog.NewTextHandler(&log, nil)), program, program)
	m.interval, m.slice = 2*time.Millisecond, time.Millisecond
	m.enableStats = func() (io.Closer, error) {
		measuring, switched = true, switched+1
		return closeFunc(func() error { measuring = false; return nil }), nil
	}
	u, err := m.measure(t.Context())
	if err != nil || u.programs <= 0 || u.agent < 0 || math.IsNaN(u.agent) || measuring || switched != 1 || calls != 4 {
		t.Errorf("usage %+v, %v; measuring %v, %d times, %d reads", u, err, measuring, switched, calls)
	}
	// The agent's own time.
	own := time.Duration(0)
	m.ownTime = func() (time.Duration, error) { own += time.Hour; return own, nil }
	m.own = 0
	if u, err = m.measure(t.Context()); err != nil || u.agent < 1 {
		t.Errorf("usage %+v, %v after an hour of CPU time", u, err)
	}
	// Without the permission.
	m.enableStats = func() (io.Closer, error) { switched++; return nil, probe.ErrNoStats }
	for range 3 {
		if u, err = m.measure(t.Context()); err != nil || !math.IsNaN(u.programs) || u.sum() != u.agent {
			t.Errorf("usage %+v, %v", u, err)
		}
	}
	if switched != 3 || strings.Count(log.String(), "kernel.bpf_stats_enabled=1") != 1 {
		t.Errorf("tried %d times, log %s", switched, &log)
	}
	failure := errors.New("failure")
	m = newCPUMeter(slog.New(slog.DiscardHandler))
	m.interval, m.slice = 2*time.Millisecond, time.Millisecond
	m.enableStats = func() (io.Closer, error) { return nil, failure }
	if _, err := m.measure(t.Context()); !errors.Is(err, failure) {
		t.Errorf("got %v", err)
	}
}

// Layers are left out of what overlaps a step, and what may lack requests has the flag.
func TestLeaveOut(t *testing.T) {
	cfg := &config.Config{Spans: config.SpansLayers, IdleTimeout: time.Second, ReadInterval: time.Second}
	now := uint64(0)
	var limits []probe.Limits
	p := &pipeline{
		metrics: newPipelineMetrics(nil), monotonic: func() uint64 { return now },
		layers: newLayers(cfg, "n1", nil, prometheus.NewRegistry()),
	}
	p.names = resolver{Source: &identity.File{}, exact: &identity.File{}, file: &identity.File{}, node: "n1"}
	p.points = newRegistry(p.names, time.Minute, 1337)
	p.points.interfaces[1] = &interfacePoint{id: "p1", iface: iface.Interface{Index: 1, Kind: observe.KindVNIC}}
	leave := func(s step, at uint64) {
		t.Helper()
		now = at
		if err := p.leaveOut(s, func(l probe.Limits) error { limits = append(limits, l); return nil }); err != nil {
			t.Fatal(err)
		}
	}
	// handle reports whether an exchange is added to the layers, and flagged.
	handle := func(first, last uint64, socket bool) (layers, flagged bool) {
		t.Helper()
		o := newExchange(1, int(first))
		o.Context.TraceID[1] = byte(first)
		o.Request.First, o.Request.Last, o.Response.First, o.Response.Last = first, first, last, last
		if socket {
			o.Socket = &observe.Socket{Netns: 1}
		}
		before := testutil.ToFloat64(p.layers.leftOut)
		p.handle(&o)
		return testutil.ToFloat64(p.layers.leftOut) == before, o.Flags&observe.FlagTraceLimited != 0
	}
	check := func(what string, first, last uint64, wantLayers, socketFlagged, interfaceFlagged bool) {
		t.Helper()
		for _, socket := range []bool{true, false} {
			want := interfaceFlagged
			if socket {
				want = socketFlagged
			}
			if layers, flagged := handle(first, last, socket); layers != wantLayers || flagged != want {
				t.Errorf("%s, socket %v: layers %v, flagged %v; want %v, %v", what, socket, layers, flagged, wantLayers, want)
			}
		}
	}
	check("nothing is left out", 10, 20, true, false, false)
	leave(stepLayers, 100)
	check("before the step", 50, 60, true, false, false)
	check("over the step", 90, 110, false, true, false)
	check("within", 110, 120, false, true, false)
	leave(stepNew, 200)
	check("new requests are left out too", 190, 210, false, true, true)
	check("before them", 110, 120, false, true, false)
	leave(stepDeep, 300)
	check("from before the end", 299, 310, false, true, true)
	check("new requests are back", 301, 310, false, true, false)
	leave(stepNone, 400)
	check("layers are not back for it", 390, 410, false, true, false)
	check("all is back", 401, 410, true, false, false)
	want := []probe.Limits{{Sockets: true}, {Sockets: true, Deep: true, New: true}, {Sockets: true, Deep: true}, {}}
	if !slices.Equal(limits, want) {
		t.Errorf("limits %+v, want %+v", limits, want)
	}
	if p.leavesNew.Load() {
		t.Error("records are still left out")
	}
}
