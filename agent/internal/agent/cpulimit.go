// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math"
	"slices"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/sys/unix"

	"github.com/layertrace/layertrace/agent/internal/config"
	"github.com/layertrace/layertrace/agent/internal/probe"
)

// The agent measures the CPU time that it takes: its own, and that of its BPF programs, which
// run in the time of others. Before it exceeds --cpu-limit, it leaves work out in steps, and
// takes it up again when there is room.
const (
	// cpuInterval is the time between two measurements, and programSlice the part of it in
	// which the kernel measures programs: that costs all BPF programs of the node some 20 ns
	// a run.
	cpuInterval, programSlice = 2 * time.Second, 100 * time.Millisecond
	// cpuWindow is the number of measurements whose mean counts. None is of before a step.
	cpuWindow = 3
	// stepDownAt and stepUpAt are parts of the limit: a step down is taken before the limit is
	// reached, one up with room for what comes back. From farBeyond on all steps are taken at
	// once.
	stepDownAt, stepUpAt, farBeyond = 0.9, 0.5, 2.0
	// calmAtFirst is for how long there must be room before a step up. It doubles, up to
	// calmAtMost, each time that a step up does not last longer than that.
	calmAtFirst, calmAtMost = 30 * time.Second, 10 * time.Minute
	// limitLogInterval is the least time between two log lines about steps.
	limitLogInterval = time.Minute
)

// step is what the agent leaves out. Each leaves out what those before it do.
type step int

const (
	stepNone   step = iota
	stepLayers      // no sockets, and traces are not split
	stepDeep        // nothing is searched beyond the prefix window
	stepNew         // no new requests
)

var stepTexts = [...]string{
	stepNone:   "everything is captured",
	stepLayers: "the agent leaves out layers",
	stepDeep:   "the agent leaves out layers and contexts beyond the prefix window",
	stepNew:    "the agent leaves out new requests",
}

// text says what is left out at a step. Not all agents have layers.
func (l *cpuLimit) text(s step) string {
	if s == stepDeep && !slices.Contains(l.governor.steps, stepLayers) {
		return "the agent leaves out contexts beyond the prefix window"
	}
	return stepTexts[s]
}

// limits returns what a step means for the programs.
func (s step) limits() probe.Limits {
	return probe.Limits{Sockets: s >= stepLayers, Deep: s >= stepDeep, New: s >= stepNew}
}

// stepsOf returns the steps that change something with the settings, in their order.
func stepsOf(cfg *config.Config) []step {
	steps := []step{stepNone}
	if cfg.Layers() {
		steps = append(steps, stepLayers)
	}
	if cfg.Deep != probe.DeepOff {
		steps = append(steps, stepDeep)
	}
	return append(steps, stepNew)
}

// cpuUsage is CPU time per time. programs is NaN where it cannot be measured.
type cpuUsage struct{ agent, programs float64 }

func (u cpuUsage) sum() float64 {
	if math.IsNaN(u.programs) {
		return u.agent
	}
	return u.agent + u.programs
}

// governor decides on steps. It has no clock of its own.
type governor struct {
	limit float64 // CPUs
	steps []step

	at     int // index of the present step
	window []float64
	calm   time.Duration // how long there must be room
	room   time.Time     // since when there is room; zero: there is none
	raised time.Time     // the last step up
}

func newGovernor(limit float64, steps []step) *governor {
	return &governor{limit: limit, steps: steps, calm: calmAtFirst}
}

// decide takes a measurement and returns the step from now on.
func (g *governor) decide(used float64, now time.Time) step {
	g.window = append(g.window, used)
	if len(g.window) < cpuWindow {
		return g.steps[g.at]
	}
	sum := 0.0
	for _, u := range g.window {
		sum += u
	}
	mean := sum / float64(len(g.window)) / g.limit
	g.window = g.window[1:]
	switch last := len(g.steps) - 1; {
	case mean >= stepDownAt && g.at < last:
		if mean >= farBeyond {
			g.move(last)
		} else {
			g.move(g.at + 1)
		}
		if !g.raised.IsZero() {
			lasted := now.Sub(g.raised)
			if g.raised = (time.Time{}); lasted <= g.calm {
				g.calm = min(2*g.calm, calmAtMost)
			} else {
				g.calm = calmAtFirst
			}
		}
	case mean >= stepUpAt:
		g.room = time.Time{}
	case g.room.IsZero():
		g.room = now
	case now.Sub(g.room) >= g.calm && g.at > 0:
		g.move(g.at - 1)
		g.raised = now
	}
	return g.steps[g.at]
}

