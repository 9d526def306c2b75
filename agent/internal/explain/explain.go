// SPDX-License-Identifier: Apache-2.0

package explain

import (
	"cmp"
	"fmt"
	"slices"

	"go.opentelemetry.io/otel/trace"

	"github.com/layertrace/layertrace/agent/internal/breakdown"
	"github.com/layertrace/layertrace/agent/internal/span"
	"github.com/layertrace/layertrace/agent/internal/tracestore"
	"github.com/layertrace/layertrace/internal/observe"
)

// Explain reports where the time of a trace went, and which layer is slower than
// the baseline: traces of the same operation. Without a baseline the verdict
// names the layer that took the longest.
func Explain(t tracestore.Trace, baseline []tracestore.Trace) Report {
	return timesOf(baseline, newMeasuredTrace).explain(t)
}

func (b *baselineTimes) explain(t tracestore.Trace) Report {
	r := Report{TraceID: t.ID.String(), Start: t.Start(), Notes: notes(t), Layers: []LayerTime{}, Hops: []Hop{}}
	r.Service, r.Operation = rootOf(t)
	tree, tooMany := split(t)
	listed := longestOf(tree.Hops)
	for _, h := range listed {
		r.Hops = append(r.Hops, b.hop(h))
	}
	if n := len(tree.Hops) - len(listed); n > 0 {
		r.Notes = append(r.Notes, fmt.Sprintf("the trace has too many hops to list: the %d that took longest are here, %d are not", len(listed), n))
	}
	if tooMany == "" {
		tooMany = limited(t)
	}
	if tooMany != "" {
		r.Notes = append(r.Notes, tooMany)
	}
	if len(tree.Roots) == 0 || tree.Roots[0].Total == 0 {
		r.Verdict = noVerdict("No hop of this trace was seen from its request to its response.")
		r.Verdict.Confidence = Low
		return r
	}
	missing, contradictions := unseen(t, tree)
	r.Total = tree.Roots[0].Total + missing
	r.Notes = append(append(r.Notes, contradictions...), endings(tree)...)
	r.Baseline = Baseline{Traces: b.traces, BaselineTotal: max(b.total, 0)}
	sums, unattributed, unclear := sumOfTree(tree)
	unattributed += missing
	unclear += missing
	r.Unattributed = unattributed
	// What two layers have counts twice in the whole that shares are of.
	whole := r.Total - min(unattributed, 0)
	r.Layers = b.layerTimes(sums, whole)
	if n := len(tree.Roots) - 1; n > 0 {
		r.Notes = append(r.Notes, counted(n, "hop has", "hops have")+" no parent: the requests that caused them were not seen")
	}
	r.Verdict = b.verdict(sums, r.Total, tree)
	r.Verdict.Share = share(r.Verdict.Excess, whole)
	r.Verdict.capConfidence(unclear, r.Total)
	r.Verdict.contradicted(contradictions)
	r.Verdict.doubt(partial(t))
	if tooMany != "" {
		r.Verdict.doubt(tooMany)
		r.Verdict.Confidence = Low
	}
	r.Verdict.capCut(cutOf(tree))
	r.Verdict.capInferred(inferredOf(tree))
	r.Verdict.capMissing(b.calls.missing(callsOf(tree)))
	ahead := aheadOf(t, tree)
	r.Verdict.capAhead(slowAhead(ahead, b.ahead, r.Total), ahead-b.ahead)
	return r
}

const (
	// maxObservations is how many observations of a trace are split: whoever may send a
	// request chooses its trace ID.
	maxObservations = 32768
	// maxHops is how many hops a report lists.
	maxHops = 1000
)

