// SPDX-License-Identifier: Apache-2.0

package breakdown_test

import (
	"encoding/binary"
	"fmt"
	"maps"
	"math/rand/v2"
	"net/netip"
	"strings"
	"testing"
	"time"

	"go.opentelemetry.io/otel/trace"

	"github.com/layertrace/layertrace/agent/internal/breakdown"
	"github.com/layertrace/layertrace/agent/internal/breakdown/breakdowntest"
	"github.com/layertrace/layertrace/internal/observe"
	"github.com/layertrace/layertrace/internal/tracecontext"
)

// times sums up the segments on the critical path.
func times(t *breakdown.Tree) map[string]uint64 {
	sums := map[string]uint64{}
	for _, h := range t.Hops {
		if !h.OnCriticalPath {
			continue
		}
		for _, p := range h.Segments {
			name := string(p.Layer) + " " + p.Location
			if len(p.MergedLayers) > 0 {
				name = fmt.Sprint(p.MergedLayers, " ", p.Location)
			}
			sums[name] += uint64(p.Time)
		}
	}
	return sums
}

// Each layer gets exactly its time, whatever the nodes' clocks show.
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
		t.Errorf("times of layers that took none: %v", got)
	}
	if total := tree.Roots[0].Total; total != int64(w.Now-begin) {
		t.Errorf("total %d ns, want %d", total, w.Now-begin)
	}
	checkSums(t, tree)
	for i, h := range tree.Hops {
		if len(h.Notes) > 0 || !h.OnCriticalPath {
			t.Errorf("hop %d: critical %v, notes %v", i, h.OnCriticalPath, h.Notes)
		}
	}
}

// checkSums: segments, children on the critical path and unattributed time add up to
// the whole hop.
func checkSums(t *testing.T, tree *breakdown.Tree) {
	t.Helper()
	for _, h := range tree.Hops {
		if !h.OnCriticalPath {
			continue
		}
		sum := h.Unattributed
		for _, p := range h.Segments {
			if p.Time < 0 {
				t.Errorf("segment of %d ns: %+v", p.Time, p)
			}
			sum += p.Time
		}
		for _, child := range h.Children {
			if child.OnCriticalPath {
				sum += child.Total
			}
		}
		if sum != h.Total {
			t.Errorf("hop %v: segments add up to %d ns of %d", h.SpanID, sum, h.Total)
		}
	}
}

