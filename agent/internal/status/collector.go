// SPDX-License-Identifier: Apache-2.0

package status

import (
	"strings"

	"github.com/prometheus/client_golang/prometheus"
)

// prefix of all metric names.
const prefix = "layertrace_"

// Sample is one value of one metric.
type Sample struct {
	// Name without prefix; a counter gets _total behind.
	Name string
	Help string
	// Gauge: the value can fall, else it is a counter.
	Gauge bool
	Value float64
	// Label and LabelValue are one optional label.
	Label, LabelValue string
}

// Source gives the present samples of one part of the agent. Samples of one
// name have one help text.
type Source func() ([]Sample, error)

// NewRegistry returns a registry that asks the sources at each scrape. The
// Go runtime's and the process's own metrics are among them, and what others
// collect.
func NewRegistry(others []prometheus.Collector, sources ...Source) *prometheus.Registry {
	registry := prometheus.NewRegistry()
	registry.MustRegister(others...)
	registry.MustRegister(processMetrics()...)
	for _, s := range sources {
		registry.MustRegister(collector{s})
	}
	return registry
}

type collector struct{ source Source }

// Describe sends nothing: the names are known at the scrape only.
func (collector) Describe(chan<- *prometheus.Desc) {}

// Collect sends what the source has. An error fails the scrape of this source
// visibly; the others still answer.
func (c collector) Collect(out chan<- prometheus.Metric) {
	samples, err := c.source()
	if err != nil {
		out <- prometheus.NewInvalidMetric(prometheus.NewInvalidDesc(err), err)
		return
	}
	for _, s := range samples {
		out <- s.metric()
	}
}

func (s Sample) metric() prometheus.Metric {
	name, kind := prefix+strings.ReplaceAll(s.Name, "-", "_"), prometheus.GaugeValue
	if !s.Gauge {
		name, kind = name+"_total", prometheus.CounterValue
	}
	var labels, values []string
	if s.Label != "" {
		labels, values = []string{s.Label}, []string{s.LabelValue}
	}
	metric, err := prometheus.NewConstMetric(prometheus.NewDesc(name, s.Help, labels, nil), kind, s.Value, values...)
	if err != nil {
		return prometheus.NewInvalidMetric(prometheus.NewInvalidDesc(err), err)
	}
	return metric
}
