// SPDX-License-Identifier: Apache-2.0

package export

import (
	"log/slog"
	"testing"
	"time"

	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/sdk/trace/tracetest"
	"go.opentelemetry.io/otel/trace"
)

func newQueue(t *testing.T, opts OTLPOptions, size int) *Queue {
	t.Helper()
	opts.Insecure, opts.Log = true, slog.New(slog.DiscardHandler)
	exporter, err := NewOTLP(t.Context(), opts)
	if err != nil {
		t.Fatal(err)
	}
	return NewQueue(exporter, size, opts.Log)
}

// send hands n different spans in.
func send(q *Queue, from, n int) {
	for i := from; i < from+n; i++ {
		q.OnEnd(newSpan(i))
	}
}

func newSpan(i int) sdktrace.ReadOnlySpan {
	return tracetest.SpanStub{
		Name: "node2_eth0",
		SpanContext: trace.NewSpanContext(trace.SpanContextConfig{
			TraceID: trace.TraceID{1}, SpanID: trace.SpanID{1, byte(i >> 16), byte(i >> 8), byte(i)}, TraceFlags: trace.FlagsSampled,
		}),
		StartTime: time.Unix(1, 0), EndTime: time.Unix(2, 0),
	}.Snapshot()
}

// eventually polls until the condition holds.
func eventually(t *testing.T, what string, condition func() bool) {
	t.Helper()
	deadline := time.Now().Add(20 * time.Second)
	for !condition() {
		if time.Now().After(deadline) {
			t.Fatalf("timed out waiting until %s", what)
		}
		time.Sleep(5 * time.Millisecond) // the pause of a poll
	}
}

// checkSum fails unless every span is accounted for.
func checkSum(t *testing.T, c Counters) {
	t.Helper()
	if sum := c.Exported + c.Failed + c.DroppedQueueFull + c.DroppedShutdown + c.Queued; sum != c.Accepted {
		t.Errorf("the counts do not add up: %+v", c)
	}
}
