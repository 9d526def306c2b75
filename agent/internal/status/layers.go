// SPDX-License-Identifier: Apache-2.0

package status

import (
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/layertrace/layertrace/agent/internal/breakdown"
)

// layerBuckets are the bounds, in seconds, for servers that take no native
// histograms: 10 µs to 10 s.
var layerBuckets = []float64{
	10e-6, 25e-6, 50e-6, 100e-6, 250e-6, 500e-6, 1e-3, 2.5e-3, 5e-3, 10e-3, 25e-3, 50e-3, 100e-3, 250e-3, 500e-3, 1, 2.5, 5, 10,
}

// LayerTimes are histograms of the time per layer and hop, whose samples carry
// the trace ID as an exemplar, and sums of what whole hops took. It is safe for
// use by several goroutines.
type LayerTimes struct {
	segments  *prometheus.HistogramVec
	intervals *prometheus.SummaryVec

	mu sync.Mutex
	// latest is when a series was last given an exemplar, per bucket.
	latest map[prometheus.Observer][]time.Time
}

// exemplarInterval is how long a bucket keeps its exemplar: a new one costs
// several times what the sample does, and Prometheus seldom looks more often.
const exemplarInterval = 15 * time.Second

// NewLayerTimes returns empty histograms.
func NewLayerTimes() *LayerTimes {
	intervals := prometheus.NewSummaryVec(prometheus.SummaryOpts{
		Name: prefix + "hop_duration_seconds",
		Help: "Time of requests by hop, with all that was done meanwhile: of the whole hop as its client's node saw it, outside of the client's node, and inside the server's node.",
	}, []string{"interval", "source", "destination"})
	return &LayerTimes{latest: map[prometheus.Observer][]time.Time{}, intervals: intervals, segments: prometheus.NewHistogramVec(prometheus.HistogramOpts{
		Name: prefix + "layer_duration_seconds",
		Help: "Time that a request or its response spent in a layer, by hop (source and destination service) and location; layers that cannot be told apart here are joined by +.",
		// Native histograms: about 10 % wide buckets, as many as a hop needs.
		NativeHistogramBucketFactor: 1.1, NativeHistogramMaxBucketNumber: 160,
		Buckets: layerBuckets,
	}, []string{"layer", "location", "source", "destination", "phase"})}
}

// Observe counts a hop: for each layer, location and phase how long it took in all its
// pieces, and the intervals.
func (t *LayerTimes) Observe(hop *breakdown.Hop) {
	for _, sum := range sums(hop.Segments) {
		t.observe(hop, sum)
	}
	for interval, ns := range hop.Intervals() {
		t.intervals.WithLabelValues(string(interval), hop.ClientService(), hop.ServerService()).Observe(float64(ns) / 1e9)
	}
}

// sum is the time of a hop in a layer.
type sum struct {
	layer, location string
	phase           breakdown.Phase
	ns              int64
}

func sums(segments []breakdown.Segment) (all []sum) {
	for i := range segments {
		one := sum{name(&segments[i]), segments[i].Location, segments[i].Phase, segments[i].Time}
		at := slices.IndexFunc(all, func(s sum) bool {
			return s.layer == one.layer && s.location == one.location && s.phase == one.phase
		})
		if at < 0 {
			all = append(all, one)
			continue
		}
		all[at].ns += one.ns
	}
	return all
}

// name joins layers that cannot be told apart.
func name(p *breakdown.Segment) string {
	if len(p.MergedLayers) == 0 {
		return string(p.Layer)
	}
	names := make([]string, len(p.MergedLayers))
	for i, l := range p.MergedLayers {
		names[i] = string(l)
	}
	return strings.Join(names, "+")
}

func (t *LayerTimes) observe(hop *breakdown.Hop, s sum) {
	observer := t.segments.WithLabelValues(s.layer, s.location, hop.ClientService(), hop.ServerService(), string(s.phase))
	seconds := float64(s.ns) / 1e9
	if o, ok := observer.(prometheus.ExemplarObserver); ok && t.exemplarDue(observer, seconds, time.Now()) {
		o.ObserveWithExemplar(seconds, prometheus.Labels{"trace_id": hop.TraceID.String()})
		return
	}
	observer.Observe(seconds)
}

// exemplarDue reports whether the bucket of a sample has none of late, and takes
// it to have one from now on.
func (t *LayerTimes) exemplarDue(series prometheus.Observer, seconds float64, now time.Time) bool {
	bucket, _ := slices.BinarySearch(layerBuckets, seconds)
	t.mu.Lock()
	defer t.mu.Unlock()
	latest := t.latest[series]
	if latest == nil {
		latest = make([]time.Time, len(layerBuckets)+1)
		t.latest[series] = latest
	}
	if now.Sub(latest[bucket]) < exemplarInterval {
		return false
	}
	latest[bucket] = now
	return true
}

// Describe and Collect make it a collector.
func (t *LayerTimes) Describe(out chan<- *prometheus.Desc) {
	t.segments.Describe(out)
	t.intervals.Describe(out)
}

// Collect sends the histograms.
func (t *LayerTimes) Collect(out chan<- prometheus.Metric) {
	t.segments.Collect(out)
	t.intervals.Collect(out)
}
