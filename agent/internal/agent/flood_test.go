// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"encoding/binary"
	"hash/maphash"
	"math"
	"net/netip"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"

	"github.com/layertrace/layertrace/agent/internal/breakdown"
	"github.com/layertrace/layertrace/agent/internal/breakdown/breakdowntest"
	"github.com/layertrace/layertrace/agent/internal/config"
	"github.com/layertrace/layertrace/internal/observe"
	"github.com/layertrace/layertrace/internal/testkit"
)

// ordinary is a request of its own trace, seen at one interface.
func ordinary(n int) observe.Observation {
	o := breakdowntest.Legs(1, false)[0]
	o.Context.TraceID = [16]byte{1}
	binary.BigEndian.PutUint32(o.Context.TraceID[4:], uint32(n))
	o.Interface = 2
	return o
}

// drawSeed draws the seed of the limits until no other observation shares the counter of the
// first, which would be limited with it.
func drawSeed(l *spanLimits, counter func(*observe.Observation) *uint32, first observe.Observation, others ...observe.Observation) {
	shares := func(o observe.Observation) bool { return counter(&o) == counter(&first) }
	for slices.ContainsFunc(others, shares) {
		l.seed = maphash.MakeSeed()
	}
}

// 30,000 requests with one trace ID, all seen twice: the ordinary requests beside them and
// after them have their spans, and those of the flood are bounded, counted and marked.
func TestOneTraceIDOnManyRequests(t *testing.T) {
	var receiver testkit.Receiver
	endpoint := receiver.Serve(t, testkit.FreeAddress(t))
	w := newWay(t, "--export=otlp-grpc", "--otlp-insecure", "--otlp-endpoint="+endpoint, "--spans=layers", "--queue-size=8192")
	p := w.pipeline
	captured, ended := make(chan struct{}), make(chan struct{})
	go func() { defer close(ended); p.run(captured, nil) }()

	sent := 0
	flood := breakdowntest.Legs(30_000, false)
	for i := range flood {
		flood[i].Context.TraceID, flood[i].Interface = [16]byte{7}, 2+i%2
	}
	var all []observe.Observation
	for i := range len(flood)/200 + 100 {
		all = append(all, ordinary(i))
	}
	p.mu.Lock()
	drawSeed(p.limits, p.limits.ofTrace, flood[0], all...)
	p.mu.Unlock()
	for len(flood) > 0 {
		p.take(flood[:200])
		flood = flood[200:]
		p.take([]observe.Observation{ordinary(sent)})
		sent++
	}
	p.flush(time.Now().Add(time.Minute)) // the trace is split now
	for range 100 {
		p.take([]observe.Observation{ordinary(sent)})
		sent++
	}
	p.flush(time.Now().Add(time.Minute))
	count := func() (own, forged, layers, marked int) {
		for _, s := range receiver.Spans() {
			of := receiver.Texts(s)
			switch {
			case s.TraceId[0] == 1 && of["layertrace.layer"] == "":
				own++
			case s.TraceId[0] == 1:
			case of["layertrace.layer"] != "":
				layers++
			default:
				forged++
			}
			if s.TraceId[0] == 1 {
				continue
			}
			for _, kv := range s.Attributes {
				for _, v := range kv.GetValue().GetArrayValue().GetValues() {
					if v.GetStringValue() == "trace_limited" {
						marked++
					}
				}
			}
		}
		return own, forged, layers, marked
	}
	testkit.Eventually(t, "the ordinary requests have their spans", func() bool { own, _, _, _ := count(); return own == sent })
	close(captured)
	<-ended
	if err := p.queue.ForceFlush(t.Context()); err != nil {
		t.Fatal(err)
	}
	_, forged, layers, marked := count()
	if forged == 0 || forged > 2*4096 || layers == 0 || layers > 2*maxLayerSpans {
		t.Errorf("%d spans and %d of layers of the flood, want 4096 and 2048 at most in each 10 s", forged, layers)
	}
	if marked != layers+(forged+4095)/4096 {
		t.Errorf("%d spans are marked, want the last one, and the %d of layers", marked, layers)
	}
	if over := testutil.ToFloat64(p.limits.overTrace); int(over) != 60_000-forged {
		t.Errorf("%v spans are counted, want %d", over, 60_000-forged)
	}
	if left := p.layers.buffer.LeftOut(); left != 60_000-maxOfTrace {
		t.Errorf("%d observations are counted as left out, want %d", left, 60_000-maxOfTrace)
	}
	if c := p.queue.Counters(); c.DroppedQueueFull+c.Failed+c.DroppedShutdown != 0 {
		t.Errorf("spans were lost: %+v", c)
	}
}

