// SPDX-License-Identifier: Apache-2.0

package layer

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/layertrace/layertrace/internal/exchange"
	"go.opentelemetry.io/otel/trace"
)

// times sums up the parts that the root waited for.
func times(t *Tree) map[string]uint64 {
	sums := map[string]uint64{}
	for _, l := range t.Legs {
		if !l.Waited {
			continue
		}
		for _, p := range l.Parts {
			name := string(p.Layer) + " " + p.Place
			if len(p.Covers) > 0 {
				name = fmt.Sprint(p.Covers, " ", p.Place)
			}
			sums[name] += uint64(p.Time)
		}
	}
	return sums
}

// Each layer is given exactly what it took, whatever the nodes' clocks say.
func TestSplitIsExact(t *testing.T) {
	w := newWorld()
	begin := w.now
	w.frontPage()
	tree := Split(w.all, nil)
	if len(tree.Roots) != 1 || len(tree.Legs) != 5 {
		t.Fatalf("%d roots and %d legs, want 1 and 5", len(tree.Roots), len(tree.Legs))
	}
	got := times(tree)
	for name, want := range w.took {
		if got[name] != want {
			t.Errorf("%s: %d ns, want %d", name, got[name], want)
		}
		delete(got, name)
	}
	if len(got) > 0 {
		t.Errorf("times that were not: %v", got)
	}
	if total := tree.Roots[0].Total; total != int64(w.now-begin) {
		t.Errorf("total %d ns, want %d", total, w.now-begin)
	}
	checkSums(t, tree)
	for i, l := range tree.Legs {
		if len(l.Notes) > 0 || !l.Waited {
			t.Errorf("leg %d: waited %v, notes %v", i, l.Waited, l.Notes)
		}
	}
}

// checkSums: the parts, the legs that a leg waited for and what is unattributed
// add up to the whole, and parts lie inside.
func checkSums(t *testing.T, tree *Tree) {
	t.Helper()
	for _, l := range tree.Legs {
		sum := l.Unattributed
		for _, p := range l.Parts {
			if p.Time < 0 {
				t.Errorf("part of %d ns: %+v", p.Time, p)
			}
			sum += p.Time
		}
		for _, child := range l.Children {
			if child.Waited || !l.Waited && slices.Contains(l.Children, child) && l.waitedFor()[child] {
				sum += child.Total
			}
		}
		if sum != l.Total {
			t.Errorf("leg %v: parts add up to %d ns of %d", l.SpanID, sum, l.Total)
		}
	}
}

// A missing capture point puts the layers around it together, and says so.
func TestMissingPoint(t *testing.T) {
	for name, c := range map[string]struct {
		drop func(*Sighting) bool
		want string
	}{
		"physical interface of the server's node": {
			func(s *Sighting) bool { return s.Kind == PNIC && s.Node == "node3" },
			"[relay-network virtual-network node-driver] node3-node4",
		},
		"virtual interface of the server": {
			func(s *Sighting) bool { return s.Kind == VNIC && s.Service == "details" },
			"[virtual-network protocol-stack] node3",
		},
		"the agent of the server's node": {
			func(s *Sighting) bool { return s.Node == "node3" },
			"[relay-network virtual-network protocol-stack application node-driver] ?-node4",
		},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld()
			w.drop = c.drop
			w.frontPage()
			tree := Split(w.all, nil)
			checkSums(t, tree)
			got := times(tree)
			if got[c.want] == 0 {
				t.Errorf("no time is given to %s: %v", c.want, got)
			}
			var sum, want uint64
			for _, ns := range got {
				sum += ns
			}
			for _, ns := range w.took {
				want += ns
			}
			if sum != want {
				t.Errorf("the parts are %d ns, all took %d", sum, want)
			}
		})
	}
}

