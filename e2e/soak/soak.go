// SPDX-License-Identifier: Apache-2.0

// Package soak runs an agent for hours beside what happens on a node: requests, pods that come
// and go, a trace store that restarts, an API server that is away. It samples what an agent could
// leak, and reports how each figure grew, with an interval.
package soak

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/layertrace/layertrace/e2e/sandbox"
	"github.com/layertrace/layertrace/internal/stats"
)

// Options of Run. All are required.
type Options struct {
	// Agent and Jaeger are programs.
	Agent, Jaeger string
	// Dir is a directory for configuration and logs.
	Dir string
	// For is how long the load lasts, Rate its requests per second, all sampled.
	For  time.Duration
	Rate int
	// Progress prints what is done.
	Progress func(format string, args ...any)
}

const (
	// interval is the time between two samples.
	interval = time.Second
	// podInterval is the time between two changes of the pods that come and go.
	podInterval = 5 * time.Second
	// warmUp is the part of the run before samples count: caches and tables fill.
	warmUp = 0.25
)

// outages returns how often Jaeger restarts, and as often the API server, and for how long each
// is away.
func (o *Options) outages() (every, away time.Duration) {
	every = min(max(o.For/10, 30*time.Second), 10*time.Minute)
	return every, every / 6
}

// Report is the result of a run.
type Report struct {
	Duration float64 `json:"duration_s"`
	// Requests were sent, Failed of them had no response with status 200.
	Requests int64 `json:"requests"`
	Failed   int64 `json:"failed"`
	// Spans were exported, Lost were not.
	Spans float64 `json:"spans_exported"`
	Lost  float64 `json:"spans_lost"`
	// Pods came and went. JaegerRestarts and APIOutages are how often each was away.
	Pods           int      `json:"pods"`
	JaegerRestarts int      `json:"jaeger_restarts"`
	APIOutages     int      `json:"api_outages"`
	Figures        []Figure `json:"figures"`
}

// Figure is how one figure of the agent grew.
type Figure struct {
	Name string `json:"name"`
	// First and Last are the medians of the first and last twelfth of the samples that count.
	First float64 `json:"first"`
	Last  float64 `json:"last"`
	// Slope is the growth per hour, between Low and High with 95 % confidence.
	Slope float64 `json:"slope_per_hour"`
	Low   float64 `json:"low"`
	High  float64 `json:"high"`
	// Grows: the interval is above 0, and over the run that is more than a twentieth and more
	// than a few.
	Grows bool `json:"grows"`
}

// Growth over a run that is no leak: a share of the figure, and a few in addition, of which the
// unit is 1 or, of memory, a MiB.
const (
	growthShare = 0.05
	growthFew   = 4
)

// Healthy returns an error that names what grew or failed.
func (r *Report) Healthy() error {
	var errs []error
	for _, f := range r.Figures {
		if f.Grows {
			errs = append(errs, fmt.Errorf("%s grows by %.3g an hour (%.3g to %.3g)", f.Name, f.Slope, f.Low, f.High))
		}
	}
	if r.Failed > 0 {
		errs = append(errs, fmt.Errorf("%d of %d requests failed", r.Failed, r.Requests))
	}
	if r.Spans == 0 {
		errs = append(errs, errors.New("no span was exported"))
	}
	return errors.Join(errs...)
}

// Run runs the load and returns what happened meanwhile, with an error up to there.
func Run(ctx context.Context, o Options) (report Report, err error) {
	t, err := up(ctx, o)
	defer func() { err = errors.Join(err, t.down()) }()
	if err != nil {
		return report, err
	}
	samples, err := t.watch(ctx, &report)
	if len(samples) == 0 {
		return report, err
	}
	last := samples[len(samples)-1]
	report.Duration, report.Requests, report.Failed = last.at, t.sent.Load(), t.failed.Load()
	report.Spans, report.Lost = last.values["spans exported"], last.values["spans lost"]
	report.Figures = figures(samples)
	return report, err
}

