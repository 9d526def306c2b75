// SPDX-License-Identifier: Apache-2.0

// Package devices checks in the lab what devices between the nodes see: an agent that reads
// headers only on each of two routers, and join. The ground truth is which requests passed
// which device, from the logs of Envoys and applications.
package devices

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"net/netip"
	"strconv"
	"sync"

	coltracepb "go.opentelemetry.io/proto/otlp/collector/trace/v1"
	commonpb "go.opentelemetry.io/proto/otlp/common/v1"
	tracepb "go.opentelemetry.io/proto/otlp/trace/v1"
	"google.golang.org/grpc"
	_ "google.golang.org/grpc/encoding/gzip" // the Collector compresses
	"google.golang.org/grpc/metadata"

	"github.com/layertrace/layertrace/e2e/lab"
	"github.com/layertrace/layertrace/e2e/sandbox"
)

// passage is a span of a device's interface.
type passage struct {
	point, direction string
	traceID, spanID  string // of the request's header
	client, server   netip.AddrPort
	bytes, response  int64
	oneWay           string
	connection       string
	join             string // that made it
}

// receiver is an OTLP receiver that keeps the spans of devices.
type receiver struct {
	coltracepb.UnimplementedTraceServiceServer
	server *grpc.Server

	mu       sync.Mutex
	passages []passage
	others   map[string]int // spans of agents on connections with an ID, by their ID
	strange  int            // sightings
	err      error
}

// receive serves at an address of a namespace until stop.
func receive(namespace *sandbox.Namespace, address string) (*receiver, error) {
	listener, err := namespace.Listen(address)
	if err != nil {
		return nil, fmt.Errorf("receive spans at %s: %w", address, err)
	}
	r := &receiver{server: grpc.NewServer(grpc.MaxRecvMsgSize(64 << 20)), others: map[string]int{}}
	coltracepb.RegisterTraceServiceServer(r.server, r)
	go func() { _ = r.server.Serve(listener) }() // ends with stop
	return r, nil
}

// Export is the gRPC method.
func (r *receiver) Export(ctx context.Context, request *coltracepb.ExportTraceServiceRequest) (*coltracepb.ExportTraceServiceResponse, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	join := ""
	if of := metadata.ValueFromIncomingContext(ctx, lab.JoinHeader); len(of) > 0 {
		join = of[0]
	}
	for _, resource := range request.GetResourceSpans() {
		about := texts(resource.GetResource().GetAttributes())
		for _, scope := range resource.GetScopeSpans() {
			for _, s := range scope.GetSpans() {
				if about["layertrace.capture_point.kind"] == "device" {
					r.keep(s, join)
				} else if id := texts(s.GetAttributes())["layertrace.connection_id"]; id != "" {
					r.others[id]++
				}
			}
		}
	}
	return &coltracepb.ExportTraceServiceResponse{}, nil
}

func (r *receiver) keep(s *tracepb.Span, join string) {
	a := texts(s.GetAttributes())
	if s.GetName() == "sighting" {
		r.strange++
		return
	}
	p := passage{
		point: s.GetName(), direction: a["layertrace.direction"], oneWay: a["layertrace.device.one_way"],
		traceID: hex.EncodeToString(s.GetTraceId()), spanID: hex.EncodeToString(s.GetParentSpanId()),
		connection: a["layertrace.connection_id"], join: join,
	}
	var errs [4]error
	p.client, errs[0] = netip.ParseAddrPort(a["client.address"] + ":" + a["client.port"])
	p.server, errs[1] = netip.ParseAddrPort(a["server.address"] + ":" + a["server.port"])
	p.bytes, errs[2] = strconv.ParseInt(a["layertrace.request.bytes"], 10, 64)
	p.response, errs[3] = strconv.ParseInt(a["layertrace.response.bytes"], 10, 64)
	for _, err := range errs {
		if err != nil && r.err == nil && p.oneWay == "" {
			r.err = fmt.Errorf("span %s of a device: %w", p.point, err)
		}
	}
	r.passages = append(r.passages, p)
}

// stop ends the receiver. Afterwards it has everything.
func (r *receiver) stop() error {
	r.server.GracefulStop()
	if r.strange > 0 {
		return errors.Join(r.err, fmt.Errorf("%d sightings came to the trace store, want none", r.strange))
	}
	return r.err
}

// texts returns attributes as text.
func texts(list []*commonpb.KeyValue) map[string]string {
	all := map[string]string{}
	for _, kv := range list {
		switch v := kv.GetValue().GetValue().(type) {
		case *commonpb.AnyValue_StringValue:
			all[kv.GetKey()] = v.StringValue
		case *commonpb.AnyValue_IntValue:
			all[kv.GetKey()] = strconv.FormatInt(v.IntValue, 10)
		}
	}
	return all
}