// Without sockets the interfaces still tell the networks, and the rest is said
// to be one group.
func TestInterfacesOnly(t *testing.T) {
	w := newWorld()
	w.drop = func(s *Sighting) bool { return s.Kind == Socket }
	w.frontPage()
	tree := Split(w.all, nil)
	got := times(tree)
	for _, name := range []string{"relay-network node2-node4", "relay-network node3-node4", "virtual-network node4", "node-driver node3"} {
		if got[name] != w.took[name] {
			t.Errorf("%s: %d ns, want %d", name, got[name], w.took[name])
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
	w := newWorld()
	w.hop(page, Sidecar, page, AppProcess).run(func() {
		begin := w.now
		first := w.hop(page, AppProcess, details, Sidecar)
		first.run(func() { w.spend(Application, "details", 1_000_000) })
		ended := w.now
		w.now = begin + 10
		w.hop(page, AppProcess, ratings, Sidecar).run(func() { w.spend(Application, "ratings", 5_000_000) })
		if w.now < ended {
			t.Fatal("the second request has to end last")
		}
	})
	tree := Split(w.all, nil)
	checkSums(t, tree)
	got := times(tree)
	if got["application ratings"] != 5_000_000 || got["application details"] != 0 {
		t.Errorf("waited for %v, want ratings alone", got)
	}
}

// The same request again on the same connection, under the same span.
func TestRetry(t *testing.T) {
	w := newWorld()
	h := w.hop(page, Sidecar, details, Sidecar)
	h.run(func() { w.spend(Application, "details", 1_000_000) })
	h.run(func() { w.spend(Application, "details", 3_000_000) })
	legs := Legs(w.all)
	if len(legs) != 2 {
		t.Fatalf("%d legs, want one for each attempt", len(legs))
	}
	tree := Split(w.all, nil)
	checkSums(t, tree)
	if len(tree.Roots) != 2 || tree.Roots[0].Total < tree.Roots[1].Total {
		t.Errorf("%d roots, want 2, the longer one first", len(tree.Roots))
	}
}

// Masquerading changes the client's end; the TCP option's connection ID joins.
func TestConnectionIDJoins(t *testing.T) {
	w := newWorld()
	w.hop(page, Sidecar, details, Sidecar).run(func() {})
	for i := range w.all {
		w.all[i].ConnectionID = "0102030405060708"
		if w.all[i].Node == "node3" {
			w.all[i].Client = w.all[i].Server
		}
	}
	if legs := Legs(w.all); len(legs) != 1 {
		t.Errorf("%d legs, want 1", len(legs))
	}
	for i := range w.all {
		w.all[i].ConnectionID = ""
	}
	if legs := Legs(w.all); len(legs) != 2 {
		t.Errorf("%d legs without the option, want 2", len(legs))
	}
}

// Whatever is missing, doubled or wrong: no panic, and the sums stay right.
func TestAnySightings(t *testing.T) {
	const worlds = 20_000
	r := rand.New(rand.NewPCG(1, 2))
	for range worlds {
		w := newWorld()
		w.drop = func(*Sighting) bool { return r.IntN(6) == 0 }
		w.frontPage()
		for i := range w.all {
			spoil(r, &w.all[i])
		}
		if len(w.all) > 0 && r.IntN(4) == 0 {
			w.all = append(w.all, w.all[r.IntN(len(w.all))])
		}
		r.Shuffle(len(w.all), func(i, j int) { w.all[i], w.all[j] = w.all[j], w.all[i] })
		parents := map[trace.SpanID]trace.SpanID{{1}: {2}, {2}: {1}}
		checkSums(t, Split(w.all, parents))
		if t.Failed() {
			t.Fatalf("sightings: %+v", w.all)
		}
	}
}

func spoil(r *rand.Rand, s *Sighting) {
	switch r.IntN(40) {
	case 0:
		s.Response = exchange.Message{}
	case 1:
		s.Request.Last = 0
	case 2:
		s.Request, s.Response = s.Response, s.Request
	case 3:
		s.Node = "node2"
	case 4:
		s.SpanID = trace.SpanID{byte(r.IntN(6))}
	case 5:
		s.Response.Last += uint64(r.IntN(1e9))
	case 6:
		s.Service, s.Process = "", UnknownProcess
	case 7:
		s.Request.Handover, s.Response.Handover = exchange.Extent{}, exchange.Extent{}
	}
}