// watch makes everything happen and samples the agent, until the load ends.
func (t *testbed) watch(ctx context.Context, report *Report) (samples []sample, err error) {
	every, away := t.options.outages()
	load, end := context.WithCancel(ctx)
	ended := make(chan struct{})
	go func() { defer close(ended); t.load(load) }()
	defer func() { end(); <-ended }()
	tick := time.NewTicker(interval)
	defer tick.Stop()
	began := time.Now()
	due := map[string]time.Duration{"pod": podInterval, "jaeger": every / 2, "api": every, "line": time.Minute}
	for {
		select {
		case <-ctx.Done():
			return samples, ctx.Err()
		case <-tick.C:
		}
		now := time.Since(began)
		if now >= t.options.For {
			return samples, nil
		}
		if err := t.agent.Running(); err != nil {
			return samples, err
		}
		for what, at := range due {
			if now < at {
				continue
			}
			switch what {
			case "pod":
				due[what] += podInterval
				report.Pods++
				err = t.replacePod()
			case "jaeger":
				due[what] += away
				if t.jaeger != nil {
					err = t.stopJaeger()
				} else {
					due[what] += every - 2*away
					report.JaegerRestarts++
					err = t.startJaeger(ctx)
				}
			case "api":
				due[what] += away
				if !t.apiAway {
					err = t.stopAPI()
				} else {
					due[what] += every - 2*away
					report.APIOutages++
					err = t.startAPI()
				}
			case "line":
				due[what] += time.Minute
				t.options.Progress("%v: %s", now.Round(time.Second), samples[len(samples)-1].line())
			}
			if err != nil {
				return samples, err
			}
		}
		s, err := t.sample(ctx)
		if err != nil {
			return samples, err
		}
		s.at = time.Since(began).Seconds()
		samples = append(samples, s)
	}
}

// figures returns how each figure grew after the warm-up.
func figures(samples []sample) (all []Figure) {
	samples = samples[int(warmUp*float64(len(samples))):]
	names := map[string]bool{}
	for _, s := range samples {
		for name := range s.values {
			names[name] = true
		}
	}
	for name := range names {
		if strings.HasPrefix(name, "spans ") {
			continue // counters
		}
		var x, y []float64
		for _, s := range samples {
			x, y = append(x, s.at/3600), append(y, s.values[name])
		}
		slope, margin, ok := stats.Slope(x, y)
		if !ok {
			continue // too short a run
		}
		part := max(len(y)/12, 1)
		f := Figure{Name: name, First: stats.Median(y[:part]), Last: stats.Median(y[len(y)-part:]), Slope: slope, Low: slope - margin, High: slope + margin}
		few := float64(growthFew)
		if strings.HasSuffix(name, "bytes") {
			few *= 1 << 20
		}
		grown := slope * (x[len(x)-1] - x[0])
		f.Grows = f.Low > 0 && grown > few && grown > growthShare*stats.Median(y)
		all = append(all, f)
	}
	slices.SortFunc(all, func(a, b Figure) int { return strings.Compare(a.Name, b.Name) })
	return all
}

// sample is the agent at one time.
type sample struct {
	at     float64 // s since the beginning
	values map[string]float64
}

func (s sample) line() string {
	return fmt.Sprintf("RSS %.0f MiB, %.0f files, %.0f goroutines, %.0f spans exported, %.0f lost",
		s.values["RSS bytes"]/(1<<20), s.values["file descriptors"], s.values["goroutines"], s.values["spans exported"], s.values["spans lost"])
}

// sample samples the agent.
func (t *testbed) sample(ctx context.Context) (s sample, err error) {
	s.values = map[string]float64{}
	metrics, err := t.metrics(ctx)
	if err != nil {
		return s, err
	}
	s.values["goroutines"] = metrics["go_goroutines"]
	s.values["heap bytes"] = metrics["go_memstats_heap_inuse_bytes"]
	s.values["spans exported"] = metrics["layertrace_spans_exported_total"]
	for name, value := range metrics {
		if strings.HasPrefix(name, "layertrace_spans_failed_total") || strings.HasPrefix(name, "layertrace_spans_dropped_total") {
			s.values["spans lost"] += value
		}
	}
	pid := t.agent.PID()
	memory, err := sandbox.ReadMemory(pid)
	if err != nil {
		return s, err
	}
	s.values["RSS bytes"] = float64(memory.Resident)
	kernel, err := sandbox.ReadBPFMemory(pid)
	if err != nil {
		return s, err
	}
	s.values["BPF bytes"] = float64(kernel)
	files, err := os.ReadDir(filepath.Join("/proc", fmt.Sprint(pid), "fd"))
	if err != nil {
		return s, fmt.Errorf("count the agent's files: %w", err)
	}
	s.values["file descriptors"] = float64(len(files))
	entries, err := mapEntries(pid)
	for name, n := range entries {
		s.values["entries of "+name] = float64(n)
	}
	return s, err
}
