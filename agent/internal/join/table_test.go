// SPDX-License-Identifier: Apache-2.0

package join

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"net/netip"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/layertrace/layertrace/internal/observe"
	"github.com/layertrace/layertrace/internal/tracecontext"
)

// world is an exchange as two agents and a device see it, with true times: the client's node
// at 0 and 100, the server's at 40 and 60, the device's interfaces in between, in µs.
type world struct {
	id                []byte
	request, response uint32 // sequence numbers
	trace             byte
	at                uint64 // ns
	nat64             bool   // the device translates IPv6 into IPv4 (RFC 7915)
}

const micro = 1000

func (w *world) exchange(node string, direction observe.Direction) *observe.Observation {
	o := &observe.Observation{
		Key:       observe.Key{Client: netip.MustParseAddrPort("10.0.0.1:40000"), Server: netip.MustParseAddrPort("10.0.0.2:9080")},
		Point:     &observe.Point{ID: node + "/2", Kind: observe.KindPNIC, Node: node, Interface: "eth0"},
		Direction: direction, ConnectionID: w.id, OptionTime: 77, Status: 200, Method: "GET", Path: "/",
		Request:  observe.Message{Bytes: 300, Packets: 1, Seq: w.request},
		Response: observe.Message{Bytes: 2000, Packets: 2, Seq: w.response},
	}
	o.Context.TraceID, o.Context.SpanID = tracecontext.TraceID{w.trace}, tracecontext.SpanID{w.trace, 1}
	times := [2]uint64{0, 100}
	if direction == observe.DirectionIngress {
		times = [2]uint64{40, 60}
	}
	// Each node has a clock of its own.
	clock := uint64(1e9)
	if node == "node3" {
		clock = 5e12
	}
	o.Request.First, o.Response.First = w.at+clock+times[0]*micro, w.at+clock+times[1]*micro
	o.Request.Last, o.Response.Last = o.Request.First, o.Response.First
	return o
}

func (w *world) client() *observe.Observation {
	return w.exchange("node2", observe.DirectionEgress)
}
func (w *world) server() *observe.Observation {
	return w.exchange("node3", observe.DirectionIngress)
}

// sighting returns what the device sees: the request or the response, at the interface on the
// client's or the server's side.
func (w *world) sighting(request, clientSide bool) *observe.Sighting {
	s := &observe.Sighting{
		Point:  &observe.Point{ID: "router1/3", Kind: observe.KindDevice, Node: "router1", Interface: "a"},
		Source: netip.MustParseAddrPort("10.0.0.1:40000"), Destination: netip.MustParseAddrPort("10.0.0.2:9080"),
		ConnectionID: w.id, OptionTime: 77, Start: w.request, End: w.request + 300, Packets: 1, TTL: 63, Wall: 1e18,
		Direction: observe.DirectionIngress,
	}
	at := uint64(10)
	if !clientSide {
		s.Point = &observe.Point{ID: "router1/4", Kind: observe.KindDevice, Node: "router1", Interface: "b"}
		at = 20
		// The device translates the client's address, and the service's.
		s.Source = netip.MustParseAddrPort("10.9.9.9:50000")
	} else {
		s.Destination = netip.MustParseAddrPort("10.96.0.1:80")
	}
	if w.nat64 && clientSide {
		s.Source, s.Destination = netip.MustParseAddrPort("[fd00::1]:40000"), netip.MustParseAddrPort("[64:ff9b::a00:2]:9080")
	}
	if !request {
		s.Source, s.Destination = s.Destination, s.Source
		s.Start, s.End, s.OptionTime = w.response, w.response+2000, 99
		at = 100 - at
	}
	if request != clientSide {
		s.Direction = observe.DirectionEgress
	}
	s.First = w.at + 7e14 + at*micro
	s.Last = s.First
	return s
}

func (w *world) sightings() (all []*observe.Sighting) {
	for _, request := range []bool{true, false} {
		for _, clientSide := range []bool{true, false} {
			all = append(all, w.sighting(request, clientSide))
		}
	}
	return all
}

func newWorld(n int) *world {
	return &world{id: []byte{1, 2, 3, 4, 5, 6, 7, byte(n)}, request: 0xfffffff0, response: uint32(n) * 1e6, trace: byte(n + 1), at: uint64(n) * 1e6}
}

// testTable is a table with the spans that it made.
type testTable struct {
	*Table
	spans []observe.Observation
}

var start = time.Unix(1000, 0)

