// SPDX-License-Identifier: Apache-2.0

// Package otlptest is a real OTLP receiver for tests, over gRPC and HTTP.
package otlptest

import (
	"context"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"sync"
	"testing"

	coltracepb "go.opentelemetry.io/proto/otlp/collector/trace/v1"
	tracepb "go.opentelemetry.io/proto/otlp/trace/v1"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/proto"
)

// Receiver keeps the spans that it takes.
type Receiver struct {
	coltracepb.UnimplementedTraceServiceServer

	// Answer, when set, is asked first; a response or error of it is what the
	// client gets, and the spans are not taken.
	Answer func(context.Context) (*coltracepb.ExportTraceServiceResponse, error)
	// Token, when set, must be in the header x-token of HTTP requests.
	Token string

	mu    sync.Mutex
	spans map[string]*tracepb.Span // by span ID
}

// Export is the gRPC method.
func (r *Receiver) Export(ctx context.Context, request *coltracepb.ExportTraceServiceRequest) (*coltracepb.ExportTraceServiceResponse, error) {
	if r.Answer != nil {
		if response, err := r.Answer(ctx); err != nil || response != nil {
			return response, err
		}
	}
	r.take(request.ResourceSpans)
	return &coltracepb.ExportTraceServiceResponse{}, nil
}

func (r *Receiver) take(resources []*tracepb.ResourceSpans) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.spans == nil {
		r.spans = map[string]*tracepb.Span{}
	}
	for _, resource := range resources {
		for _, scope := range resource.ScopeSpans {
			for _, s := range scope.Spans {
				r.spans[string(s.SpanId)] = s
			}
		}
	}
}

// Spans returns the spans taken so far, one of each ID.
func (r *Receiver) Spans() []*tracepb.Span {
	r.mu.Lock()
	defer r.mu.Unlock()
	var spans []*tracepb.Span
	for _, s := range r.spans {
		spans = append(spans, s)
	}
	return spans
}

// Serve answers gRPC at an address until the test ends, and returns the
// address.
func (r *Receiver) Serve(t *testing.T, address string) string {
	t.Helper()
	listener := listen(t, address)
	server := grpc.NewServer()
	coltracepb.RegisterTraceServiceServer(server, r)
	go func() { _ = server.Serve(listener) }() // ends with Stop
	t.Cleanup(server.Stop)
	return listener.Addr().String()
}

// ServeHTTP answers POST /v1/traces at an address until the test ends.
func (r *Receiver) ServeHTTP(t *testing.T, address string) {
	t.Helper()
	handler := http.HandlerFunc(func(w http.ResponseWriter, request *http.Request) {
		body, err := io.ReadAll(request.Body)
		var export coltracepb.ExportTraceServiceRequest
		if err != nil || request.URL.Path != "/v1/traces" || request.Header.Get("x-token") != r.Token || proto.Unmarshal(body, &export) != nil {
			w.WriteHeader(http.StatusBadRequest)
			return
		}
		r.take(export.ResourceSpans)
	})
	server := &httptest.Server{Listener: listen(t, address), Config: &http.Server{Handler: handler}}
	server.Start()
	t.Cleanup(server.Close)
}

// FreeAddress returns a loopback address at which nobody listens.
func FreeAddress(t *testing.T) string {
	t.Helper()
	listener := listen(t, "127.0.0.1:0")
	defer listener.Close()
	return listener.Addr().String()
}

func listen(t *testing.T, address string) net.Listener {
	t.Helper()
	listener, err := net.Listen("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	return listener
}
