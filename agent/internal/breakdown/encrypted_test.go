// SPDX-License-Identifier: Apache-2.0

package breakdown_test

import (
	"testing"

	"go.opentelemetry.io/otel/trace"

	"github.com/layertrace/layertrace/agent/internal/breakdown"
	"github.com/layertrace/layertrace/agent/internal/breakdown/breakdowntest"
	"github.com/layertrace/layertrace/internal/observe"
	"github.com/layertrace/layertrace/internal/tracecontext"
)

// encrypted makes the hops between pods encrypted ones: at the server's side the span is the
// proxy's own, a child of the header's. It returns the parents of those spans.
func encrypted(w *breakdowntest.World) map[trace.SpanID]trace.SpanID {
	parents := map[trace.SpanID]trace.SpanID{}
	for i := range w.All {
		o := &w.All[i]
		if o.Client.Addr().IsLoopback() {
			continue
		}
		o.Join = observe.JoinExact
		server := o.Socket != nil && !o.Socket.Client ||
			o.Point.Kind == observe.KindVNIC && o.Direction == observe.DirectionEgress ||
			o.Point.Kind == observe.KindPNIC && o.Direction == observe.DirectionIngress
		if server {
			header := trace.SpanID(o.Context.SpanID)
			own := header
			own[0] ^= 0xff
			o.Context.SpanID = tracecontext.SpanID(own)
			parents[own] = header
		}
	}
	return parents
}

// An encrypted exchange whose server's side has the server's own span is one hop, split as in
// plain text, when the parents of spans are known.
func TestServersOwnSpan(t *testing.T) {
	plain, w := breakdowntest.New(), breakdowntest.New()
	plain.FrontPage()
	w.FrontPage()
	parents := encrypted(w)
	if len(parents) == 0 {
		t.Fatal("nothing is encrypted")
	}
	want, got := breakdown.Split(plain.All, nil), breakdown.Split(w.All, parents)
	if len(got.Roots) != 1 || len(got.Hops) != len(want.Hops) {
		t.Fatalf("%d hops below %d roots, want %d", len(got.Hops), len(got.Roots), len(want.Hops))
	}
	wantTimes := times(want)
	for k, ns := range times(got) {
		if wantTimes[k] != ns {
			t.Errorf("%s took %d, want %d", k, ns, wantTimes[k])
		}
	}
	// Without the parents, the sides stay apart: their clocks differ.
	if apart := breakdown.Split(w.All, nil); len(apart.Hops) <= len(want.Hops) {
		t.Errorf("%d hops without parents", len(apart.Hops))
	}
}

// Of an inferred join, the client's side has the span of the application's request, and the
// server's that of its own: the proxy's span is between them.
func TestInferredSidesAreOneHop(t *testing.T) {
	w := breakdowntest.New()
	w.Hop(breakdowntest.Page, observe.Sidecar, breakdowntest.Ratings, observe.Sidecar).Run(func() {})
	parents := encrypted(w)
	for own, header := range parents {
		between := trace.SpanID{9}
		parents[own], parents[between] = between, header
	}
	for _, join := range []observe.Join{observe.JoinExact, observe.JoinInferred} {
		for i := range w.All {
			w.All[i].Join = join
		}
		want := 2
		if join == observe.JoinInferred {
			want = 1
		}
		hops := breakdown.Hops(w.All, parents)
		if len(hops) != want {
			t.Errorf("join %s: %d hops, want %d", join, len(hops), want)
		}
		for _, h := range hops {
			if h.Inferred() != (join == observe.JoinInferred) {
				t.Errorf("join %s: inferred is %v", join, h.Inferred())
			}
		}
	}
}

// On one node, the side of the server joins the only exchange of its connection that encloses
// it; of two it joins none.
func TestServersOwnSpanOnOneNode(t *testing.T) {
	w := breakdowntest.New()
	w.Hop(breakdowntest.Details, observe.Sidecar, breakdowntest.Ratings, observe.Sidecar).Run(func() { w.Spend(observe.Application, "ratings", 1_000_000) })
	encrypted(w)
	if hops := breakdown.Hops(w.All, nil); len(hops) != 1 || hops[0].Receiver == nil || hops[0].Sender == nil || hops[0].SpanID != (trace.SpanID{1}) {
		t.Fatalf("%d hops", len(hops))
	}
	other := make([]observe.Observation, 0, 2*len(w.All))
	for _, o := range w.All {
		other = append(other, o)
		if o.Socket != nil && o.Socket.Client {
			o.Context.SpanID[7] = 9 // another request that encloses it
			other = append(other, o)
		}
	}
	if hops := breakdown.Hops(other, nil); len(hops) != 3 {
		t.Errorf("%d hops, want 3: the server's side belongs to neither for sure", len(hops))
	}
}

// A plain exchange is never joined by the parent of its span.
func TestPlainSpansStayApart(t *testing.T) {
	w := breakdowntest.New()
	w.Hop(breakdowntest.Page, observe.Sidecar, breakdowntest.Ratings, observe.Sidecar).Run(func() {})
	parents := encrypted(w)
	for i := range w.All {
		w.All[i].Join = observe.JoinNone
	}
	if hops := breakdown.Hops(w.All, parents); len(hops) != 2 {
		t.Errorf("%d hops", len(hops))
	}
}
