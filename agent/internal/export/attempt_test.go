// SPDX-License-Identifier: Apache-2.0

package export

import (
	"context"
	"errors"
	"net/http"
	"strings"
	"testing"
	"time"

	coltracepb "go.opentelemetry.io/proto/otlp/collector/trace/v1"
	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/durationpb"
)

// A pause that is longer than a batch lives is shortened; shorter ones are the receiver's.
func TestThrottling(t *testing.T) {
	ask := func(pause time.Duration) error {
		s, err := status.New(codes.Unavailable, "busy").WithDetails(&errdetails.RetryInfo{RetryDelay: durationpb.New(pause)})
		if err != nil {
			t.Fatal(err)
		}
		return s.Err()
	}
	for asked, want := range map[time.Duration]time.Duration{time.Hour: maxThrottle, 2 * time.Second: 2 * time.Second} {
		got := status.Convert(throttled(ask(asked)))
		if info, ok := got.Details()[0].(*errdetails.RetryInfo); !ok || info.RetryDelay.AsDuration() != want || got.Code() != codes.Unavailable {
			t.Errorf("%v: %v", asked, got)
		}
	}
	if throttled(nil) != nil {
		t.Error("an error without cause")
	}
	now := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	for asked, want := range map[string]string{
		"3600": "20", "2": "2", "": "", "soon": "soon",
		now.Add(time.Hour).Format(http.TimeFormat): "20",
	} {
		response := &http.Response{Header: http.Header{}}
		if asked != "" {
			response.Header.Set("Retry-After", asked)
		}
		if throttleHTTP(response, now); response.Header.Get("Retry-After") != want {
			t.Errorf("%q: %q, want %q", asked, response.Header.Get("Retry-After"), want)
		}
	}
}

func TestPlaintextReceiverSaysWhatToDo(t *testing.T) {
	err := advise(status.Error(codes.Unavailable, "connection error: authentication handshake failed: tls: "+noTLS))
	if !strings.Contains(err.Error(), "--otlp-insecure") {
		t.Error(err)
	}
	if other := errors.New("other"); advise(other) != other || advise(nil) != nil {
		t.Error("advice for another error")
	}
}

// The spans that a receiver rejects are known by their number.
func TestPartialSuccessOfAnAttempt(t *testing.T) {
	ctx, p := withPartial(t.Context())
	reportPartial(ctx, &coltracepb.ExportTraceServiceResponse{
		PartialSuccess: &coltracepb.ExportTracePartialSuccess{RejectedSpans: 3, ErrorMessage: "too old"},
	})
	if p.rejected != 3 || p.message != "too old" {
		t.Errorf("%+v", p)
	}
	reportPartial(ctx, &coltracepb.ExportTraceServiceResponse{}) // the next attempt took all
	if p.rejected != 0 {
		t.Errorf("%+v", p)
	}
	reportPartial(context.Background(), &coltracepb.ExportTraceServiceResponse{}) // of no queue
}