// split is the tree of a trace, by those of its observations that began first if it has too
// many. tooMany says so.
func split(t tracestore.Trace) (tree *breakdown.Tree, tooMany string) {
	some := t.Observations
	if n := len(some); n > maxObservations {
		some = slices.SortedStableFunc(slices.Values(some), func(a, b observe.Observation) int { return cmp.Compare(a.Wall, b.Wall) })[:maxObservations]
		tooMany = fmt.Sprintf("the trace has %d sightings of requests: only the first %d of them are counted", n, maxObservations)
	}
	return breakdown.Split(some, parents(t)), tooMany
}

// limited says that an agent left out requests of a trace, "" if none did.
func limited(t tracestore.Trace) string {
	for i := range t.Observations {
		if o := &t.Observations[i]; o.Flags&observe.FlagTraceLimited != 0 {
			return "the trace had more requests than the agent of " + o.Point.Node + " makes spans of (--trace-spans, --cpu-limit): what is missing counts as the application's"
		}
	}
	return ""
}

// longestOf returns the hops that took longest, in their order, if there are too many.
func longestOf(hops []*breakdown.Hop) []*breakdown.Hop {
	if len(hops) <= maxHops {
		return hops
	}
	some := map[*breakdown.Hop]bool{}
	for _, h := range slices.SortedStableFunc(slices.Values(hops), func(a, b *breakdown.Hop) int { return cmp.Compare(b.Total, a.Total) })[:maxHops] {
		some[h] = true
	}
	return slices.DeleteFunc(slices.Clone(hops), func(h *breakdown.Hop) bool { return !some[h] })
}

// maxEndings is the number of hops whose data ends that are noted one by one.
const maxEndings = 3

// endings says where the data of a trace ends in the middle: at hops on the critical path
// whose response, or whose server's side, was not seen.
func endings(tree *breakdown.Tree) (notes []string) {
	for _, h := range tree.Hops {
		switch {
		case !h.OnCriticalPath:
		case h.Total == 0:
			notes = append(notes, "the data ends in the middle of the hop "+hopName(h)+": its response was not seen")
		case h.Receiver == nil && h.ServerVNIC == nil && h.ServerPNIC == nil:
			notes = append(notes, "the data ends at the hop "+hopName(h)+": nothing was seen on its server's side; no agent is there, or its spans have not arrived")
		}
	}
	if n := len(notes); n > maxEndings {
		notes = append(notes[:maxEndings], counted(n-maxEndings, "more hop has", "more hops have")+" such an end")
	}
	return notes
}

// hop is the only conversion of a hop for the report.
func (b *baselineTimes) hop(h *breakdown.Hop) Hop {
	r := Hop{
		SpanID: h.SpanID.String(), From: from(h), To: to(h),
		FromNamespace: h.ClientNamespace(), ToNamespace: h.ServerNamespace(),
		FromNode: h.ClientNode(), ToNode: h.ServerNode(),
		Start: h.Start, Total: h.Total, Unattributed: h.Unattributed,
		Depth: h.Depth, OnCriticalPath: h.OnCriticalPath, Notes: append([]string{}, h.Notes...), Segments: []Segment{},
	}
	flags := observe.Flags(0)
	for _, o := range h.Observations() {
		r.Status = cmp.Or(r.Status, o.Status)
		flags |= o.Flags
	}
	r.Flags = flags.Names()
	for i, usual := range b.ofSegments(h) {
		r.Segments = append(r.Segments, Segment{h.Segments[i], usual})
	}
	r.Verdict = b.hopVerdict(h)
	r.Verdict.capConfidence(h.Unattributed, h.Total)
	r.Verdict.capCut(h.Cut())
	r.Verdict.capInferred(h.Inferred())
	r.Verdict.capMissing(b.calls.missingBelow(hopName(h), len(h.Children)))
	return r
}

// hopName identifies hops that are alike in several traces.
func hopName(h *breakdown.Hop) string { return from(h) + " > " + to(h) }

func from(h *breakdown.Hop) string {
	return end(h, h.Sender, qualified(h, h.ClientService(), h.ClientNamespace()), h.ClientNode())
}

