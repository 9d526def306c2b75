// SPDX-License-Identifier: Apache-2.0

package watch

import (
	"cmp"
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/layertrace/layertrace/agent/internal/breakdown"
	"github.com/layertrace/layertrace/internal/observe"
	"github.com/layertrace/layertrace/internal/tracecontext"
)

const ms = uint64(time.Millisecond)

// began is the wall time of the monotonic time start, from which times in tests count: 0 is
// no time.
var began = time.Date(2026, 11, 29, 12, 3, 4, 0, time.UTC)

const start = 1000 * ms

func wall(monotonic uint64) time.Time { return began.Add(time.Duration(monotonic - start)) }

// machine is what was seen of one trace on one machine.
type machine struct{ all []observe.Observation }

// see adds what a socket saw. Times are in ms; the last one is that of the next waypoint.
func (m *machine) see(service, client, server string, isClient bool, span byte, times [4]uint64) *observe.Observation {
	o := observe.Observation{
		Point: &observe.Point{
			ID: observe.SocketPointID("box", 1, service), Kind: observe.KindSocket, Node: "box", Process: observe.AppProcess,
			Workload: observe.Workload{Service: service},
		},
		Socket: &observe.Socket{Netns: 1, Client: isClient}, Method: "GET", Path: "/slow", Status: 200,
		Key: observe.Key{Client: netip.MustParseAddrPort(client), Server: netip.MustParseAddrPort(server)},
	}
	o.Context.TraceID, o.Context.SpanID, o.Context.Format = tracecontext.TraceID{1}, tracecontext.SpanID{span}, tracecontext.FormatW3C
	at := func(i int) observe.Extent {
		return observe.Extent{First: start + times[i]*ms, Last: start + times[i]*ms}
	}
	app, packets := [2]observe.Extent{at(1), at(2)}, [2]observe.Extent{at(0), at(3)}
	if isClient {
		app, packets = packets, app
	}
	o.Request = observe.Message{First: packets[0].First, Last: packets[0].Last, App: app[0], Bytes: 100, Packets: 1}
	o.Response = observe.Message{First: packets[1].First, Last: packets[1].Last, App: app[1], Bytes: 100, Packets: 1}
	o.Wall = int64(o.Request.First)
	m.all = append(m.all, o)
	return &m.all[len(m.all)-1]
}

// hop adds a request between two services, of which the server's application takes all but 8 ms.
func (m *machine) hop(from, to, client, server string, begin, end uint64) {
	m.see(from, client, server, true, 1, [4]uint64{begin, begin + 1, end - 1, end})
	m.see(to, client, server, false, 1, [4]uint64{begin + 2, begin + 4, end - 4, end - 2})
}

// change changes all observations.
func (m *machine) change(f func(*observe.Observation)) *machine {
	for i := range m.all {
		f(&m.all[i])
	}
	return m
}

func (m *machine) requests(cut bool) []Request {
	return requestsOf(breakdown.Split(m.all, nil), cut, wall)
}

func withoutContext(o *observe.Observation) { o.Context.Format = tracecontext.FormatNone }

const (
	curlPort, nginxPort = "127.0.0.1:40000", "127.0.0.1:80"
	proxyPort, shopPort = "127.0.0.1:40001", "127.0.0.1:9000"
)

// chain is a request through a proxy: the application after it takes most of the time.
func chain() *machine {
	m := &machine{}
	m.hop("curl", "nginx", curlPort, nginxPort, 0, 200)
	m.hop("nginx", "shop", proxyPort, shopPort, 10, 190)
	return m
}

// A request has the layers of those that it waited for, and its own names.
func TestRequestsOfTrace(t *testing.T) {
	got := chain().requests(false)
	if len(got) != 2 {
		t.Fatalf("%d requests, want 2", len(got))
	}
	for i, want := range []struct {
		client, server string
		took           time.Duration
		at             uint64
	}{{"curl", "nginx", 200 * time.Millisecond, 0}, {"nginx", "shop", 180 * time.Millisecond, 10 * ms}} {
		r := got[i]
		if r.Client != want.client || r.Server != want.server || r.Duration != want.took || !r.Time.Equal(wall(start+want.at)) {
			t.Errorf("request %d: %+v, want %+v", i, r, want)
		}
		if r.Method != "GET" || r.Path != "/slow" || r.Status != 200 || r.TraceID != "01000000000000000000000000000000" || r.Marks != 0 || r.NotKnown != "" {
			t.Errorf("request %d: %+v", i, r)
		}
		l := r.Layers[0]
		if l.Title() != "application" || l.Location != "shop" || l.Time != 172*time.Millisecond || l.Share != float64(172)/float64(want.took.Milliseconds()) {
			t.Errorf("request %d: layer %+v", i, l)
		}
	}
}

