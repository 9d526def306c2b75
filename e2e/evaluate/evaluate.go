// SPDX-License-Identifier: Apache-2.0

// Package evaluate repeats section 8 of the paper on the lab's testbed: the
// acquisition rates of Figure 4, the response times of Figures 5 and 6, and the traces
// of Figures 7 and 8 in a real UI. What it has measured is on disk step by step, so
// that an interrupted evaluation goes on where it was.
package evaluate

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"strings"
	"time"

	"github.com/layertrace/layertrace/e2e/lab"
	"github.com/layertrace/layertrace/e2e/measure"
	"github.com/layertrace/layertrace/e2e/pictures"
)

// Options configure an evaluation. All fields are required.
type Options struct {
	Tools lab.Tools
	// ZipkinJAR is Zipkin's server.
	ZipkinJAR string
	// Dir has the measurements, figures and logs.
	Dir string
	// Name is the lab's; those of the meshes for response times have a letter more.
	Name string
	// Cases are measured Runs times at each rate, with Requests requests each time.
	Cases          []Case
	Runs, Requests int
	// Acquisition is the number of requests of Figure 4, for each header order.
	Acquisition int
	Progress    func(format string, args ...any)
}

// Default numbers. The paper has 100 runs of 5,000 requests, which takes a day with all
// cases. The default takes less than 20 minutes.
const (
	DefaultRuns        = 10
	DefaultRequests    = 150
	DefaultAcquisition = 10_000
)

// Results are the measurements of a complete evaluation.
type Results struct {
	Settings Settings
	Cases    []Case
	// Stock and Reordered are what the agents acquired, in the order of lab.Points.
	Stock, Reordered []measure.Acquired
	// Rounds are the runs: one of each case at each rate.
	Rounds []Round
	Trace  TraceInfo
	// Dir has the pictures figure7.png and figure8.png.
	Dir string
}

// TraceInfo describes the trace of the pictures.
type TraceInfo struct {
	ID string `json:"trace_id"`
	// Mesh and Interfaces are the numbers of spans of Envoys and of agents.
	Mesh       int `json:"mesh_spans"`
	Interfaces int `json:"interface_spans"`
	// SameNode is set when a hop between two pods of one node shows the interfaces
	// of pods only.
	SameNode bool `json:"same_node_without_pnic"`
}

// Run measures what is not measured yet, and returns all measurements.
func Run(ctx context.Context, o Options) (Results, error) {
	wanted, err := currentSettings(o)
	if err != nil {
		return Results{}, err
	}
	e := &evaluation{Options: o}
	e.agenda()
	var settings Settings
	if e.store, settings, err = openStore(o.Dir, wanted, e.left.steps()); err != nil {
		return Results{}, err
	}
	e.skipDone()
	if err := e.once(ctx); err != nil {
		return Results{}, err
	}
	if err := e.rounds(ctx); err != nil {
		return Results{}, err
	}
	return e.results(settings)
}

type evaluation struct {
	Options
	store *store
	left  remaining
}

// Files of the steps in the store.
const traceFile = "trace.json"

func acquisitionFile(setup string) string { return "acquisition-" + setup + ".json" }

func roundFile(number int) string { return fmt.Sprintf("round-%04d.json", number+1) }

// agenda lists the steps, and estimates how long they take.
func (e *evaluation) agenda() {
	load := 0.0
	for _, rate := range Rates {
		load += float64(e.Requests) / rate
	}
	round := 26 * time.Second // starting and stopping three meshes
	for _, c := range e.Cases {
		round += leadIn + time.Duration(load*float64(time.Second))
		if c.agents != nil {
			round += 4 * time.Second
		}
	}
	acquisition := 10*time.Second + time.Duration(e.Acquisition)*3*time.Millisecond
	e.left.add(acquisitionFile(stock), acquisition)
	e.left.add(acquisitionFile(reordered), acquisition)
	e.left.add(traceFile, 30*time.Second)
	for number := range e.Runs {
		e.left.add(roundFile(number), round)
	}
}

// skipDone takes the steps that are done from the agenda.
func (e *evaluation) skipDone() {
	done := 0
	for _, file := range e.left.steps() {
		if e.store.has(file) {
			e.left.drop(file)
			done++
		}
	}
	if done > 0 {
		e.Progress("going on with an evaluation in %s: %d of %d steps are done", e.Dir, done, done+len(e.left.steps()))
	}
	e.Progress("%s", e.left.text())
}

// step does a step unless it is done, and stores its result.
func step[T any](e *evaluation, file string, do func() (T, error)) error {
	if e.store.has(file) {
		return nil
	}
	e.left.begin(file)
	result, err := do()
	if err != nil {
		return err
	}
	if err := e.store.write(file, result); err != nil {
		return err
	}
	e.left.done(file)
	e.Progress("%s", e.left.text())
	return nil
}

// once does the steps that are done once, in a lab of their own.
func (e *evaluation) once(ctx context.Context) (err error) {
	setups := []lab.Setup{measure.Stock(lab.Zipkin), measure.Reordered(lab.Zipkin)}
	if e.store.has(acquisitionFile(stock)) && e.store.has(acquisitionFile(reordered)) && e.store.has(traceFile) {
		return nil
	}
	l, err := lab.Up(ctx, lab.Options{
		Name: e.Name, Dir: filepath.Join(e.Dir, "lab"), Tools: e.Tools, Progress: e.Progress, MaxTraces: 1000,
	})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, l.Down()) }()
	for _, setup := range setups {
		err := step(e, acquisitionFile(setup.Name), func() ([]measure.Acquired, error) { return e.acquire(ctx, l, setup) })
		if err != nil {
			return fmt.Errorf("acquisition rate, %s: %w", setup.Name, err)
		}
	}
	return step(e, traceFile, func() (TraceInfo, error) { return e.photograph(ctx, l) })
}

