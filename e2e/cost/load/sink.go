// SPDX-License-Identifier: Apache-2.0

package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"sync/atomic"

	"google.golang.org/grpc"
	"google.golang.org/protobuf/encoding/protowire"
)

// received is what the sink received.
type received struct {
	Requests atomic.Int64
	Spans    atomic.Int64
	Bytes    atomic.Int64
}

// sink receives OTLP over gRPC and HTTP, counts the spans, and keeps nothing. It walks
// over the encoding and decodes no span, so that it takes little of the measured
// machine.
func sink(grpcAddress, httpAddress string) error {
	var got received
	listener, err := net.Listen("tcp4", grpcAddress)
	if err != nil {
		return err
	}
	server := grpc.NewServer(grpc.ForceServerCodec(rawCodec{}), grpc.MaxRecvMsgSize(64<<20),
		grpc.UnknownServiceHandler(func(_ any, stream grpc.ServerStream) error {
			var body []byte
			if err := stream.RecvMsg(&body); err != nil {
				return err
			}
			if err := got.add(body); err != nil {
				return err
			}
			return stream.SendMsg(&[]byte{}) // an empty response is a complete success
		}))
	failed := make(chan error, 2)
	go func() { failed <- server.Serve(listener) }()
	mux := http.NewServeMux()
	mux.HandleFunc("POST /v1/traces", func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		if err == nil {
			err = got.add(body)
		}
		if err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		w.Header().Set("Content-Type", "application/x-protobuf")
	})
	mux.HandleFunc("GET /count", func(w http.ResponseWriter, _ *http.Request) {
		// Only the connection can fail.
		_ = json.NewEncoder(w).Encode(map[string]int64{
			"requests": got.Requests.Load(), "spans": got.Spans.Load(), "bytes": got.Bytes.Load(),
		})
	})
	go func() { failed <- http.ListenAndServe(httpAddress, mux) }()
	return <-failed
}

func (r *received) add(body []byte) error {
	spans, err := countSpans(body)
	if err != nil {
		return err
	}
	r.Requests.Add(1)
	r.Spans.Add(int64(spans))
	r.Bytes.Add(int64(len(body)))
	return nil
}

// countSpans counts the spans of an ExportTraceServiceRequest (opentelemetry-proto):
// resource_spans (1), scope_spans (2), spans (2).
func countSpans(body []byte) (int, error) { return countFields(body, 1, 2, 2) }

// countFields counts how often a nested field of these numbers is there.
func countFields(message []byte, path ...protowire.Number) (count int, err error) {
	for len(message) > 0 {
		number, kind, n := protowire.ConsumeTag(message)
		if n < 0 {
			return 0, fmt.Errorf("read a request for spans: %w", protowire.ParseError(n))
		}
		message = message[n:]
		size := protowire.ConsumeFieldValue(number, kind, message)
		if size < 0 {
			return 0, fmt.Errorf("read a request for spans: %w", protowire.ParseError(size))
		}
		value := message[:size]
		message = message[size:]
		if number != path[0] || kind != protowire.BytesType {
			continue
		}
		if len(path) == 1 {
			count++
			continue
		}
		inner, _ := protowire.ConsumeBytes(value)
		more, err := countFields(inner, path[1:]...)
		if err != nil {
			return 0, err
		}
		count += more
	}
	return count, nil
}

// rawCodec leaves gRPC messages as bytes.
type rawCodec struct{}

func (rawCodec) Name() string { return "proto" }

func (rawCodec) Marshal(v any) ([]byte, error) {
	message, ok := v.(*[]byte)
	if !ok {
		return nil, errors.New("encode a message: not bytes")
	}
	return *message, nil
}

func (rawCodec) Unmarshal(data []byte, v any) error {
	message, ok := v.(*[]byte)
	if !ok {
		return errors.New("decode a message: not bytes")
	}
	*message = append((*message)[:0], data...)
	return nil
}