// Without a context each request is by itself, and its application's time is marked.
func TestRequestsWithoutContext(t *testing.T) {
	got := (&machine{}).chainless().requests(false)
	if len(got) != 1 {
		t.Fatalf("%d requests, want 1", len(got))
	}
	if r := got[0]; r.TraceID != "" || r.Marks != MarkNoContext || r.Layers[0].Location != "nginx" || r.Layers[0].Title() != "application" {
		t.Errorf("%+v", r)
	}
	// Time outside of the application is not marked.
	m := &machine{}
	m.see("curl", curlPort, nginxPort, true, 1, [4]uint64{0, 1, 199, 200})
	m.see("nginx", curlPort, nginxPort, false, 1, [4]uint64{2, 180, 184, 188})
	if r := m.change(withoutContext).requests(false)[0]; r.Marks != 0 || r.Layers[0].Title() != "protocol stack" || r.Layers[0].Location != "nginx" {
		t.Errorf("%+v", r)
	}
}

func (m *machine) chainless() *machine {
	m.hop("curl", "nginx", curlPort, nginxPort, 0, 200)
	return m.change(withoutContext)
}

// What is not known has a reason, and what is doubtful a mark.
func TestNotKnownAndMarks(t *testing.T) {
	for name, c := range map[string]struct {
		change   func(*observe.Observation)
		cut      bool
		notKnown string
		marks    Marks
		took     time.Duration
	}{
		"no response": {func(o *observe.Observation) {
			o.Response, o.Status, o.Flags = observe.Message{}, 0, observe.FlagNoResponse|observe.FlagIdle
		}, false, "no response was seen", MarkCut, 0},
		"reset": {func(o *observe.Observation) {
			o.Response, o.Status, o.Flags = observe.Message{}, 0, observe.FlagNoResponse|observe.FlagReset
		}, false, "the connection was reset", 0, 0},
		"before its end":  {func(o *observe.Observation) { o.Flags = observe.FlagIdle }, false, "its end was not seen", MarkCut, 200 * time.Millisecond},
		"evicted":         {func(o *observe.Observation) { o.Flags = observe.FlagEvicted }, false, "its end was not seen", MarkCut, 200 * time.Millisecond},
		"incomplete":      {func(o *observe.Observation) { o.Flags = observe.FlagIncomplete }, false, "", MarkCut, 200 * time.Millisecond},
		"reset, answered": {func(o *observe.Observation) { o.Flags = observe.FlagReset }, false, "", MarkCut, 200 * time.Millisecond},
		"end guessed":     {func(o *observe.Observation) { o.Flags = observe.FlagEndGuessed }, false, "", MarkGuessed, 200 * time.Millisecond},
		"left out":        {func(*observe.Observation) {}, true, "parts of its trace were left out", MarkCut, 200 * time.Millisecond},
	} {
		t.Run(name, func(t *testing.T) {
			m := &machine{}
			m.hop("curl", "nginx", curlPort, nginxPort, 0, 200)
			r := m.change(c.change).requests(c.cut)[0]
			if r.NotKnown != c.notKnown || r.Marks != c.marks || r.Duration != c.took {
				t.Errorf("not known %q, marks %q, %v, want %q, %q, %v", r.NotKnown, r.Marks, r.Duration, c.notKnown, c.marks, c.took)
			}
			if (len(r.Layers) > 0) != (c.notKnown == "") {
				t.Errorf("layers %+v", r.Layers)
			}
		})
	}
}

