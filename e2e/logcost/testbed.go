// SPDX-License-Identifier: Apache-2.0

package logcost

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"sync/atomic"
	"time"

	collogspb "go.opentelemetry.io/proto/otlp/collector/logs/v1"
	coltracepb "go.opentelemetry.io/proto/otlp/collector/trace/v1"
	logspb "go.opentelemetry.io/proto/otlp/logs/v1"
	"golang.org/x/sync/errgroup"
	"google.golang.org/grpc"

	"github.com/layertrace/layertrace/e2e/reorder"
	"github.com/layertrace/layertrace/e2e/sandbox"
)

// testbed is a client's proxy and a server's, with a listener for each variant in both, an
// application, and a receiver of records and spans.
//
// All variants share two processes, because two processes of the same configuration differ
// by some percent, depending on where their memory is.
type testbed struct {
	client, server *reorder.Envoy
	application    *reorder.CostUpstream
	sink           *sink
	inFlight       int                   // requests at a time
	connections    map[string][]net.Conn // by variant
}

// testbedOptions configure a testbed.
type testbedOptions struct {
	// Envoy is the path of the program, Dir an existing directory.
	Envoy, Dir string
	Variants   []Variant
	// InFlight is the number of requests at a time.
	InFlight int
	// Under is a command for each proxy's program, by its directory; nil for none.
	Under func(dir string) []string
	// Untraced leaves the trace context of requests as it is.
	Untraced bool
	// Record gets each record; nil for none.
	Record func(*logspb.LogRecord)
}

// startTestbed starts everything.
func startTestbed(ctx context.Context, o testbedOptions) (_ *testbed, err error) {
	b := &testbed{inFlight: o.InFlight, connections: map[string][]net.Conn{}}
	defer func() {
		if err != nil {
			err = errors.Join(err, b.stop())
		}
	}()
	if b.application, err = reorder.StartCostUpstream(response); err != nil {
		return nil, err
	}
	if b.sink, err = startSink(o.Record); err != nil {
		return nil, err
	}
	certificate, err := writeCertificate(filepath.Join(o.Dir, "certificate"))
	if err != nil {
		return nil, err
	}
	start := func(name string, c proxyConfig) (*reorder.Envoy, error) {
		c.Certificate, c.Sink, c.Variants, c.Untraced = certificate, b.sink.address(), o.Variants, o.Untraced
		config, err := c.bootstrap()
		if err != nil {
			return nil, err
		}
		dir := filepath.Join(o.Dir, name)
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return nil, fmt.Errorf("create a directory for Envoy: %w", err)
		}
		s := reorder.Start{Envoy: o.Envoy, Dir: dir, Config: config}
		if o.Under != nil {
			s.Under = o.Under(dir)
		}
		return reorder.StartEnvoy(ctx, s)
	}
	if b.server, err = start("server", proxyConfig{Application: b.application.Address()}); err != nil {
		return nil, err
	}
	servers := map[string]netip.AddrPort{}
	for _, v := range o.Variants {
		if servers[v.Name], err = b.server.Address(v.Name); err != nil {
			return nil, err
		}
	}
	if b.client, err = start("client", proxyConfig{Servers: servers}); err != nil {
		return nil, err
	}
	return b, nil
}

func (b *testbed) stop() (err error) {
	for _, connections := range b.connections {
		for _, c := range connections {
			_ = c.Close()
		}
	}
	for _, p := range []*reorder.Envoy{b.client, b.server} {
		if p != nil {
			err = errors.Join(err, p.Stop())
		}
	}
	if b.sink != nil {
		b.sink.server.Stop()
	}
	if b.application != nil {
		err = errors.Join(err, b.application.Close())
	}
	return err
}

