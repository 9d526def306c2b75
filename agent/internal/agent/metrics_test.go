// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"context"
	"errors"
	"log/slog"
	"net/http"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/layertrace/layertrace/agent/internal/export"
)

// serve serves metrics until the test ends, and returns the address.
func serve(t *testing.T, metrics prometheus.Gatherer, ready Ready) string {
	t.Helper()
	s, err := Listen("127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s.Serve(metrics, ready, slog.New(slog.DiscardHandler))
	t.Cleanup(func() {
		if err := s.Close(context.Background()); err != nil { // the test's context is over
			t.Error(err)
		}
	})
	return s.Address()
}

func TestReadiness(t *testing.T) {
	var missing error
	remark := ""
	address := serve(t, prometheus.NewRegistry(), func() (string, error) { return remark, missing })
	if code, _ := get(t, address, "/readyz"); code != http.StatusOK {
		t.Errorf("ready: %d", code)
	}
	remark = "names are old"
	if code, body := get(t, address, "/readyz"); code != http.StatusOK || body != "ok\nnames are old\n" {
		t.Errorf("ready with a remark: %d %q", code, body)
	}
	missing = errors.New("no interface")
	if code, body := get(t, address, "/readyz"); code != http.StatusServiceUnavailable || body != "no interface\n" {
		t.Errorf("not ready: %d %q", code, body)
	}
	if code, _ := get(t, address, "/healthz"); code != http.StatusOK {
		t.Errorf("healthy: %d", code)
	}
}

// failing is a collector that has no values.
type failing struct{}

func (failing) Describe(chan<- *prometheus.Desc) {}

func (failing) Collect(out chan<- prometheus.Metric) {
	err := errors.New("read counters: no such map")
	out <- prometheus.NewInvalidMetric(prometheus.NewInvalidDesc(err), err)
}

// A failing collector does not hide the others.
func TestMetrics(t *testing.T) {
	metrics := newMetrics("v1")
	missing := errors.New("no interface")
	newReady(metrics, func() (string, error) { return "", missing })
	metrics.MustRegister(failing{}, export.NewLines(nil))
	address := serve(t, metrics, nil)
	code, body := get(t, address, "/metrics")
	if code != http.StatusOK {
		t.Errorf("one failing collector fails the scrape: %d", code)
	}
	for _, want := range []string{
		"# TYPE layertrace_lines_written_total counter", "layertrace_lines_written_total 0", `layertrace_build_info{version="v1"} 1`,
		"# TYPE layertrace_ready gauge", "layertrace_ready 0", "process_cpu_seconds_total",
	} {
		if !strings.Contains(body, want) {
			t.Errorf("/metrics lacks %s", want)
		}
	}
	missing = nil
	if _, body := get(t, address, "/metrics"); !strings.Contains(body, "layertrace_ready 1") {
		t.Error("/metrics does not report that the agent is ready")
	}
}

func TestListenTellsThatThePortIsTaken(t *testing.T) {
	s, err := Listen("127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close(t.Context())
	if _, err := Listen(s.Address()); err == nil || !strings.Contains(err.Error(), "in use") {
		t.Errorf("got %v", err)
	}
}