func to(h *breakdown.Hop) string {
	return end(h, h.Receiver, qualified(h, h.ServerService(), h.ServerNamespace()), h.ServerNode())
}

// qualified returns the name of a service, with its namespace if that is not the one of
// the service that the trace begins at: services of one name in two namespaces are two.
func qualified(h *breakdown.Hop, service, namespace string) string {
	if service == "" || namespace == "" || namespace == h.Root().ServerNamespace() {
		return service
	}
	return service + "." + namespace
}

// end names an end of a hop. Inside a pod it marks the sidecar.
func end(h *breakdown.Hop, socket *observe.Observation, service, node string) string {
	name := cmp.Or(service, node, "?")
	inside := h.ClientVNIC == nil && h.ServerVNIC == nil && h.ClientPNIC == nil && h.ServerPNIC == nil
	if inside && socket != nil && socket.Point.Process == observe.Sidecar {
		name += " (sidecar)"
	}
	return name
}

// notes report defects of the trace as it was read.
func notes(t tracestore.Trace) []string {
	n := []string{}
	switch {
	case len(t.Observations) > 0:
	case len(t.Unreadable) > 0:
		n = append(n, "no span of layertrace could be used")
	default:
		n = append(n, "the trace has no spans of layertrace: no agent saw it, or their spans have not arrived yet")
	}
	sockets := slices.ContainsFunc(t.Observations, func(o observe.Observation) bool { return o.Point.Kind == observe.KindSocket })
	if len(t.Observations) > 0 && !sockets {
		n = append(n, "the agents watched interfaces only (--spans=interfaces, or no --socket-cgroup): protocol stack and application are merged")
	}
	if t.Partial != "" {
		n = append(n, partial(t))
	}
	if t.Replaced > 0 {
		n = append(n, counted(t.Replaced, "preliminary span was", "preliminary spans were")+" replaced by the whole")
	}
	if t.Duplicates > 0 {
		n = append(n, counted(t.Duplicates, "span was", "spans were")+" stored more than once and counted once")
	}
	for i, u := range t.Unreadable {
		if i == 3 {
			n = append(n, counted(len(t.Unreadable)-i, "more unreadable span", "more unreadable spans"))
			break
		}
		n = append(n, "skipped: "+u)
	}
	return n
}

// partial says that the store did not return the whole trace, "" if it did: a span that is
// missing may change the verdict.
func partial(t tracestore.Trace) string {
	if t.Partial == "" {
		return ""
	}
	return "the store returned only a part of the trace: " + t.Partial
}

// parents returns the parent of each span that proxies and applications reported.
func parents(t tracestore.Trace) map[trace.SpanID]trace.SpanID {
	all := map[trace.SpanID]trace.SpanID{}
	for _, s := range t.Spans {
		// Spans that share an ID (client and server in Zipkin) share the parent.
		// Some name themselves.
		if s.Parent.IsValid() && s.Parent != s.ID {
			all[s.ID] = s.Parent
		}
	}
	return all
}

// rootOf returns the service and operation of the trace's first span, "" if it
// only has spans of layertrace. If the root span was not stored, it is the
// earliest span whose parent is missing.
func rootOf(t tracestore.Trace) (service, operation string) {
	if len(t.Spans) == 0 {
		return "", ""
	}
	stored := map[trace.SpanID]bool{}
	for _, s := range t.Spans {
		stored[s.ID] = true
	}
	// 0: a root; 1: its parent is missing; 2: it has a parent.
	rank := func(s span.Span) int {
		switch {
		case !s.Parent.IsValid():
			return 0
		case !stored[s.Parent] || s.Parent == s.ID:
			return 1
		}
		return 2
	}
	root := slices.MinFunc(t.Spans, func(a, b span.Span) int {
		return cmp.Or(cmp.Compare(rank(a), rank(b)), a.Start.Compare(b.Start))
	})
	return root.Service, root.Name
}

