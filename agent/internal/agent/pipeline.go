// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"cmp"
	"context"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"

	"github.com/layertrace/layertrace/agent/internal/breakdown"
	"github.com/layertrace/layertrace/agent/internal/config"
	"github.com/layertrace/layertrace/agent/internal/export"
	"github.com/layertrace/layertrace/agent/internal/probe"
	"github.com/layertrace/layertrace/agent/internal/span"
	"github.com/layertrace/layertrace/internal/observe"
)

const (
	// purgeInterval is the time between two searches for capture points to forget.
	purgeInterval = 30 * time.Second
	// pendingInterval is the time between two checks whether names are known.
	pendingInterval = time.Second
	// flushInterval is the time between two searches for complete traces: short, so that
	// few are complete at a time.
	flushInterval = 100 * time.Millisecond
	// pendingTime is how long an observation waits for a name at most.
	pendingTime = 10 * time.Second
	// maxPending is the maximum number of observations that wait for a name, some
	// 400 bytes each.
	maxPending = 8192
	// maxBuffered is the memory in bytes of observations that wait for the rest of their
	// traces: 10,000 requests/s with four capture points take half of it.
	maxBuffered = 64 << 20
	// maxOfTrace is the maximum number of observations of one trace that are split: about
	// a thousand requests.
	maxOfTrace = 4096
	// maxLayerSpans is the maximum number of spans of layers of one trace.
	maxLayerSpans = 2048
	// maxHeld is for how long a trace waits with an exchange that does not end.
	maxHeld = time.Hour
	// maxHolds is the maximum number of open exchanges that hold their trace.
	maxHolds = 16384
	// maxOneWayNames bounds the series by interface: pods come and go.
	maxOneWayNames = 256
	// maxWorkloads is the number of pods remembered to describe layer spans.
	maxWorkloads = 4096
)

// pipeline turns observations into spans, lines and the times of layers. Parts that
// are turned off are nil. The goroutine that reads the ring does all of its work: a channel
// between both would cost more than the work, and wake a thread on another CPU.
type pipeline struct {
	mu      sync.Mutex // guards the work on an observation
	names   resolver
	points  *registry
	pending pending
	lines   *export.Lines
	emitter *span.Emitter
	limits  *spanLimits
	queue   *export.Queue
	kept    *export.Kept
	layers  *layers
	metrics pipelineMetrics
	offset  func() span.ClockOffset
	warn    func(error)
	noPaths bool // requests' paths are dropped
	// namespaces are those whose exchanges are reported; empty: all.
	namespaces []string
	taking     progress

	// infer takes plain exchanges at proxies' sockets; nil: encrypted ones are not inferred.
	infer      func(*observe.Observation) bool
	sidecarUID uint32

	// When something was left out to keep within --cpu-limit: at sockets, and all new requests.
	socketsOut, newOut outage
	leavesNew          atomic.Bool // newOut lasts

	openSpanAfter time.Duration // age at which an open exchange gets a span; 0: never
	monotonic     func() uint64
}

type pipelineMetrics struct {
	handled                            map[observe.Kind]prometheus.Counter
	unknownInterface, unnamed, invalid prometheus.Counter
	otherNamespaces                    prometheus.Counter
	nameWaits, nameWaitFull            prometheus.Counter
}

