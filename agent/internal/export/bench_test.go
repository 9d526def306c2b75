// SPDX-License-Identifier: Apache-2.0

package export

import (
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/mem"

	"github.com/layertrace/layertrace/agent/internal/span"
	"github.com/layertrace/layertrace/internal/observe"
	"github.com/layertrace/layertrace/internal/tracecontext"
)

// BenchmarkDelivery measures the path of an observation after the probe: span, queue,
// OTLP over gRPC. The time per operation depends on concurrency; cpu-ns/span is the CPU
// time of the whole process, and B/span the size on the wire. The receiver is in the
// same process, but only counts bytes.
func BenchmarkDelivery(b *testing.B) {
	log := slog.New(slog.DiscardHandler)
	receiver := &byteCounter{}
	client, err := NewClient(b.Context(), OTLPOptions{Endpoint: receiver.serve(b), Insecure: true, Log: log})
	if err != nil {
		b.Fatal(err)
	}
	queue := NewQueue(client, 4*batchSize, log)
	emitter := span.NewEmitter(span.Options{Sink: queue, Offset: bootTime, Version: "v1"})
	points := benchPoints()
	b.ReportAllocs()
	cpu, n := cpuTime(b), 0
	var o observe.Observation
	for b.Loop() {
		o = benchExchange(n)
		o.Point = points[n%len(points)]
		emitter.Emit(&o)
		if n++; n%batchSize == 0 {
			flush(b, queue)
		}
	}
	flush(b, queue)
	b.ReportMetric(float64(cpuTime(b)-cpu)/float64(n), "cpu-ns/span")
	b.ReportMetric(float64(receiver.bytes.Load())/float64(n), "B/span")
	if c := queue.Counters(); c.Exported != uint64(n) {
		b.Errorf("%d of %d spans were delivered: %+v", c.Exported, n, c)
	}
}

func flush(b *testing.B, q *Queue) {
	if err := q.ForceFlush(b.Context()); err != nil {
		b.Fatal(err)
	}
}

// benchPoints returns capture points like those of a node in the lab.
func benchPoints() []*observe.Point {
	points := []*observe.Point{{ID: "node3/2", Kind: observe.KindPNIC, Node: "node3", Interface: "eth0"}}
	for i, service := range []string{"details", "reviews-v1", "reviews-v3", "ratings"} {
		points = append(points, &observe.Point{
			ID: observe.InterfacePointID("node3", 10+i), Kind: observe.KindVNIC, Node: "node3", Interface: "veth" + service,
			Workload: observe.Workload{Service: service, Namespace: "default", Pod: service + "-1", Node: "node3"},
		})
	}
	return points
}

// benchExchange returns an ordinary exchange: a request of one segment, nothing lost.
func benchExchange(n int) observe.Observation {
	start := uint64(5e9) + uint64(n)*1e6
	id := tracecontext.TraceID{0: 0xaa, 8: 0xbb, 12: byte(n >> 24), 13: byte(n >> 16), 14: byte(n >> 8), 15: byte(n)}
	return observe.Observation{
		Interface: 2, Direction: observe.DirectionIngress,
		Context: observe.Context{
			Context: tracecontext.Context{
				TraceID: id, SpanID: tracecontext.SpanID(id[8:]), Sampling: tracecontext.Accepted, Format: tracecontext.FormatB3Multi,
			},
			HeaderOffset: 42,
		},
		Key: observe.Key{
			Client: netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, 244, 4, 2}), uint16(32768+n%1000)),
			Server: netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, 244, 3, byte(2 + n%4)}), 9080),
		},
		Peers:   observe.Peers{Client: observe.Peer{Service: "productpage"}, Server: observe.Peer{Service: "reviews-v3"}},
		Request: observe.Message{First: start, Last: start, Bytes: 1100, Packets: 1},
		Response: observe.Message{
			First: start + 3_123_456, Last: start + 3_234_567, Bytes: 5000, Packets: 2,
		},
		Status: 200,
	}
}

func bootTime() span.ClockOffset { return 1_700_000_000_000_000_000 }

func cpuTime(b *testing.B) time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		b.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// byteCounter is a gRPC server that accepts every request without decoding it.
type byteCounter struct{ bytes atomic.Uint64 }

func (c *byteCounter) serve(b *testing.B) (address string) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		b.Fatal(err)
	}
	server := grpc.NewServer(grpc.ForceServerCodecV2(raw{}), grpc.UnknownServiceHandler(func(_ any, stream grpc.ServerStream) error {
		var request mem.BufferSlice
		if err := stream.RecvMsg(&request); err != nil {
			return fmt.Errorf("receive: %w", err)
		}
		c.bytes.Add(uint64(request.Len()))
		request.Free()
		return stream.SendMsg(&mem.BufferSlice{}) // an empty ExportTraceServiceResponse
	}))
	go func() { _ = server.Serve(listener) }() // ends with Stop
	b.Cleanup(server.Stop)
	return listener.Addr().String()
}

// raw passes messages on as bytes.
type raw struct{}

func (raw) Name() string                           { return "proto" }
func (raw) Marshal(v any) (mem.BufferSlice, error) { return *v.(*mem.BufferSlice), nil }

func (raw) Unmarshal(data mem.BufferSlice, v any) error {
	data.Ref()
	*v.(*mem.BufferSlice) = data
	return nil
}
