// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"fmt"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

const (
	// maxWork is for how long a part may work on one thing before the agent is not ready.
	maxWork = 30 * time.Second
	// maxUndelivered is for how long queued spans may wait before /readyz remarks it: longer
	// than a batch is tried again.
	maxUndelivered = 90 * time.Second
)

// progress is for how long a part of the agent works on one thing.
type progress struct{ since atomic.Int64 }

func (p *progress) begin() { p.since.Store(time.Now().UnixNano()) }
func (p *progress) end()   { p.since.Store(0) }

// stalled is for how long the part has worked on the present thing, 0 if it has none.
func (p *progress) stalled() time.Duration {
	since := p.since.Load()
	if since == 0 {
		return 0
	}
	return max(0, time.Since(time.Unix(0, since)))
}

// stalled returns for how long each part of the delivery has not moved.
func (p *pipeline) stalled() (exchanges, layers, spans time.Duration) {
	exchanges = p.taking.stalled()
	if p.layers != nil {
		layers = p.layers.splitter.working.stalled()
	}
	if p.queue != nil {
		spans = p.queue.Stalled()
	}
	return exchanges, layers, spans
}

// ready returns an error if the agent itself stands still, and a remark if the receiver does:
// the agent cannot help that, and captures on.
func (p *pipeline) ready() (remark string, err error) {
	exchanges, layers, spans := p.stalled()
	for name, took := range map[string]time.Duration{"exchanges are": exchanges, "layers are": layers} {
		if took > maxWork {
			return "", fmt.Errorf("deliver: no %s handled for %v; report this with the agent's log and metrics", name, took.Round(time.Second))
		}
	}
	if spans > maxUndelivered {
		return fmt.Sprintf("no span was delivered for %v; check --otlp-endpoint and the receiver", spans.Round(time.Second)), nil
	}
	return "", nil
}

// newProgressMetric registers for how long each part has not moved.
func newProgressMetric(p *pipeline, r prometheus.Registerer) {
	r.MustRegister(progressMetric{p})
}

// progressMetric is the collector of for how long each part has not moved.
type progressMetric struct{ *pipeline }

var stalledDesc = prometheus.NewDesc("layertrace_delivery_stalled_seconds",
	"For how long work or spans have waited without any progress, by part: handling exchanges, splitting traces into layers (layers), delivering spans.", []string{"part"}, nil)

// Describe implements prometheus.Collector.
func (progressMetric) Describe(out chan<- *prometheus.Desc) { out <- stalledDesc }

// Collect implements prometheus.Collector.
func (m progressMetric) Collect(out chan<- prometheus.Metric) {
	exchanges, layers, spans := m.stalled()
	for part, took := range map[string]time.Duration{"exchanges": exchanges, "layers": layers, "spans": spans} {
		out <- prometheus.MustNewConstMetric(stalledDesc, prometheus.GaugeValue, took.Seconds(), part)
	}
}
