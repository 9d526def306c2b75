// SPDX-License-Identifier: Apache-2.0

package breakdown_test

import (
	"slices"
	"strings"
	"testing"

	"github.com/layertrace/layertrace/agent/internal/breakdown"
	"github.com/layertrace/layertrace/agent/internal/breakdown/breakdowntest"
	"github.com/layertrace/layertrace/internal/observe"
	"github.com/layertrace/layertrace/internal/tracecontext"
)

// The time that a sender waits for its reader belongs to the reader's receive queue, and
// with proxies between them to that of the reader at the end of the chain. All else stays.
func TestStallBelongsToTheReader(t *testing.T) {
	const stalled = 150_000
	type socket struct {
		service string
		process observe.Process
		client  bool
	}
	app, sidecar := observe.AppProcess, observe.Sidecar
	for name, test := range map[string]struct {
		stalled []socket // the sockets that sent the message
		to      string   // the service that did not read
		phase   breakdown.Phase
	}{
		"response, the next process does not read": {
			[]socket{{"details", app, false}}, "details", breakdown.Response,
		},
		"response, productpage does not read": {
			[]socket{{"details", app, false}, {"details", sidecar, false}, {"productpage", sidecar, false}},
			"productpage", breakdown.Response,
		},
		"request, the next process does not read": {
			[]socket{{"details", sidecar, true}}, "details", breakdown.Request,
		},
		"request, details does not read": {
			[]socket{{"productpage", app, true}, {"productpage", sidecar, true}, {"details", sidecar, true}},
			"details", breakdown.Request,
		},
	} {
		t.Run(name, func(t *testing.T) {
			w := breakdowntest.New()
			w.FrontPage()
			total := func(tree *breakdown.Tree) (sum uint64) {
				for _, ns := range times(tree) {
					sum += ns
				}
				return sum
			}
			before := total(breakdown.Split(w.All, nil))
			for i := range w.All {
				o := &w.All[i]
				if o.Socket == nil || !slices.Contains(test.stalled, socket{o.Point.Workload.Service, o.Point.Process, o.Socket.Client}) {
					continue
				}
				if o.Context.SpanID[0] == 1 {
					continue // the gateway reads
				}
				stall(w, o.Context.SpanID, test.phase, stalled, stalled, stalled, stalled)
			}
			tree := breakdown.Split(w.All, nil)
			checkSums(t, tree)
			if after := total(tree); after != before {
				t.Errorf("all segments: %d ns, want %d as before", after, before)
			}
			moved := uint64(0)
			for _, h := range tree.Hops {
				for _, s := range h.Segments {
					if !strings.Contains(s.Between, " waits for ") {
						continue
					}
					moved += uint64(s.Time)
					if s.Layer != observe.ProtocolStack || s.Location != test.to || s.Queue != breakdown.ReceiveQueue || s.Phase != test.phase {
						t.Errorf("segment %+v", s)
					}
				}
			}
			if moved != stalled {
				t.Errorf("%d ns in the receive queue of %s, want %d", moved, test.to, stalled)
			}
		})
	}
}

const second = 1_000_000_000

// stall sets what the sockets at both ends of a hop measured.
func stall(w *breakdowntest.World, span tracecontext.SpanID, phase breakdown.Phase, waited, held, stalled, unread uint64) {
	for i := range w.All {
		o := &w.All[i]
		if o.Socket == nil || o.Context.SpanID != span {
			continue
		}
		m := &o.Request
		if phase == breakdown.Response {
			m = &o.Response
		}
		if o.Socket.Client == (phase == breakdown.Request) {
			m.Waited, m.Held, m.Stalled = waited, held, stalled
		} else {
			m.Unread = unread
		}
	}
}

