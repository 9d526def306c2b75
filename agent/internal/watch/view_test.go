// SPDX-License-Identifier: Apache-2.0

package watch

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"

	"github.com/layertrace/layertrace/agent/internal/agent"
	"github.com/layertrace/layertrace/agent/internal/breakdown"
	"github.com/layertrace/layertrace/agent/internal/probe"
	"github.com/layertrace/layertrace/internal/observe"
	"github.com/layertrace/layertrace/internal/testkit"
)

// buffer is a bytes.Buffer for two goroutines.
type buffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (b *buffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.Write(p)
}

func (b *buffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.String()
}

func (b *buffer) lines() int { return strings.Count(b.String(), "\n") }

// live is a view that runs until its agent ends, which is when it is stopped.
type live struct {
	*View
	t        *testing.T
	out, err buffer
	keys     chan byte
	stopped  chan struct{} // closed by Stop
	captured chan struct{}
	ended    chan error
	cancel   context.CancelFunc
}

func run(t *testing.T, opts Options) *live {
	t.Helper()
	l := &live{t: t, keys: make(chan byte), stopped: make(chan struct{}), captured: make(chan struct{}), ended: make(chan error, 1)}
	if opts.Out == nil {
		opts.Out = &l.out
	}
	opts.Err, opts.Keys, opts.Stop = &l.err, l.keys, func() { close(l.stopped) } // twice panics
	l.View = New(opts)
	ctx, cancel := context.WithCancel(t.Context())
	l.cancel = cancel
	go func() { l.ended <- l.Run(ctx, l.captured) }()
	return l
}

// end lets the agent end, and waits for the view.
func (l *live) end() error {
	l.t.Helper()
	<-l.stopped
	close(l.captured)
	return <-l.ended
}

// send sends n requests with a trace context to the view.
func (l *live) send(n int, m func() *machine) {
	for range n {
		l.Trace(breakdown.Split(m().all, nil), false, false, wall)
	}
}

var seconds = regexp.MustCompile(` in [0-9]+ s:`)

// wantSaid expects a remark, in which any number of seconds is N.
func (l *live) wantSaid(want string) {
	l.t.Helper()
	if got := seconds.ReplaceAllString(l.err.String(), " in N s:"); !strings.Contains(got, want) {
		l.t.Errorf("stderr is %q, want %q", got, want)
	}
}

func single() *machine {
	m := &machine{}
	m.hop("curl", "nginx", curlPort, nginxPort, 0, 200)
	return m
}

func (l *live) await(what string, condition func() bool) {
	l.t.Helper()
	testkit.Eventually(l.t, what, condition)
}

// families are metrics with values.
func families(values map[string]float64) (all []*dto.MetricFamily) {
	r := prometheus.NewRegistry()
	for name, v := range values {
		g := prometheus.NewGauge(prometheus.GaugeOpts{Name: name})
		g.Set(v)
		r.MustRegister(g)
	}
	all, _ = r.Gather()
	return all
}

// The user ends the view; what comes while the agent ends is shown, and all is summed up.
func TestView(t *testing.T) {
	for name, end := range map[string]func(*live){
		"signal": func(l *live) { l.cancel() },
		"q":      func(l *live) { l.keys <- 'q' },
		"ctrl-d": func(l *live) { l.keys <- 4 },
	} {
		t.Run(name, func(t *testing.T) {
			l := run(t, Options{Filter: mustFilter(t, FilterOptions{Services: []string{"nginx"}})})
			l.send(2, single)
			l.send(1, func() *machine { m := &machine{}; m.hop("a", "b", curlPort, nginxPort, 0, 9); return m })
			l.await("two lines", func() bool { return l.out.lines() == 2 })
			end(l)
			<-l.stopped
			l.send(1, single) // was open
			if err := l.end(); err != nil {
				t.Fatal(err)
			}
			if n := l.out.lines(); n != 3 {
				t.Errorf("%d lines, want 3:\n%s", n, l.out.String())
			}
			l.wantSaid("-- 4 requests in N s: 3 shown, 1 did not match the filters.\n")
		})
	}
}

func mustFilter(t *testing.T, o FilterOptions) Filter {
	t.Helper()
	f, err := NewFilter(o)
	if err != nil {
		t.Fatal(err)
	}
	return f
}

// --count and --for end the view.
func TestViewEnds(t *testing.T) {
	l := run(t, Options{Count: 2, JSON: true})
	l.send(5, single)
	if err := l.end(); err != nil || l.out.lines() != 2 || !strings.HasPrefix(l.out.String(), "{") {
		t.Errorf("%v, %q", err, l.out.String())
	}
	l.wantSaid("5 requests in N s: 2 shown, 3 came after --count was reached.")
	l = run(t, Options{For: time.Millisecond})
	l.Metrics(families(map[string]float64{readyMetric: 1}))
	if err := l.end(); err != nil {
		t.Error(err)
	}
}