func newTestTable(change ...func(*TableOptions)) *testTable {
	t := &testTable{}
	opts := TableOptions{
		Wait: 10 * time.Second, SightingWait: 20 * time.Second, MaxExchanges: 100, MaxSightings: 100,
		Done: func(o *observe.Observation) { t.spans = append(t.spans, *o) },
	}
	for _, c := range change {
		c(&opts)
	}
	t.Table = NewTable(opts)
	return t
}

// outcomes lets all time pass and returns the outcomes that occurred.
func (t *testTable) outcomes() map[Outcome]uint64 {
	t.Flush()
	counts, _, _, _, _ := t.Counts()
	maps.DeleteFunc(counts, func(_ Outcome, n uint64) bool { return n == 0 })
	return counts
}

func wantOutcomes(t *testing.T, table *testTable, want map[Outcome]uint64, spans int) {
	t.Helper()
	if diff := cmp.Diff(want, table.outcomes()); diff != "" {
		t.Errorf("outcomes: %s", diff)
	}
	if len(table.spans) != spans {
		t.Errorf("%d spans, want %d: %+v", len(table.spans), spans, table.spans)
	}
}

// TestJoin: one span for each interface of the device, in the trace of the exchange, with the
// device's times, through address translation, also of IPv6 into IPv4, in whatever order
// everything comes.
func TestJoin(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 2))
	for i := range 200 {
		table := newTestTable()
		w := newWorld(3)
		w.nat64 = i%2 == 1
		var add []func()
		for _, o := range []*observe.Observation{w.client(), w.server()} {
			add = append(add, func() { table.AddExchange(o, start) })
		}
		for _, s := range w.sightings() {
			add = append(add, func() { table.AddSighting(s, start) })
		}
		rng.Shuffle(len(add), func(i, j int) { add[i], add[j] = add[j], add[i] })
		for _, f := range add {
			f()
		}
		table.Tick(start.Add(9 * time.Second))
		if len(table.spans) != 0 {
			t.Fatal("spans before the exchange has waited")
		}
		table.Tick(start.Add(10 * time.Second))
		if len(table.spans) != 2 {
			t.Fatalf("%d spans, want 2: one for each interface", len(table.spans))
		}
		for i, o := range table.spans {
			request, response := w.sighting(true, i == 0), w.sighting(false, i == 0)
			direction := request.Direction
			if o.Point.ID != request.Point.ID || o.Direction != direction || o.Context != w.client().Context ||
				o.Client != request.Source || o.Server != request.Destination || o.Client != response.Destination ||
				o.Request.Last != request.Last || o.Response.Last != response.Last ||
				o.Request.Bytes != 300 || o.Response.Bytes != 2000 || o.Request.Seq != w.request || o.Response.Seq != w.response {
				t.Errorf("span %d: %+v", i, o)
			}
		}
		wantOutcomes(t, table, map[Outcome]uint64{Joined: 4}, 2)
	}
}

