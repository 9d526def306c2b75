// SPDX-License-Identifier: Apache-2.0

package explain

import (
	"cmp"
	"fmt"
	"slices"
	"time"

	"github.com/layertrace/layertrace/agent/internal/breakdown"
	"github.com/layertrace/layertrace/agent/internal/tracestore"
	"github.com/layertrace/layertrace/internal/observe"
)

// Explain tells where the time of a trace went, and what is slower in it than
// in the traces of the baseline, which should be of the same operation. Without
// a baseline the verdict is what took most.
func Explain(t tracestore.Trace, baseline []tracestore.Trace) Report {
	return newTypical(baseline).explain(t)
}

// All explains several traces by one baseline.
func All(traces, baseline []tracestore.Trace) []Report {
	typical := newTypical(baseline)
	reports := make([]Report, len(traces))
	for i, t := range traces {
		reports[i] = typical.explain(t)
	}
	return reports
}

func (y *typical) explain(t tracestore.Trace) Report {
	r := Report{TraceID: t.ID.String(), Notes: notes(t), Layers: []Share{}, Hops: []Hop{}}
	r.Service, r.Operation = Root(t)
	r.Start = start(t)
	tree := breakdown.Split(t.Observations, parents(t))
	if len(tree.Roots) == 0 || tree.Roots[0].Total == 0 {
		r.Verdict = nothingToBlame("No hop of this trace was seen from its request to its response.")
		r.Verdict.Confidence = Low
		for _, l := range tree.Hops {
			r.Hops = append(r.Hops, y.hop(l))
		}
		return r
	}
	r.Total = tree.Roots[0].Total
	r.Baseline = Baseline{Traces: y.traces, BaselineTotal: max(y.total, 0)}
	sums, unattributed := sum(tree)
	r.Unattributed = unattributed
	r.Layers = y.shares(sums, r.Total)
	for _, l := range tree.Hops {
		r.Hops = append(r.Hops, y.hop(l))
	}
	if len(tree.Roots) > 1 {
		r.Notes = append(r.Notes, fmt.Sprintf("%d hops stand alone: what they were made for was not seen", len(tree.Roots)-1))
	}
	r.Verdict = y.verdict(sums, r.Total, tree)
	return r
}

// hop turns a leg into what is shown of it.
func (y *typical) hop(l *breakdown.Hop) Hop {
	h := Hop{
		SpanID: l.SpanID.String(), From: from(l), To: to(l),
		FromNode: l.ClientNode(), ToNode: l.ServerNode(),
		Start: l.Start, Total: l.Total, Unattributed: l.Unattributed,
		OnCriticalPath: l.OnCriticalPath, Notes: append([]string{}, l.Notes...), Segments: []Segment{},
	}
	for p := l.Parent; p != nil; p = p.Parent {
		h.Depth++
	}
	for _, s := range l.Observations() {
		h.Status = cmp.Or(h.Status, s.Status)
	}
	for _, p := range l.Segments {
		h.Segments = append(h.Segments, Segment{
			Layer: p.Layer, Location: p.Location, Between: p.Between, Phase: string(p.Phase),
			Start: p.Start, Time: p.Time, Back: p.ResponseStart, MergedLayers: p.MergedLayers, Baseline: y.ofPart(l, p),
		})
	}
	h.Verdict = y.hopVerdict(l)
	return h
}

// from and to name the ends of a hop; inside a pod they say which is the proxy.
func from(l *breakdown.Hop) string { return end(l, l.Sender, l.ClientService(), l.ClientNode()) }

func to(l *breakdown.Hop) string { return end(l, l.Receiver, l.ServerService(), l.ServerNode()) }

func end(l *breakdown.Hop, s *observe.Observation, service, node string) string {
	name := cmp.Or(service, node, "?")
	inside := l.ClientVNIC == nil && l.ServerVNIC == nil && l.ClientPNIC == nil && l.ServerPNIC == nil
	if inside && s != nil && s.Point.Process == observe.Sidecar {
		name += " (sidecar)"
	}
	return name
}

// notes are what the reading of the trace told.
func notes(t tracestore.Trace) []string {
	n := []string{}
	if len(t.Observations) == 0 {
		n = append(n, "the trace has no spans of layertrace: no agent saw it, or the agents' spans did not arrive (yet)")
	}
	sockets := slices.ContainsFunc(t.Observations, func(s observe.Observation) bool { return s.Point.Kind == observe.KindSocket })
	if len(t.Observations) > 0 && !sockets {
		n = append(n, "the agents saw interfaces only (--spans=interfaces, or no --socket-cgroup): protocol stack and application cannot be told apart")
	}
	if t.Duplicates > 0 {
		n = append(n, fmt.Sprintf("%d spans were stored more than once and counted once", t.Duplicates))
	}
	for i, u := range t.Unreadable {
		if i == 3 {
			n = append(n, fmt.Sprintf("and %d more spans that cannot be read", len(t.Unreadable)-i))
			break
		}
		n = append(n, "left out: "+u)
	}
	return n
}

// start is the first wall time of the trace.
func start(t tracestore.Trace) (first time.Time) {
	for _, s := range t.Spans {
		if first.IsZero() || s.Start.Before(first) {
			first = s.Start
		}
	}
	for i := range t.Observations {
		if at := time.Unix(0, t.Observations[i].Wall); first.IsZero() || at.Before(first) {
			first = at
		}
	}
	return first
}
