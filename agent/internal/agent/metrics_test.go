// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"context"
	"errors"
	"log/slog"
	"net/http"
	"regexp"
	"strconv"
	"strings"
	"testing"

	"github.com/layertrace/layertrace/agent/internal/config"
	"github.com/layertrace/layertrace/agent/internal/export"
	"github.com/layertrace/layertrace/agent/internal/identity"
	"github.com/layertrace/layertrace/agent/internal/probe"
	"github.com/layertrace/layertrace/internal/doctable"
	"github.com/prometheus/client_golang/prometheus"
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

func TestListenReportsAPortInUse(t *testing.T) {
	s, err := Listen("127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close(t.Context())
	if _, err := Listen(s.Address()); err == nil || !strings.Contains(err.Error(), "in use") {
		t.Errorf("got %v", err)
	}
}

// The tables of docs/metrics.md are generated from the registered metrics.
func TestDocumentationListsAllMetrics(t *testing.T) {
	tables, listed := map[string]*doctable.Table{}, map[string]bool{}
	section := func(name string, register func(prometheus.Registerer)) {
		var metrics inOrder
		register(&metrics)
		tables[name] = doctable.New("metric", "type", "labels", "what")
		for _, d := range describe(t, metrics...) {
			tables[name].Row("`"+d.name+"`", d.kind(), d.labels, d.help)
			listed[d.name] = true
		}
	}
	section("layers", func(r prometheus.Registerer) { newLayers(&config.Config{}, "", nil, r) })
	section("agent", func(r prometheus.Registerer) {
		newReady(r, nil)
		newBuildInfo(r, "")
		newCaptureMetrics(r)
		newAheadMetric(r)
		newPipelineMetrics(r)
		r.MustRegister(export.NewLines(nil), (*Server)(nil), new(cpuLimit))
	})
	section("spans", func(r prometheus.Registerer) {
		r.MustRegister(new(export.Queue), new(export.Kept))
		newSpanLimits(0, 0, r)
		newProgressMetric(&pipeline{}, r)
	})
	section("probe", func(r prometheus.Registerer) { r.MustRegister(probe.ZeroCounters{}) })
	section("names", func(r prometheus.Registerer) { r.MustRegister(new(identity.Kubernetes)) })
	section("mtls", func(r prometheus.Registerer) {
		newJoinMetrics(r)
		r.MustRegister(probe.EncryptedMetrics{})
	})
	section("device", func(r prometheus.Registerer) {
		newSightingMetrics(r)
		r.MustRegister(probe.DeviceMetrics{})
	})
	doctable.Check(t, "../../../docs/metrics.md", tables)

	all, _ := ExampleMetrics("v1")
	for _, d := range describe(t, all) {
		if !listed[d.name] && !strings.HasPrefix(d.name, "go_") && !strings.HasPrefix(d.name, "process_") {
			t.Errorf("%s is in no table", d.name)
		}
	}
}

// inOrder is a registerer that keeps the order, as a registry does not.
type inOrder []prometheus.Collector

func (o *inOrder) Register(c prometheus.Collector) error { *o = append(*o, c); return nil }

func (o *inOrder) MustRegister(all ...prometheus.Collector) { *o = append(*o, all...) }

func (o *inOrder) Unregister(prometheus.Collector) bool { return false }

// described is a metric as its descriptor has it.
type described struct{ name, help, labels string }

var descriptor = regexp.MustCompile(`^Desc\{fqName: ("(?:[^"\\]|\\.)*"), help: ("(?:[^"\\]|\\.)*"),.* variableLabels: \{(.*)\}\}$`)

// describe returns the metrics of collectors.
func describe(t *testing.T, collectors ...prometheus.Collector) (all []described) {
	t.Helper()
	out := make(chan *prometheus.Desc)
	go func() {
		for _, c := range collectors {
			c.Describe(out)
		}
		close(out)
	}()
	for desc := range out {
		// A descriptor has no other way to read it.
		part := descriptor.FindStringSubmatch(desc.String())
		if part == nil {
			t.Fatalf("unknown form of a descriptor: %s", desc)
		}
		d := described{}
		var err error
		if d.name, err = strconv.Unquote(part[1]); err != nil {
			t.Fatal(err)
		}
		if d.help, err = strconv.Unquote(part[2]); err != nil {
			t.Fatal(err)
		}
		if part[3] != "" {
			d.labels = "`" + strings.ReplaceAll(part[3], ",", "`, `") + "`"
		}
		all = append(all, d)
	}
	return all
}

// kind follows from the name.
func (d described) kind() string {
	switch {
	case d.name == "layertrace_hop_duration_seconds":
		return "summary"
	case strings.HasSuffix(d.name, "_duration_seconds"):
		return "histogram"
	case strings.HasSuffix(d.name, "_total"):
		return "counter"
	default:
		return "gauge"
	}
}