// What the sockets at both ends say decides whose time it is that the sender was held up:
// the reader's, no one's, or its own.
func TestWhoHeldTheSender(t *testing.T) {
	for name, test := range map[string]struct {
		waited, held, stalled, unread uint64
		witness                       bool
		reader, rest                  int64
	}{
		"the reader did not read, packets in flight": {second, second, 0, second, true, second, 0},
		"the window was small, then closed":          {second, second, second / 2, second, true, second, 0},
		"a delayed acknowledgement":                  {second, second - 40_000_000, second - 40_000_000, second, true, second, 0},
		"the network lost packets, the reader read":  {second, second, 0, 20_000, true, 20_000, second - 20_000},
		"the network lost the window's opening":      {second, second, second, 300_000_000, true, 300_000_000, second - 300_000_000},
		"the application wrote late":                 {0, 0, 0, second, true, 0, 0},
		"without the reader's socket":                {second, second, 700_000_000, 0, false, 700_000_000, 300_000_000},
		"in flight, without the reader's socket":     {second, second, 0, 0, false, 0, second},
	} {
		for _, phase := range []breakdown.Phase{breakdown.Response, breakdown.Request} {
			t.Run(name+", "+string(phase), func(t *testing.T) {
				w := breakdowntest.New()
				fast := breakdowntest.New()
				for _, each := range []*breakdowntest.World{w, fast} {
					h := each.Hop(breakdowntest.Gateway, observe.Sidecar, breakdowntest.Page, observe.Sidecar)
					if each == w && phase == breakdown.Response {
						h.ResponseStall, h.Blamed = second, "gateway"
					} else if each == w {
						h.RequestStall, h.Blamed = second, "productpage"
					}
					h.Run(func() { each.Spend(observe.Application, "productpage", 5_000_000) })
				}
				stall(w, w.All[0].Context.SpanID, phase, test.waited, test.held, test.stalled, test.unread)
				if !test.witness {
					w.All = slices.DeleteFunc(w.All, func(o observe.Observation) bool {
						return o.Socket != nil && o.Socket.Client == (phase == breakdown.Response)
					})
				}
				tree := breakdown.Split(w.All, nil)
				checkSums(t, tree)
				if got := stalled(tree); got != test.reader {
					t.Errorf("%d ns of the reader, want %d", got, test.reader)
				}
				if got := tree.Roots[0].Unattributed; got != test.rest {
					t.Errorf("%d ns unattributed, want %d", got, test.rest)
				}
				// What is neither remains with the sender, whose writes were late.
				own := func(w *breakdowntest.World) int64 {
					ns := int64(0)
					for _, s := range breakdown.Split(w.All, nil).Roots[0].Segments {
						if s.Layer == observe.Application {
							ns += s.Time
						}
					}
					return ns
				}
				if late, want := own(w)-own(fast), second-test.reader-test.rest; test.witness && (late < want || late > want+unknownPart) {
					t.Errorf("%d ns of the applications, want %d", late, want)
				}
			})
		}
	}
}

// unknownPart is the time of the send queue, in ns. A stall counts there first: how much
// of it was before the last write is not measured.
const unknownPart = 100_000

// checkTimes compares the time of each layer with the true one.
func checkTimes(t *testing.T, w *breakdowntest.World) *breakdown.Tree {
	t.Helper()
	tree := breakdown.Split(w.All, nil)
	got := times(tree)
	for name, want := range w.Took {
		if diff := int64(got[name] - want); diff < -unknownPart || diff > unknownPart {
			t.Errorf("%s: %d ns, want %d", name, got[name], want)
		}
		delete(got, name)
	}
	for name, ns := range got {
		if ns > unknownPart {
			t.Errorf("%s: %d ns, want none", name, ns)
		}
	}
	checkSums(t, tree)
	for _, h := range tree.Hops {
		if h.OnCriticalPath && h.Unattributed != 0 {
			t.Errorf("hop %v: %d ns unattributed", h.SpanID, h.Unattributed)
		}
	}
	return tree
}

// stalled returns the time of the segments of stalled senders.
func stalled(tree *breakdown.Tree) (ns int64) {
	for _, h := range tree.Hops {
		for _, s := range h.Segments {
			if !strings.Contains(s.Between, " waits for ") {
				continue
			}
			ns += s.Time
			if s.Queue != breakdown.ReceiveQueue || s.Layer != observe.ProtocolStack {
				panic("a stall is not in a receive queue")
			}
		}
	}
	return ns
}