// TestNeverWrong: whatever is late, missing, doubled, cut or forged gets no span, no wrong one,
// and is counted.
func TestNeverWrong(t *testing.T) {
	for _, test := range []struct {
		name   string
		change func(table *testTable, w *world, seen []*observe.Sighting) []*observe.Sighting
		want   map[Outcome]uint64
		spans  int
	}{
		{"the response at one interface is missing", func(_ *testTable, _ *world, s []*observe.Sighting) []*observe.Sighting {
			return s[:3]
		}, map[Outcome]uint64{Joined: 3}, 2},
		{"the response at one interface is missing, although it passes", func(_ *testTable, _ *world, s []*observe.Sighting) []*observe.Sighting {
			for i := range s {
				s[i].Flags |= observe.SightingBothWays
			}
			return s[:3]
		}, map[Outcome]uint64{Joined: 2, Unpaired: 1}, 1},
		{"the response at one interface is missing, and the device began to watch again", func(_ *testTable, _ *world, s []*observe.Sighting) []*observe.Sighting {
			later := *s[1]
			later.ConnectionID = []byte{9, 9, 9, 9, 9, 9, 9, 9}
			later.First, later.Last, later.Watched = s[1].First+500*micro, s[1].Last+500*micro, 200*micro
			return append(s[:3:3], &later)
		}, map[Outcome]uint64{Joined: 2, Unpaired: 1, Unmatched: 1}, 1},
		{"the response at one interface is missing, and the device began to watch before", func(_ *testTable, _ *world, s []*observe.Sighting) []*observe.Sighting {
			later := *s[1]
			later.ConnectionID = []byte{9, 9, 9, 9, 9, 9, 9, 9}
			later.First, later.Last, later.Watched = s[1].First+500*micro, s[1].Last+500*micro, 600*micro
			return append(s[:3:3], &later)
		}, map[Outcome]uint64{Joined: 3, Unmatched: 1}, 2},
		{"the request at one interface is missing, although it passes", func(_ *testTable, _ *world, s []*observe.Sighting) []*observe.Sighting {
			s[2].Flags |= observe.SightingBothWays
			return s[1:]
		}, map[Outcome]uint64{Joined: 2, Unpaired: 1}, 1},
		{"the device began to watch after the request", func(_ *testTable, _ *world, s []*observe.Sighting) []*observe.Sighting {
			s[2].Watched = 100 * micro
			return s[1:]
		}, map[Outcome]uint64{Joined: 2, Unpaired: 1}, 1},
		{"the device began to watch long before the request, which took another way", func(_ *testTable, _ *world, s []*observe.Sighting) []*observe.Sighting {
			s[2].Watched = 300 * micro
			return s[1:]
		}, map[Outcome]uint64{Joined: 3}, 2},
		{"no response, on a connection that passes both ways", func(table *testTable, w *world, s []*observe.Sighting) []*observe.Sighting {
			o := w.client()
			o.Response = observe.Message{}
			table.exchanges, table.responses, table.waiting = map[messageKey]*exchange{}, map[messageKey]*exchange{}, nil
			table.AddExchange(o, start)
			s[0].Flags |= observe.SightingBothWays
			return s[:2]
		}, map[Outcome]uint64{Joined: 2}, 2},
		{"a node in between that is nearer to the server", func(table *testTable, w *world, s []*observe.Sighting) []*observe.Sighting {
			for _, direction := range []observe.Direction{observe.DirectionIngress, observe.DirectionEgress} {
				o := w.exchange("node3", direction) // its clock
				o.Point = &observe.Point{ID: "node9/2", Kind: observe.KindPNIC, Node: "node9"}
				o.Request.Last, o.Response.Last = o.Request.Last+5*micro, o.Response.Last+5*micro
				if direction == observe.DirectionEgress {
					o.Request.Last, o.Response.Last = o.Request.Last+45*micro, o.Response.Last-45*micro
				}
				table.AddExchange(o, start)
			}
			return s
		}, map[Outcome]uint64{Joined: 4}, 2},
		{"sent twice", func(_ *testTable, w *world, s []*observe.Sighting) []*observe.Sighting {
			return append(s, w.sightings()...)
		}, map[Outcome]uint64{Joined: 4, Doubled: 4}, 2},
		{"one forged beside the true one", func(_ *testTable, w *world, s []*observe.Sighting) []*observe.Sighting {
			forged := w.sighting(true, true)
			forged.First, forged.Last = forged.First+micro, forged.Last+micro
			return append(s, forged)
		}, map[Outcome]uint64{Joined: 2, Unpaired: 1, Conflicting: 2}, 1},
		{"a forged one first", func(_ *testTable, w *world, s []*observe.Sighting) []*observe.Sighting {
			forged := w.sighting(true, true)
			forged.End++
			return append([]*observe.Sighting{forged}, s...)
		}, map[Outcome]uint64{Joined: 2, Unpaired: 1, Conflicting: 2}, 1},
		{"another connection ID", func(_ *testTable, _ *world, s []*observe.Sighting) []*observe.Sighting {
			for i := range s {
				s[i].ConnectionID = []byte{9, 9, 9, 9, 9, 9, 9, 9}
			}
			return s
		}, map[Outcome]uint64{Unmatched: 4}, 0},
		{"the paper's layout with the same first bytes", func(_ *testTable, _ *world, s []*observe.Sighting) []*observe.Sighting {
			for i := range s {
				s[i].ConnectionID = s[i].ConnectionID[:4]
			}
			return s
		}, map[Outcome]uint64{Unmatched: 4}, 0},
		{"another first byte", func(_ *testTable, _ *world, s []*observe.Sighting) []*observe.Sighting {
			s[0].Start++
			return s
		}, map[Outcome]uint64{Joined: 3, Unmatched: 1}, 2},
		{"another last byte", func(_ *testTable, _ *world, s []*observe.Sighting) []*observe.Sighting {
			s[0].End++
			s[1].End--
			return s
		}, map[Outcome]uint64{Unpaired: 2, Partial: 2}, 0},
		{"another time in the option", func(_ *testTable, _ *world, s []*observe.Sighting) []*observe.Sighting {
			s[0].OptionTime++
			return s
		}, map[Outcome]uint64{Joined: 2, Unpaired: 1, Contradicting: 1}, 1},
		{"bytes that did not pass", func(_ *testTable, _ *world, s []*observe.Sighting) []*observe.Sighting {
			s[0].Flags |= observe.SightingIncomplete
			return s
		}, map[Outcome]uint64{Joined: 2, Unpaired: 1, Incomplete: 1}, 1},
		{"a response from somebody else", func(_ *testTable, _ *world, s []*observe.Sighting) []*observe.Sighting {
			s[2].Source = netip.MustParseAddrPort("10.0.0.66:9080")
			return s
		}, map[Outcome]uint64{Joined: 2, Contradicting: 2}, 1},
		{"longer at the device than the client waited", func(_ *testTable, _ *world, s []*observe.Sighting) []*observe.Sighting {
			s[2].First, s[2].Last = s[2].First+1e6, s[2].Last+1e6
			return s
		}, map[Outcome]uint64{Joined: 2, Contradicting: 2}, 1},
		{"a response before the request", func(_ *testTable, _ *world, s []*observe.Sighting) []*observe.Sighting {
			s[2].First, s[2].Last = 1, 1
			return s
		}, map[Outcome]uint64{Joined: 2, Contradicting: 2}, 1},
		{"late", func(table *testTable, _ *world, s []*observe.Sighting) []*observe.Sighting {
			table.Tick(start.Add(11 * time.Second))
			return s
		}, map[Outcome]uint64{Late: 4}, 0},
		{"two agents claim the message", func(table *testTable, w *world, s []*observe.Sighting) []*observe.Sighting {
			other := w.client()
			other.Context.TraceID[0]++
			table.AddExchange(other, start)
			return s
		}, map[Outcome]uint64{Ambiguous: 4}, 0},
		{"two agents saw other lengths", func(table *testTable, w *world, s []*observe.Sighting) []*observe.Sighting {
			other := w.server()
			other.Point = &observe.Point{ID: "node3/9", Kind: observe.KindVNIC, Node: "node3"}
			other.Request.Bytes++
			table.AddExchange(other, start)
			return s
		}, map[Outcome]uint64{Unpaired: 2, Partial: 2}, 0},
		{"the request as two runs", func(_ *testTable, w *world, s []*observe.Sighting) []*observe.Sighting {
			second := w.sighting(true, true)
			second.Start, second.OptionTime, second.First, second.Last = s[0].Start+100, 80, second.First+5, second.Last+5
			s[0].End = second.Start
			return append([]*observe.Sighting{second}, s...)
		}, map[Outcome]uint64{Joined: 5}, 2},
		{"the second run is of another interface", func(_ *testTable, w *world, s []*observe.Sighting) []*observe.Sighting {
			second := w.sighting(true, true)
			second.Start, second.Point = s[0].Start+100, &observe.Point{ID: "router9/1", Kind: observe.KindDevice, Node: "router9"}
			s[0].End = second.Start
			return append(s, second)
		}, map[Outcome]uint64{Joined: 2, Unpaired: 1, Partial: 1, Unmatched: 1}, 1},
	} {
		t.Run(test.name, func(t *testing.T) {
			table, w := newTestTable(), newWorld(3)
			table.AddExchange(w.client(), start)
			table.AddExchange(w.server(), start)
			for _, s := range test.change(table, w, w.sightings()) {
				table.AddSighting(s, start.Add(12*time.Second))
			}
			wantOutcomes(t, table, test.want, test.spans)
			for _, o := range table.spans {
				if o.Context != w.client().Context {
					t.Errorf("a span in trace %v", o.Context.TraceID)
				}
			}
		})
	}
}