func (g *governor) move(to int) {
	g.at, g.window, g.room = to, nil, time.Time{}
}

// cpuLimit keeps the agent within --cpu-limit.
type cpuLimit struct {
	limit    float64 // CPUs; 0: none
	governor *governor
	measure  func(context.Context) (cpuUsage, error)
	apply    func(step) error
	log      *slog.Logger
	// The last line.
	logged     time.Time
	loggedStep step

	mu       sync.Mutex // guards the rest
	step     step
	usage    cpuUsage
	measured bool
	taken    [2]uint64 // steps down and up
}

// newCPULimit returns the limit of the settings and registers its metrics. apply gets each
// new step.
func newCPULimit(cfg *config.Config, meter *cpuMeter, apply func(step) error, log *slog.Logger, r prometheus.Registerer) *cpuLimit {
	l := &cpuLimit{limit: cfg.CPULimit, governor: newGovernor(cfg.CPULimit, stepsOf(cfg)), measure: meter.measure, apply: apply, log: log}
	r.MustRegister(l)
	return l
}

// run measures and steps until ctx is done, once the start is over: loading programs takes
// time once. Without a limit it does nothing.
func (l *cpuLimit) run(ctx context.Context, started <-chan struct{}) error {
	if l.limit == 0 {
		return nil
	}
	select {
	case <-started:
	case <-ctx.Done():
		return nil
	}
	for {
		u, err := l.measure(ctx)
		switch {
		case ctx.Err() != nil:
			return nil
		case err != nil:
			return fmt.Errorf("keep within --cpu-limit: %w", err)
		}
		if err := l.take(u, time.Now()); err != nil {
			return err
		}
	}
}

// take takes a measurement, and the step that it leads to.
func (l *cpuLimit) take(u cpuUsage, now time.Time) error {
	to := l.governor.decide(u.sum(), now)
	if l.note(u, to) {
		if err := l.apply(to); err != nil {
			return fmt.Errorf("keep within --cpu-limit: %w", err)
		}
	}
	if to != l.loggedStep && now.Sub(l.logged) >= limitLogInterval {
		l.log.Warn("keeping within --cpu-limit: "+l.text(to), "limit", l.limit, "used", round(u.sum()), "agent", round(u.agent), "programs", round(u.programs))
		l.logged, l.loggedStep = now, to
	}
	return nil
}

// note keeps what the metrics show, and reports whether the step is another.
func (l *cpuLimit) note(u cpuUsage, to step) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.usage, l.measured = u, true
	from := l.step
	l.step = to
	switch {
	case to > from:
		l.taken[0]++
	case to < from:
		l.taken[1]++
	}
	return to != from
}

// round returns CPUs with two decimal places.
func round(cpus float64) float64 { return math.Round(cpus*100) / 100 }

// remark says what is left out, "" for nothing.
func (l *cpuLimit) remark() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.step == stepNone {
		return ""
	}
	return fmt.Sprintf("keeping within --cpu-limit=%g: %s; raise it, or sample less", l.limit, l.text(l.step))
}

var (
	stepDesc = prometheus.NewDesc("layertrace_cpu_limit_step",
		"What the agent leaves out to keep within cpu-limit: 0 nothing, 1 layers, 2 also trace contexts beyond the prefix window, 3 also new requests.", nil, nil)
	stepsDesc = prometheus.NewDesc("layertrace_cpu_limit_steps_total",
		"Changes of what the agent leaves out to keep within cpu-limit, by direction: down is more, up is less.", []string{"direction"}, nil)
	usageDesc = prometheus.NewDesc("layertrace_cpu_usage_cores",
		"CPUs taken lately, measured with cpu-limit: by the agent itself (agent), and by its BPF programs in the time of others (programs; absent without the permission to measure them).", []string{"part"}, nil)
)

