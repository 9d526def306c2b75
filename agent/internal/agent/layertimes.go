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

	inOther prometheus.Counter
	now     func() time.Time

	mu     sync.Mutex // guards the rest
	series map[seriesKey]*series
	hops   map[hopKey]*hopTimes
	swept  time.Time
}

// Services are the names of workloads, and jobs have new ones each time: so series end when
// they are not used, and are bounded. What has no room counts as a hop from other to other.
const (
	// maxSeries is the maximum number of series of segments, at some 3 KB each, and maxHops of
	// hops with three series of intervals.
	maxSeries, maxHops = 4096, 2048
	// unusedAfter is the time without use after which a series ends.
	unusedAfter = time.Hour
	// sweepInterval is the time between two searches for unused series.
	sweepInterval = time.Minute
	// otherHop is the source, destination and location of hops without series of their own.
	otherHop = "other"
)

// seriesKey are the labels of a histogram.
type seriesKey struct {
	layer, location, namespace string
	hopKey
	phase string
}

// hopKey are the labels of a hop.
type hopKey struct{ source, sourceNamespace, destination, destinationNamespace string }

// series is one histogram. latest is the time of the last exemplar per bucket.
type series struct {
	prometheus.Observer
	used   time.Time
	latest []time.Time
}

// hopTimes are the sums of a hop's intervals.
type hopTimes struct {
	used time.Time
	sums map[breakdown.Interval]prometheus.Observer
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
			strings.Join(observe.Cut.Names(), ", ") + "), or because their trace had too many observations.",
	})
	inOther := prometheus.NewCounter(prometheus.CounterOpts{
		Name: "layertrace_layer_times_other_total",
		Help: "Times counted for a hop from other to other, because there are too many series.",
	})
	return &LayerTimes{series: map[seriesKey]*series{}, hops: map[hopKey]*hopTimes{}, now: time.Now, inOther: inOther, intervals: intervals, cut: cut, segments: prometheus.NewHistogramVec(prometheus.HistogramOpts{
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
	now := t.now()
	t.sweep(now)
	var room [16]layerTime
	for _, sum := range sums(room[:0], hop.Segments) {
		t.observe(hop, sum, now)
	}
	t.observeIntervals(hop, now)
}

// observeIntervals counts a hop's intervals, under the lock for the reason of observe.
func (t *LayerTimes) observeIntervals(hop *breakdown.Hop, now time.Time) {
	t.mu.Lock()
	defer t.mu.Unlock()
	k := labelsOf(hop)
	of := t.hops[k]
	if of == nil && len(t.hops) >= maxHops {
		t.inOther.Inc()
		k = hopKey{source: otherHop, destination: otherHop}
		of = t.hops[k]
	}
	if of == nil {
		of = &hopTimes{sums: map[breakdown.Interval]prometheus.Observer{}}
		t.hops[k] = of
	}
	of.used = now
	for interval, ns := range hop.Intervals() {
		sum := of.sums[interval]
		if sum == nil {
			sum = t.intervals.WithLabelValues(string(interval), k.source, k.sourceNamespace, k.destination, k.destinationNamespace)
			of.sums[interval] = sum
		}
		sum.Observe(float64(ns) / 1e9)
	}
}

func labelsOf(hop *breakdown.Hop) hopKey {
	return hopKey{hop.ClientService(), hop.ClientNamespace(), hop.ServerService(), hop.ServerNamespace()}
}

// sweep ends the series that were not used for long.
func (t *LayerTimes) sweep(now time.Time) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if now.Sub(t.swept) < sweepInterval {
		return
	}
	t.swept = now
	for k, s := range t.series {
		if now.Sub(s.used) >= unusedAfter {
			delete(t.series, k)
			t.segments.DeleteLabelValues(k.labels()...)
		}
	}
	for k, of := range t.hops {
		if now.Sub(of.used) >= unusedAfter {
			delete(t.hops, k)
			t.intervals.DeletePartialMatch(prometheus.Labels{
				"source": k.source, "source_namespace": k.sourceNamespace,
				"destination": k.destination, "destination_namespace": k.destinationNamespace,
			})
		}
	}
}

func (k *seriesKey) labels() []string {
	return []string{k.layer, k.location, k.namespace, k.source, k.sourceNamespace, k.destination, k.destinationNamespace, k.phase}
}

// layerTime is the time of a hop in a layer.
type layerTime struct {
	layer, location, namespace string
	phase                      breakdown.Phase
	ns                         int64
}

// sums appends the times of segments to all, which is empty.
func sums(all []layerTime, segments []breakdown.Segment) []layerTime {
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

func (t *LayerTimes) observe(hop *breakdown.Hop, s layerTime, now time.Time) {
	seconds := float64(s.ns) / 1e9
	// Under the lock: a series that ends meanwhile would lose the sample.
	t.mu.Lock()
	defer t.mu.Unlock()
	of := t.seriesOf(seriesKey{s.layer, s.location, s.namespace, labelsOf(hop), string(s.phase)})
	of.used = now
	if o, ok := of.Observer.(prometheus.ExemplarObserver); ok && of.exemplarDue(seconds, now) {
		o.ObserveWithExemplar(seconds, prometheus.Labels{"trace_id": hop.TraceID.String()})
		return
	}
	of.Observe(seconds)
}

// seriesOf returns the series with labels, or without room for a new one that of other hops.
func (t *LayerTimes) seriesOf(k seriesKey) *series {
	s := t.series[k]
	if s == nil && len(t.series) >= maxSeries {
		t.inOther.Inc()
		k.location, k.namespace, k.hopKey = otherHop, "", hopKey{source: otherHop, destination: otherHop}
		s = t.series[k]
	}
	if s == nil {
		s = &series{Observer: t.segments.WithLabelValues(k.labels()...), latest: make([]time.Time, len(layerBuckets)+1)}
		t.series[k] = s
	}
	return s
}

// exemplarDue reports whether the bucket of a sample has no recent exemplar, and
// marks it as having one from now on.
func (s *series) exemplarDue(seconds float64, now time.Time) bool {
	bucket, _ := slices.BinarySearch(layerBuckets, seconds)
	if now.Sub(s.latest[bucket]) < exemplarInterval {
		return false
	}
	s.latest[bucket] = now
	return true
}

// Describe implements prometheus.Collector.
func (t *LayerTimes) Describe(out chan<- *prometheus.Desc) {
	t.segments.Describe(out)
	t.intervals.Describe(out)
	t.cut.Describe(out)
	t.inOther.Describe(out)
}

// Collect implements prometheus.Collector.
func (t *LayerTimes) Collect(out chan<- prometheus.Metric) {
	t.segments.Collect(out)
	t.intervals.Collect(out)
	t.cut.Collect(out)
	t.inOther.Collect(out)
}
