// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/layertrace/layertrace/agent/internal/breakdown"
	"github.com/layertrace/layertrace/internal/observe"
)

// layerBuckets are the bounds of classic buckets in seconds, from 10 µs to 10 s, for
// Prometheus servers without native histograms.
var layerBuckets = []float64{
	10e-6, 25e-6, 50e-6, 100e-6, 250e-6, 500e-6, 1e-3, 2.5e-3, 5e-3, 10e-3, 25e-3, 50e-3, 100e-3, 250e-3, 500e-3, 1, 2.5, 5, 10,
}

// LayerTimes are the histograms of the time per layer and hop, with trace IDs as
// exemplars, and the sums of the intervals of hops. It may be used concurrently.
type LayerTimes struct {
	segments  *prometheus.HistogramVec
	intervals *prometheus.SummaryVec
	cut       prometheus.Counter

	mu sync.Mutex
	// latest is the time of the last exemplar per series and bucket.
	latest map[prometheus.Observer][]time.Time
}

// exemplarInterval is how long a bucket keeps its exemplar: a new one costs several
// times as much as the sample, and Prometheus rarely scrapes more often.
const exemplarInterval = 15 * time.Second

// newLayerTimes returns empty histograms.
func newLayerTimes() *LayerTimes {
	intervals := prometheus.NewSummaryVec(prometheus.SummaryOpts{
		Name: "layertrace_hop_duration_seconds",
		Help: "Time of a request on a hop, including the time in other hops: of the whole hop, seen by the client's node (hop), outside the client's node (outside), and inside the server's node (inside).",
	}, []string{"interval", "source", "source_namespace", "destination", "destination_namespace"})
	cut := prometheus.NewCounter(prometheus.CounterOpts{
		Name: "layertrace_layer_times_cut_total",
		Help: "Hops whose times are not counted, because an exchange was reported before its end or its end is not known (flags " +
			strings.Join(observe.Cut.Names(), ", ") + ").",
	})
	return &LayerTimes{latest: map[prometheus.Observer][]time.Time{}, intervals: intervals, cut: cut, segments: prometheus.NewHistogramVec(prometheus.HistogramOpts{
		Name: "layertrace_layer_duration_seconds",
		Help: "Time of a request or its response in a layer, by hop (source and destination service) and location. Layers that this node cannot separate are merged and joined by +.",
		// Native buckets are about 10 % wide, as many as a hop needs.
		NativeHistogramBucketFactor: 1.1, NativeHistogramMaxBucketNumber: 160,
		Buckets: layerBuckets,
	}, []string{"layer", "location", "location_namespace", "source", "source_namespace", "destination", "destination_namespace", "phase"})}
}

// Observe counts a hop: the time in each layer, location and phase, summed over its
// segments, and the intervals. The times of a hop that was cut are not those of the whole
// exchange: it is only counted as cut.
func (t *LayerTimes) Observe(hop *breakdown.Hop) {
	if hop.Cut() != 0 {
		t.cut.Inc()
		return
	}
	for _, sum := range sums(hop.Segments) {
		t.observe(hop, sum)
	}
	for interval, ns := range hop.Intervals() {
		t.intervals.WithLabelValues(string(interval), hop.ClientService(), hop.ClientNamespace(), hop.ServerService(), hop.ServerNamespace()).Observe(float64(ns) / 1e9)
	}
}

// layerTime is the time of a hop in a layer.
type layerTime struct {
	layer, location, namespace string
	phase                      breakdown.Phase
	ns                         int64
}

func sums(segments []breakdown.Segment) (all []layerTime) {
	for i := range segments {
		one := layerTime{layerLabel(&segments[i]), segments[i].Location, segments[i].Namespace, segments[i].Phase, segments[i].Time}
		at := slices.IndexFunc(all, func(s layerTime) bool {
			return s.layer == one.layer && s.location == one.location && s.namespace == one.namespace && s.phase == one.phase
		})
		if at < 0 {
			all = append(all, one)
			continue
		}
		all[at].ns += one.ns
	}
	return all
}

// layerLabel is the value of the label layer.
func layerLabel(s *breakdown.Segment) string {
	if len(s.MergedLayers) == 0 {
		return string(s.Layer)
	}
	names := make([]string, len(s.MergedLayers))
	for i, l := range s.MergedLayers {
		names[i] = string(l)
	}
	return strings.Join(names, "+")
}

func (t *LayerTimes) observe(hop *breakdown.Hop, s layerTime) {
	observer := t.segments.WithLabelValues(s.layer, s.location, s.namespace,
		hop.ClientService(), hop.ClientNamespace(), hop.ServerService(), hop.ServerNamespace(), string(s.phase))
	seconds := float64(s.ns) / 1e9
	if o, ok := observer.(prometheus.ExemplarObserver); ok && t.exemplarDue(observer, seconds, time.Now()) {
		o.ObserveWithExemplar(seconds, prometheus.Labels{"trace_id": hop.TraceID.String()})
		return
	}
	observer.Observe(seconds)
}

// exemplarDue reports whether the bucket of a sample has no recent exemplar, and
// marks it as having one from now on.
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

// Describe implements prometheus.Collector.
func (t *LayerTimes) Describe(out chan<- *prometheus.Desc) {
	t.segments.Describe(out)
	t.intervals.Describe(out)
	t.cut.Describe(out)
}

// Collect implements prometheus.Collector.
func (t *LayerTimes) Collect(out chan<- prometheus.Metric) {
	t.segments.Collect(out)
	t.intervals.Collect(out)
	t.cut.Collect(out)
}
