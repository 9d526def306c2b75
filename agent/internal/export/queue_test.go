// SPDX-License-Identifier: Apache-2.0

package export

import (
	"context"
	"log/slog"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"go.opentelemetry.io/otel/sdk/resource"
	"go.opentelemetry.io/otel/trace"
	coltracepb "go.opentelemetry.io/proto/otlp/collector/trace/v1"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/layertrace/layertrace/agent/internal/span"
	"github.com/layertrace/layertrace/internal/testkit"
)

func newQueue(t *testing.T, opts OTLPOptions, size int) *Queue {
	t.Helper()
	opts.Insecure, opts.Log = true, slog.New(slog.DiscardHandler)
	client, err := NewClient(t.Context(), opts)
	if err != nil {
		t.Fatal(err)
	}
	return NewQueue(client, size, opts.Log)
}

// send hands in n different spans.
func send(q *Queue, from, n int) {
	for i := from; i < from+n; i++ {
		q.Take(newSpan(i))
	}
}

var testOrigin = &span.Origin{Resource: resource.Empty()}

func newSpan(i int) *span.Finished {
	return &span.Finished{
		Origin: testOrigin, Name: "node2_eth0", TraceID: trace.TraceID{1}, ID: trace.SpanID{1, byte(i >> 16), byte(i >> 8), byte(i)},
		Start: 1e9, End: 2e9,
	}
}

// checkSum fails unless every span is accounted for.
func checkSum(t *testing.T, c Counters) {
	t.Helper()
	if sum := c.Exported + c.Failed + c.DroppedQueueFull + c.DroppedShutdown + c.Queued; sum != c.Accepted {
		t.Errorf("the counts do not add up: %+v", c)
	}
}

func TestAllSpansArrive(t *testing.T) {
	r := &testkit.Receiver{}
	q := newQueue(t, OTLPOptions{Endpoint: r.Serve(t, "127.0.0.1:0")}, 8192)
	send(q, 0, 3000)
	if err := q.ForceFlush(t.Context()); err != nil {
		t.Fatal(err)
	}
	if c := q.Counters(); c.Exported != 3000 || c.Queued != 0 {
		t.Errorf("after a flush: %+v", c)
	}
	send(q, 3000, 10)
	if err := q.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	if n := len(r.Spans()); n != 3010 {
		t.Errorf("%d spans arrived, want 3010", n)
	}
	if c := q.Counters(); c.Exported != 3010 || c.Accepted != 3010 || c.Queued != 0 {
		t.Errorf("counts %+v", c)
	}
	send(q, 4000, 1)
	if c := q.Counters(); c.DroppedShutdown != 1 {
		t.Errorf("a span after Close is not counted: %+v", c)
	}
	checkSum(t, q.Counters())
}

// A receiver that is down costs the spans beyond the queue, and nothing else.
func TestReceiverComesBack(t *testing.T) {
	const size = 700
	address := testkit.FreeAddress(t)
	q := newQueue(t, OTLPOptions{Endpoint: address}, size)
	send(q, 0, 1000)
	if c := q.Counters(); c.DroppedQueueFull != 300 || c.Queued != size {
		t.Errorf("with a full queue: %+v", c)
	}
	checkSum(t, q.Counters())
	r := &testkit.Receiver{}
	r.Serve(t, address)
	testkit.Eventually(t, "the queue is sent", func() bool { return q.Counters().Exported == size })
	send(q, 1000, 100)
	testkit.Eventually(t, "new spans are sent", func() bool { return q.Counters().Exported == size+100 })
	if n := len(r.Spans()); n != size+100 {
		t.Errorf("%d spans arrived, want %d", n, size+100)
	}
	if err := q.Close(t.Context()); err != nil {
		t.Error(err)
	}
	checkSum(t, q.Counters())
}

