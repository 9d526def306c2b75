// SPDX-License-Identifier: Apache-2.0

package attack

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"strings"
	"sync/atomic"
	"time"

	coltracepb "go.opentelemetry.io/proto/otlp/collector/trace/v1"
	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/layertrace/layertrace/e2e/sandbox"
)

// someRequests are requests for a case of the receiver. Each has two spans.
const (
	someRequests = 200
	someSpans    = 2 * someRequests
)

// ofSome is the trace ID of one of them.
func ofSome(i int) string { return fmt.Sprintf("2222222222222222%016x", i+1) }

// sendSome starts a server and an agent, and sends someRequests.
func (t *Testbed) sendSome(ctx context.Context, flags ...string) error {
	handler := http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, "ok") })
	if err := t.serve(t.Pods[1], PodAddress(2)+":80", handler); err != nil {
		return err
	}
	if err := t.StartAgent(ctx, flags...); err != nil {
		return err
	}
	return t.ask(ctx, someRequests, func(i int) (string, int) { return ofSome(i), i + 1 })
}

// delivered waits until the receiver has all spans, or some are lost.
func (t *Testbed) delivered(ctx context.Context, began time.Time) (measured string, pass bool, err error) {
	const limit = time.Minute
	lost := 0.0
	late := sandbox.Await(ctx, "all spans", limit, 100*time.Millisecond, func(ctx context.Context) (err error) {
		if lost, err = t.Metric(ctx, "layertrace_spans_failed_total"); err != nil || lost > 0 {
			return err
		}
		if n := t.Received(); n < someSpans {
			return fmt.Errorf("%d of %d", n, someSpans)
		}
		return nil
	})
	return fmt.Sprintf("%d of %d spans delivered after %.1f s, %.0f lost", t.Received(), someSpans, time.Since(began).Seconds(), lost),
		late == nil && lost == 0 && t.Received() == someSpans, nil
}

// retryAfter lets the receiver refuse the first batch and ask for a pause of an hour.
func retryAfter(ctx context.Context, t *Testbed) (measured string, pass bool, err error) {
	var refused atomic.Bool
	t.Respond(func(w http.ResponseWriter, _ int) bool {
		if refused.Swap(true) {
			return false
		}
		w.Header().Set("Retry-After", "3600")
		w.WriteHeader(http.StatusServiceUnavailable)
		return true
	})
	began := time.Now()
	if err := t.sendSome(ctx); err != nil {
		return "", false, err
	}
	return t.delivered(ctx, began)
}

// pausing is a receiver over gRPC that refuses the first batch and asks for a pause.
type pausing struct {
	coltracepb.UnimplementedTraceServiceServer
	t       *Testbed
	pause   time.Duration
	refused atomic.Bool
}

// Export is the method of OTLP.
func (p *pausing) Export(_ context.Context, request *coltracepb.ExportTraceServiceRequest) (*coltracepb.ExportTraceServiceResponse, error) {
	if !p.refused.Swap(true) {
		refusal, err := status.New(codes.Unavailable, "come back later").WithDetails(&errdetails.RetryInfo{RetryDelay: durationpb.New(p.pause)})
		return nil, errors.Join(err, refusal.Err())
	}
	p.t.keep(request)
	return &coltracepb.ExportTraceServiceResponse{}, nil
}

// retryInfo is retryAfter over gRPC.
func retryInfo(ctx context.Context, t *Testbed) (measured string, pass bool, err error) {
	listener, err := t.Node.Listen(receiverGRPC)
	if err != nil {
		return "", false, err
	}
	server := grpc.NewServer()
	coltracepb.RegisterTraceServiceServer(server, &pausing{t: t, pause: time.Hour})
	go func() { _ = server.Serve(listener) }() // ends with Stop
	t.closers = append(t.closers, server.Stop)
	t.GRPC = true
	began := time.Now()
	if err := t.sendSome(ctx); err != nil {
		return "", false, err
	}
	return t.delivered(ctx, began)
}

