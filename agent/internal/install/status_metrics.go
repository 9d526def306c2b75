// SPDX-License-Identifier: Apache-2.0

package install

import (
	"bytes"
	"context"
	"fmt"
	"strings"

	dto "github.com/prometheus/client_model/go"
	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"
)

// metrics are the sums over all labels of the metrics of one process.
type metrics map[string]float64

// podMetrics reads the metrics that a pod serves, through the API server: it
// needs the permission get on pods/proxy.
func (c *Cluster) podMetrics(ctx context.Context, namespace, pod string, port int, path string) (metrics, error) {
	data, err := c.raw.Get().
		AbsPath("/api/v1/namespaces", namespace, "pods", fmt.Sprintf("%s:%d", pod, port), "proxy", path).
		Do(ctx).Raw()
	if err != nil {
		return nil, err
	}
	return parseMetrics(data)
}

// parseMetrics reads Prometheus' text format.
func parseMetrics(data []byte) (metrics, error) {
	parser := expfmt.NewTextParser(model.UTF8Validation)
	families, err := parser.TextToMetricFamilies(bytes.NewReader(data))
	if err != nil {
		return nil, fmt.Errorf("read metrics: %w", err)
	}
	sums := metrics{}
	for name, family := range families {
		for _, m := range family.GetMetric() {
			sums[name] += value(m)
		}
	}
	return sums, nil
}

func value(m *dto.Metric) float64 {
	return m.GetCounter().GetValue() + m.GetGauge().GetValue() + m.GetUntyped().GetValue()
}

// ending returns the sum of the metrics whose names end so, and whether there is
// one: Envoy and Istio put different prefixes in front of a filter's counters.
func (m metrics) ending(suffix string) (sum float64, found bool) {
	for name, v := range m {
		if strings.HasSuffix(name, suffix) {
			sum, found = sum+v, true
		}
	}
	return sum, found
}