func newPipelineMetrics(r prometheus.Registerer) pipelineMetrics {
	with := promauto.With(r)
	handled := with.NewCounterVec(prometheus.CounterOpts{
		Name: "layertrace_exchanges_handled_total",
		Help: "Exchanges at captured interfaces and sockets, passed on to the selected exports.",
	}, []string{"kind"})
	m := pipelineMetrics{
		handled: map[observe.Kind]prometheus.Counter{},
		unknownInterface: with.NewCounter(prometheus.CounterOpts{
			Name: "layertrace_exchanges_unknown_interface_total",
			Help: "Exchanges skipped because their interface is not selected.",
		}),
		unnamed: with.NewCounter(prometheus.CounterOpts{
			Name: "layertrace_exchanges_unnamed_total",
			Help: "Exchanges at a virtual interface or socket whose workload is unknown: their spans have the node's name.",
		}),
		otherNamespaces: with.NewCounter(prometheus.CounterOpts{
			Name: "layertrace_exchanges_other_namespaces_total",
			Help: "Exchanges that were not reported because no end is known to be in one of the namespaces of --namespaces.",
		}),
		invalid: with.NewCounter(prometheus.CounterOpts{
			Name: "layertrace_exchanges_invalid_total",
			Help: "Exchanges that got no span because they have no valid trace context or no time.",
		}),
		nameWaits: with.NewCounter(prometheus.CounterOpts{
			Name: "layertrace_exchanges_name_waits_total",
			Help: "Exchanges that waited because their names might be known soon.",
		}),
		nameWaitFull: with.NewCounter(prometheus.CounterOpts{
			Name: "layertrace_exchanges_name_wait_full_total",
			Help: "Exchanges that did not wait for names because too many others did.",
		}),
	}
	for _, kind := range []observe.Kind{observe.KindSocket, observe.KindVNIC, observe.KindPNIC} {
		m.handled[kind] = handled.WithLabelValues(string(kind))
	}
	return m
}

// newPipeline returns the pipeline of the selected exports and registers its metrics.
func newPipeline(ctx context.Context, opts Options, names resolver, clock *span.Clock, r prometheus.Registerer) (*pipeline, error) {
	cfg := opts.Config
	metrics := newPipelineMetrics(r)
	p := &pipeline{
		names: names, metrics: metrics, offset: clock.Offset, noPaths: !cfg.RequestPaths, namespaces: cfg.Namespaces,
		openSpanAfter: cfg.OpenSpanAfter, monotonic: span.Monotonic,
		pending: pending{waits: metrics.nameWaits, full: metrics.nameWaitFull},
		warn:    func(err error) { opts.Log.Warn("lost an exchange", "error", err) },
	}
	if cfg.Exports(config.ExportStdout) {
		p.lines = export.NewLines(opts.Stdout)
		r.MustRegister(p.lines)
	}
	newEmitter := func() *span.Emitter { // each is for one goroutine
		sink := p.sink()
		if sink == nil {
			return nil
		}
		return span.NewEmitter(span.Options{Sink: sink, Offset: clock.Offset, Version: opts.Version})
	}
	if cfg.KeepSpans > 0 {
		p.kept = export.NewKept(cfg.KeepSpans)
		r.MustRegister(p.kept)
	}
	if cfg.Exports(config.ExportOTLPGRPC) || cfg.Exports(config.ExportOTLPHTTP) {
		client, err := export.NewClient(ctx, export.OTLPOptions{
			HTTP: cfg.Exports(config.ExportOTLPHTTP), Endpoint: cfg.OTLPEndpoint,
			Insecure: cfg.OTLPInsecure, Headers: cfg.HeaderMap(), Log: opts.Log,
		})
		if err != nil {
			return nil, err
		}
		p.queue = export.NewQueue(client, cfg.QueueSize, opts.Log)
		r.MustRegister(p.queue)
	}
	if p.emitter = newEmitter(); p.emitter != nil {
		p.limits = newSpanLimits(cfg.SpanRate, cfg.TraceSpans, r)
	}
	if cfg.Layers() {
		p.layers = newLayers(cfg, names.node, newEmitter(), r)
		if p.queue != nil {
			p.layers.splitter.queueCrowded = p.queue.IsCrowded
		}
		p.layers.showTo(opts.Watch, clock.Offset)
	}
	newProgressMetric(p, r)
	return p, nil
}

// sink returns what takes the spans, nil: nothing does.
func (p *pipeline) sink() span.Sink {
	switch {
	case p.queue != nil && p.kept != nil:
		return bothSinks{p.queue, p.kept}
	case p.queue != nil:
		return p.queue
	case p.kept != nil:
		return p.kept
	}
	return nil
}

