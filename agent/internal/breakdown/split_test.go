// SPDX-License-Identifier: Apache-2.0

package breakdown_test

import (
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"

	"go.opentelemetry.io/otel/trace"

	"github.com/layertrace/layertrace/agent/internal/breakdown"
	"github.com/layertrace/layertrace/agent/internal/breakdown/breakdowntest"
	"github.com/layertrace/layertrace/internal/observe"
	"github.com/layertrace/layertrace/internal/tracecontext"
)

// times sums up the segments that the root waited for.
func times(t *breakdown.Tree) map[string]uint64 {
	sums := map[string]uint64{}
	for _, l := range t.Hops {
		if !l.OnCriticalPath {
			continue
		}
		for _, p := range l.Segments {
			name := string(p.Layer) + " " + p.Location
			if len(p.MergedLayers) > 0 {
				name = fmt.Sprint(p.MergedLayers, " ", p.Location)
			}
			sums[name] += uint64(p.Time)
		}
	}
	return sums
}

// Each layer is given exactly what it took, whatever the nodes' clocks say.
func TestSplitIsExact(t *testing.T) {
	w := breakdowntest.New()
	begin := w.Now
	w.FrontPage()
	tree := breakdown.Split(w.All, nil)
	if len(tree.Roots) != 1 || len(tree.Hops) != 5 {
		t.Fatalf("%d roots and %d hops, want 1 and 5", len(tree.Roots), len(tree.Hops))
	}
	got := times(tree)
	for name, want := range w.Took {
		if got[name] != want {
			t.Errorf("%s: %d ns, want %d", name, got[name], want)
		}
		delete(got, name)
	}
	if len(got) > 0 {
		t.Errorf("times that were not: %v", got)
	}
	if total := tree.Roots[0].Total; total != int64(w.Now-begin) {
		t.Errorf("total %d ns, want %d", total, w.Now-begin)
	}
	checkSums(t, tree)
	for i, l := range tree.Hops {
		if len(l.Notes) > 0 || !l.OnCriticalPath {
			t.Errorf("hop %d: critical %v, notes %v", i, l.OnCriticalPath, l.Notes)
		}
	}
}

// checkSums: the segments, the hops that a hop waited for and what is unattributed
// add up to the whole, and segments lie inside.
func checkSums(t *testing.T, tree *breakdown.Tree) {
	t.Helper()
	for _, l := range tree.Hops {
		if !l.OnCriticalPath {
			continue
		}
		sum := l.Unattributed
		for _, p := range l.Segments {
			if p.Time < 0 {
				t.Errorf("segment of %d ns: %+v", p.Time, p)
			}
			sum += p.Time
		}
		for _, child := range l.Children {
			if child.OnCriticalPath {
				sum += child.Total
			}
		}
		if sum != l.Total {
			t.Errorf("hop %v: segments add up to %d ns of %d", l.SpanID, sum, l.Total)
		}
	}
}

// The queues of the protocol stack are told by the points around them, between no
// point is missing between.
func TestQueues(t *testing.T) {
	// By what Between begins and ends with.
	queue := func(p breakdown.Segment) breakdown.Queue {
		from, to, _ := strings.Cut(p.Between, " to ")
		sent, received := strings.HasPrefix(from, "TCP of "), strings.HasPrefix(to, "TCP of ")
		switch {
		case p.Layer != observe.ProtocolStack || len(p.MergedLayers) > 0:
			return ""
		case !sent && received && to == "TCP of "+from:
			return breakdown.SendQueue
		case sent && from == "TCP of "+to:
			return breakdown.ReceiveQueue
		case sent && !received:
			return breakdown.PodQueue
		default:
			return ""
		}
	}
	for name, drop := range map[string]func(*observe.Observation) bool{
		"all points":     nil,
		"no vnic":        func(s *observe.Observation) bool { return s.Point.Kind == observe.KindVNIC },
		"no application": func(s *observe.Observation) bool { return s.Point.Process == observe.AppProcess },
	} {
		w := breakdowntest.New()
		w.Drop = drop
		w.FrontPage()
		seen := map[breakdown.Queue]int{}
		for _, l := range breakdown.Split(w.All, nil).Hops {
			for _, p := range l.Segments {
				seen[p.Queue]++
				if want := queue(p); p.Queue != want {
					t.Errorf("%s: queue %q of %q, want %q", name, p.Queue, p.Between, want)
				}
			}
		}
		if seen[breakdown.SendQueue] == 0 || seen[breakdown.ReceiveQueue] == 0 || (seen[breakdown.PodQueue] == 0) != (name == "no vnic") {
			t.Errorf("%s: %v", name, seen)
		}
	}
}

// A missing capture point puts the layers around it together, and says so.
func TestMissingPoint(t *testing.T) {
	for name, c := range map[string]struct {
		drop func(*observe.Observation) bool
		want string
	}{
		"physical interface of the server's node": {
			func(s *observe.Observation) bool { return s.Point.Kind == observe.KindPNIC && s.Point.Node == "node3" },
			"[relay-network virtual-network node-driver] node3-node4",
		},
		"virtual interface of the server": {
			func(s *observe.Observation) bool {
				return s.Point.Kind == observe.KindVNIC && s.Point.Workload.Service == "details"
			},
			"[virtual-network protocol-stack] node3",
		},
		"the agent of the server's node": {
			func(s *observe.Observation) bool { return s.Point.Node == "node3" },
			"[relay-network virtual-network protocol-stack application node-driver] ?-node4",
		},
	} {
		t.Run(name, func(t *testing.T) {
			w := breakdowntest.New()
			w.Drop = c.drop
			w.FrontPage()
			tree := breakdown.Split(w.All, nil)
			checkSums(t, tree)
			got := times(tree)
			if got[c.want] == 0 {
				t.Errorf("no time is given to %s: %v", c.want, got)
			}
			var sum, want uint64
			for _, ns := range got {
				sum += ns
			}
			for _, ns := range w.Took {
				want += ns
			}
			if sum != want {
				t.Errorf("the segments are %d ns, all took %d", sum, want)
			}
		})
	}
}

