// SPDX-License-Identifier: Apache-2.0

package layer_test

import (
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"

	"github.com/layertrace/layertrace/agent/internal/layer"
	"github.com/layertrace/layertrace/agent/internal/layer/layertest"
	"github.com/layertrace/layertrace/internal/exchange"
	"go.opentelemetry.io/otel/trace"
)

// times sums up the parts that the root waited for.
func times(t *layer.Tree) map[string]uint64 {
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
	w := layertest.New()
	begin := w.Now
	w.FrontPage()
	tree := layer.Split(w.All, nil)
	if len(tree.Roots) != 1 || len(tree.Legs) != 5 {
		t.Fatalf("%d roots and %d legs, want 1 and 5", len(tree.Roots), len(tree.Legs))
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
	for i, l := range tree.Legs {
		if len(l.Notes) > 0 || !l.Waited {
			t.Errorf("leg %d: waited %v, notes %v", i, l.Waited, l.Notes)
		}
	}
}

// checkSums: the parts, the legs that a leg waited for and what is unattributed
// add up to the whole, and parts lie inside.
func checkSums(t *testing.T, tree *layer.Tree) {
	t.Helper()
	for _, l := range tree.Legs {
		if !l.Waited {
			continue
		}
		sum := l.Unattributed
		for _, p := range l.Parts {
			if p.Time < 0 {
				t.Errorf("part of %d ns: %+v", p.Time, p)
			}
			sum += p.Time
		}
		for _, child := range l.Children {
			if child.Waited {
				sum += child.Total
			}
		}
		if sum != l.Total {
			t.Errorf("leg %v: parts add up to %d ns of %d", l.SpanID, sum, l.Total)
		}
	}
}

// The queues of the protocol stack are told by the points around them, where no
// point is missing between.
func TestQueues(t *testing.T) {
	// By what Where begins and ends with.
	queue := func(p layer.Part) layer.Queue {
		from, to, _ := strings.Cut(p.Where, " to ")
		sent, received := strings.HasPrefix(from, "TCP of "), strings.HasPrefix(to, "TCP of ")
		switch {
		case p.Layer != layer.ProtocolStack || len(p.Covers) > 0:
			return ""
		case !sent && received && to == "TCP of "+from:
			return layer.SendQueue
		case sent && from == "TCP of "+to:
			return layer.ReceiveQueue
		case sent && !received:
			return layer.PodQueue
		default:
			return ""
		}
	}
	for name, drop := range map[string]func(*layer.Sighting) bool{
		"all points":     nil,
		"no vnic":        func(s *layer.Sighting) bool { return s.Kind == layer.VNIC },
		"no application": func(s *layer.Sighting) bool { return s.Process == layer.AppProcess },
	} {
		w := layertest.New()
		w.Drop = drop
		w.FrontPage()
		seen := map[layer.Queue]int{}
		for _, l := range layer.Split(w.All, nil).Legs {
			for _, p := range l.Parts {
				seen[p.Queue]++
				if want := queue(p); p.Queue != want {
					t.Errorf("%s: queue %q of %q, want %q", name, p.Queue, p.Where, want)
				}
			}
		}
		if seen[layer.SendQueue] == 0 || seen[layer.ReceiveQueue] == 0 || (seen[layer.PodQueue] == 0) != (name == "no vnic") {
			t.Errorf("%s: %v", name, seen)
		}
	}
}

// A missing capture point puts the layers around it together, and says so.
func TestMissingPoint(t *testing.T) {
	for name, c := range map[string]struct {
		drop func(*layer.Sighting) bool
		want string
	}{
		"physical interface of the server's node": {
			func(s *layer.Sighting) bool { return s.Kind == layer.PNIC && s.Node == "node3" },
			"[relay-network virtual-network node-driver] node3-node4",
		},
		"virtual interface of the server": {
			func(s *layer.Sighting) bool { return s.Kind == layer.VNIC && s.Service == "details" },
			"[virtual-network protocol-stack] node3",
		},
		"the agent of the server's node": {
			func(s *layer.Sighting) bool { return s.Node == "node3" },
			"[relay-network virtual-network protocol-stack application node-driver] ?-node4",
		},
	} {
		t.Run(name, func(t *testing.T) {
			w := layertest.New()
			w.Drop = c.drop
			w.FrontPage()
			tree := layer.Split(w.All, nil)
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
				t.Errorf("the parts are %d ns, all took %d", sum, want)
			}
		})
	}
}