// A peer elsewhere has its address, and what this machine does not see is said to be there, but
// only if the capture points separate it from this machine's own layers.
func TestBeyondThisMachine(t *testing.T) {
	const client, server = "10.0.0.1:40000", "192.0.2.7:80"
	atDriver := func(o *observe.Observation) {
		o.Request.Tx = observe.Extent{First: o.Request.First, Last: o.Request.Last}
	}
	for name, c := range map[string]struct {
		atInterface func(*observe.Observation) // nil: no interface
		title       string
		took        time.Duration
		marks       Marks
	}{
		"at the driver":           {atDriver, "beyond this machine", 196 * time.Millisecond, 0},
		"without the driver":      {func(*observe.Observation) {}, "node driver+relay network+virtual network+protocol stack+application", 196 * time.Millisecond, MarkGuessed | MarkNoContext},
		"without the interface":   {nil, "protocol stack+virtual network+node driver+relay network+application", 198 * time.Millisecond, MarkGuessed | MarkNoContext},
		"response not seen there": {func(o *observe.Observation) { atDriver(o); o.Response = observe.Message{} }, "relay network+virtual network+protocol stack+application+node driver", 197 * time.Millisecond, MarkGuessed | MarkNoContext},
	} {
		t.Run(name, func(t *testing.T) {
			m := &machine{}
			m.see("curl", client, server, true, 1, [4]uint64{0, 1, 199, 200})
			if c.atInterface != nil {
				out := m.see("", client, server, false, 1, [4]uint64{2, 2, 198, 198})
				out.Point, out.Socket, out.Direction = &observe.Point{ID: "box/2", Kind: observe.KindPNIC, Node: "box", Interface: "eth0"}, nil, observe.DirectionEgress
				out.Request.App, out.Response.App = observe.Extent{}, observe.Extent{}
				c.atInterface(out)
			}
			r := m.change(withoutContext).requests(false)[0]
			if r.Client != "curl" || r.Server != server || r.Marks != c.marks {
				t.Errorf("%+v, want marks %q", r, c.marks)
			}
			if l := r.Layers[0]; l.Title() != c.title || l.Location != "" || l.Time != c.took {
				t.Errorf("layer %s %+v, want %s, %v", l.Title(), l, c.title, c.took)
			}
		})
	}
}

// A request that the trace did not wait for has the layers of those that it waited for.
func TestOtherRequestsOfTrace(t *testing.T) {
	const parallelPort, deepPort = "127.0.0.1:40002", "127.0.0.1:40003"
	m := chain()
	m.hop("nginx", "stock", parallelPort, "127.0.0.1:9001", 12, 170) // the trace waits for shop
	m.hop("stock", "store", deepPort, "127.0.0.1:9002", 20, 160)
	m.hop("job", "api", "127.0.0.1:40004", "127.0.0.1:9003", 300, 400) // another root
	m.hop("api", "ledger", "127.0.0.1:40005", "127.0.0.1:9004", 305, 395)
	want := map[string]string{"curl": "shop", "nginx→shop": "shop", "nginx→stock": "store", "stock": "store", "job": "ledger", "api": "ledger"}
	got := m.requests(false)
	if len(got) != len(want) {
		t.Fatalf("%d requests, want %d", len(got), len(want))
	}
	for _, r := range got {
		service := cmp.Or(want[r.Client], want[r.Client+"→"+r.Server])
		if r.NotKnown != "" || r.Layers[0].Title() != "application" || r.Layers[0].Location != service {
			t.Errorf("%s to %s: not known %q, layers %+v, want the application of %s", r.Client, r.Server, r.NotKnown, r.Layers, service)
		}
	}
}

// Names and paths of others cannot control the terminal.
func TestPrintable(t *testing.T) {
	m := (&machine{}).chainless().change(func(o *observe.Observation) {
		o.Path = "/\x1b[2J\n"
		p := *o.Point
		p.Workload.Service += "\x1b]0;x"
		o.Point = &p
	})
	r := m.requests(false)[0]
	for _, text := range []string{r.Client, r.Server, r.Path, r.Layers[0].Location} {
		if slices.ContainsFunc([]rune(text), func(c rune) bool { return c < ' ' }) {
			t.Errorf("%q", text)
		}
	}
}

// Times that contradict each other, or that no layer has, are not known.
func TestSums(t *testing.T) {
	app, stack := []observe.Layer{observe.Application}, []observe.Layer{observe.ProtocolStack}
	for name, c := range map[string]struct {
		app, stack int64
		notKnown   string
	}{
		"fits":           {60, 40, ""},
		"a rest":         {50, 20, ""},
		"mostly a rest":  {30, 20, "most of the time is in no layer"},
		"nothing":        {0, 0, "most of the time is in no layer"},
		"a little twice": {60, 44, ""},
		"twice":          {90, 40, "its times contradict each other"},
	} {
		t.Run(name, func(t *testing.T) {
			var s sums
			s.addTime(stack, "a", false, c.stack/2)
			s.addTime(app, "a", false, c.app)
			s.addTime(stack, "a", false, c.stack/2)
			all, notKnown := s.layers(100)
			if notKnown != c.notKnown {
				t.Fatalf("not known %q, want %q", notKnown, c.notKnown)
			}
			if notKnown == "" && (len(all) != 2 || all[0].Share != float64(c.app)/100 || all[1].Time != time.Duration(c.stack)) {
				t.Errorf("%+v", all)
			}
		})
	}
}