// bothSinks passes spans on to both.
type bothSinks [2]span.Sink

// Take implements span.Sink.
func (b bothSinks) Take(s *span.Finished) {
	b[0].Take(s)
	b[1].Take(s)
}

// find sets the capture points.
func (p *pipeline) find(points *registry) {
	p.points, p.pending.nameMayChange = points, points.nameMayChange
}

// take handles observations, which it does not keep but for copies.
func (p *pipeline) take(some []observe.Observation) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.taking.begin()
	defer p.taking.end()
	now := time.Now()
	for i := range some {
		if o := &some[i]; !p.hold(o, now) && !p.pending.keep(o, now) {
			p.handle(o)
		}
	}
}

// senderRest is for how long the reader of the ring leaves its CPU to the sender of spans,
// after each 64 observations at most, while the queue of spans is crowded.
const senderRest = time.Millisecond

// patiently returns a take for the reader of the ring. While the queue of spans is crowded and the
// ring is not, the reader rests after each call: the ring has room for more exchanges than the
// queue for spans, and on one CPU the sender cannot make room while the reader works.
func patiently(take func([]observe.Observation), queueCrowded, ringCrowded func() bool, rest func(time.Duration)) func([]observe.Observation) {
	return func(some []observe.Observation) {
		take(some)
		if queueCrowded() && !ringCrowded() {
			rest(senderRest)
		}
	}
}

// run handles observations of encrypted exchanges (joined, nil: there are none), and does
// what is due from time to time, until joined is closed and the last of the other
// observations was taken (captured). Then it passes on what waits.
func (p *pipeline) run(captured <-chan struct{}, joined <-chan observe.Observation) {
	purge, check, flush := time.NewTicker(purgeInterval), time.NewTicker(pendingInterval), p.layers.flushes()
	defer purge.Stop()
	defer check.Stop()
	defer flush.Stop()
	if p.layers != nil {
		go p.layers.splitter.run()
	}
	one := make([]observe.Observation, 1)
	for captured != nil || joined != nil {
		select {
		case <-captured:
			captured = nil
		case o, ok := <-joined:
			if !ok {
				joined = nil
				continue
			}
			one[0] = o
			p.take(one)
		case now := <-check.C:
			p.check(now)
		case now := <-flush.C:
			p.flush(now)
		case now := <-purge.C:
			p.purge(now)
		}
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.pending.releaseAll(p.handle)
	if p.layers != nil {
		p.layers.splitter.close(p.layers.buffer.Close)
	}
}

// check passes on what need not wait any longer.
func (p *pipeline) check(now time.Time) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.pending.release(now, p.handle)
}

// flush passes on the traces that are complete.
func (p *pipeline) flush(now time.Time) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.layers.buffer.Flush(now)
}

// purge forgets capture points that are gone.
func (p *pipeline) purge(now time.Time) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, id := range p.points.purge(now) {
		if p.emitter != nil {
			p.emitter.Forget(id)
			p.limits.forget(id)
		}
	}
}

// hold keeps the trace of an exchange that is reported to be open from being split, and
// reports whether that is all that the report is for: the first, early one.
func (p *pipeline) hold(o *observe.Observation, now time.Time) bool {
	if o.Flags&observe.FlagStillOpen == 0 {
		return false
	}
	if p.layers != nil {
		p.layers.buffer.Hold(o, now)
	}
	age := time.Duration(p.monotonic() - o.Request.First)
	return p.openSpanAfter == 0 || age < p.openSpanAfter
}

// inferFrom takes a plain exchange at a proxy's socket, for encrypted ones.
func (p *pipeline) inferFrom(o *observe.Observation) {
	// Not by the point's process: the owner of a pod that only receives is not known yet.
	if p.infer != nil && o.Socket != nil && o.Socket.UID == p.sidecarUID && o.Flags&observe.FlagStillOpen == 0 {
		p.infer(o) // it counts what does not fit
	}
}

