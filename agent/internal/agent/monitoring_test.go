// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"encoding/json"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
	"sigs.k8s.io/yaml"

	"github.com/layertrace/layertrace/agent/internal/breakdown"
	"github.com/layertrace/layertrace/agent/internal/export"
	"github.com/layertrace/layertrace/agent/internal/probe"
	"github.com/layertrace/layertrace/agent/internal/status"
	"github.com/layertrace/layertrace/internal/observe"
	"github.com/layertrace/layertrace/internal/otlptest"
)

const monitoring = "../../../istio/monitoring/"

// targetLabels are what Prometheus adds, and le of classic buckets.
var targetLabels = []string{"instance", "job", "le"}

// metricNames returns all metrics that an agent can have, with their labels.
func metricNames(t *testing.T) map[string][]string {
	t.Helper()
	times := status.NewLayerTimes()
	seen := &observe.Observation{Point: &observe.Point{Node: "node1"}}
	seen.Request.Last, seen.Response.Last = 1, 2
	times.Observe(&breakdown.Hop{ServerPNIC: seen, Segments: []breakdown.Segment{{Layer: observe.Application}}})
	receiver := &otlptest.Receiver{}
	opts := options(t, newFakeProbe(), "--export=otlp-grpc", "--otlp-insecure", "--otlp-endpoint="+receiver.Serve(t, "127.0.0.1:0"))
	delivery, err := newDelivery(t.Context(), opts, naming{}, nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := delivery.close(t.Context()); err != nil {
			t.Log(err) // nothing was queued
		}
	})
	delivery.lines = export.NewLines(opts.Stdout)
	delivery.layers = &layers{buffer: breakdown.NewTraceBuffer(breakdown.TraceBufferOptions{})}
	counters := func() (all []status.Sample, err error) {
		for _, c := range probe.CounterNames() {
			all = append(all, status.Sample{Name: c.Name, Help: c.Help})
		}
		return all, nil
	}
	registry := status.NewRegistry([]prometheus.Collector{times}, build("v1"),
		readiness(func() (string, error) { return "", nil }), counters, newCapture(nil, nil, opts.Log).samples, delivery.samples)
	families, err := registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	names := map[string][]string{"up": nil}
	for _, f := range families {
		var labels []string
		for _, m := range f.GetMetric() {
			for _, l := range m.GetLabel() {
				labels = append(labels, l.GetName())
			}
		}
		names[f.GetName()] = labels
		switch f.GetType().String() {
		case "HISTOGRAM":
			names[f.GetName()+"_bucket"] = labels
			fallthrough
		case "SUMMARY":
			names[f.GetName()+"_sum"], names[f.GetName()+"_count"] = labels, labels
		}
	}
	return names
}

// Dashboard and alert rules ask for metrics and labels that there are.
func TestMonitoringUsesMetricsThatExist(t *testing.T) {
	names := metricNames(t)
	expressions := append(dashboardExpressions(t), ruleExpressions(t, names)...)
	if len(expressions) < 30 {
		t.Errorf("only %d expressions were found", len(expressions))
	}
	for _, e := range expressions {
		used := readPromQL(e)
		var there []string
		for _, s := range used.selectors {
			labels, ok := names[s.metric]
			if !ok {
				t.Errorf("there is no metric %q in\n%s", s.metric, e)
			}
			for _, l := range s.labels {
				if !slices.Contains(append(labels, targetLabels...), l) {
					t.Errorf("metric %s has no label %q in\n%s", s.metric, l, e)
				}
			}
			there = append(there, labels...)
		}
		for _, l := range used.grouped {
			if !slices.Contains(append(there, targetLabels...), l) {
				t.Errorf("no metric has the label %q in\n%s", l, e)
			}
		}
		if len(used.selectors) == 0 {
			t.Errorf("no metric in\n%s", e)
		}
	}
}

func dashboardExpressions(t *testing.T) (all []string) {
	t.Helper()
	var dashboard struct {
		Panels     []struct{ Targets []struct{ Expr string } }
		Templating struct{ List []struct{ Definition string } }
	}
	readFile(t, "layertrace-layers.json", json.Unmarshal, &dashboard)
	for _, p := range dashboard.Panels {
		for _, target := range p.Targets {
			if target.Expr != "" {
				all = append(all, target.Expr)
			}
		}
	}
	ofVariable := regexp.MustCompile(`^(?:label_values\((.*), \w+|query_result\((.*))\)$`)
	for _, v := range dashboard.Templating.List {
		if m := ofVariable.FindStringSubmatch(v.Definition); m != nil {
			all = append(all, m[1]+m[2])
		}
	}
	return all
}

// ruleExpressions adds what the rules record to names. What groups a recording
// stands in its name.
func ruleExpressions(t *testing.T, names map[string][]string) (all []string) {
	t.Helper()
	var rules struct {
		Groups []struct {
			Rules []struct{ Record, Expr string }
		}
	}
	readFile(t, "rules.yaml", func(data []byte, v any) error { return yaml.Unmarshal(data, v) }, &rules)
	for _, g := range rules.Groups {
		for _, r := range g.Rules {
			all = append(all, r.Expr)
			if level, _, ok := strings.Cut(r.Record, ":"); ok {
				names[r.Record] = strings.Split(level, "_")
			}
		}
	}
	return all
}

func readFile(t *testing.T, name string, unmarshal func([]byte, any) error, v any) {
	t.Helper()
	data, err := os.ReadFile(monitoring + name)
	if err != nil {
		t.Fatal(err)
	}
	if err := unmarshal(data, v); err != nil {
		t.Fatal(err)
	}
}