// Without sockets the interfaces still tell the networks, and the rest is said
// to be one group.
func TestInterfacesOnly(t *testing.T) {
	w := breakdowntest.New()
	w.Drop = func(s *observe.Observation) bool { return s.Point.Kind == observe.KindSocket }
	w.FrontPage()
	tree := breakdown.Split(w.All, nil)
	got := times(tree)
	for _, name := range []string{"relay-network node2-node4", "relay-network node3-node4", "virtual-network node4", "node-driver node3"} {
		if got[name] != w.Took[name] {
			t.Errorf("%s: %d ns, want %d", name, got[name], w.Took[name])
		}
	}
	if got["[protocol-stack application] productpage"] == 0 {
		t.Errorf("pods: %v", got)
	}
	checkSums(t, tree)
}

// Two requests of one trace that a process makes at the same time: the one that
// ends last is waited for.
func TestParallelRequests(t *testing.T) {
	w := breakdowntest.New()
	w.Hop(breakdowntest.Page, observe.Sidecar, breakdowntest.Page, observe.AppProcess).Run(func() {
		begin := w.Now
		first := w.Hop(breakdowntest.Page, observe.AppProcess, breakdowntest.Details, observe.Sidecar)
		first.Run(func() { w.Spend(observe.Application, "details", 1_000_000) })
		ended := w.Now
		w.Now = begin + 10
		w.Hop(breakdowntest.Page, observe.AppProcess, breakdowntest.Ratings, observe.Sidecar).Run(func() { w.Spend(observe.Application, "ratings", 5_000_000) })
		if w.Now < ended {
			t.Fatal("the second request has to end last")
		}
	})
	tree := breakdown.Split(w.All, nil)
	checkSums(t, tree)
	got := times(tree)
	if got["application ratings"] != 5_000_000 || got["application details"] != 0 {
		t.Errorf("waited for %v, want ratings alone", got)
	}
}

// The same request again on the same connection, under the same span.
func TestRetry(t *testing.T) {
	w := breakdowntest.New()
	h := w.Hop(breakdowntest.Page, observe.Sidecar, breakdowntest.Details, observe.Sidecar)
	h.Run(func() { w.Spend(observe.Application, "details", 1_000_000) })
	h.Run(func() { w.Spend(observe.Application, "details", 3_000_000) })
	hops := breakdown.Hops(w.All)
	if len(hops) != 2 {
		t.Fatalf("%d hops, want one for each attempt", len(hops))
	}
	tree := breakdown.Split(w.All, nil)
	checkSums(t, tree)
	if len(tree.Roots) != 2 || tree.Roots[0].Total < tree.Roots[1].Total {
		t.Errorf("%d roots, want 2, the longer one first", len(tree.Roots))
	}
}

// Masquerading changes the client's end; the TCP option's connection ID joins.
func TestConnectionIDJoins(t *testing.T) {
	w := breakdowntest.New()
	w.Hop(breakdowntest.Page, observe.Sidecar, breakdowntest.Details, observe.Sidecar).Run(func() {})
	for i := range w.All {
		w.All[i].ConnectionID = []byte{1, 2, 3, 4, 5, 6, 7, 8}
		if w.All[i].Point.Node == "node3" {
			w.All[i].Client = w.All[i].Server
		}
	}
	if hops := breakdown.Hops(w.All); len(hops) != 1 {
		t.Errorf("%d hops, want 1", len(hops))
	}
	for i := range w.All {
		w.All[i].ConnectionID = nil
	}
	if hops := breakdown.Hops(w.All); len(hops) != 2 {
		t.Errorf("%d hops without the option, want 2", len(hops))
	}
}

// Whatever is missing, doubled or wrong: no panic, and the sums stay right.
func TestAnySightings(t *testing.T) {
	const worlds = 20_000
	r := rand.New(rand.NewPCG(1, 2))
	for range worlds {
		w := breakdowntest.New()
		w.Drop = func(*observe.Observation) bool { return r.IntN(6) == 0 }
		w.FrontPage()
		for i := range w.All {
			spoil(r, &w.All[i])
		}
		if len(w.All) > 0 && r.IntN(4) == 0 {
			w.All = append(w.All, w.All[r.IntN(len(w.All))])
		}
		r.Shuffle(len(w.All), func(i, j int) { w.All[i], w.All[j] = w.All[j], w.All[i] })
		parents := map[trace.SpanID]trace.SpanID{{1}: {2}, {2}: {1}}
		checkSums(t, breakdown.Split(w.All, parents))
		if t.Failed() {
			t.Fatalf("observations: %+v", w.All)
		}
	}
}

func spoil(r *rand.Rand, s *observe.Observation) {
	switch r.IntN(40) {
	case 0:
		s.Response = observe.Message{}
	case 1:
		s.Request.Last = 0
	case 2:
		s.Request, s.Response = s.Response, s.Request
	case 3:
		s.Point.Node = "node2"
	case 4:
		s.Context.SpanID = tracecontext.SpanID{byte(r.IntN(6))}
	case 5:
		s.Response.Last += uint64(r.IntN(1e9))
	case 6:
		s.Point.Workload.Service, s.Point.Process = "", observe.UnknownProcess
	case 7:
		for _, m := range []*observe.Message{&s.Request, &s.Response} {
			m.App, m.Tx = observe.Extent{}, observe.Extent{}
		}
	}
}