func (e *evaluation) acquire(ctx context.Context, l *lab.Lab, setup lab.Setup) ([]measure.Acquired, error) {
	e.Progress("acquisition rate, %s", setup.Name)
	reported := 0
	out, err := measure.Acquisition(ctx, l, setup, lab.Load{
		Requests: e.Acquisition,
		Progress: func(done int) {
			if done-reported >= e.Acquisition/5 {
				reported = done
				e.Progress("acquisition rate, %s: %d of %d requests (%s)", setup.Name, done, e.Acquisition, e.left.text())
			}
		},
	})
	if err != nil {
		return nil, err
	}
	return out.Points, measure.CheckReceived(out.Run, lab.Zipkin, out.Hops)
}

// photograph makes Figures 7 and 8: a trace through reviews-v3, whose hop to ratings
// stays on its node.
func (e *evaluation) photograph(ctx context.Context, l *lab.Lab) (info TraceInfo, err error) {
	e.Progress("a trace in Zipkin, without and with interface spans")
	setup := measure.Reordered(lab.Zipkin)
	setup.Name = "trace"
	out, err := measure.Acquisition(ctx, l, setup, lab.Load{Requests: 60, Rate: 20})
	if err != nil {
		return info, err
	}
	want, err := measure.LastTraceThrough(out.Hops, "reviews-v3")
	if err != nil {
		return info, err
	}
	trace, err := l.Jaeger.CompleteTrace(ctx, want.ID(), want.Spans(), 20*time.Second)
	if err != nil {
		return info, err
	}
	dir, err := filepath.Abs(e.Dir)
	if err != nil {
		return info, err
	}
	maker := &pictures.Maker{Lab: l, ZipkinJAR: e.ZipkinJAR, Dir: dir, Logs: filepath.Join(dir, "lab"), Progress: e.Progress}
	if err := maker.WithoutAndWith(ctx, trace, isInterface, "figure7.png", "figure8.png"); err != nil {
		return info, err
	}
	info.ID = want.ID()
	var interfaces []lab.Span
	for _, span := range trace.Spans {
		if isInterface(span) {
			interfaces = append(interfaces, span)
		}
	}
	info.Interfaces, info.Mesh = len(interfaces), len(trace.Spans)-len(interfaces)
	info.SameNode, err = sameNode(want, trace.Spans)
	return info, err
}

// isInterface reports whether a span is of one of the ten capture points.
func isInterface(span lab.Span) bool {
	for _, point := range lab.Points() {
		if point.Name == span.Name {
			return true
		}
	}
	return false
}

// sameNode reports whether the interface spans of each hop are those of the pods alone
// when both pods are on one node, and of the nodes' as well when they are not. The
// trace must have a hop of each kind.
func sameNode(hops measure.Trace, spans []lab.Span) (bool, error) {
	parents := map[string]string{}
	for _, span := range spans {
		parents[span.ID] = span.Parent
	}
	kinds := map[bool]int{}
	for _, hop := range hops {
		physical := 0
		for _, span := range spans {
			// Client and server share a span ID. Jaeger gives the server's span an
			// ID of its own, below the client's, and the children of both to it.
			ofHop := span.Parent == hop.SpanID || parents[span.Parent] == hop.SpanID
			if ofHop && isInterface(span) && strings.HasSuffix(span.Name, "_"+lab.PNIC) {
				physical++
			}
		}
		within := hop.From.Node == hop.To.Node
		if within != (physical == 0) {
			return false, nil
		}
		kinds[within]++
	}
	if kinds[true] == 0 || kinds[false] == 0 {
		return false, errors.New("the trace has no hop within a node, or none between nodes")
	}
	return true, nil
}

// rounds does the rounds, each mesh in a lab of its own.
func (e *evaluation) rounds(ctx context.Context) (err error) {
	missing := false
	for number := range e.Runs {
		missing = missing || !e.store.has(roundFile(number))
	}
	if !missing {
		return nil
	}
	m := &meter{cases: e.Cases, requests: e.Requests, lead: leadIn}
	err = m.bringUp(ctx, func(mesh string) lab.Options {
		return lab.Options{
			Name: e.Name + mesh[:1], Dir: filepath.Join(e.Dir, "lab-"+mesh), Tools: e.Tools, Progress: e.Progress,
			// The traces are not read, and a growing Jaeger would disturb later rounds.
			MaxTraces: 1000,
		}
	})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, m.down()) }()
	for number := range e.Runs {
		m.progress = func(format string, args ...any) {
			e.Progress("round %d of %d, %s (%s)", number+1, e.Runs, fmt.Sprintf(format, args...), e.left.text())
		}
		if err := step(e, roundFile(number), func() (Round, error) { return m.round(ctx, number) }); err != nil {
			return fmt.Errorf("round %d of %d: %w", number+1, e.Runs, err)
		}
	}
	return nil
}

func (e *evaluation) results(settings Settings) (r Results, err error) {
	r = Results{Settings: settings, Cases: e.Cases, Rounds: make([]Round, e.Runs), Dir: e.Dir}
	errs := []error{
		e.store.read(acquisitionFile(stock), &r.Stock),
		e.store.read(acquisitionFile(reordered), &r.Reordered),
		e.store.read(traceFile, &r.Trace),
	}
	for number := range r.Rounds {
		errs = append(errs, e.store.read(roundFile(number), &r.Rounds[number]))
	}
	return r, errors.Join(errs...)
}
