// SPDX-License-Identifier: Apache-2.0

package encrypted

import (
	"hash/maphash"
	"net/netip"
	"slices"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"

	"github.com/layertrace/layertrace/agent/internal/accesslog"
	"github.com/layertrace/layertrace/internal/observe"
	"github.com/layertrace/layertrace/internal/tracecontext"
)

const (
	// maxRemembered is the number of exchanges, records and requests of each generation
	// that are remembered, some 32 bytes each.
	maxRemembered = 1 << 17
	// generation is how long they are remembered at least, unless there are too many.
	generation = maxAge
	// maxAttempts is the number of attempts of a request that are remembered.
	maxAttempts = 16
	// offsetTime is how long an offset of the clocks is tried after it was replaced.
	offsetTime = 10 * time.Second
	// maxPeers is the number of proxies with a score of their own.
	maxPeers = 1024
	// maxOffsets is the number of offsets that are tried.
	maxOffsets = 4
	// maxMissed is the largest share of records without an exchange at which the clock is
	// trusted. With a clock that is wrong by more than an exchange leaves room for, most
	// records have none.
	maxMissed = 0.05
	// minHits is the number of records with an exchange that prove that the clock is right.
	minHits = 20
	// evidenceOf is the number of records that the share is of, and evidenceTime the time
	// after which they count half.
	evidenceOf   = 128
	evidenceTime = time.Minute
	// fewestHits is the number of records with an exchange that a join by times needs: one
	// alone may fit by chance.
	fewestHits = 1.5
)

// evidence is what the join remembers of other records and exchanges.
type evidence struct {
	seed maphash.Seed
	// offsets from monotonic to wall time: the present one, and those it replaced.
	offsets []offset
	// node is what all records show about the clock, peers what those of each proxy show: a
	// proxy may have other reasons for records without an exchange.
	node    score
	peers   map[netip.Addr]*score
	decayed time.Time

	rotated  time.Time
	given    [2]map[uint64]uint64 // exchange -> trace context
	records  [2]map[uint64]struct{}
	attempts [2]map[uint64][]attempt
	learned  [2]map[uint64]uint64 // connection -> overhead
}

// score counts records with and without an exchange; older ones count less.
type score struct{ hits, misses float64 }

type offset struct {
	ns       int64
	replaced time.Time // zero: it is the present one
}

// attempt is one try of a request, with the sizes of all so far. Its context is that of all
// tries, unless the proxy makes a span for each.
type attempt struct {
	start   uint64
	context tracecontext.Context
	sizes
}

func newEvidence() *evidence {
	e := &evidence{seed: maphash.MakeSeed(), peers: map[netip.Addr]*score{}}
	e.rotate(time.Time{})
	e.rotate(time.Time{})
	return e
}

func (e *evidence) rotate(now time.Time) {
	e.rotated = now
	e.given[1], e.given[0] = e.given[0], map[uint64]uint64{}
	e.records[1], e.records[0] = e.records[0], map[uint64]struct{}{}
	e.attempts[1], e.attempts[0] = e.attempts[0], map[uint64][]attempt{}
	e.learned[1], e.learned[0] = e.learned[0], map[uint64]uint64{}
}

// forget forgets what is old, or too much.
func (e *evidence) forget(now time.Time) {
	if now.Sub(e.rotated) >= generation || len(e.given[0]) >= maxRemembered || len(e.records[0]) >= maxRemembered {
		e.rotate(now)
	}
	e.offsets = slices.DeleteFunc(e.offsets, func(o offset) bool { return !o.replaced.IsZero() && now.Sub(o.replaced) > offsetTime })
}

