// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
)

// In a cluster every pod reaches the address of its node, and no NetworkPolicy applies there.
// So whoever can open a connection may cost the agent little. The limits are by address: a
// pod cannot keep the kubelet out, nor Prometheus, unless both have the address of one node
// because their packets are masqueraded.
const (
	// maxServed is how many connections from other machines are served at the same time,
	// maxServedOwn how many from this one, where the kubelet is.
	maxServed, maxServedOwn = 64, 16
	// maxServedOf is how many of one address are.
	maxServedOf = 8
	// maxScrapes is how many scrapes run at the same time.
	maxScrapes = 4
	// headTimeout, requestTimeout and responseTimeout are for one request, idleTimeout is
	// between two.
	headTimeout, requestTimeout, responseTimeout, idleTimeout = 5 * time.Second, 10 * time.Second, 30 * time.Second, 30 * time.Second
	// maxHeadBytes is the size of a request's head.
	maxHeadBytes = 16 << 10
)

// Ready returns an error that names what is missing if the agent cannot work. The
// remark is about something that it can do without for now.
type Ready func() (remark string, err error)

// Server serves /metrics, /healthz and /readyz, and /spans if spans are kept. A nil Server
// serves nothing.
type Server struct {
	listener *boundedListener
	kept     http.Handler // nil: none are
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
	return &Server{listener: &boundedListener{Listener: listener, served: map[netip.Addr]int{}}}, nil
}

// Address returns the address that the server listens on, or "off".
func (s *Server) Address() string {
	if s == nil {
		return "off"
	}
	return s.listener.Addr().String()
}

// KeepSpans sets the handler of the kept spans; before Serve.
func (s *Server) KeepSpans(kept http.Handler) {
	if s != nil {
		s.kept = kept
	}
}

// Admit sets who may read metrics and spans, by address; before Serve. Without it, everybody
// may.
func (s *Server) Admit(admits func(netip.Addr) error) {
	if s != nil {
		s.listener.admits = admits
	}
}

// Serve responds in the background until Close.
func (s *Server) Serve(metrics prometheus.Gatherer, ready Ready, log *slog.Logger) {
	if s == nil {
		return
	}
	mux := http.NewServeMux()
	mux.Handle("GET /metrics", s.listener.admitted(promhttp.HandlerFor(metrics, promhttp.HandlerOpts{
		ErrorLog: slog.NewLogLogger(log.Handler(), slog.LevelWarn),
		// One failing collector does not hide the others.
		ErrorHandling: promhttp.ContinueOnError,
		// Only this format has exemplars. Prometheus asks for it, and for native
		// histograms in protobuf.
		EnableOpenMetrics:   true,
		MaxRequestsInFlight: maxScrapes,
	})))
	if s.kept != nil {
		mux.Handle("GET /spans", s.listener.admitted(s.kept))
	}
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
	s.http = http.Server{
		Handler: mux, ErrorLog: slog.NewLogLogger(log.Handler(), slog.LevelDebug),
		ReadHeaderTimeout: headTimeout, ReadTimeout: requestTimeout, WriteTimeout: responseTimeout, IdleTimeout: idleTimeout,
		MaxHeaderBytes: maxHeadBytes,
	}
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

var refusedDesc = prometheus.NewDesc("layertrace_metrics_connections_refused_total",
	"Connections to the metrics server closed at once because it had too many, or too many of their address.", nil, nil)

// Describe implements prometheus.Collector.
func (s *Server) Describe(out chan<- *prometheus.Desc) { out <- refusedDesc }

// Collect implements prometheus.Collector.
func (s *Server) Collect(out chan<- prometheus.Metric) {
	refused := uint64(0)
	if s != nil {
		refused = s.listener.refused.Load()
	}
	out <- prometheus.MustNewConstMetric(refusedDesc, prometheus.CounterValue, float64(refused))
}

// boundedListener accepts a bounded number of connections, in all and of each address. It
// closes those above at once: one that waits would cost the kernel's queue, which others need.
type boundedListener struct {
	net.Listener
	admits  func(netip.Addr) error
	refused atomic.Uint64

	mu          sync.Mutex // guards the rest
	served      map[netip.Addr]int
	others, own int
}

// Accept implements net.Listener.
func (l *boundedListener) Accept() (net.Conn, error) {
	for {
		c, err := l.Listener.Accept()
		if err != nil {
			return nil, err
		}
		from, local := addressOf(c.RemoteAddr()), addressOf(c.LocalAddr())
		own := from.IsLoopback() || from == local
		if l.take(from, own) {
			return &servedConn{Conn: c, release: sync.OnceFunc(func() { l.release(from, own) })}, nil
		}
		l.refused.Add(1)
		_ = c.Close() // nothing was sent
	}
}

func (l *boundedListener) take(from netip.Addr, own bool) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	switch {
	case own && l.own >= maxServedOwn, !own && (l.others >= maxServed || l.served[from] >= maxServedOf):
		return false
	case own:
		l.own++
	default:
		l.others++
		l.served[from]++
	}
	return true
}

func (l *boundedListener) release(from netip.Addr, own bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if own {
		l.own--
		return
	}
	l.others--
	if l.served[from]--; l.served[from] == 0 {
		delete(l.served, from)
	}
}

// admitted responds 403 to those who may not read metrics and spans.
func (l *boundedListener) admitted(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		from, _ := netip.ParseAddrPort(r.RemoteAddr) // an address that cannot be read is no pod's
		if l.admits != nil {
			if err := l.admits(from.Addr().Unmap()); err != nil {
				http.Error(w, err.Error(), http.StatusForbidden)
				return
			}
		}
		next.ServeHTTP(w, r)
	})
}

func addressOf(a net.Addr) netip.Addr {
	if tcp, ok := a.(*net.TCPAddr); ok {
		return tcp.AddrPort().Addr().Unmap().WithZone("")
	}
	return netip.Addr{}
}

// servedConn is a connection that counts until it is closed.
type servedConn struct {
	net.Conn
	release func()
}

// Close implements net.Conn.
func (c *servedConn) Close() error {
	c.release()
	return c.Conn.Close()
}