// isElsewhere reports whether no workload of an exchange is in one of the namespaces to
// report: neither at the capture point nor at the ends.
func (p *pipeline) isElsewhere(o *observe.Observation) bool {
	peers := p.names.peers(o)
	return !slices.ContainsFunc(p.namespaces, func(name string) bool {
		return name == o.Point.Workload.Namespace || name == peers.Client.Namespace || name == peers.Server.Namespace
	})
}

// drop counts an exchange of other namespaces, and lets a trace go on that waits for it.
func (p *pipeline) drop(o *observe.Observation) {
	p.metrics.otherNamespaces.Inc()
	if p.layers != nil && o.Flags&observe.FlagStillOpen == 0 {
		p.layers.buffer.Drop(o, time.Now())
	}
}

func (p *pipeline) handle(o *observe.Observation) {
	if !p.points.resolve(o) {
		p.metrics.unknownInterface.Inc()
		if p.layers != nil && o.Flags&observe.FlagStillOpen == 0 {
			p.layers.buffer.Drop(o, time.Now())
		}
		return
	}
	if len(p.namespaces) > 0 && p.isElsewhere(o) {
		p.inferFrom(o)
		p.drop(o)
		return
	}
	p.metrics.handled[o.Point.Kind].Inc()
	first, last := o.Extent()
	if p.newOut.touches(first, last) || o.Socket != nil && p.socketsOut.touches(first, last) {
		o.Flags |= observe.FlagTraceLimited // requests inside of this one may be missing
	}
	if o.Point.Kind != observe.KindPNIC && o.Point.Workload.Service == "" && !o.Point.IsLoopback() {
		p.metrics.unnamed.Inc()
	}
	p.inferFrom(o)
	if p.noPaths {
		o.Path = ""
	}
	if p.emitter != nil || p.layers != nil {
		o.Peers = p.names.peers(o)
	}
	if p.lines != nil {
		line := *o
		line.Wall = p.offset().Wall(first).UnixNano()
		if err := p.lines.Write(&line); err != nil {
			p.warn(err)
		}
	}
	if p.emitter != nil && p.limits.allow(o, time.Now()) && !p.emitter.Emit(o) {
		p.metrics.invalid.Inc()
	}
	// A preliminary report has no end: its layers come with the whole.
	switch {
	case p.layers == nil || o.Flags&observe.FlagStillOpen != 0:
	case p.socketsOut.touches(first, last):
		p.layers.leftOut.Inc()
		p.layers.buffer.Drop(o, time.Now())
	default:
		p.layers.add(o, time.Now())
	}
}

// outage is a time in which something was not captured, in ns of CLOCK_MONOTONIC. Zero:
// there was none.
type outage struct{ began, ended uint64 }

// touches reports whether an exchange of these times may lack something. What is captured
// lasts from a request to the end of its response, so that those inside of an exchange that
// ended before the outage were captured too.
func (o *outage) touches(first, last uint64) bool {
	return o.began != 0 && last >= o.began && (o.ended == 0 || first <= o.ended)
}

// outageMemory is for how long an exchange may come after its end, in ns: responses whose
// end is not known wait for a minute, names and records of access logs for some seconds.
const outageMemory = uint64(2 * time.Minute)

// set begins or ends the outage. One that follows soon after another counts from that one's
// beginning: exchanges that it touched may be still to come.
func (o *outage) set(lasts bool, now uint64) {
	switch {
	case lasts && o.ended != 0 && now-o.ended < outageMemory:
		o.ended = 0
	case lasts && (o.began == 0 || o.ended != 0):
		*o = outage{began: now}
	case !lasts && o.began != 0 && o.ended == 0:
		o.ended = now
	}
}