// partialSuccess lets the receiver reject three spans of each batch.
func partialSuccess(ctx context.Context, t *Testbed) (measured string, pass bool, err error) {
	const rejected, why = 3, "older than this store keeps"
	response, err := proto.Marshal(&coltracepb.ExportTraceServiceResponse{
		PartialSuccess: &coltracepb.ExportTracePartialSuccess{RejectedSpans: rejected, ErrorMessage: why},
	})
	if err != nil {
		return "", false, err
	}
	var batches atomic.Int64
	t.Respond(func(w http.ResponseWriter, _ int) bool {
		batches.Add(1)
		w.Header().Set("Content-Type", "application/x-protobuf")
		_, _ = w.Write(response) // the agent's error is measured
		return true
	})
	if err := t.sendSome(ctx); err != nil {
		return "", false, err
	}
	var exported, failed float64
	err = sandbox.Await(ctx, "all spans", 30*time.Second, 100*time.Millisecond, func(ctx context.Context) (err error) {
		if exported, err = t.Metric(ctx, "layertrace_spans_exported_total"); err != nil {
			return err
		}
		if failed, err = t.Metric(ctx, "layertrace_spans_failed_total"); err == nil && exported+failed < someSpans {
			err = fmt.Errorf("%.0f of %d", exported+failed, someSpans)
		}
		return err
	})
	if err != nil {
		return "", false, err
	}
	log, err := os.ReadFile(t.agentLog())
	if err != nil {
		return "", false, err
	}
	reported := strings.Contains(string(log), why)
	return fmt.Sprintf("%.0f of %d spans counted as lost, in %d batches; reason in the log: %t", failed, someSpans, batches.Load(), reported),
		int64(failed) == rejected*batches.Load() && int(exported+failed) == someSpans && reported, nil
}

// endlessResponse lets the receiver respond to the first batch with 1 GiB.
func endlessResponse(ctx context.Context, t *Testbed) (measured string, pass bool, err error) {
	const growth, chunks = 32 << 20, 1 << 14
	var endless atomic.Bool
	var sent atomic.Int64
	t.Respond(func(w http.ResponseWriter, _ int) bool {
		if endless.Swap(true) {
			return false
		}
		chunk := make([]byte, 64<<10)
		for range chunks {
			n, err := w.Write(chunk)
			sent.Add(int64(n))
			if err != nil {
				break // the agent has enough
			}
		}
		return true
	})
	if err := t.sendSome(ctx); err != nil {
		return "", false, err
	}
	before, err := sandbox.ReadMemory(t.Agent.PID())
	if err != nil {
		return "", false, err
	}
	handled := 0.0
	late := sandbox.Await(ctx, "the first batch's end", time.Minute, 100*time.Millisecond, func(ctx context.Context) (err error) {
		exported, err := t.Metric(ctx, "layertrace_spans_exported_total")
		if err != nil {
			return err
		}
		failed, err := t.Metric(ctx, "layertrace_spans_failed_total")
		if handled = exported + failed; err == nil && handled < someSpans {
			err = fmt.Errorf("%.0f of %d spans", handled, someSpans)
		}
		return err
	})
	after, err := sandbox.ReadMemory(t.Agent.PID())
	if err != nil {
		return "", false, err
	}
	grown := int64(after.Peak) - int64(before.Resident)
	return fmt.Sprintf("it read %d MiB and grew by %d KiB; %.0f of %d spans sent", sent.Load()>>20, grown>>10, handled, someSpans),
		late == nil && grown <= growth && t.Received() > 0, nil
}

// slowReceiver ends an agent while the receiver does not respond.
func slowReceiver(ctx context.Context, t *Testbed) (measured string, pass bool, err error) {
	const timeout, slack = 5 * time.Second, 3 * time.Second
	release := make(chan struct{})
	t.closers = append(t.closers, func() { close(release) })
	t.Respond(func(http.ResponseWriter, int) bool {
		<-release
		return true
	})
	if err := t.sendSome(ctx, "--shutdown-timeout", timeout.String()); err != nil {
		return "", false, err
	}
	err = sandbox.Await(ctx, "spans in the queue", 30*time.Second, 50*time.Millisecond, func(ctx context.Context) error {
		queued, err := t.Metric(ctx, "layertrace_spans_queued")
		if err == nil && queued < someSpans {
			err = fmt.Errorf("%.0f of %d", queued, someSpans)
		}
		return err
	})
	if err != nil {
		return "", false, err
	}
	began := time.Now()
	if err := t.Agent.Stop(10 * timeout); err != nil {
		return "", false, err
	}
	took := time.Since(began)
	text, err := os.ReadFile(t.agentLog())
	if err != nil {
		return "", false, err
	}
	log := string(text)
	progress, counted := strings.Count(log, "sending the queued spans"), strings.Contains(log, fmt.Sprintf("%d spans were not delivered", someSpans))
	return fmt.Sprintf("ended after %.1f s, %d lines of progress; all %d lost spans counted: %t", took.Seconds(), progress, someSpans, counted),
		took <= timeout+slack && progress > 0 && counted, nil
}