// key is a layer at a location, or several merged layers.
type key struct {
	layer    observe.Layer
	location string
	merged   string // the layers, "" for one
}

func keyOf(h *breakdown.Hop, s breakdown.Segment) key {
	k := key{layer: s.Layer, location: qualified(h, s.Location, s.Namespace)}
	if len(s.MergedLayers) > 0 {
		k.merged = fmt.Sprint(s.MergedLayers)
	}
	return k
}

func (k key) String() string { return string(k.layer) + " " + k.location + k.merged }

// sums are the times of the layers on the critical path of a trace, or of a hop.
type sums map[key]*total

type total struct {
	time      int64
	segments  map[segmentKey]amount
	merged    []observe.Layer
	namespace string // of the service, "" without one or if it is unknown
}

// segmentKey identifies segments that are alike in several traces.
type segmentKey struct {
	hop     string
	between string
	phase   breakdown.Phase
}

func segmentKeyOf(h *breakdown.Hop, s breakdown.Segment) segmentKey {
	return segmentKey{hopName(h), s.Between, s.Phase}
}

// amount is the time of segments that are alike, and the longest of them.
type amount struct {
	time    int64
	hop     *breakdown.Hop
	segment breakdown.Segment
}

func (a amount) plus(b amount) amount {
	if a.hop == nil || b.segment.Time > a.segment.Time {
		a.hop, a.segment = b.hop, b.segment
	}
	a.time += b.time
	return a
}

// sumOfTree adds up the critical path of a trace. unclear is the time in ns that no layer
// has, and that several have: in unattributed one hop may make up for the other.
func sumOfTree(tree *breakdown.Tree) (s sums, unattributed, unclear int64) {
	s = sums{}
	for _, h := range tree.Hops {
		if h.OnCriticalPath {
			unattributed += h.Unattributed
			unclear += max(h.Unattributed, -h.Unattributed)
			s.add(h)
		}
	}
	return s, unattributed, unclear
}

// sumOfHop adds up a hop by itself.
func sumOfHop(h *breakdown.Hop) sums {
	s := sums{}
	s.add(h)
	return s
}

func (s sums) add(h *breakdown.Hop) {
	for _, segment := range h.Segments {
		k := keyOf(h, segment)
		t := s[k]
		if t == nil {
			t = &total{segments: map[segmentKey]amount{}, merged: segment.MergedLayers}
			s[k] = t
		}
		t.time += segment.Time
		t.namespace = cmp.Or(t.namespace, segment.Namespace)
		alike := segmentKeyOf(h, segment)
		t.segments[alike] = t.segments[alike].plus(amount{segment.Time, h, segment})
	}
}

// layerTimes lists the sums, largest excess first.
func (b *baselineTimes) layerTimes(s sums, whole int64) []LayerTime {
	all := []LayerTime{}
	for k, t := range s {
		all = append(all, LayerTime{
			Layer: k.layer, Location: k.location, Namespace: t.namespace, Time: t.time, Baseline: b.of(k),
			Share: share(t.time, whole), MergedLayers: t.merged,
		})
	}
	excess := func(l LayerTime) int64 { return l.Time - max(l.Baseline, 0) }
	slices.SortFunc(all, func(a, b LayerTime) int {
		return cmp.Or(cmp.Compare(excess(b), excess(a)), cmp.Compare(b.Time, a.Time),
			cmp.Compare(a.Layer, b.Layer), cmp.Compare(a.Location, b.Location))
	})
	return all
}

func share(part, whole int64) float64 {
	if whole <= 0 {
		return 0
	}
	return min(float64(part)/float64(whole), 1)
}

// counted writes a number with its noun.
func counted[N int | uint32](n N, one, many string) string {
	switch n {
	case 0:
		return "no " + many
	case 1:
		return "1 " + one
	}
	return fmt.Sprintf("%d %s", n, many)
}