// leaveOut takes a step to keep within --cpu-limit. limit sets what the programs leave out.
func (p *pipeline) leaveOut(s step, limit func(probe.Limits) error) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	// An outage begins before, and ends after, it does in the programs.
	l := s.limits()
	if l.Sockets {
		p.socketsOut.set(true, p.monotonic())
	}
	if l.New {
		p.newOut.set(true, p.monotonic())
	}
	if err := limit(l); err != nil {
		return err
	}
	p.socketsOut.set(l.Sockets, p.monotonic())
	p.newOut.set(l.New, p.monotonic())
	p.leavesNew.Store(l.New)
	return nil
}

// close sends the queued spans.
func (p *pipeline) close(ctx context.Context) error {
	if p.queue == nil {
		return nil
	}
	return p.queue.Close(ctx)
}

// pending keeps observations whose names may be known soon: in the first seconds
// of an agent that watches a cluster, and in the first seconds of a pod, which can
// speak before the API server has its address. The capture goes on meanwhile.
type pending struct {
	nameMayChange func(*observe.Observation) bool
	waiting       []pendingObservation
	waits, full   prometheus.Counter
}

type pendingObservation struct {
	observation observe.Observation
	until       time.Time
}

// keep takes an observation that has to wait, and reports whether it did.
func (p *pending) keep(o *observe.Observation, now time.Time) bool {
	switch {
	case !p.nameMayChange(o):
		return false
	case len(p.waiting) >= maxPending:
		p.full.Inc()
		return false
	}
	p.waits.Inc()
	p.waiting = append(p.waiting, pendingObservation{*o, now.Add(pendingTime)})
	return true
}

// release passes on the observations that need not wait any longer.
func (p *pending) release(now time.Time, pass func(*observe.Observation)) {
	kept := p.waiting[:0]
	for i := range p.waiting {
		w := &p.waiting[i]
		if now.Before(w.until) && p.nameMayChange(&w.observation) {
			kept = append(kept, *w)
			continue
		}
		pass(&w.observation)
	}
	clear(p.waiting[len(kept):])
	if p.waiting = kept; len(kept) == 0 {
		p.waiting = nil // frees the memory of a burst
	}
}

// releaseAll passes on all observations.
func (p *pending) releaseAll(pass func(*observe.Observation)) {
	for i := range p.waiting {
		pass(&p.waiting[i].observation)
	}
	p.waiting = nil
}

// layers splits this node's observations of each trace into segments, and passes
// these on as spans and to the histograms.
type layers struct {
	node      string
	emitter   *span.Emitter // nil: no spans
	times     *LayerTimes
	buffer    *breakdown.TraceBuffer
	splitter  *splitter
	unpacker  breakdown.Unpacker
	trees     breakdown.Splitter
	segments  []breakdown.Segment // of one hop
	span      span.LayerSpan      // the present one
	workloads map[workloadKey]observe.Workload
	show      func(Trace) // nil: there is no Watch
	offset    func() span.ClockOffset

	minDuration  int64 // ns, of a segment that gets a span
	belowMinimum prometheus.Counter
	overTrace    prometheus.Counter
	leftOut      prometheus.Counter // to keep within --cpu-limit
	oneWay       *prometheus.CounterVec
	oneWayNames  map[string]bool
}