// measured takes the present offset of the clocks. If the wall clock was stepped, records
// from before the step come for a while.
func (e *evidence) measured(ns int64, now time.Time) {
	if e.decayed.IsZero() {
		e.decayed = now
	}
	if now.Sub(e.decayed) >= evidenceTime {
		e.decayed = now
		e.node.age()
		for peer, s := range e.peers {
			if s.age(); s.hits+s.misses < 0.1 {
				delete(e.peers, peer)
			}
		}
	}
	if len(e.offsets) > 0 {
		if e.offsets[0].ns == ns {
			return
		}
		e.offsets[0].replaced = now
	}
	e.offsets = slices.Insert(e.offsets, 0, offset{ns: ns})
	e.offsets = e.offsets[:min(len(e.offsets), maxOffsets)]
}

func (s *score) age() { s.hits, s.misses = s.hits/2, s.misses/2 }

func (s *score) add(hits, misses float64) {
	const keep = 1 - 1.0/evidenceOf
	s.hits, s.misses = s.hits*keep+hits, max(0, s.misses*keep+misses)
}

// right reports whether the records are consistent with a right clock: nearly all that should
// have an exchange have one.
func (s *score) right() bool { return s.misses < 0.5 || s.misses <= maxMissed*(s.hits+s.misses) }

// proven reports whether there are enough such records.
func (s *score) proven() bool { return s.right() && s.hits >= minHits }

// peer returns the score of a proxy.
func (e *evidence) peer(from netip.Addr) *score {
	s, ok := e.peers[from]
	if !ok {
		if len(e.peers) >= maxPeers {
			return &e.node
		}
		s = &score{}
		e.peers[from] = s
	}
	return s
}

// proven reports whether the clock of a proxy's records is known to be right.
func (e *evidence) proven(from netip.Addr) bool {
	s := e.peer(from)
	return s.proven() || s.right() && e.node.proven()
}

// trusted reports whether a record of a proxy may be joined by its times. It waits until
// enough others have come; last: it cannot wait any longer.
func (e *evidence) trusted(from netip.Addr, last bool) bool {
	return e.proven(from) || last && e.node.right() && e.peer(from).right() && e.node.hits >= fewestHits
}

// doubted reports whether the records of a proxy are evidence against its clock.
func (e *evidence) doubted(from netip.Addr) bool { return !e.peer(from).right() }

// miss counts a record of a proxy without an exchange.
func (e *evidence) miss(from netip.Addr) { e.judge(from, 0, 1) }

// hit counts a record with an exchange. missed: it was counted as one without before.
func (e *evidence) hit(from netip.Addr, missed bool) {
	misses := 0.0
	if missed {
		misses = -1
	}
	e.judge(from, 1, misses)
}

func (e *evidence) judge(from netip.Addr, hits, misses float64) {
	if s := e.peer(from); s != &e.node {
		s.add(hits, misses)
	}
	e.node.add(hits, misses)
}

// isDouble reports whether a record came before, and remembers it.
func (e *evidence) isDouble(r *accesslog.Record) bool {
	key := maphash.Comparable(e.seed, struct {
		side           accesslog.Side
		client, server netip.AddrPort
		start, first   uint64
		id             string
		context        tracecontext.Context
	}{r.Side, r.Client, r.Server, r.Start, r.RequestFirst, r.RequestID, r.Context})
	for _, known := range e.records {
		if _, ok := known[key]; ok {
			return true
		}
	}
	e.records[0][key] = struct{}{}
	return false
}

// addAttempt remembers the sizes of an attempt.
func (e *evidence) addAttempt(r *accesslog.Record) {
	if r.RequestID == "" || !r.SizesKnown {
		return
	}
	key := e.requestKey(r)
	all := e.attempts[0][key]
	if all == nil {
		all = e.attempts[1][key]
	}
	if len(all) < maxAttempts && len(e.attempts[0]) < maxRemembered {
		e.attempts[0][key] = append(slices.Clone(all), attempt{r.Start, r.Context, sizes{r.RequestBytes, r.ResponseBytes}})
	}
}