// A pause shows nothing, keeps the latest requests, and counts the others.
func TestPause(t *testing.T) {
	l := run(t, Options{})
	l.send(1, single)
	l.await("a line", func() bool { return l.out.lines() == 1 })
	l.keys <- ' '
	l.send(maxPaused+3, single)
	l.await("all are taken", func() bool { return len(l.queue) == 0 })
	l.keys <- 'x' // means nothing, and is taken after them
	if n := l.out.lines(); n != 1 {
		t.Errorf("%d lines during a pause, want 1", n)
	}
	l.keys <- 'p'
	l.keys <- 'x'
	if n := l.out.lines(); n != 1+maxPaused {
		t.Errorf("%d lines after a pause, want %d", n, 1+maxPaused)
	}
	l.keys <- 'p'
	l.send(1, single)
	l.await("it is taken", func() bool { return len(l.queue) == 0 })
	l.keys <- 'q' // ends the pause, too
	if err := l.end(); err != nil || l.out.lines() != 2+maxPaused {
		t.Errorf("%v, %d lines at the end, want %d", err, l.out.lines(), 2+maxPaused)
	}
	l.wantSaid(fmt.Sprintf("%d requests in N s: %d shown, 3 were not shown, as too many came during a pause.", maxPaused+5, maxPaused+2))
}

// blocked is a writer that waits.
type blocked struct{ until chan struct{} }

func (b blocked) Write(p []byte) (int, error) { <-b.until; return len(p), nil }

// A terminal that is too slow makes nothing wait; what finds no room is counted.
func TestQueueFull(t *testing.T) {
	out := blocked{make(chan struct{})}
	l := run(t, Options{Out: out})
	tree := breakdown.Split(single().all, nil)
	for range maxQueued + 10 { // one may be taken
		l.Trace(tree, false, false, wall)
	}
	full := l.queueFull.Load()
	if full < 9 || full > 10 {
		t.Errorf("%d found no room, want 9 or 10", full)
	}
	l.cancel()
	close(out.until)
	if err := l.end(); err != nil {
		t.Fatal(err)
	}
	l.wantSaid(fmt.Sprintf("%d were not shown, as lines were written too slowly", full))
}

type broken struct{}

func (broken) Write([]byte) (int, error) { return 0, errors.New("broken") }

// A line that cannot be written ends the view with the error.
func TestBrokenOutput(t *testing.T) {
	l := run(t, Options{Out: broken{}})
	l.send(3, single)
	if err := l.end(); err == nil || err.Error() != "broken" {
		t.Errorf("%v, want the error of the output", err)
	}
	l.wantSaid("3 requests in N s: 0 shown, 3 could not be written.")
}

// The marks of a line are explained when they first appear, and a late part of a request gets
// no line of its own. Another request of the same trace does.
func TestMarksAndLateParts(t *testing.T) {
	l := run(t, Options{})
	request := func(begin uint64, change func(*observe.Observation)) *breakdown.Tree {
		m := &machine{}
		m.hop("curl", "nginx", curlPort, nginxPort, begin, begin+200)
		return breakdown.Split(m.change(change).all, nil)
	}
	traced := func(*observe.Observation) {}
	other := func(o *observe.Observation) { withoutContext(o); o.Context.TraceID[0] = 9 }
	late := func(tree *breakdown.Tree) *breakdown.Tree {
		h := tree.Hops[0]
		return breakdown.Split([]observe.Observation{*h.Sender}, nil)
	}
	l.Trace(request(0, other), false, false, wall)
	l.Trace(late(request(0, other)), false, true, wall)
	l.Trace(request(0, traced), false, false, wall)
	l.Trace(late(request(0, traced)), false, true, wall)
	l.Trace(request(300, traced), false, true, wall)
	l.await("three lines", func() bool { return l.out.lines() == 3 })
	if third := strings.Split(l.out.String(), "\n")[2]; !strings.Contains(third, " ms ? ") || strings.Count(l.out.String(), "?") != 1 {
		t.Errorf("only the third line may lack others of its trace:\n%s", l.out.String())
	}
	l.cancel()
	if err := l.end(); err != nil {
		t.Fatal(err)
	}
	if n := l.out.lines(); n != 3 {
		t.Errorf("%d lines, want 3:\n%s", n, l.out.String())
	}
	l.wantSaid("2 parts of requests came after their lines")
	if got := l.err.String(); strings.Count(got, "-- * no sampled trace context") != 1 {
		t.Errorf("stderr is %q", got)
	}
}