// newLayers returns layers of a node and registers their metrics.
func newLayers(cfg *config.Config, node string, emitter *span.Emitter, r prometheus.Registerer) *layers {
	l := &layers{
		node: node, emitter: emitter, times: newLayerTimes(), workloads: map[workloadKey]observe.Workload{},
		oneWayNames: map[string]bool{},
		minDuration: cfg.LayerMinDuration.Nanoseconds(),
	}
	l.splitter = newSplitter(func(t *breakdown.BufferedTrace) { l.split(l.unpacker.Unpack(t), t.Cut(), t.Again()) })
	// The last record of a trace leaves the kernel up to one and a half idle timeouts after
	// the first (the sweep runs twice per timeout), and is read an interval later.
	wait := max(2*cfg.IdleTimeout+cfg.ReadInterval, joinWait(cfg))
	l.buffer = breakdown.NewTraceBuffer(breakdown.TraceBufferOptions{
		Wait: wait, MaxBytes: maxBuffered,
		MaxHolds: maxHolds, HoldTime: cfg.RequestTimeout + 2*cfg.IdleTimeout + cfg.ReadInterval,
		MaxOfTrace: maxOfTrace, MaxPutOff: 4 * wait, MaxHeld: maxHeld,
		Done: l.splitter.add, Busy: l.splitter.busy, KeepRequests: cfg.Watched,
	})
	r.MustRegister(l.times)
	with := promauto.With(r)
	with.NewCounterFunc(prometheus.CounterOpts{
		Name: "layertrace_trace_observations_left_out_total",
		Help: "Observations whose layers are unknown because their trace has more than 4096 on this node.",
	}, func() float64 { return float64(l.buffer.LeftOut()) })
	with.NewCounterFunc(prometheus.CounterOpts{
		Name: "layertrace_traces_not_split_total",
		Help: "Traces whose layers are unknown because too many others waited to be split.",
	}, func() float64 { return float64(l.splitter.refused.Load()) })
	l.overTrace = with.NewCounter(prometheus.CounterOpts{
		Name: "layertrace_layer_spans_over_limit_total",
		Help: "Spans of layers not made because their trace has more than 2048 on this node.",
	})
	l.leftOut = with.NewCounter(prometheus.CounterOpts{
		Name: "layertrace_observations_over_cpu_limit_total",
		Help: "Observations whose layers are unknown, to keep within cpu-limit.",
	})
	l.belowMinimum = with.NewCounter(prometheus.CounterOpts{
		Name: "layertrace_layer_spans_below_minimum_total",
		Help: "Segments that got no span because they are shorter than --layer-min-duration.",
	})
	with.NewCounterFunc(prometheus.CounterOpts{
		Name: "layertrace_traces_split_early_total",
		Help: "Traces split before all their observations were there, because too many traces waited.",
	}, func() float64 { early, _ := l.buffer.Counts(); return float64(early) })
	with.NewCounterFunc(prometheus.CounterOpts{
		Name: "layertrace_observations_late_total",
		Help: "Observations that came after their trace was split: their layers are computed without the rest.",
	}, func() float64 { _, late := l.buffer.Counts(); return float64(late) })
	with.NewCounterFunc(prometheus.CounterOpts{
		Name: "layertrace_trace_holds_full_total",
		Help: "Open exchanges that did not keep their trace from being split, because too many others did.",
	}, func() float64 { full, _ := l.buffer.HoldCounts(); return float64(full) })
	with.NewCounterFunc(prometheus.CounterOpts{
		Name: "layertrace_trace_holds_expired_total",
		Help: "Open exchanges whose end did not come within --request-timeout: their trace was split without them.",
	}, func() float64 { _, expired := l.buffer.HoldCounts(); return float64(expired) })
	l.oneWay = with.NewCounterVec(prometheus.CounterOpts{
		Name: "layertrace_exchanges_one_way_total",
		Help: "Exchanges of which a capture point saw no response although another of this node did, by interface (socket: a socket; other: one of more than 256): responses take another path, or do not pass the hook.",
	}, []string{"interface"})
	return l
}

// joinWait is how long after the others of its trace an encrypted exchange may come: Envoy
// sends its log every second, and a record waits for its exchange.
func joinWait(cfg *config.Config) time.Duration {
	switch {
	case !cfg.MTLS:
		return 0
	case cfg.MTLSInfer:
		return 8 * time.Second // plain exchanges wait for records too
	default:
		return 5 * time.Second
	}
}

// add takes an observation of one capture point that arrives now.
func (l *layers) add(o *observe.Observation, now time.Time) {
	o.Wall = int64(o.Request.First) // one node has one clock
	l.buffer.Add(o, now)
}

