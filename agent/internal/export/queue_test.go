// SPDX-License-Identifier: Apache-2.0

package export

import (
	"context"
	"testing"
	"time"

	coltracepb "go.opentelemetry.io/proto/otlp/collector/trace/v1"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/layertrace/layertrace/internal/otlptest"
)

func TestAllSpansArrive(t *testing.T) {
	r := &otlptest.Receiver{}
	q := newQueue(t, OTLPOptions{Endpoint: r.Serve(t, "127.0.0.1:0")}, 8192)
	send(q, 0, 3000)
	if err := q.Shutdown(t.Context()); err != nil { // of one provider of many
		t.Fatal(err)
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
		t.Errorf("a span behind Close is not counted: %+v", c)
	}
	checkSum(t, q.Counters())
}

// A receiver that is away costs what is beyond the queue, and nothing else.
func TestReceiverComesBack(t *testing.T) {
	const size = 700
	address := otlptest.FreeAddress(t)
	q := newQueue(t, OTLPOptions{Endpoint: address}, size)
	send(q, 0, 1000)
	if c := q.Counters(); c.DroppedQueueFull != 300 || c.Queued != size {
		t.Errorf("with a full queue: %+v", c)
	}
	checkSum(t, q.Counters())
	r := &otlptest.Receiver{}
	r.Serve(t, address)
	eventually(t, "the queue is sent", func() bool { return q.Counters().Exported == size })
	send(q, 1000, 100)
	eventually(t, "new spans are sent", func() bool { return q.Counters().Exported == size+100 })
	if n := len(r.Spans()); n != size+100 {
		t.Errorf("%d spans arrived, want %d", n, size+100)
	}
	if err := q.Close(t.Context()); err != nil {
		t.Error(err)
	}
	checkSum(t, q.Counters())
}

// A receiver that does not answer holds nobody up, and keeps the bound.
func TestSlowReceiver(t *testing.T) {
	const size = 600
	release := make(chan struct{})
	r := &otlptest.Receiver{Answer: func(ctx context.Context) (*coltracepb.ExportTraceServiceResponse, error) {
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
	eventually(t, "the queue is sent", func() bool { return q.Counters().Queued == 0 })
	if n := len(r.Spans()); n != size {
		t.Errorf("%d spans arrived, want %d", n, size)
	}
	checkSum(t, q.Counters())
}

func TestRefusedSpansAreCounted(t *testing.T) {
	for name, answer := range map[string]func(context.Context) (*coltracepb.ExportTraceServiceResponse, error){
		"error": func(context.Context) (*coltracepb.ExportTraceServiceResponse, error) {
			return nil, status.Error(codes.InvalidArgument, "no")
		},
		"partial success": func(context.Context) (*coltracepb.ExportTraceServiceResponse, error) {
			return &coltracepb.ExportTraceServiceResponse{PartialSuccess: &coltracepb.ExportTracePartialSuccess{RejectedSpans: 3}}, nil
		},
	} {
		t.Run(name, func(t *testing.T) {
			r := &otlptest.Receiver{Answer: answer}
			q := newQueue(t, OTLPOptions{Endpoint: r.Serve(t, "127.0.0.1:0")}, 100)
			send(q, 0, 20)
			if err := q.Close(t.Context()); err != nil {
				t.Fatal(err)
			}
			if c := q.Counters(); c.Failed != 20 || c.Exported != 0 {
				t.Errorf("counts %+v", c)
			}
			checkSum(t, q.Counters())
		})
	}
}

func TestCloseKeepsItsTime(t *testing.T) {
	q := newQueue(t, OTLPOptions{Endpoint: otlptest.FreeAddress(t)}, 2000)
	send(q, 0, 1500)
	ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	start := time.Now()
	if err := q.Close(ctx); err == nil {
		t.Error("Close does not tell that spans were lost")
	}
	if d := time.Since(start); d > 2*time.Second {
		t.Errorf("Close took %v", d)
	}
	if c := q.Counters(); c.DroppedShutdown != 1500 {
		t.Errorf("counts %+v", c)
	}
	checkSum(t, q.Counters())
}
