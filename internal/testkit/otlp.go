// SPDX-License-Identifier: Apache-2.0

package testkit

import (
	"context"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"sync"
	"testing"

	coltracepb "go.opentelemetry.io/proto/otlp/collector/trace/v1"
	commonpb "go.opentelemetry.io/proto/otlp/common/v1"
	resourcepb "go.opentelemetry.io/proto/otlp/resource/v1"
	tracepb "go.opentelemetry.io/proto/otlp/trace/v1"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/proto"
)

// Receiver is a real OTLP receiver, over gRPC and HTTP, and keeps the spans it
// receives. The zero value is ready.
type Receiver struct {
	coltracepb.UnimplementedTraceServiceServer

	// Respond, when set, is called first. When it returns a response or an error,
	// the client gets that and the spans are not kept.
	Respond func(context.Context) (*coltracepb.ExportTraceServiceResponse, error)
	// Token, when set, must be in the header x-token of HTTP requests.
	Token string

	mu       sync.Mutex
	received map[string]received // by span ID
}

type received struct {
	span     *tracepb.Span
	resource *resourcepb.Resource
}

// Serve serves gRPC at an address until the test ends, and returns the address.
func (r *Receiver) Serve(t *testing.T, address string) string {
	t.Helper()
	listener := listen(t, address)
	r.ServeOn(t, listener)
	return listener.Addr().String()
}

// ServeOn serves gRPC on a listener until the test ends.
func (r *Receiver) ServeOn(t *testing.T, listener net.Listener) {
	t.Helper()
	server := grpc.NewServer()
	coltracepb.RegisterTraceServiceServer(server, r)
	go func() { _ = server.Serve(listener) }() // ends with Stop
	t.Cleanup(server.Stop)
}

// ServeHTTP serves POST /v1/traces at an address until the test ends.
func (r *Receiver) ServeHTTP(t *testing.T, address string) {
	t.Helper()
	handler := http.HandlerFunc(func(w http.ResponseWriter, request *http.Request) {
		body, err := io.ReadAll(request.Body)
		var export coltracepb.ExportTraceServiceRequest
		if err != nil || request.URL.Path != "/v1/traces" || request.Header.Get("x-token") != r.Token || proto.Unmarshal(body, &export) != nil {
			w.WriteHeader(http.StatusBadRequest)
			return
		}
		r.keep(export.ResourceSpans)
	})
	server := &httptest.Server{Listener: listen(t, address), Config: &http.Server{Handler: handler}}
	server.Start()
	t.Cleanup(server.Close)
}

// Export is the gRPC method.
func (r *Receiver) Export(ctx context.Context, request *coltracepb.ExportTraceServiceRequest) (*coltracepb.ExportTraceServiceResponse, error) {
	if r.Respond != nil {
		if response, err := r.Respond(ctx); err != nil || response != nil {
			return response, err
		}
	}
	r.keep(request.ResourceSpans)
	return &coltracepb.ExportTraceServiceResponse{}, nil
}

func (r *Receiver) keep(resources []*tracepb.ResourceSpans) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.received == nil {
		r.received = map[string]received{}
	}
	for _, resource := range resources {
		for _, scope := range resource.ScopeSpans {
			for _, s := range scope.Spans {
				r.received[string(s.SpanId)] = received{s, resource.Resource}
			}
		}
	}
}

// Spans returns the spans received so far, one of each ID.
func (r *Receiver) Spans() []*tracepb.Span {
	r.mu.Lock()
	defer r.mu.Unlock()
	var spans []*tracepb.Span
	for _, each := range r.received {
		spans = append(spans, each.span)
	}
	return spans
}

// Texts returns the string attributes of a received span and of its resource.
func (r *Receiver) Texts(span *tracepb.Span) map[string]string {
	r.mu.Lock()
	resource := r.received[string(span.SpanId)].resource
	r.mu.Unlock()
	texts := map[string]string{}
	for _, set := range [][]*commonpb.KeyValue{resource.GetAttributes(), span.Attributes} {
		for _, kv := range set {
			if text, ok := kv.Value.Value.(*commonpb.AnyValue_StringValue); ok {
				texts[kv.Key] = text.StringValue
			}
		}
	}
	return texts
}

// FreeAddress returns a loopback address on which nothing listens.
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