// A receiver that does not respond blocks no caller, and the bound holds.
func TestSlowReceiver(t *testing.T) {
	const size = 600
	release := make(chan struct{})
	r := &testkit.Receiver{Respond: func(ctx context.Context) (*coltracepb.ExportTraceServiceResponse, error) {
		select {
		case <-release:
			return nil, nil
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}}
	q := newQueue(t, OTLPOptions{Endpoint: r.Serve(t, "127.0.0.1:0")}, size)
	start := time.Now()
	send(q, 0, 5000)
	if d := time.Since(start); d > time.Second {
		t.Errorf("handing spans in took %v", d)
	}
	if c := q.Counters(); c.Queued != size || c.DroppedQueueFull != 5000-size {
		t.Errorf("with a slow receiver: %+v", c)
	}
	close(release)
	testkit.Eventually(t, "the queue is sent", func() bool { return q.Counters().Queued == 0 })
	if n := len(r.Spans()); n != size {
		t.Errorf("%d spans arrived, want %d", n, size)
	}
	checkSum(t, q.Counters())
}

// A queue that is more than half full is crowded, unless its receiver takes nothing.
func TestCrowded(t *testing.T) {
	for _, c := range []struct {
		queued int64
		moved  time.Duration // after now
		want   bool
	}{{6, time.Hour, true}, {5, time.Hour, false}, {10, -time.Hour, false}} {
		q := &Queue{size: 10}
		q.counters.queued.Store(c.queued)
		q.moved.Store(time.Now().Add(c.moved).UnixNano())
		if got := q.IsCrowded(); got != c.want {
			t.Errorf("%+v: %t", c, got)
		}
	}
}

func TestRefusedSpansAreCounted(t *testing.T) {
	for name, respond := range map[string]func(context.Context) (*coltracepb.ExportTraceServiceResponse, error){
		"error": func(context.Context) (*coltracepb.ExportTraceServiceResponse, error) {
			return nil, status.Error(codes.InvalidArgument, "no")
		},
		"partial success": func(context.Context) (*coltracepb.ExportTraceServiceResponse, error) {
			return &coltracepb.ExportTraceServiceResponse{PartialSuccess: &coltracepb.ExportTracePartialSuccess{RejectedSpans: 3}}, nil
		},
		"warning": func(context.Context) (*coltracepb.ExportTraceServiceResponse, error) {
			return &coltracepb.ExportTraceServiceResponse{PartialSuccess: &coltracepb.ExportTracePartialSuccess{ErrorMessage: "an old version"}}, nil
		},
	} {
		t.Run(name, func(t *testing.T) {
			r := &testkit.Receiver{Respond: respond}
			q := newQueue(t, OTLPOptions{Endpoint: r.Serve(t, "127.0.0.1:0")}, 100)
			send(q, 0, 20)
			if err := q.Close(t.Context()); err != nil {
				t.Fatal(err)
			}
			want := map[string]uint64{"error": 20, "partial success": 3, "warning": 0}[name]
			if c := q.Counters(); c.Failed != want || c.Exported != 20-want {
				t.Errorf("counts %+v, want %d that failed", c, want)
			}
			checkSum(t, q.Counters())
		})
	}
}

func TestCloseKeepsItsTime(t *testing.T) {
	q := newQueue(t, OTLPOptions{Endpoint: testkit.FreeAddress(t)}, 2000)
	send(q, 0, 1500)
	ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	start := time.Now()
	if err := q.Close(ctx); err == nil {
		t.Error("Close does not report that spans were lost")
	}
	if d := time.Since(start); d > 2*time.Second {
		t.Errorf("Close took %v", d)
	}
	if c := q.Counters(); c.DroppedShutdown != 1500 {
		t.Errorf("counts %+v", c)
	}
	checkSum(t, q.Counters())
}

// A span leaves without others, after the delay.
func TestSingleSpanLeaves(t *testing.T) {
	r := &testkit.Receiver{}
	q := newQueue(t, OTLPOptions{Endpoint: r.Serve(t, "127.0.0.1:0")}, 8192)
	for n := 1; n <= 2; n++ { // the timer works again
		send(q, n, 1)
		testkit.Eventually(t, "the span is sent", func() bool { return q.Counters().Exported == uint64(n) })
	}
	if err := q.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
}

func TestQueueMetrics(t *testing.T) {
	q := newQueue(t, OTLPOptions{Endpoint: testkit.FreeAddress(t)}, 2)
	send(q, 0, 5)
	const want = `
# HELP layertrace_spans_accepted_total Spans made: the sum of exported, failed, dropped and queued spans.
# TYPE layertrace_spans_accepted_total counter
layertrace_spans_accepted_total 5
# HELP layertrace_spans_dropped_total Spans dropped, by reason: queue_full or shutdown.
# TYPE layertrace_spans_dropped_total counter
layertrace_spans_dropped_total{reason="queue_full"} 3
layertrace_spans_dropped_total{reason="shutdown"} 0
# HELP layertrace_spans_queued Spans that are waiting or being sent.
# TYPE layertrace_spans_queued gauge
layertrace_spans_queued 2
`
	if err := testutil.CollectAndCompare(q, strings.NewReader(want),
		"layertrace_spans_accepted_total", "layertrace_spans_dropped_total", "layertrace_spans_queued"); err != nil {
		t.Error(err)
	}
	for _, c := range []prometheus.Collector{q, NewLines(nil)} {
		if problems, err := testutil.CollectAndLint(c); err != nil || len(problems) > 0 {
			t.Errorf("%v %v", problems, err)
		}
	}
}
