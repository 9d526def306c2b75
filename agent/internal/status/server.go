// SPDX-License-Identifier: Apache-2.0

// Package status serves what the agent tells about itself: /metrics, /healthz
// and /readyz.
package status

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"syscall"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
)

// Server answers on one address.
type Server struct {
	listener net.Listener
	http     http.Server
}

// Ready returns an error that says what is missing for the agent to do its
// work. A remark is for what it can do without, for now.
type Ready func() (remark string, err error)

// Listen takes the address, so that a port in use is known before anything
// else is set up. Requests wait until Serve.
func Listen(address string) (*Server, error) {
	listener, err := net.Listen("tcp", address)
	switch {
	case errors.Is(err, syscall.EADDRINUSE):
		return nil, fmt.Errorf("address %s is in use, by another agent perhaps: choose another one with --metrics-address", address)
	case err != nil:
		return nil, fmt.Errorf("listen on %s: %w; correct --metrics-address", address, err)
	}
	return &Server{listener: listener}, nil
}

// Address is the address that the server listens on.
func (s *Server) Address() string { return s.listener.Addr().String() }

// Serve answers in the background until Close.
func (s *Server) Serve(metrics prometheus.Gatherer, ready Ready, log *slog.Logger) {
	mux := http.NewServeMux()
	mux.Handle("GET /metrics", promhttp.HandlerFor(metrics, promhttp.HandlerOpts{
		ErrorLog:      slog.NewLogLogger(log.Handler(), slog.LevelWarn),
		ErrorHandling: promhttp.ContinueOnError,
		// Exemplars are in this form only. Prometheus asks for it, and for
		// native histograms by protobuf.
		EnableOpenMetrics: true,
	}))
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprintln(w, "ok") })
	mux.HandleFunc("GET /readyz", func(w http.ResponseWriter, _ *http.Request) {
		remark, err := ready()
		if err != nil {
			http.Error(w, err.Error(), http.StatusServiceUnavailable)
			return
		}
		fmt.Fprintln(w, "ok")
		if remark != "" {
			fmt.Fprintln(w, remark)
		}
	})
	s.http = http.Server{Handler: mux, ReadHeaderTimeout: 5 * time.Second, ErrorLog: slog.NewLogLogger(log.Handler(), slog.LevelDebug)}
	go func() {
		if err := s.http.Serve(s.listener); err != nil && !errors.Is(err, http.ErrServerClosed) {
			log.Error("the metrics server ended", "error", err)
		}
	}()
}

// Close lets running requests end until ctx is done. It frees the address also
// when Serve was never called.
func (s *Server) Close(ctx context.Context) error {
	defer s.listener.Close()
	if err := s.http.Shutdown(ctx); err != nil {
		return fmt.Errorf("stop the metrics server: %w", errors.Join(err, s.http.Close()))
	}
	return nil
}