// The first remark says what is watched, the header names the columns, and then comes why
// nothing is shown.
func TestRemarks(t *testing.T) {
	l := run(t, Options{Header: true, Width: func() int { return 80 }})
	l.Metrics(families(map[string]float64{readyMetric: 1, pointsMetric: 2}))
	l.await("the header", func() bool { return strings.HasPrefix(l.out.String(), "TIME     CLIENT → SERVER") })
	if !strings.Contains(l.err.String(), "-- watching HTTP/1 requests at sockets and at 2 interfaces; space pauses, q ends\n") {
		t.Errorf("stderr is %q", l.err.String())
	}
	l.await("the reason", func() bool {
		return strings.Contains(l.err.String(), "-- Nothing to show: no HTTP/1 request has passed")
	})
	l.cancel()
	l.Metrics(families(map[string]float64{readyMetric: 0, pointsMetric: 2})) // of an agent that ends
	if err := l.end(); err != nil {
		t.Fatal(err)
	}
	l.wantSaid("-- 0 requests in N s: 0 shown.\n-- Nothing to show: no HTTP/1 request has passed")
}

// Why nothing is shown, by what the agent counts.
func TestWhyNothing(t *testing.T) {
	tls := func() []*dto.MetricFamily {
		r := prometheus.NewRegistry()
		c := prometheus.NewCounterVec(prometheus.CounterOpts{Name: "layertrace_connections_unreadable_total"}, []string{"kind"})
		c.WithLabelValues("tls").Add(3)
		c.WithLabelValues("http2").Add(1)
		r.MustRegister(c)
		all, err := r.Gather()
		if err != nil {
			t.Fatal(err)
		}
		return all
	}()
	ready := map[string]float64{readyMetric: 1}
	for name, c := range map[string]struct {
		families   []*dto.MetricFamily
		notMatched uint64
		want       []string
	}{
		"not ready":   {families(nil), 0, []string{"Not capturing yet: "}},
		"no traffic":  {families(ready), 0, []string{"no HTTP/1 request has passed", "curl http://"}},
		"not matched": {families(map[string]float64{readyMetric: 1, requestsMetric: 30}), 10, []string{"10 requests were seen, but do not match the filters"}},
		"open":        {families(map[string]float64{readyMetric: 1, requestsMetric: 3, startedMetric: 3}), 0, []string{"has no complete response so far"}},
		"not whole":   {families(map[string]float64{readyMetric: 1, requestsMetric: 3, startedMetric: 3, emittedMetric: 3}), 0, []string{"none is complete"}},
		"unread":      {append(families(ready), tls...), 0, []string{"3 connections with TLS: encrypted", "1 connection with HTTP/2: HTTP/2 and gRPC are not read"}},
		"lost":        {families(map[string]float64{readyMetric: 1, "layertrace_exchanges_ring_full_total": 2}), 0, []string{"2 exchanges lost, as the ring buffer was full"}},
	} {
		t.Run(name, func(t *testing.T) {
			s := sightsOf(c.families)
			got := s.whyNothing(c.notMatched)
			for _, want := range c.want {
				if !strings.Contains(got, want) {
					t.Errorf("%q lacks %q", got, want)
				}
			}
		})
	}
}

// The summary has all that was seen and lost.
func TestSummary(t *testing.T) {
	c := counts{notMatched: 2, queueFull: 3, pauseFull: 4, afterCount: 5, late: 1}
	one, unknown := testRequest(), testRequest()
	unknown.Layers, unknown.NotKnown = nil, "no response was seen"
	c.note(&one)
	c.note(&unknown)
	s := sightsOf(families(map[string]float64{readyMetric: 1, "layertrace_traces_not_split_total": 7}))
	got := strings.Join(c.summary(&s, 12.4), "\n")
	want := `16 requests in 12 s: 2 shown, 2 did not match the filters, 5 came after --count was reached, 3 were not shown, as lines were written too slowly, 4 were not shown, as too many came during a pause.
Layer not known of 1, because no response was seen (1).
1 part of a request came after its line, which may lack a layer.
Lost or left out, counted at each interface and socket: 7 traces left out, as too many others waited.`
	if got != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
}

// Every metric that the view asks for is one of the agent's.
func TestMetricsExist(t *testing.T) {
	metrics, _ := agent.ExampleMetrics("v1")
	metrics.MustRegister(probe.ZeroCounters{})
	all, err := metrics.Gather()
	if err != nil {
		t.Fatal(err)
	}
	known := map[string]bool{}
	for _, f := range all {
		known[f.GetName()] = true
	}
	names := []string{readyMetric, pointsMetric, requestsMetric, startedMetric, emittedMetric}
	for _, l := range losses {
		names = append(names, l.metric)
	}
	for _, name := range names {
		if !known[name] {
			t.Errorf("the agent has no metric %s", name)
		}
	}
}
