// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promauto"

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
	newJoinMetrics(metrics)
	metrics.MustRegister((*Server)(nil))
	newSpanLimits(0, 0, metrics)
	newProgressMetric(&pipeline{}, metrics)
	metrics.MustRegister(&cpuLimit{measured: true})
	metrics.MustRegister(new(export.Queue), export.NewLines(nil))
	return metrics, newLayers(&config.Config{}, "", nil, metrics).times
}

func (c *capture) setExample() {
	for index, kind := range []observe.Kind{observe.KindVNIC, observe.KindVNIC, observe.KindPNIC} {
		c.attached[index] = iface.Interface{Kind: kind}
	}
	c.count()
}