// The queues of the protocol stack follow from the waypoints around them, if none is
// missing.
func TestQueues(t *testing.T) {
	// Expected from the text of Between.
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
		"no vnic":        func(o *observe.Observation) bool { return o.Point.Kind == observe.KindVNIC },
		"no application": func(o *observe.Observation) bool { return o.Point.Process == observe.AppProcess },
	} {
		w := breakdowntest.New()
		w.Drop = drop
		w.FrontPage()
		seen := map[breakdown.Queue]int{}
		for _, h := range breakdown.Split(w.All, nil).Hops {
			for _, p := range h.Segments {
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

// A missing capture point merges the layers around it.
func TestMissingPoint(t *testing.T) {
	for name, c := range map[string]struct {
		drop func(*observe.Observation) bool
		want string
	}{
		"physical interface of the server's node": {
			func(o *observe.Observation) bool { return o.Point.Kind == observe.KindPNIC && o.Point.Node == "node3" },
			"[relay-network virtual-network node-driver] node3-node4",
		},
		"virtual interface of the server": {
			func(o *observe.Observation) bool {
				return o.Point.Kind == observe.KindVNIC && o.Point.Workload.Service == "details"
			},
			"[virtual-network protocol-stack] node3",
		},
		"the agent of the server's node": {
			func(o *observe.Observation) bool { return o.Point.Node == "node3" },
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
				t.Errorf("%s has no time: %v", c.want, got)
			}
			var sum, want uint64
			for _, ns := range got {
				sum += ns
			}
			for _, ns := range w.Took {
				want += ns
			}
			if sum != want {
				t.Errorf("the segments add up to %d ns, want %d", sum, want)
			}
		})
	}
}

// Without sockets the interfaces still separate the networks; the layers in the pods
// are merged.
func TestInterfacesOnly(t *testing.T) {
	w := breakdowntest.New()
	w.Drop = func(o *observe.Observation) bool { return o.Point.Kind == observe.KindSocket }
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

// Of two requests of one trace that a process makes at the same time, the one that
// ends last is on the critical path.
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

// The same request is sent again on the same connection, under the same span ID.
func TestRetry(t *testing.T) {
	w := breakdowntest.New()
	h := w.Hop(breakdowntest.Page, observe.Sidecar, breakdowntest.Details, observe.Sidecar)
	h.Run(func() { w.Spend(observe.Application, "details", 1_000_000) })
	h.Run(func() { w.Spend(observe.Application, "details", 3_000_000) })
	hops := breakdown.Hops(w.All, nil)
	if len(hops) != 2 {
		t.Fatalf("%d hops, want one for each attempt", len(hops))
	}
	tree := breakdown.Split(w.All, nil)
	checkSums(t, tree)
	if len(tree.Roots) != 2 || tree.Roots[0].Total < tree.Roots[1].Total {
		t.Errorf("%d roots, want 2, the longer one first", len(tree.Roots))
	}
}

// Masquerading changes the client's address; the connection ID in the TCP option
// identifies the hop.
func TestConnectionIDJoins(t *testing.T) {
	w := breakdowntest.New()
	w.Hop(breakdowntest.Page, observe.Sidecar, breakdowntest.Details, observe.Sidecar).Run(func() {})
	for i := range w.All {
		w.All[i].ConnectionID = []byte{1, 2, 3, 4, 5, 6, 7, 8}
		if w.All[i].Point.Node == "node3" {
			w.All[i].Client = w.All[i].Server
		}
	}
	if hops := breakdown.Hops(w.All, nil); len(hops) != 1 {
		t.Errorf("%d hops, want 1", len(hops))
	}
	for i := range w.All {
		w.All[i].ConnectionID = nil
	}
	if hops := breakdown.Hops(w.All, nil); len(hops) != 2 {
		t.Errorf("%d hops without the option, want 2", len(hops))
	}
}

// Whatever is missing, duplicated or wrong: no panic, and the sums stay right.
func TestAnyObservations(t *testing.T) {
	worlds := 20_000
	if testing.Short() {
		worlds = 500
	}
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

func spoil(r *rand.Rand, o *observe.Observation) {
	switch r.IntN(40) {
	case 0:
		o.Response = observe.Message{}
	case 1:
		o.Request.Last = 0
	case 2:
		o.Request, o.Response = o.Response, o.Request
	case 3:
		o.Point.Node = "node2"
	case 4:
		o.Context.SpanID = tracecontext.SpanID{byte(r.IntN(6))}
	case 5:
		o.Response.Last += uint64(r.IntN(1e9))
	case 6:
		o.Point.Workload.Service, o.Point.Process = "", observe.UnknownProcess
	case 7:
		for _, m := range []*observe.Message{&o.Request, &o.Response} {
			m.App, m.Tx = observe.Extent{}, observe.Extent{}
		}
	}
}

// The time after a child whose end was not seen may be the child's or its parent's
// application's: it stays unattributed.
func TestTimeAfterACutChild(t *testing.T) {
	for name, cut := range map[string]func(*observe.Observation){
		"idle": func(o *observe.Observation) { o.Flags |= observe.FlagIdle },
		// Of its time, only the request's is known.
		"no response": func(o *observe.Observation) { o.Flags, o.Response = observe.FlagNoResponse, observe.Message{} },
	} {
		t.Run(name, func(t *testing.T) { afterCutChild(t, cut) })
	}
}

func afterCutChild(t *testing.T, cut func(*observe.Observation)) {
	w := breakdowntest.New()
	w.FrontPage()
	whole := breakdown.Split(w.All, nil)
	var child *breakdown.Hop
	for _, h := range whole.Hops {
		if len(h.Children) == 0 && h.OnCriticalPath && h.Parent != nil {
			child = h
		}
	}
	parent := child.Parent
	last := parent.Segments[len(parent.Segments)-1]
	for _, s := range parent.Segments {
		if s.Layer == observe.Application && s.Phase == breakdown.Both {
			last = s // the one after the child
		}
	}
	if last.Start < child.Start || last.Time == 0 {
		t.Fatalf("no application's time after the child: %+v", parent.Segments)
	}
	for i := range w.All {
		if trace.SpanID(w.All[i].Context.SpanID) == child.SpanID {
			cut(&w.All[i])
		}
	}
	for _, h := range breakdown.Split(w.All, nil).Hops {
		if h.SpanID != parent.SpanID || h.ServerService() != parent.ServerService() {
			continue
		}
		want, seen := last.Time, false
		for _, c := range h.Children {
			if c.SpanID == child.SpanID {
				seen = c.Total > 0
			}
		}
		if !seen { // its own time is unattributed too
			want += child.Total
		}
		if got := h.Unattributed - parent.Unattributed; got != want {
			t.Errorf("%d ns more unattributed, want %d", got, want)
		}
		if len(h.Segments) != len(parent.Segments)-1 {
			t.Errorf("%d segments of %d", len(h.Segments), len(parent.Segments))
		}
		return
	}
	t.Error("the parent hop is gone")
}

// If the socket that sent a child hop was not seen, the handling that it ended has its
// protocol stack too, and says so.
func TestHandlingUntilAnUnseenSocket(t *testing.T) {
	for _, unseen := range []bool{false, true} {
		w := breakdowntest.New()
		w.Drop = func(o *observe.Observation) bool {
			return unseen && o.Context.SpanID[0] == 4 && o.Socket != nil && o.Socket.Client
		}
		w.FrontPage()
		tree := breakdown.Split(w.All, nil)
		merged := map[string]int64{}
		for _, s := range tree.Hops[2].Segments {
			if s.Layer == observe.Application {
				merged[fmt.Sprint(s.MergedLayers)] += s.Time
			}
		}
		// 100 µs in the send queue and 100 µs in the pod, of request and response each.
		want := map[string]int64{"[]": 150_000 + 110_000}
		if unseen {
			want = map[string]int64{"[application protocol-stack]": 150_000 + 110_000 + 4*100_000}
		}
		if !maps.Equal(merged, want) {
			t.Errorf("unseen %v: handling %v, want %v", unseen, merged, want)
		}
		checkSums(t, tree)
	}
}

// No segment is longer than its hop: then its times are not of one request.
func TestSegmentLongerThanItsHop(t *testing.T) {
	w := breakdowntest.New()
	w.FrontPage()
	const hour = 3600_000_000_000
	for i := range w.All {
		if o := &w.All[i]; o.Context.SpanID[0] == 4 && o.Socket != nil && !o.Socket.Client {
			o.Request.App.Last += hour // read long after the response
		}
	}
	tree := breakdown.Split(w.All, nil)
	noted := false
	for _, h := range tree.Hops {
		for _, s := range h.Segments {
			if s.Time > h.Total {
				t.Errorf("%s: %d ns of a hop of %d", s.Between, s.Time, h.Total)
			}
		}
		for _, n := range h.Notes {
			noted = noted || strings.HasPrefix(n, "contradictory times: TCP of the sidecar of details to the sidecar of details, 1h0m0.0001s of a hop of 2.136ms")
		}
	}
	if !noted {
		t.Errorf("no note: %q", tree.Hops[3].Notes)
	}
	checkSums(t, tree)
}

// A sender chooses how many exchanges one trace has and how they nest. With the work growing
// by the square of their number, either of these took minutes; nested it grew by the third
// power. The deadline is fifty times what they take now.
func TestWorkIsBoundedForEachShape(t *testing.T) {
	const hops = 20_000
	for _, nested := range []bool{false, true} {
		observations := breakdowntest.Legs(hops, nested)
		began := time.Now()
		tree := breakdown.Split(observations, nil)
		if took := time.Since(began); took > 30*time.Second {
			t.Errorf("nested %v: %d hops took %v", nested, hops, took)
		}
		if len(tree.Hops) != hops {
			t.Fatalf("nested %v: %d hops, want %d", nested, len(tree.Hops), hops)
		}
		roots := hops
		if nested {
			roots = 1
		}
		if len(tree.Roots) != roots {
			t.Errorf("nested %v: %d roots, want %d", nested, len(tree.Roots), roots)
		}
		for i, h := range tree.Hops {
			if nested && (h.Depth != i || h.Root() != tree.Roots[0]) || binary.BigEndian.Uint64(h.SpanID[:]) == 0 {
				t.Fatalf("nested %v: hop %d is %d below the root", nested, i, h.Depth)
			}
		}
	}
}

// One endpoint that sends the same request again and again is one group of attempts.
func TestManyAttempts(t *testing.T) {
	const attempts = 10_000
	observations := breakdowntest.Legs(attempts, false)
	for i := range observations {
		o := &observations[i]
		o.Context.SpanID, o.Client = observations[0].Context.SpanID, netip.MustParseAddrPort("10.0.0.1:1024")
	}
	if tree := breakdown.Split(observations, nil); len(tree.Hops) != attempts {
		t.Errorf("%d hops, want %d", len(tree.Hops), attempts)
	}
}
