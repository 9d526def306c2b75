// SPDX-License-Identifier: Apache-2.0

package measure

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/layertrace/layertrace/e2e/lab"
	"github.com/layertrace/layertrace/e2e/lab/app"
	"github.com/layertrace/layertrace/internal/observe"
)

// Outcome is the result of a run under load.
type Outcome struct {
	// Run is the stopped run. Its files can be read.
	Run *lab.Run
	// Hops are all requests between pods, Points what the agents acquired.
	Hops   []Hop
	Points []Acquired
	// Load is the result at the client.
	Load lab.LoadResult
	// Records are what became of the records of the Envoys' access logs, with TLS.
	Records lab.Records
}

// Acquisition starts the mesh, sends load from the client node, stops the mesh and
// compares the agents' exchanges with the ground truth.
func Acquisition(ctx context.Context, l *lab.Lab, setup lab.Setup, load lab.Load) (out Outcome, err error) {
	return AcquisitionAnd(ctx, l, setup, load, More{})
}

// More is what AcquisitionAnd does with the mesh beside the load; each can be nil.
type More struct {
	// Before is called before the load.
	Before func(*lab.Run) error
	// After is called when the Envoys have sent all spans of the load. Its requests do not
	// count: it returns their trace IDs.
	After func(*lab.Run) ([]string, error)
}

// AcquisitionAnd does more with the mesh before it stops.
func AcquisitionAnd(ctx context.Context, l *lab.Lab, setup lab.Setup, load lab.Load, more More) (out Outcome, err error) {
	run, err := l.Start(ctx, setup)
	if err != nil {
		return out, err
	}
	out.Run = run
	if more.Before != nil {
		err = more.Before(run)
	}
	if err == nil {
		out.Load, err = l.Send(ctx, load)
	}
	if err == nil {
		err = run.Drain(ctx)
	}
	var own []string
	if err == nil && more.After != nil {
		own, err = more.After(run)
	}
	if err == nil && setup.TLS != nil {
		out.Records, err = l.DrainRecords(ctx, nil)
	}
	if err := errors.Join(err, run.Stop()); err != nil {
		return out, err
	}
	if out.Hops, err = Hops(run); err != nil {
		return out, err
	}
	ignored := map[string]bool{}
	for _, id := range own {
		ignored[id] = true
	}
	out.Hops = slices.DeleteFunc(out.Hops, func(h Hop) bool { return ignored[h.TraceID] })
	if !setup.NoAgents {
		out.Points, err = compare(l, run, out.Hops, ignored)
	}
	return out, err
}

// Stock is the unmodified mesh, with agents that parse the first 1,024 bytes of a
// request and no more: the paper's starting point.
func Stock(tracer lab.Tracer) lab.Setup {
	return lab.Setup{Name: "stock", Tracer: tracer, AgentFlags: []string{"--prefix-window=1024", "--deep=false"}}
}

// StockAuto is the unmodified mesh, with agents as they are by default.
func StockAuto(tracer lab.Tracer) lab.Setup {
	return lab.Setup{Name: "stock-auto-" + string(tracer), Tracer: tracer}
}

// StockDeep is the unmodified mesh, with agents that search further.
func StockDeep(tracer lab.Tracer) lab.Setup {
	return lab.Setup{Name: "stock-deep", Tracer: tracer, AgentFlags: []string{"--deep"}}
}

// Reordered is the mesh with the trace headers at the start, agents as for Stock.
func Reordered(tracer lab.Tracer) lab.Setup {
	return lab.Setup{Name: "reordered", Tracer: tracer, Reordered: true, AgentFlags: []string{"--prefix-window=1024", "--deep=false"}}
}

// Encrypted is the mesh with mutual TLS between pods: agents know contexts from the records
// of the Envoys' access logs.
func Encrypted(tracer lab.Tracer) lab.Setup {
	return lab.Setup{Name: "encrypted", Tracer: tracer, TLS: &lab.TLS{Version: lab.TLS13}}
}