// A capture point has its rate, and one client does not take all of it.
func TestSpanLimitsByPoint(t *testing.T) {
	l := newSpanLimits(100, 0, prometheus.NewRegistry())
	now := time.Unix(1000, 0)
	made := map[netip.Addr]int{}
	at := func(client, point string) observe.Observation {
		o := ordinary(0)
		o.Client, o.Point = netip.AddrPortFrom(netip.MustParseAddr(client), 1), &observe.Point{ID: point}
		return o
	}
	from := func(client string, times int, point string) {
		for range times {
			if o := at(client, point); l.allow(&o, now) {
				made[o.Client.Addr()]++
			}
		}
	}
	noisy, quiet := netip.MustParseAddr("10.0.0.66"), netip.MustParseAddr("10.0.0.1")
	others := []observe.Observation{at(quiet.String(), "a"), at(quiet.String(), "b")}
	for i := range 100 {
		others = append(others, at(netip.AddrFrom4([4]byte{10, 1, 0, byte(i)}).String(), "a"))
	}
	drawSeed(l, l.ofPeer, at(noisy.String(), "a"), others...)
	from(noisy.String(), 1000, "a")
	from(quiet.String(), 20, "a")
	// Half of the bucket is left to others.
	if made[noisy] != 51 || made[quiet] != 20 {
		t.Errorf("%v, want 51 of the noisy client and 20 of the quiet one", made)
	}
	from(quiet.String(), 20, "b")
	if made[quiet] != 40 {
		t.Errorf("%v: another point has a bucket of its own", made)
	}
	for i := range 100 {
		from(netip.AddrFrom4([4]byte{10, 1, 0, byte(i)}).String(), 1, "a")
	}
	if point, peer := testutil.ToFloat64(l.overPoint), testutil.ToFloat64(l.overPeer); point != 71 || peer != 949 {
		t.Errorf("%v over the point's limit, %v over a client's, want 71 and 949", point, peer)
	}
	now = now.Add(time.Second)
	before := made[noisy]
	from(noisy.String(), 1000, "a")
	if made[noisy] != before+51 {
		t.Errorf("%d spans of the noisy client a second later, want 51", made[noisy]-before)
	}
}

// What does not move is an error of /readyz, and a receiver that is away a remark.
func TestReadyReportsStandstill(t *testing.T) {
	p := &pipeline{layers: newLayers(&config.Config{}, "node1", nil, prometheus.NewRegistry())}
	if remark, err := p.ready(); remark != "" || err != nil {
		t.Errorf("idle: %q, %v", remark, err)
	}
	p.layers.splitter.working.since.Store(time.Now().Add(-time.Minute).UnixNano())
	if _, err := p.ready(); err == nil {
		t.Error("splitting one trace for a minute is ready")
	}
	p.layers.splitter.working.end()
	p.taking.since.Store(time.Now().Add(-time.Minute).UnixNano())
	if _, err := p.ready(); err == nil {
		t.Error("handling exchanges for a minute is ready")
	}
}

