// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"hash/maphash"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"
	"golang.org/x/time/rate"

	"github.com/layertrace/layertrace/internal/observe"
)

const (
	// traceWindow is the time in which a trace may have --trace-spans spans.
	traceWindow = 10 * time.Second
	// slots is the number of counters for traces, and for clients. What shares a counter by
	// chance with a trace or client over its limit is limited too: one of so many.
	slots = 1 << 14
	// peerShare is the part of a point's rate that one client has while the point's bucket is
	// less than half full.
	peerShare = 4
	// maxLimitedPoints bounds the buckets, at some 100 bytes each.
	maxLimitedPoints = 8192
)

// spanLimits bound the spans per trace, per client and per capture point. Whoever sends
// requests chooses their trace ID and how many there are: the work that this makes for the
// agent, the receiver and the trace store is bounded here. Without limits it is nil. It must
// not be used concurrently.
type spanLimits struct {
	perPoint int // spans per second, and the size of the bucket; 0: no limit
	perTrace int // spans within traceWindow; 0: no limit

	points  map[string]*rate.Limiter // by point ID
	seed    maphash.Seed             // unknown to senders
	traces, // spans since traceSince
	peers [slots]uint32 // spans since peerSince, by point and client's address
	traceSince, peerSince time.Time

	overPoint, overPeer, overTrace prometheus.Counter
}

// newSpanLimits returns the limits of the settings and registers their metric.
func newSpanLimits(perPoint, perTrace int, r prometheus.Registerer) *spanLimits {
	over := promauto.With(r).NewCounterVec(prometheus.CounterOpts{
		Name: "layertrace_spans_over_limit_total",
		Help: "Spans not made because there would be too many, by limit: of one trace (trace, --trace-spans), at one capture point (point, --span-rate), or of one client's address at a busy point (peer).",
	}, []string{"limit"})
	return &spanLimits{
		perPoint: perPoint, perTrace: perTrace, points: map[string]*rate.Limiter{}, seed: maphash.MakeSeed(),
		overPoint: over.WithLabelValues("point"), overPeer: over.WithLabelValues("peer"), overTrace: over.WithLabelValues("trace"),
	}
}

// allow reports whether an observation gets a span, and counts it if not. It marks the one
// that reaches the limit of its trace.
func (l *spanLimits) allow(o *observe.Observation, now time.Time) bool {
	return l.allowTrace(o, now) && l.allowPoint(o, now)
}

func (l *spanLimits) allowTrace(o *observe.Observation, now time.Time) bool {
	if l.perTrace == 0 {
		return true
	}
	if now.Sub(l.traceSince) >= traceWindow {
		l.traces, l.traceSince = [slots]uint32{}, now
	}
	n := l.ofTrace(o)
	switch {
	case int(*n) >= l.perTrace:
		l.overTrace.Inc()
		return false
	case int(*n) == l.perTrace-1:
		o.Flags |= observe.FlagTraceLimited
	}
	*n++
	return true
}

func (l *spanLimits) allowPoint(o *observe.Observation, now time.Time) bool {
	if l.perPoint == 0 {
		return true
	}
	bucket := l.points[o.Point.ID]
	if bucket == nil {
		if len(l.points) >= maxLimitedPoints {
			clear(l.points)
		}
		bucket = rate.NewLimiter(rate.Limit(l.perPoint), l.perPoint)
		l.points[o.Point.ID] = bucket
	}
	if now.Sub(l.peerSince) >= time.Second {
		l.peers, l.peerSince = [slots]uint32{}, now
	}
	n := l.ofPeer(o)
	switch {
	case int(*n) >= l.perPoint/peerShare && bucket.TokensAt(now) < float64(l.perPoint)/2:
		l.overPeer.Inc()
		return false
	case !bucket.AllowN(now, 1):
		l.overPoint.Inc()
		return false
	}
	*n++
	return true
}

// ofTrace and ofPeer return the counters of an observation's trace and of its client.
func (l *spanLimits) ofTrace(o *observe.Observation) *uint32 {
	return &l.traces[maphash.Bytes(l.seed, o.Context.TraceID[:])%slots]
}

func (l *spanLimits) ofPeer(o *observe.Observation) *uint32 {
	address := o.Client.Addr().As16()
	return &l.peers[(maphash.Bytes(l.seed, address[:])^maphash.String(l.seed, o.Point.ID))%slots]
}

// forget removes the bucket of a point.
func (l *spanLimits) forget(pointID string) { delete(l.points, pointID) }