// remember keeps the workloads of a trace to describe its spans, and those of later traces.
func (l *layers) remember(observations []observe.Observation) {
	for i := range observations {
		w := &observations[i].Point.Workload
		if w.Service == "" {
			continue
		}
		if len(l.workloads) >= maxWorkloads {
			clear(l.workloads) // the next observations fill it again
		}
		l.workloads[podOrService(w)] = *w
	}
}

// flushes returns the ticker for flushing the buffer; without layers it never fires.
func (l *layers) flushes() *time.Ticker {
	if l == nil {
		never := time.NewTicker(time.Hour)
		never.Stop()
		return never
	}
	return time.NewTicker(flushInterval)
}

// workloadKey is a pod, or a service without one.
type workloadKey struct{ namespace, pod, service string }

func podOrService(w *observe.Workload) workloadKey {
	if w.Pod != "" {
		return workloadKey{namespace: w.Namespace, pod: w.Pod}
	}
	return workloadKey{namespace: w.Namespace, service: w.Service}
}

// split measures the layers of one trace and makes their spans. cut: some of the trace's
// observations were left out, so that what seems to be a hop's own time may be another hop's.
// again: others were split before.
func (l *layers) split(observations []observe.Observation, cut, again bool) {
	l.remember(observations)
	tree := l.trees.Split(observations, nil)
	if l.show != nil {
		offset := l.offset()
		l.show(Trace{Tree: tree, Cut: cut, Again: again, Wall: offset.Wall})
	}
	made, flags := 0, observe.Flags(0)
	if cut {
		flags = observe.FlagTraceLimited
	}
	for _, hop := range tree.Hops {
		if cut {
			l.times.cut.Inc()
		} else {
			l.times.Observe(hop)
		}
		l.countOneWay(hop)
		if l.emitter == nil {
			continue
		}
		l.segments = hop.Coalesced(l.segments[:0])
		flags := flags | hop.Cut()
		for i := range l.segments {
			s := &l.segments[i]
			if s.Node == l.node && s.Time < l.minDuration { // other nodes' segments get no span here
				l.belowMinimum.Inc()
				continue
			}
			if made >= maxLayerSpans {
				l.overTrace.Inc()
				continue
			}
			l.span = span.LayerSpan{TraceID: hop.TraceID, SpanID: hop.SpanID, Segment: s, Node: l.node, Workload: l.workload(hop, s), Flags: flags}
			if l.emitter.EmitLayer(&l.span) {
				made++
			}
		}
	}
}

// countOneWay counts the capture points of a hop that saw no response that another saw.
func (l *layers) countOneWay(hop *breakdown.Hop) {
	answered, unanswered := false, false
	for o := range hop.Each {
		answered = answered || o.Response.First != 0
		unanswered = unanswered || o.Response.First == 0
	}
	if !answered || !unanswered {
		return
	}
	for o := range hop.Each {
		// One that was evicted may have seen it later.
		if o.Flags&observe.FlagNoResponse != 0 && o.Response.First == 0 && o.Flags&observe.FlagEvicted == 0 {
			name := cmp.Or(o.Point.Interface, string(o.Point.Kind))
			if !l.oneWayNames[name] && len(l.oneWayNames) >= maxOneWayNames {
				name = "other"
			} else {
				l.oneWayNames[name] = true
			}
			l.oneWay.WithLabelValues(name).Inc()
		}
	}
}

// workload returns the workload that spent the time of a segment, if one did.
func (l *layers) workload(hop *breakdown.Hop, s *breakdown.Segment) observe.Workload {
	if s.Layer != observe.Application && s.Layer != observe.ProtocolStack {
		return observe.Workload{}
	}
	for o := range hop.Each {
		if w := &o.Point.Workload; w.Service == s.Location && w.Namespace == s.Namespace {
			return l.workloads[podOrService(&o.Point.Workload)]
		}
	}
	return observe.Workload{}
}