// send sends requests through the proxies of a variant, of which every nth is sampled; 0:
// none. It returns when all records of them have arrived, which makes a log's deferred work
// part of the requests.
func (b *testbed) send(ctx context.Context, v Variant, requests, every int) error {
	if b.connections[v.Name] == nil {
		address, err := b.client.Address(v.Name)
		if err != nil {
			return err
		}
		for range b.inFlight {
			c, err := new(net.Dialer).DialContext(ctx, "tcp", address.String())
			if err != nil {
				return fmt.Errorf("connect to Envoy: %w", err)
			}
			b.connections[v.Name] = append(b.connections[v.Name], c)
		}
	}
	before := b.sink.records.Load()
	var group errgroup.Group
	var next, sampled atomic.Int64
	for _, c := range b.connections[v.Name] {
		group.Go(func() error {
			defer context.AfterFunc(ctx, func() { _ = c.Close() })()
			buffer := make([]byte, 4096)
			for {
				n := next.Add(1)
				if n > int64(requests) {
					return nil
				}
				request := unsampledRequest
				if every > 0 && n%int64(every) == 0 {
					request = sampledRequest
					sampled.Add(1)
				}
				if err := reorder.Exchange(c, request, responseBody, buffer); err != nil {
					return errors.Join(ctx.Err(), err)
				}
			}
		})
	}
	if err := group.Wait(); err != nil {
		return fmt.Errorf("send requests to Envoy: %w", err)
	}
	want := before + sampled.Load()*int64(v.Records)
	if want > before {
		err := sandbox.Await(ctx, "records", 30*time.Second, 5*time.Millisecond, func(context.Context) error {
			if got := b.sink.records.Load(); got < want {
				return fmt.Errorf("%d of %d records arrived", got-before, want-before)
			}
			return nil
		})
		if err != nil {
			return err
		}
	}
	if got := b.sink.records.Load(); got != want {
		return fmt.Errorf("%d records arrived of %d sampled requests, want %d", got-before, sampled.Load(), want-before)
	}
	return nil
}

// The request has the trace context that an application propagates, and what HTTP clients
// add. Envoy keeps its decision to sample in the request ID too: 9 or 4 as its version.
const (
	requestHead = "GET /reviews/0 HTTP/1.1\r\n" +
		"host: reviews.default.svc.cluster.local:9080\r\n" +
		"user-agent: python-requests/2.32.3\r\n" +
		"accept-encoding: gzip, deflate\r\n" +
		"accept: */*\r\n"
	unsampledRequest = requestHead +
		"x-request-id: 3f0c3b1e-5f0e-4b7a-8a0e-6f2d1c9b7a55\r\n" +
		"traceparent: 00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-00\r\n\r\n"
	sampledRequest = requestHead +
		"x-request-id: 3f0c3b1e-5f0e-9b7a-8a0e-6f2d1c9b7a55\r\n" +
		"traceparent: 00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01\r\n\r\n"
	// responseBody is what the application's response ends with.
	responseBody = `{"id":"0"}`
	response     = "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 10\r\n\r\n" + responseBody
)

// sink receives records and spans (OTLP over gRPC) and counts the records.
type sink struct {
	listener net.Listener
	server   *grpc.Server
	record   func(*logspb.LogRecord)
	records  atomic.Int64
}

func startSink(record func(*logspb.LogRecord)) (*sink, error) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, fmt.Errorf("listen for records: %w", err)
	}
	s := &sink{listener: listener, record: record, server: grpc.NewServer()}
	collogspb.RegisterLogsServiceServer(s.server, logs{s: s})
	coltracepb.RegisterTraceServiceServer(s.server, traces{})
	go func() { _ = s.server.Serve(listener) }() // ends with Stop
	return s, nil
}

func (s *sink) address() netip.AddrPort { return s.listener.Addr().(*net.TCPAddr).AddrPort() }

type logs struct {
	collogspb.UnimplementedLogsServiceServer
	s *sink
}

func (l logs) Export(_ context.Context, r *collogspb.ExportLogsServiceRequest) (*collogspb.ExportLogsServiceResponse, error) {
	n := 0
	for _, resource := range r.GetResourceLogs() {
		for _, scope := range resource.GetScopeLogs() {
			n += len(scope.GetLogRecords())
			for _, r := range scope.GetLogRecords() {
				if l.s.record != nil {
					l.s.record(r)
				}
			}
		}
	}
	l.s.records.Add(int64(n))
	return &collogspb.ExportLogsServiceResponse{}, nil
}

type traces struct {
	coltracepb.UnimplementedTraceServiceServer
}

func (traces) Export(context.Context, *coltracepb.ExportTraceServiceRequest) (*coltracepb.ExportTraceServiceResponse, error) {
	return &coltracepb.ExportTraceServiceResponse{}, nil
}
