// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"regexp"
	"strconv"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/layertrace/layertrace/agent/internal/config"
	"github.com/layertrace/layertrace/agent/internal/export"
	"github.com/layertrace/layertrace/agent/internal/identity"
	"github.com/layertrace/layertrace/agent/internal/probe"
	"github.com/layertrace/layertrace/internal/doctable"
)

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
		newPipelineMetrics(r)
		r.MustRegister(export.NewLines(nil))
	})
	section("spans", func(r prometheus.Registerer) { r.MustRegister(new(export.Queue)) })
	section("probe", func(r prometheus.Registerer) { r.MustRegister(probe.ZeroCounters{}) })
	section("names", func(r prometheus.Registerer) { r.MustRegister(new(identity.Kubernetes)) })
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