// One hop: the reader's time, not the writer's, for response and request.
func TestStallIsTheReaders(t *testing.T) {
	for name, set := range map[string]func(*breakdowntest.Hop){
		"response": func(h *breakdowntest.Hop) { h.ResponseStall, h.Blamed = second, "gateway" },
		"request":  func(h *breakdowntest.Hop) { h.RequestStall, h.Blamed = second, "productpage" },
	} {
		t.Run(name, func(t *testing.T) {
			w := breakdowntest.New()
			h := w.Hop(breakdowntest.Gateway, observe.Sidecar, breakdowntest.Page, observe.Sidecar)
			set(h)
			h.Run(func() { w.Spend(observe.Application, "productpage", 5_000_000) })
			if got := stalled(checkTimes(t, w)); got != second {
				t.Errorf("%d ns stalled, want %d", got, second)
			}
		})
	}
}

// The last write was early and the data waited in the send queue.
func TestStallInTheSendQueue(t *testing.T) {
	w := breakdowntest.New()
	h := w.Hop(breakdowntest.Gateway, observe.Sidecar, breakdowntest.Page, observe.Sidecar)
	h.ResponseStall, h.Blamed = second, "gateway"
	h.Run(func() { w.Spend(observe.Application, "productpage", 5_000_000) })
	for i := range w.All {
		if o := &w.All[i]; o.Socket != nil && !o.Socket.Client {
			o.Response.App.Last = o.Response.App.First
		}
	}
	checkTimes(t, w)
}

// A proxy stalls the server because its own reader stalls the proxy: the last reader of
// the chain is named, once.
func TestStallPassesThroughProxies(t *testing.T) {
	w := breakdowntest.New()
	outer := w.Hop(breakdowntest.Gateway, observe.Sidecar, breakdowntest.Page, observe.Sidecar)
	outer.Run(func() {
		w.Spend(observe.Application, "productpage", 200_000)
		inner := w.Hop(breakdowntest.Page, observe.Sidecar, breakdowntest.Details, observe.Sidecar)
		inner.ResponseStall, inner.Blamed = second, "gateway"
		inner.Run(func() { w.Spend(observe.Application, "details", 3_000_000) })
	})
	// The proxy passed the response on while it read it: its sender stalled as long.
	for i := range w.All {
		if o := &w.All[i]; o.Socket != nil && !o.Socket.Client && o.Point.Workload.Service == "productpage" {
			o.Response.App.First -= second + 200_000
			o.Response.First = o.Response.App.First
			stall(w, o.Context.SpanID, breakdown.Response, second-50_000, second-50_000, second-50_000, second-50_000)
		}
	}
	tree := checkTimes(t, w)
	if got := stalled(tree); got != second {
		t.Errorf("%d ns stalled, want %d", got, second)
	}
}

