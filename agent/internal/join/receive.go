// SPDX-License-Identifier: Apache-2.0

package join

import (
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"time"

	coltracepb "go.opentelemetry.io/proto/otlp/collector/trace/v1"
	tracepb "go.opentelemetry.io/proto/otlp/trace/v1"
	"google.golang.org/grpc"
	_ "google.golang.org/grpc/encoding/gzip" // senders may compress
	"google.golang.org/protobuf/proto"
)

// maxRequest is the largest request in bytes that is accepted, decompressed.
const maxRequest = 16 << 20

// receiver is an OTLP receiver for traces, over gRPC and HTTP (OTLP specification 1.10).
type receiver struct {
	coltracepb.UnimplementedTraceServiceServer

	// take handles the spans of a request. An error makes the sender send it again.
	take func(context.Context, []*tracepb.ResourceSpans) error

	grpc *grpc.Server
	http *http.Server
	// addresses that it listens on
	addresses []string
}

// Export is the gRPC method.
func (r *receiver) Export(ctx context.Context, request *coltracepb.ExportTraceServiceRequest) (*coltracepb.ExportTraceServiceResponse, error) {
	if err := r.take(ctx, request.GetResourceSpans()); err != nil {
		return nil, err
	}
	return &coltracepb.ExportTraceServiceResponse{}, nil
}

// ServeHTTP handles POST /v1/traces with protobuf.
func (r *receiver) ServeHTTP(w http.ResponseWriter, request *http.Request) {
	var export coltracepb.ExportTraceServiceRequest
	body, err := readBody(w, request)
	if err == nil {
		err = proto.Unmarshal(body, &export)
	}
	if err != nil {
		http.Error(w, fmt.Sprintf("read the request: %v; send protobuf of at most %d bytes", err, maxRequest), http.StatusBadRequest)
		return
	}
	if err := r.take(request.Context(), export.GetResourceSpans()); err != nil {
		http.Error(w, err.Error(), http.StatusServiceUnavailable) // the sender retries
		return
	}
	w.Header().Set("Content-Type", "application/x-protobuf")
	_, _ = w.Write(nil) // an empty response is a message without fields
}

func readBody(w http.ResponseWriter, request *http.Request) ([]byte, error) {
	if t := request.Header.Get("Content-Type"); t != "application/x-protobuf" {
		return nil, fmt.Errorf("content type %q", t)
	}
	var in io.Reader = http.MaxBytesReader(w, request.Body, maxRequest)
	switch encoding := request.Header.Get("Content-Encoding"); encoding {
	case "", "identity":
	case "gzip":
		unzip, err := gzip.NewReader(in)
		if err != nil {
			return nil, err
		}
		in = unzip
	default:
		return nil, fmt.Errorf("content encoding %q", encoding)
	}
	body, err := io.ReadAll(io.LimitReader(in, maxRequest+1))
	if err == nil && len(body) > maxRequest {
		err = errors.New("it is longer")
	}
	return body, err
}

// listen listens on the addresses, of which "" is none. Nothing is served before serve.
func (r *receiver) listen(grpcAddress, httpAddress string, log *slog.Logger) (serve func(), err error) {
	var all []net.Listener
	open := func(flag, address string) (net.Listener, error) {
		if address == "" {
			return nil, nil
		}
		l, err := net.Listen("tcp", address)
		if err != nil {
			return nil, fmt.Errorf("listen on %s: %w; choose another address with --%s", address, err, flag)
		}
		all = append(all, l)
		r.addresses = append(r.addresses, l.Addr().String())
		return l, nil
	}
	overGRPC, err := open("listen", grpcAddress)
	overHTTP, err2 := open("listen-http", httpAddress)
	if err := errors.Join(err, err2); err != nil {
		for _, l := range all {
			_ = l.Close()
		}
		return nil, err
	}
	r.grpc = grpc.NewServer(grpc.MaxRecvMsgSize(maxRequest))
	coltracepb.RegisterTraceServiceServer(r.grpc, r)
	mux := http.NewServeMux()
	mux.Handle("POST /v1/traces", r)
	r.http = &http.Server{Handler: mux, ReadHeaderTimeout: 5 * time.Second, ReadTimeout: time.Minute, ErrorLog: slog.NewLogLogger(log.Handler(), slog.LevelDebug)}
	return func() {
		if overGRPC != nil {
			go func() {
				if err := r.grpc.Serve(overGRPC); err != nil {
					log.Error("the OTLP receiver failed", "address", overGRPC.Addr(), "error", err)
				}
			}()
		}
		if overHTTP != nil {
			go func() {
				if err := r.http.Serve(overHTTP); err != nil && !errors.Is(err, http.ErrServerClosed) {
					log.Error("the OTLP receiver failed", "address", overHTTP.Addr(), "error", err)
				}
			}()
		}
	}, nil
}

// close lets running requests end until ctx is done.
func (r *receiver) close(ctx context.Context) error {
	ended := make(chan struct{})
	go func() { r.grpc.GracefulStop(); close(ended) }()
	err := r.http.Shutdown(ctx)
	select {
	case <-ended:
	case <-ctx.Done():
		r.grpc.Stop()
		<-ended
	}
	return err
}
