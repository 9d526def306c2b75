// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"slices"
	"testing"
	"time"

	"github.com/layertrace/layertrace/e2e/lab"
	"github.com/layertrace/layertrace/e2e/measure"
)

// inJaeger checks traces in Jaeger: the last through each version of reviews
// and some more. Each has the Envoys' spans and, below them, just the interface
// spans that its requests' ways give: so a hop within a node shows no physical
// interface.
func inJaeger(t *testing.T, hops []measure.Hop, tracer lab.Tracer) {
	t.Helper()
	wanted := map[string]bool{}
	for _, hop := range slices.Backward(hops) {
		if hop.From.Name == "productpage" && len(wanted) < 30 {
			wanted[hop.TraceID] = true
		}
	}
	for id := range wanted {
		want := measure.TraceOf(hops, id)
		trace, err := theLab(t).Jaeger.CompleteTrace(interrupted, id, want.Spans(), 30*time.Second)
		if err != nil {
			t.Error(err)
			continue
		}
		checkTrace(t, trace, want)
	}
	report("%s: %d traces read back from Jaeger", tracer, len(wanted))
}

func checkTrace(t *testing.T, trace lab.Trace, want measure.Trace) {
	t.Helper()
	spans := map[string]lab.Span{}
	for _, span := range trace.Spans {
		spans[span.ID] = span
	}
	ofHop := map[string][]string{} // names of interface spans, by the hop's span ID
	envoys := 0
	for _, span := range trace.Spans {
		i := slices.IndexFunc(lab.Points(), func(p lab.Point) bool { return p.Name == span.Name })
		if i < 0 {
			envoys++
			continue
		}
		point := lab.Points()[i]
		if span.Resource["host.name"] != point.Node || span.Resource["network.interface.name"] != point.Interface {
			t.Errorf("trace %s: the resource of %s is %v", trace.ID, span.Name, span.Resource)
		}
		hop := span.Parent
		if parent := spans[hop]; parent.Kind() == "server" {
			// Zipkin's client and server share a span ID. Jaeger gives the
			// server's span a new one and what is below goes with it.
			hop = parent.Parent
		}
		if kind := spans[hop].Kind(); kind != "client" {
			t.Errorf("trace %s: %s is below a span of kind %q, not an Envoy's client span", trace.ID, span.Name, kind)
		}
		ofHop[hop] = append(ofHop[hop], span.Name)
	}
	if envoys != want.EnvoySpans() {
		t.Errorf("trace %s: %d Envoy spans, want %d", trace.ID, envoys, want.EnvoySpans())
	}
	for _, hop := range want {
		var path []string
		for _, point := range lab.Path(hop.From, hop.To) {
			path = append(path, point.Name)
		}
		got := ofHop[hop.SpanID]
		slices.Sort(path)
		slices.Sort(got)
		if !slices.Equal(got, path) {
			t.Errorf("trace %s: interface spans of %s -> %s are %v, want %v", trace.ID, hop.From.Name, hop.To.Name, got, path)
		}
		delete(ofHop, hop.SpanID)
	}
	if len(ofHop) > 0 {
		t.Errorf("trace %s: interface spans %v belong to no request", trace.ID, ofHop)
	}
}
