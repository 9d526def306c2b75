// SPDX-License-Identifier: Apache-2.0

package export

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net/http"
	"strconv"
	"strings"
	"time"

	coltracepb "go.opentelemetry.io/proto/otlp/collector/trace/v1"
	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"
)

// What OpenTelemetry's clients do not pass on of an attempt, and where they give up too early.

const (
	// maxThrottle is the longest pause that a receiver may ask for. The clients give up a batch
	// at once if a pause does not fit into batchTimeout; now it is tried again meanwhile.
	maxThrottle = 20 * time.Second
	// maxReply is how many bytes of a response over HTTP are read for a partial success.
	maxReply = 64 << 10
)

// partial is what a receiver said of the last attempt of a batch, when it took some of it.
type partial struct {
	accepted bool // the latest response was a success, perhaps with a warning
	rejected int64
	message  string
}

type partialKey struct{}

// withPartial returns a context in which attempts report a partial success.
func withPartial(ctx context.Context) (context.Context, *partial) {
	p := &partial{}
	return context.WithValue(ctx, partialKey{}, p), p
}

// reportPartial keeps the number of spans that a response rejects.
func reportPartial(ctx context.Context, response *coltracepb.ExportTraceServiceResponse) {
	if p, ok := ctx.Value(partialKey{}).(*partial); ok {
		some := response.GetPartialSuccess()
		p.accepted = true
		p.rejected, p.message = some.GetRejectedSpans(), some.GetErrorMessage()
	}
}

// throttled returns an error of gRPC without a pause longer than maxThrottle.
func throttled(err error) error {
	s, ok := status.FromError(err)
	if err == nil || !ok {
		return err
	}
	for _, d := range s.Details() {
		info, ok := d.(*errdetails.RetryInfo)
		if !ok || info.GetRetryDelay().AsDuration() <= maxThrottle {
			continue
		}
		shorter, failed := status.New(s.Code(), s.Message()).WithDetails(&errdetails.RetryInfo{RetryDelay: durationpb.New(maxThrottle)})
		if failed == nil {
			return shorter.Err()
		}
	}
	return err
}

// throttleHTTP shortens a Retry-After header, in seconds or a date (RFC 9110, section 10.2.3),
// to maxThrottle.
func throttleHTTP(response *http.Response, now time.Time) {
	after := response.Header.Get("Retry-After")
	if after == "" {
		return
	}
	seconds, err := strconv.ParseInt(after, 10, 64)
	if err != nil {
		date, err := http.ParseTime(after)
		if err != nil {
			return
		}
		seconds = int64(date.Sub(now).Seconds())
	}
	if most := int64(maxThrottle / time.Second); seconds > most {
		response.Header.Set("Retry-After", strconv.FormatInt(most, 10))
	}
}

// readPartial reads a response over HTTP, and puts back what it read.
func readPartial(ctx context.Context, response *http.Response) {
	if !strings.HasPrefix(response.Header.Get("Content-Type"), "application/x-protobuf") {
		return
	}
	read, err := io.ReadAll(io.LimitReader(response.Body, maxReply))
	response.Body = struct {
		io.Reader
		io.Closer
	}{io.MultiReader(bytes.NewReader(read), response.Body), response.Body}
	var reply coltracepb.ExportTraceServiceResponse
	if err == nil && proto.Unmarshal(read, &reply) == nil {
		reportPartial(ctx, &reply)
	}
}

// noTLS is how Go's TLS client calls a peer that speaks something else.
const noTLS = "first record does not look like a TLS handshake"

// advise adds what to do to an error, where that is known. gRPC keeps only the text of causes.
func advise(err error) error {
	if err != nil && strings.Contains(err.Error(), noTLS) {
		return errors.Join(err, errors.New("the receiver does not speak TLS: set --otlp-insecure, or its TLS port as --otlp-endpoint"))
	}
	return err
}