// bufferedTrace returns a trace of n observations.
func bufferedTrace(n int) (t *breakdown.BufferedTrace) {
	b := breakdown.NewTraceBuffer(breakdown.TraceBufferOptions{
		MaxBytes: math.MaxInt, MaxOfTrace: n, Done: func(done *breakdown.BufferedTrace) { t = done },
	})
	o := ordinary(0)
	for range n {
		b.Add(&o, time.Unix(1000, 0))
	}
	b.Close()
	return t
}

// Traces that find the queue of the splitter full are counted; at the end they wait for room.
func TestSplitterIsBounded(t *testing.T) {
	split := 0
	s := newSplitter(func(t *breakdown.BufferedTrace) { split += t.Len() })
	many := bufferedTrace(maxUnsplit / 4)
	for range 6 {
		s.add(many)
	}
	if s.refused.Load() != 2 {
		t.Errorf("%d traces are refused, want 2", s.refused.Load())
	}
	go s.run()
	s.close(func() {
		for range 6 {
			s.add(many)
		}
	})
	if want := 10 * many.Len(); split != want || s.refused.Load() != 2 {
		t.Errorf("%d observations split, want %d; %d traces refused", split, want, s.refused.Load())
	}
}

// While much waits in the ring, traces wait; not at the end, when nothing reads it.
func TestSplitterYields(t *testing.T) {
	var crowded atomic.Bool
	var asked, split atomic.Int64
	s := newSplitter(func(*breakdown.BufferedTrace) { split.Add(1) })
	s.ringCrowded = func() bool { asked.Add(1); return crowded.Load() }
	crowded.Store(true)
	for range 3 {
		s.add(bufferedTrace(1))
	}
	go s.run()
	testkit.Eventually(t, "the splitter asks again and again", func() bool { return asked.Load() > 3 })
	if split.Load() != 1 { // after which it asks
		t.Errorf("%d traces are split while the ring is crowded", split.Load())
	}
	crowded.Store(false)
	testkit.Eventually(t, "all are split", func() bool { return split.Load() == 3 })
	crowded.Store(true)
	s.close(func() {
		for range 3 {
			s.add(bufferedTrace(1))
		}
	})
	if split.Load() != 6 {
		t.Errorf("%d traces are split at the end, want 6", split.Load())
	}
}

// Traces also wait while the queue of spans is crowded, until the trace buffer has no room and
// more are handed over than wait here otherwise.
func TestSplitterWaitsForTheSender(t *testing.T) {
	var asked, split atomic.Int64
	s := newSplitter(func(*breakdown.BufferedTrace) { split.Add(1) })
	s.queueCrowded = func() bool { asked.Add(1); return true }
	some := bufferedTrace(maxUnsplit / 8)
	for range 5 { // the buffer hands over while half of the queue is free
		s.add(some)
	}
	go s.run()
	testkit.Eventually(t, "the splitter asks again and again", func() bool { return asked.Load() > 3 })
	if split.Load() != 1 {
		t.Errorf("%d traces are split while the queue is crowded", split.Load())
	}
	for range 3 {
		s.add(some)
	}
	testkit.Eventually(t, "the splitter goes on until less than three quarters wait", func() bool { return split.Load() == 3 })
	s.close(func() {})
	if split.Load() != 8 || s.refused.Load() != 0 {
		t.Errorf("%d traces are split at the end, %d refused, want 8 and none", split.Load(), s.refused.Load())
	}
}

// Traces are split in their order, also one that is larger than the room.
func TestSplitterKeepsTheOrder(t *testing.T) {
	var sizes []int
	s := newSplitter(func(t *breakdown.BufferedTrace) { sizes = append(sizes, t.Len()) })
	go s.run()
	s.close(func() {
		for _, n := range []int{maxUnsplit + 1, 3, 2, 1} {
			s.add(bufferedTrace(n))
		}
	})
	if !slices.Equal(sizes, []int{maxUnsplit + 1, 3, 2, 1}) {
		t.Errorf("split %v", sizes)
	}
}