// Without sockets the interfaces still tell the networks, and the rest is said
// to be one group.
func TestInterfacesOnly(t *testing.T) {
	w := layertest.New()
	w.Drop = func(s *layer.Sighting) bool { return s.Kind == layer.Socket }
	w.FrontPage()
	tree := layer.Split(w.All, nil)
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
	w := layertest.New()
	w.Hop(layertest.Page, layer.Sidecar, layertest.Page, layer.AppProcess).Run(func() {
		begin := w.Now
		first := w.Hop(layertest.Page, layer.AppProcess, layertest.Details, layer.Sidecar)
		first.Run(func() { w.Spend(layer.Application, "details", 1_000_000) })
		ended := w.Now
		w.Now = begin + 10
		w.Hop(layertest.Page, layer.AppProcess, layertest.Ratings, layer.Sidecar).Run(func() { w.Spend(layer.Application, "ratings", 5_000_000) })
		if w.Now < ended {
			t.Fatal("the second request has to end last")
		}
	})
	tree := layer.Split(w.All, nil)
	checkSums(t, tree)
	got := times(tree)
	if got["application ratings"] != 5_000_000 || got["application details"] != 0 {
		t.Errorf("waited for %v, want ratings alone", got)
	}
}

// The same request again on the same connection, under the same span.
func TestRetry(t *testing.T) {
	w := layertest.New()
	h := w.Hop(layertest.Page, layer.Sidecar, layertest.Details, layer.Sidecar)
	h.Run(func() { w.Spend(layer.Application, "details", 1_000_000) })
	h.Run(func() { w.Spend(layer.Application, "details", 3_000_000) })
	legs := layer.Legs(w.All)
	if len(legs) != 2 {
		t.Fatalf("%d legs, want one for each attempt", len(legs))
	}
	tree := layer.Split(w.All, nil)
	checkSums(t, tree)
	if len(tree.Roots) != 2 || tree.Roots[0].Total < tree.Roots[1].Total {
		t.Errorf("%d roots, want 2, the longer one first", len(tree.Roots))
	}
}

// Masquerading changes the client's end; the TCP option's connection ID joins.
func TestConnectionIDJoins(t *testing.T) {
	w := layertest.New()
	w.Hop(layertest.Page, layer.Sidecar, layertest.Details, layer.Sidecar).Run(func() {})
	for i := range w.All {
		w.All[i].ConnectionID = "0102030405060708"
		if w.All[i].Node == "node3" {
			w.All[i].Client = w.All[i].Server
		}
	}
	if legs := layer.Legs(w.All); len(legs) != 1 {
		t.Errorf("%d legs, want 1", len(legs))
	}
	for i := range w.All {
		w.All[i].ConnectionID = ""
	}
	if legs := layer.Legs(w.All); len(legs) != 2 {
		t.Errorf("%d legs without the option, want 2", len(legs))
	}
}

// Whatever is missing, doubled or wrong: no panic, and the sums stay right.
func TestAnySightings(t *testing.T) {
	const worlds = 20_000
	r := rand.New(rand.NewPCG(1, 2))
	for range worlds {
		w := layertest.New()
		w.Drop = func(*layer.Sighting) bool { return r.IntN(6) == 0 }
		w.FrontPage()
		for i := range w.All {
			spoil(r, &w.All[i])
		}
		if len(w.All) > 0 && r.IntN(4) == 0 {
			w.All = append(w.All, w.All[r.IntN(len(w.All))])
		}
		r.Shuffle(len(w.All), func(i, j int) { w.All[i], w.All[j] = w.All[j], w.All[i] })
		parents := map[trace.SpanID]trace.SpanID{{1}: {2}, {2}: {1}}
		checkSums(t, layer.Split(w.All, parents))
		if t.Failed() {
			t.Fatalf("sightings: %+v", w.All)
		}
	}
}

func spoil(r *rand.Rand, s *layer.Sighting) {
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
		s.Service, s.Process = "", layer.UnknownProcess
	case 7:
		s.Request.Handover, s.Response.Handover = exchange.Extent{}, exchange.Extent{}
	}
}