// requestKey identifies the requests of a proxy that may be attempts of one. The ID alone is
// not enough: a proxy passes it on, and an application copies it to all its calls.
func (e *evidence) requestKey(r *accesslog.Record) uint64 {
	return maphash.Comparable(e.seed, struct {
		peer             netip.Addr
		id, method, path string
	}{r.Peer, r.RequestID, r.Method, r.Path})
}

// before returns what the sizes of the attempts before an attempt may be, 0 if there were
// none, the most probable first.
func (e *evidence) before(r *accesslog.Record) []sizes {
	key := e.requestKey(r)
	var same, other attempt // the latest with the same context, and with another one
	for _, known := range e.attempts {
		for _, a := range known[key] {
			latest := &other
			if a.context == r.Context {
				latest = &same
			}
			if a.start < r.Start && a.start > latest.start {
				*latest = a
			}
		}
	}
	switch {
	case same.start != 0:
		return []sizes{same.sizes}
	case other.start != 0:
		// A further attempt with a span of its own, or the same call again.
		return []sizes{{}, other.sizes}
	default:
		return []sizes{{}}
	}
}

// want is what the sizes of a record can mean.
type want struct {
	sizes
	comparable bool
	// limits: sizes are those of several attempts. several: their requests were equal.
	limits, several bool
}

// wants returns what the sizes of a record can mean, the most probable first. last: the
// record waits for no others.
func (e *evidence) wants(r *accesslog.Record, last bool) []want {
	all := sizes{r.RequestBytes, r.ResponseBytes}
	switch {
	case !r.SizesKnown:
		return []want{{}}
	case r.Side == accesslog.SideClient && r.Attempts > 1:
		return []want{{sizes: all, limits: true}}
	case r.Side != accesslog.SideAttempt:
		return []want{{sizes: all, comparable: true}}
	}
	var list []want
	first := false
	for _, before := range e.before(r) {
		first = first || before == sizes{}
		if all.request >= before.request && all.response >= before.response { // else it contradicts the record before
			list = append(list, want{sizes: sizes{all.request - before.request, all.response - before.response}, comparable: true})
		}
	}
	if last && first {
		// The record of an attempt before may be lost.
		list = append(list, want{sizes: all, limits: true, several: true})
	}
	return list
}

// allows reports whether an exchange can be one of those that the sizes are of.
func (w *want) allows(x *exchange) bool {
	if !w.limits {
		return true
	}
	for _, overhead := range (&request{overhead: x.overhead}).overheads(x.turns) {
		s, ok := x.plain(overhead)
		if !ok || s.request == 0 || s.request > w.request || s.response > w.response {
			continue
		}
		if !w.several || w.request%s.request == 0 && w.request/s.request >= 2 {
			x.overhead = overhead
			return true
		}
	}
	return false
}

func (e *evidence) connectionKey(t *observe.Turn) uint64 { return maphash.Comparable(e.seed, t.Key) }

// overhead returns the overhead of a connection, 0 if it is unknown.
func (e *evidence) overhead(t *observe.Turn) uint64 {
	key := e.connectionKey(t)
	if o, ok := e.learned[0][key]; ok {
		return o
	}
	return e.learned[1][key]
}

// learn remembers the overhead of a connection.
func (e *evidence) learn(t *observe.Turn, overhead uint64) {
	if t.Request.Records > 0 && len(e.learned[0]) < maxRemembered {
		e.learned[0][e.connectionKey(t)] = overhead
	}
}

// take gives an exchange to a record, unless another one has it.
func (e *evidence) take(w *waiting, c *candidate) bool {
	return e.takeKey(e.exchangeKey(w, c), e.contextKey(w.Context, w.OwnContext))
}

// takeFor is take without a record.
func (e *evidence) takeFor(at point, client bool, x *exchange, context tracecontext.Context) bool {
	return e.takeKey(e.keyOf(at, client, x), e.contextKey(context, tracecontext.Context{}))
}

// isTaken reports whether an exchange was given to a record.
func (e *evidence) isTaken(w *waiting, c *candidate) bool {
	return e.isTakenKey(e.exchangeKey(w, c))
}