// Acquired is what the agents acquired at one capture point.
type Acquired struct {
	lab.Point
	// Passed is the number of requests with a trace context that passed.
	Passed int
	// Acquired is how many of these the agent reported, by trace and span ID.
	Acquired int
	// Doubled counts repeated reports of the same request.
	Doubled int
	// Unknown counts reports of requests that did not pass here.
	Unknown int
	// WrongEnds counts reports whose client or server is not the request's.
	WrongEnds int
}

// Rate returns the share of the passed requests that was acquired; 0 when none
// passed.
func (a Acquired) Rate() float64 {
	if a.Passed == 0 {
		return 0
	}
	return float64(a.Acquired) / float64(a.Passed)
}

// Compare compares the reports of the agents of a stopped run with the hops.
func Compare(l *lab.Lab, run *lab.Run, hops []Hop) ([]Acquired, error) {
	return compare(l, run, hops, nil)
}

// compare ignores the reports of some traces.
func compare(l *lab.Lab, run *lab.Run, hops []Hop, ignored map[string]bool) ([]Acquired, error) {
	expected := map[string]map[Key]Hop{}
	for _, hop := range hops {
		for _, point := range lab.Path(hop.From, hop.To) {
			if expected[point.Name] == nil {
				expected[point.Name] = map[Key]Hop{}
			}
			expected[point.Name][hop.Key] = hop
		}
	}
	reported, err := ReadExchanges(l, run)
	if err != nil {
		return nil, err
	}
	var results []Acquired
	for _, point := range lab.Points() {
		passed := expected[point.Name]
		result := Acquired{Point: point, Passed: len(passed)}
		seen := map[Key]bool{}
		for _, x := range reported[Location{point.Node, point.Interface}] {
			if !ignored[x.Context.TraceID.String()] {
				result.count(x, passed, seen)
			}
		}
		results = append(results, result)
	}
	return results, nil
}

func (a *Acquired) count(x observe.Observation, passed map[Key]Hop, seen map[Key]bool) {
	key := Key{x.Context.TraceID.String(), x.Context.SpanID.String()}
	hop, ok := passed[key]
	switch {
	case !ok:
		a.Unknown++
		return
	case seen[key]:
		a.Doubled++
		return
	}
	seen[key] = true
	a.Acquired++
	if x.Client != hop.Client || x.Server != hop.Server {
		a.WrongEnds++
	}
}

// Exact returns an error unless the agent acquired every request exactly once, with
// the right ends, and nothing else.
func (a Acquired) Exact() error {
	if a.Passed > 0 && a.Acquired == a.Passed && a.Doubled+a.Unknown+a.WrongEnds == 0 {
		return nil
	}
	return fmt.Errorf("%s: %d of %d acquired, %d doubled, %d unknown, %d with wrong ends",
		a.Name, a.Acquired, a.Passed, a.Doubled, a.Unknown, a.WrongEnds)
}

// Location is an interface of a node, by names.
type Location struct{ Node, Interface string }

// ReadExchanges reads the reports of all agents of a run.
func ReadExchanges(l *lab.Lab, run *lab.Run) (map[Location][]observe.Observation, error) {
	all := map[Location][]observe.Observation{}
	for _, node := range lab.Nodes {
		if node == lab.ClientNode {
			continue
		}
		names, err := l.InterfaceNames(node)
		if err != nil {
			return nil, err
		}
		exchanges, err := NodeExchanges(run, node)
		if err != nil {
			return nil, err
		}
		for _, x := range exchanges {
			at := Location{lab.NodeName(node), names[x.Interface]}
			all[at] = append(all[at], x)
		}
	}
	return all, nil
}

// NodeExchanges reads the reports of one node's agent.
func NodeExchanges(run *lab.Run, node int) ([]observe.Observation, error) {
	files := run.Exchanges(node)
	if len(files) == 0 {
		return nil, fmt.Errorf("no agent ran on %s", lab.NodeName(node))
	}
	var all []observe.Observation
	for _, file := range files {
		ofFile, err := app.ReadLines[observe.Observation](file.Path, file.Killed)
		if err != nil {
			return nil, fmt.Errorf("read exchanges of %s: %w", lab.NodeName(node), err)
		}
		all = append(all, ofFile...)
	}
	return all, nil
}