// A proxy's buffers have room for the rest of the message: its sender is done, and the rest
// waits in the proxy's receive queue for as long as the proxy itself waits. That is the time of
// the proxy's reader if it does not read, no one's if the network is slow, and the proxy's own
// if nothing holds it up, or nothing did while it read late.
func TestLateReadsOfAProxy(t *testing.T) {
	for name, test := range map[string]struct {
		waited, unread uint64 // at the proxy's sender, and at its reader
		before         bool   // the proxy began to pass the message on after it had read it
		reader, rest   int64
	}{
		"its reader does not read":             {second, second, false, second, 0},
		"its reader does not read for a while": {second, second / 2, false, second / 2, second / 2},
		"the network is slow":                  {second, 0, false, 0, second},
		"nothing holds it up":                  {0, 0, false, 0, 0},
		"it was held up afterwards":            {second, second, true, 0, 0},
	} {
		for _, phase := range []breakdown.Phase{breakdown.Response, breakdown.Request} {
			t.Run(name+", "+string(phase), func(t *testing.T) {
				w := breakdowntest.New()
				outer := w.Hop(breakdowntest.Gateway, observe.Sidecar, breakdowntest.Page, observe.Sidecar)
				inner := w.Hop(breakdowntest.Page, observe.Sidecar, breakdowntest.Details, observe.Sidecar)
				passed := "gateway" // the reader's pod at the hop by which productpage passes the message on
				if phase == breakdown.Request {
					outer.RequestLate, passed = second, "details"
				} else {
					inner.ResponseLate = second
				}
				outer.Run(func() {
					inner.Run(func() { w.Spend(observe.Application, "details", 3_000_000) })
				})
				var passes tracecontext.SpanID
				for _, o := range w.All {
					if o.Socket != nil && o.Point.Workload.Service == passed {
						passes = o.Context.SpanID
					}
				}
				for i := range w.All {
					o := &w.All[i]
					if o.Socket == nil || o.Context.SpanID != passes || o.Point.Workload.Service != "productpage" || test.before {
						continue
					}
					if phase == breakdown.Request {
						o.Request.First -= second
					} else {
						o.Response.First -= second
					}
				}
				stall(w, passes, phase, test.waited, test.unread, test.unread, test.unread)
				tree := breakdown.Split(w.All, nil)
				checkSums(t, tree)
				var unattributed int64
				for _, h := range tree.Hops {
					unattributed += h.Unattributed
				}
				if got := stalled(tree); got < test.reader-unknownPart || got > test.reader+unknownPart {
					t.Errorf("%d ns of the reader, want %d", got, test.reader)
				}
				if unattributed < test.rest-unknownPart || unattributed > test.rest+unknownPart {
					t.Errorf("%d ns unattributed, want %d", unattributed, test.rest)
				}
			})
		}
	}
}

// A child that ran within the reading of the request is not on the critical path, and
// one that began there shares no moment with its parent.
func TestChildDuringTheRequest(t *testing.T) {
	for _, late := range []uint64{40_000, 90_000} {
		w := breakdowntest.New()
		begin := w.Now
		w.Hop(breakdowntest.Page, observe.AppProcess, breakdowntest.Page, observe.Sidecar).Run(func() {
			w.Hop(breakdowntest.Page, observe.Sidecar, breakdowntest.Details, observe.Sidecar).Run(func() {
				w.Spend(observe.Application, "details", 400_000)
			})
		})
		for i := range w.All {
			// The proxy read the end of the request only after it began the child.
			if o := &w.All[i]; o.Socket != nil && !o.Socket.Client && o.Point.Process == observe.Sidecar && o.Point.Workload.Service == "productpage" {
				o.Request.App.Last += late
			}
		}
		tree := breakdown.Split(w.All, nil)
		checkSums(t, tree)
		if total := tree.Roots[0].Total; total != int64(w.Now-begin) {
			t.Errorf("total %d ns, want %d", total, w.Now-begin)
		}
		for _, h := range tree.Hops {
			if h.Unattributed != 0 {
				t.Errorf("read %d ns after the child began: %d ns unattributed", late, h.Unattributed)
			}
		}
	}
}

// At interfaces a note says that slow writing and slow reading look the same.
func TestSpreadAtInterfaces(t *testing.T) {
	for _, sockets := range []bool{false, true} {
		w := breakdowntest.New()
		if !sockets {
			w.Drop = func(o *observe.Observation) bool { return o.Socket != nil }
		}
		h := w.Hop(breakdowntest.Gateway, observe.Sidecar, breakdowntest.Page, observe.Sidecar)
		h.Run(func() { w.Spend(observe.Application, "productpage", second) })
		for i := range w.All {
			w.All[i].Response.First -= second / 2
		}
		notes := strings.Join(breakdown.Split(w.All, nil).Roots[0].Notes, "; ")
		if said := strings.Contains(notes, "between the first and the last byte of the response: 500ms"); said == sockets {
			t.Errorf("sockets %v: notes %q", sockets, notes)
		}
	}
}