// Describe implements prometheus.Collector.
func (*cpuLimit) Describe(out chan<- *prometheus.Desc) {
	out <- stepDesc
	out <- stepsDesc
	out <- usageDesc
}

// Collect implements prometheus.Collector.
func (l *cpuLimit) Collect(out chan<- prometheus.Metric) {
	l.mu.Lock()
	defer l.mu.Unlock()
	out <- prometheus.MustNewConstMetric(stepDesc, prometheus.GaugeValue, float64(l.step))
	for i, direction := range []string{"down", "up"} {
		out <- prometheus.MustNewConstMetric(stepsDesc, prometheus.CounterValue, float64(l.taken[i]), direction)
	}
	if !l.measured {
		return
	}
	out <- prometheus.MustNewConstMetric(usageDesc, prometheus.GaugeValue, l.usage.agent, "agent")
	if !math.IsNaN(l.usage.programs) {
		out <- prometheus.MustNewConstMetric(usageDesc, prometheus.GaugeValue, l.usage.programs, "programs")
	}
}

// runTime returns the CPU time that something has taken so far.
type runTime = func() (time.Duration, error)

// cpuMeter measures the agent and its programs.
type cpuMeter struct {
	programs    []runTime
	enableStats func() (io.Closer, error)
	ownTime     runTime
	log         *slog.Logger

	interval, slice time.Duration
	blind           bool // the kernel does not measure programs
	own             time.Duration
	at              time.Time
}

func newCPUMeter(log *slog.Logger, programs ...runTime) *cpuMeter {
	return &cpuMeter{
		programs: programs, enableStats: probe.EnableStats, ownTime: ownTime, log: log,
		interval: cpuInterval, slice: programSlice,
	}
}

// measure returns what was used since the last call, or since now, over an interval.
// Programs are measured at its end, for a short time.
func (m *cpuMeter) measure(ctx context.Context) (u cpuUsage, err error) {
	if m.at.IsZero() {
		if m.own, err = m.ownTime(); err != nil {
			return u, err
		}
		m.at = time.Now()
	}
	if !pause(ctx, m.interval-m.slice) {
		return u, nil
	}
	if u.programs, err = m.measurePrograms(ctx); err != nil {
		return u, err
	}
	own, err := m.ownTime()
	if err != nil {
		return u, err
	}
	now := time.Now()
	u.agent = float64(own-m.own) / float64(now.Sub(m.at))
	m.own, m.at = own, now
	return u, nil
}

func (m *cpuMeter) measurePrograms(ctx context.Context) (float64, error) {
	if m.blind {
		pause(ctx, m.slice)
		return math.NaN(), nil
	}
	stats, err := m.enableStats()
	if errors.Is(err, probe.ErrNoStats) {
		m.blind = true
		m.log.Warn("--cpu-limit counts the agent's own time only", "reason", err)
		return math.NaN(), nil
	}
	if err != nil {
		return 0, err
	}
	before, err := m.programTime()
	began := time.Now()
	if err == nil {
		pause(ctx, m.slice)
	}
	took := time.Since(began)
	after, err2 := m.programTime()
	if err := errors.Join(err, err2, stats.Close()); err != nil {
		return 0, err
	}
	return float64(after-before) / float64(took), nil
}

func (m *cpuMeter) programTime() (sum time.Duration, err error) {
	for _, programs := range m.programs {
		t, err := programs()
		if err != nil {
			return 0, err
		}
		sum += t
	}
	return sum, nil
}

// pause reports whether the time passed before ctx was done.
func pause(ctx context.Context, d time.Duration) bool {
	select {
	case <-ctx.Done():
		return false
	case <-time.After(d):
		return true
	}
}

// ownTime returns the CPU time of this process.
func ownTime() (time.Duration, error) {
	var r unix.Rusage
	if err := unix.Getrusage(unix.RUSAGE_SELF, &r); err != nil {
		return 0, fmt.Errorf("read the own CPU time: %w", err)
	}
	return time.Duration(r.Utime.Nano() + r.Stime.Nano()), nil
}
