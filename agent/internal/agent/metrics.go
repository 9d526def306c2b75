// SPDX-License-Identifier: Apache-2.0

package agent

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
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promauto"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/layertrace/layertrace/agent/internal/config"
	"github.com/layertrace/layertrace/agent/internal/export"
	"github.com/layertrace/layertrace/agent/internal/iface"
	"github.com/layertrace/layertrace/internal/observe"
)

//go:generate go test . -run TestDocumentationListsAllMetrics -update

// newMetrics returns the registry of the agent's metrics, with those of the Go
// runtime, the process and the build. Each part registers its own.
func newMetrics(version string) *prometheus.Registry {
	metrics := prometheus.NewRegistry()
	RegisterProcess(metrics, version)
	return metrics
}

// RegisterProcess registers the metrics that all commands that serve metrics have: of the Go
// runtime, the process and the build.
func RegisterProcess(r prometheus.Registerer, version string) {
	r.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	newBuildInfo(r, version)
}

func newBuildInfo(r prometheus.Registerer, version string) {
	promauto.With(r).NewGaugeVec(prometheus.GaugeOpts{
		Name: "layertrace_build_info",
		Help: "1, with the version of layertrace.",
	}, []string{"version"}).WithLabelValues(version).Set(1)
}

// newReady registers the response of /readyz as a metric.
func newReady(r prometheus.Registerer, ready Ready) {
	promauto.With(r).NewGaugeFunc(prometheus.GaugeOpts{
		Name: "layertrace_ready",
		Help: "1 when the agent does all of its work: /readyz responds with ok.",
	}, func() float64 {
		if _, err := ready(); err != nil {
			return 0
		}
		return 1
	})
}

// ExampleMetrics returns all metrics of the agent's own parts, for a made-up agent
// that captures at two pods and a physical interface and loses nothing, and the
// histograms to fill.
func ExampleMetrics(version string) (*prometheus.Registry, *LayerTimes) {
	metrics := newMetrics(version)
	newReady(metrics, func() (string, error) { return "", nil })
	newCapture(nil, nil, nil, newCaptureMetrics(metrics)).setExample()
	newPipelineMetrics(metrics)
	newAheadMetric(metrics)
	metrics.MustRegister(new(export.Queue), export.NewLines(nil))
	return metrics, newLayers(&config.Config{}, "", nil, metrics).times
}

func (c *capture) setExample() {
	for index, kind := range []observe.Kind{observe.KindVNIC, observe.KindVNIC, observe.KindPNIC} {
		c.attached[index] = iface.Interface{Kind: kind}
	}
	c.count()
}

// Ready returns an error that names what is missing if the agent cannot work. The
// remark is about something that it can do without for now.
type Ready func() (remark string, err error)

// Server serves /metrics, /healthz and /readyz. A nil Server serves nothing.
type Server struct {
	listener net.Listener
	http     http.Server
}

// Listen binds the address, so that a port in use is reported before anything else
// is set up. Requests wait until Serve. Without an address it returns nil.
func Listen(address string) (*Server, error) {
	if address == "" {
		return nil, nil
	}
	listener, err := net.Listen("tcp", address)
	switch {
	case errors.Is(err, syscall.EADDRINUSE):
		return nil, fmt.Errorf("listen on %s: the address is in use, perhaps by another agent; choose another with --metrics-address", address)
	case err != nil:
		return nil, fmt.Errorf("listen on %s: %w; correct --metrics-address", address, err)
	}
	return &Server{listener: listener}, nil
}

// Address returns the address that the server listens on, or "off".
func (s *Server) Address() string {
	if s == nil {
		return "off"
	}
	return s.listener.Addr().String()
}

// Serve responds in the background until Close.
func (s *Server) Serve(metrics prometheus.Gatherer, ready Ready, log *slog.Logger) {
	if s == nil {
		return
	}
	mux := http.NewServeMux()
	mux.Handle("GET /metrics", promhttp.HandlerFor(metrics, promhttp.HandlerOpts{
		ErrorLog: slog.NewLogLogger(log.Handler(), slog.LevelWarn),
		// One failing collector does not hide the others.
		ErrorHandling: promhttp.ContinueOnError,
		// Only this format has exemplars. Prometheus asks for it, and for native
		// histograms in protobuf.
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
			log.Error("the metrics server failed", "error", err)
		}
	}()
}

// Close lets running requests end until ctx is done. It frees the address, even if
// Serve was never called.
func (s *Server) Close(ctx context.Context) error {
	if s == nil {
		return nil
	}
	defer s.listener.Close()
	if err := s.http.Shutdown(ctx); err != nil {
		return fmt.Errorf("stop the metrics server: %w", errors.Join(err, s.http.Close()))
	}
	return nil
}

// closeAtExit gives a running scrape a second. The agent has ended by then, so an
// interrupted scrape loses nothing new and an error has no use.
func (s *Server) closeAtExit() {
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	_ = s.Close(ctx)
}
