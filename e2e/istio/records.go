// SPDX-License-Identifier: Apache-2.0

package istio

import (
	"context"
	"fmt"
	"net"
	"strconv"
	"strings"
	"sync"
	"time"

	logs "go.opentelemetry.io/proto/otlp/collector/logs/v1"
	common "go.opentelemetry.io/proto/otlp/common/v1"
	logsv1 "go.opentelemetry.io/proto/otlp/logs/v1"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/peer"

	"github.com/layertrace/layertrace/e2e/sandbox"
)

// record is one record of a proxy's access log, as it arrived.
type record struct {
	// peer is the address that sent it.
	peer string
	// body names the log.
	body   string
	labels map[string]string
	// time is when the request began, in ns of Unix time.
	time uint64
}

// traceID is that of the traceparent, in hex.
func (r record) traceID() string {
	parts := strings.Split(r.labels["traceparent"], "-")
	if len(parts) != 4 {
		return ""
	}
	return parts[1]
}

// number is the value of a label, -1 if it is no number.
func (r record) number(label string) int {
	n, err := strconv.Atoi(r.labels[label])
	if err != nil {
		return -1
	}
	return n
}

func (r record) String() string { return fmt.Sprintf("%s from %s: %v", r.body, r.peer, r.labels) }

// records receives access logs by OTLP.
type records struct {
	logs.UnimplementedLogsServiceServer
	server *grpc.Server
	served chan error

	mu  sync.Mutex
	all []record
}

// receiveRecords receives until close is called.
func receiveRecords(listener net.Listener) *records {
	r := &records{server: grpc.NewServer(), served: make(chan error, 1)}
	logs.RegisterLogsServiceServer(r.server, r)
	go func() { r.served <- r.server.Serve(listener) }()
	return r
}

func (r *records) close() {
	r.server.Stop()
	<-r.served
}

// take returns what has arrived since the last call.
func (r *records) take() []record {
	r.mu.Lock()
	defer r.mu.Unlock()
	all := r.all
	r.all = nil
	return all
}

// Export implements the service.
func (r *records) Export(ctx context.Context, request *logs.ExportLogsServiceRequest) (*logs.ExportLogsServiceResponse, error) {
	from := ""
	if p, ok := peer.FromContext(ctx); ok {
		from, _, _ = net.SplitHostPort(p.Addr.String())
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, resource := range request.GetResourceLogs() {
		for _, scope := range resource.GetScopeLogs() {
			for _, log := range scope.GetLogRecords() {
				r.all = append(r.all, record{
					peer: from, body: log.GetBody().GetStringValue(), labels: texts(log.GetAttributes()), time: log.GetTimeUnixNano(),
				})
			}
		}
	}
	return &logs.ExportLogsServiceResponse{}, nil
}

func texts(attributes []*common.KeyValue) map[string]string {
	all := map[string]string{}
	for _, a := range attributes {
		all[a.GetKey()] = a.GetValue().GetStringValue()
	}
	return all
}

// sendRecord sends a record as a proxy would, from a network namespace.
func sendRecord(ctx context.Context, from *sandbox.Namespace, to, log string, labels map[string]string) error {
	conn, err := grpc.NewClient("passthrough:///"+to, grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithContextDialer(func(ctx context.Context, address string) (net.Conn, error) {
			return from.DialContext(ctx, "tcp", address)
		}))
	if err != nil {
		return err
	}
	defer conn.Close()
	text := func(s string) *common.AnyValue {
		return &common.AnyValue{Value: &common.AnyValue_StringValue{StringValue: s}}
	}
	r := &logsv1.LogRecord{TimeUnixNano: uint64(time.Now().UnixNano()), Body: text(log)}
	for key, value := range labels {
		r.Attributes = append(r.Attributes, &common.KeyValue{Key: key, Value: text(value)})
	}
	_, err = logs.NewLogsServiceClient(conn).Export(ctx, &logs.ExportLogsServiceRequest{
		ResourceLogs: []*logsv1.ResourceLogs{{ScopeLogs: []*logsv1.ScopeLogs{{LogRecords: []*logsv1.LogRecord{r}}}}},
	})
	return err
}