// TestPreliminary: what cannot be joined is refused: without an ID, without sequence numbers,
// or before the end.
func TestPreliminary(t *testing.T) {
	table := newTestTable()
	for name, change := range map[string]func(*observe.Observation){
		"no ID":       func(o *observe.Observation) { o.ConnectionID = nil },
		"no sequence": func(o *observe.Observation) { o.Request.Seq = 0 },
		"open":        func(o *observe.Observation) { o.Flags = observe.FlagStillOpen },
		"a device":    func(o *observe.Observation) { o.Point.Kind = observe.KindDevice },
	} {
		o := newWorld(1).client()
		change(o)
		if table.AddExchange(o, start) {
			t.Errorf("%s: accepted", name)
		}
	}
}

// TestBounds: the table keeps what it may keep, joins early or forgets the oldest, and counts
// both.
func TestBounds(t *testing.T) {
	table := newTestTable(func(o *TableOptions) { o.MaxExchanges, o.MaxSightings = 3, 8 })
	for n := range 10 {
		w := newWorld(n)
		for _, s := range w.sightings() {
			table.AddSighting(s, start)
		}
		table.AddExchange(w.client(), start)
		if len(table.waiting)+len(table.done) > 3 || len(table.seen) > 8 || len(table.sightings) > 8 {
			t.Fatalf("%d exchanges, %d sightings", len(table.waiting)+len(table.done), len(table.seen))
		}
	}
	got := table.outcomes()
	_, spans, evicted, _, _ := table.Counts()
	if total := got[Joined] + got[Evicted]; total != 40 || spans*2 != got[Joined] || evicted == 0 {
		t.Errorf("%v, %d spans, %d exchanges early; want each of 40 sightings joined or evicted, two for each span", got, spans, evicted)
	}
	table.Tick(start.Add(time.Hour))
	if len(table.exchanges)+len(table.responses)+len(table.sightings) != 0 {
		t.Errorf("%d, %d and %d are kept for ever", len(table.exchanges), len(table.responses), len(table.sightings))
	}
}