func (e *evidence) isTakenKey(key uint64) bool {
	for _, known := range e.given {
		if _, ok := known[key]; ok {
			return true
		}
	}
	return false
}

func (e *evidence) takeKey(key, context uint64) bool {
	if e.isTakenKey(key) {
		return false
	}
	e.given[0][key] = context
	return true
}

// whyTaken returns whether an exchange that was taken is the record's own.
func (e *evidence) whyTaken(w *waiting, c *candidate) Reason {
	key := e.exchangeKey(w, c)
	for _, known := range e.given {
		if other, ok := known[key]; ok && other == e.contextKey(w.Context, w.OwnContext) {
			return ReasonDouble
		}
	}
	return ReasonTaken
}

func (e *evidence) exchangeKey(w *waiting, c *candidate) uint64 {
	return e.keyOf(c.at, w.Side != accesslog.SideServer, &c.exchange)
}

// keyOf identifies an exchange at a point and side.
func (e *evidence) keyOf(at point, client bool, x *exchange) uint64 {
	return maphash.Comparable(e.seed, struct {
		observe.Key
		point
		sender        bool
		number, first uint64
	}{x.turns[0].Key, at, client, x.turns[len(x.turns)-1].Number, x.first(0)})
}

func (e *evidence) contextKey(header, own tracecontext.Context) uint64 {
	return maphash.Comparable(e.seed, [2]tracecontext.Context{header, own})
}

// Metrics count what becomes of records.
type Metrics struct {
	records   *prometheus.CounterVec
	exchanges *prometheus.CounterVec
	partial   prometheus.Counter
	// Of inferrer.
	notInferred, legsFull prometheus.Counter
}

// NewMetrics registers the metrics of a Joiner.
func NewMetrics(r prometheus.Registerer) *Metrics {
	with := promauto.With(r)
	m := &Metrics{
		records: with.NewCounterVec(prometheus.CounterOpts{
			Name: "layertrace_encrypted_records_total",
			Help: "Records of proxies' access logs by what became of them: exact (times and sizes fit an exchange), time (the times fit only one, and the sizes cannot be compared), ambiguous, unmatched; with the reason, and by the workload whose proxy sent them (as layertrace_access_log_records_total).",
		}, []string{"side", "state", "reason", "namespace", "workload"}),
		exchanges: with.NewCounterVec(prometheus.CounterOpts{
			Name: "layertrace_encrypted_exchanges_total",
			Help: "Encrypted exchanges at capture points that were given a trace, by how surely: exact, time, inferred.",
		}, []string{"join"}),
		partial: with.NewCounter(prometheus.CounterOpts{
			Name: "layertrace_encrypted_records_partial_total",
			Help: "Records of proxies' access logs that have an exchange at one capture point and none at another that saw the connection at that time.",
		}),
		notInferred: with.NewCounter(prometheus.CounterOpts{
			Name: "layertrace_encrypted_not_inferred_total",
			Help: "Plain exchanges at proxies' sockets for which --mtls-infer found no encrypted exchange, or several, or one that a record has.",
		}),
		legsFull: with.NewCounter(prometheus.CounterOpts{
			Name: "layertrace_encrypted_infer_full_total",
			Help: "Plain exchanges at proxies' sockets that --mtls-infer did not look at, because too many waited.",
		}),
	}
	for _, join := range []observe.Join{observe.JoinExact, observe.JoinTime, observe.JoinInferred} {
		m.exchanges.WithLabelValues(string(join))
	}
	return m
}

func (m *Metrics) ended(r *accesslog.Record, o outcome) {
	m.records.WithLabelValues(r.Side.String(), string(o.state), string(o.reason), r.Sender.Namespace, r.Sender.Service).Inc()
}

func (m *Metrics) joined(how observe.Join) { m.exchanges.WithLabelValues(string(how)).Inc() }
