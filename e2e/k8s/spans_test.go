// SPDX-License-Identifier: Apache-2.0

package k8s

import (
	"context"
	"net"
	"strings"
	"sync"
	"testing"

	"go.opentelemetry.io/proto/otlp/collector/trace/v1"
	common "go.opentelemetry.io/proto/otlp/common/v1"
	trace "go.opentelemetry.io/proto/otlp/trace/v1"
	"google.golang.org/grpc"

	"github.com/layertrace/layertrace/e2e/lab/netspace"
)

// span is one that arrived: its name, and the attributes of its resource and
// of its own that are texts.
type span struct {
	name       string
	attributes map[string]string
}

// receiver takes spans by OTLP over gRPC.
type receiver struct {
	v1.UnimplementedTraceServiceServer
	address string

	mu    sync.Mutex
	spans map[string][]span // by trace ID
}

// startReceiver starts a receiver at an address in a namespace, which ends with
// the test.
func startReceiver(t *testing.T, space *netspace.Space, address string) *receiver {
	t.Helper()
	r := &receiver{address: address, spans: map[string][]span{}}
	server := grpc.NewServer()
	v1.RegisterTraceServiceServer(server, r)
	listener := listenIn(t, space, address)
	go func() { _ = server.Serve(listener) }() // ends with Stop
	t.Cleanup(server.Stop)
	return r
}

func listenIn(t *testing.T, space *netspace.Space, address string) (listener net.Listener) {
	t.Helper()
	err := space.Do(func() (err error) {
		listener, err = net.Listen("tcp", address)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return listener
}

// Export is the gRPC method.
func (r *receiver) Export(_ context.Context, request *v1.ExportTraceServiceRequest) (*v1.ExportTraceServiceResponse, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, resource := range request.ResourceSpans {
		for _, scope := range resource.ScopeSpans {
			for _, s := range scope.Spans {
				id := string(s.TraceId)
				r.spans[id] = append(r.spans[id], newSpan(s, resource.Resource.Attributes))
			}
		}
	}
	return &v1.ExportTraceServiceResponse{}, nil
}

func newSpan(s *trace.Span, resource []*common.KeyValue) span {
	made := span{name: s.Name, attributes: map[string]string{}}
	for _, set := range [][]*common.KeyValue{resource, s.Attributes} {
		for _, kv := range set {
			if text, ok := kv.Value.Value.(*common.AnyValue_StringValue); ok {
				made.attributes[kv.Key] = text.StringValue
			}
		}
	}
	return made
}

// at returns the span of a trace that was made at an interface.
func (r *receiver) at(traceID [16]byte, nic string) (span, bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, s := range r.spans[string(traceID[:])] {
		if strings.HasSuffix(s.name, "_"+nic) {
			return s, true
		}
	}
	return span{}, false
}