// TestManyPlaces: a message has a limited number of places, and what is beyond is counted.
func TestManyPlaces(t *testing.T) {
	table := newTestTable(func(o *TableOptions) { o.MaxSightings = 10_000 })
	w := newWorld(3)
	for n := range maxPlaces + 10 {
		s := w.sighting(true, true)
		s.Point = &observe.Point{ID: fmt.Sprint("forged/", n), Kind: observe.KindDevice}
		table.AddSighting(s, start)
	}
	wantOutcomes(t, table, map[Outcome]uint64{Unmatched: maxPlaces, Evicted: 10}, 0)
}

// TestRandomJoins: many exchanges on few connections, with sightings lost, doubled, changed and
// late: every span is of an exchange that passed with these bytes, and in both ways if it did;
// each sighting has one outcome.
func TestRandomJoins(t *testing.T) {
	for seed := range uint64(50) {
		rng := rand.New(rand.NewPCG(seed, 3))
		table := newTestTable(func(o *TableOptions) { o.MaxExchanges, o.MaxSightings = 10_000, 10_000 })
		type truth struct {
			context  observe.Context
			from, to uint64
			oneWay   bool
		}
		passed := map[string]truth{} // by place and request
		now, sent := start, uint64(0)
		for n := range 200 {
			w := newWorld(n % 250)
			w.id = []byte{1, 2, 3, byte(n % 5)}
			w.request, w.response = uint32(n+1)*1000, uint32(n+1)*5000
			w.trace = byte(n)
			now = now.Add(time.Duration(rng.IntN(3000)) * time.Millisecond)
			table.Tick(now)
			if rng.IntN(10) > 0 {
				table.AddExchange(w.client(), now)
			}
			if rng.IntN(10) > 0 {
				table.AddExchange(w.server(), now)
			}
			oneWay := rng.IntN(5) == 0
			for _, clientSide := range []bool{true, false} {
				q, r := w.sighting(true, clientSide), w.sighting(false, clientSide)
				passed[fmt.Sprintf("%s %d %x", q.Point.ID, w.request, w.id)] = truth{w.client().Context, q.Last, r.Last, oneWay}
				both := []*observe.Sighting{q, r}
				if oneWay {
					both = both[:1]
				}
				for _, s := range both {
					if !oneWay {
						s.Flags |= observe.SightingBothWays
					}
					switch rng.IntN(12) {
					case 0:
						continue
					case 1:
						s.Start += uint32(rng.IntN(3))
					case 2:
						s.End -= uint32(rng.IntN(3))
					case 3:
						s.ConnectionID = []byte{1, 2, 3, byte(rng.IntN(5))}
					case 4:
						copied := *s
						copied.First += uint64(rng.IntN(2))
						table.AddSighting(&copied, now)
						sent++
					}
					table.AddSighting(s, now.Add(time.Duration(rng.IntN(2))*11*time.Second))
					sent++
				}
			}
		}
		counts, total := table.outcomes(), uint64(0)
		for _, n := range counts {
			total += n
		}
		if total != sent {
			t.Errorf("seed %d: %d outcomes of %d sightings: %v", seed, total, sent, counts)
		}
		if len(table.spans) == 0 {
			t.Fatalf("seed %d: no spans", seed)
		}
		for _, o := range table.spans {
			want, ok := passed[fmt.Sprintf("%s %d %x", o.Point.ID, o.Request.Seq, o.ConnectionID)]
			if !ok || want.context != o.Context || want.oneWay != (o.Response.Last == 0 || o.Request.Last == 0) || o.Request.Last != 0 && o.Request.Last != want.from || o.Response.Last != 0 && o.Response.Last != want.to {
				t.Errorf("seed %d: a wrong span: %+v", seed, o)
			}
		}
	}
}
