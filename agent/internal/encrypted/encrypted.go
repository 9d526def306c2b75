// SPDX-License-Identifier: Apache-2.0

// Package encrypted gives encrypted exchanges their trace: it joins the records of a
// proxy's access log with what capture points saw of the connection, by times on one
// clock, checked by the sizes of both messages.
//
// The story is encrypted.go (a record waits until it is joined), exchange.go (the turns
// that a record is about), evidence.go (what the join remembers for that: the attempts of
// a request, overheads, whether the clock can be trusted), early.go (records whose times are
// early), infer.go (exchanges without records).
package encrypted

import (
	"context"
	"iter"
	"log/slog"
	"net/netip"
	"slices"
	"sync"
	"time"

	"github.com/layertrace/layertrace/agent/internal/accesslog"
	"github.com/layertrace/layertrace/internal/observe"
)

// Source has what capture points saw.
type Source interface {
	// Turns appends to dst the turns of a connection at all capture points of the node of
	// which any part lies between from and to, in ns of CLOCK_MONOTONIC, by point and in
	// the order of their numbers, with the turn that is not over yet.
	Turns(dst []observe.Turn, client, server netip.AddrPort, from, to uint64) ([]observe.Turn, error)
}

// State is what became of a record.
type State string

// States. Only exact and time make observations.
const (
	StateExact     State = "exact"
	StateTime      State = "time"
	StateAmbiguous State = "ambiguous"
	StateUnmatched State = "unmatched"
)

// Reason is why a record has its state.
type Reason string

// Reasons. An exact join needs none, unless the record's times alone would not have shown it.
const (
	ReasonNone Reason = ""
	// ReasonEarly: the proxy was paused between its clocks, so that the times are early (exact).
	ReasonEarly Reason = "early"
	// ReasonRetried: the sizes are those of several attempts (time).
	ReasonRetried Reason = "retried"
	// ReasonNoSizes: the record has no sizes (time).
	ReasonNoSizes Reason = "no_sizes"
	// ReasonCut: the exchange was broken off (time).
	ReasonCut Reason = "cut"
	// ReasonUnseen: some bytes were not seen, so that the sizes are not known (time).
	ReasonUnseen Reason = "unseen"
	// ReasonHTTP2: several exchanges share the connection (ambiguous).
	ReasonHTTP2 Reason = "http2"
	// ReasonSizes: an exchange of the time has other sizes (ambiguous).
	ReasonSizes Reason = "sizes"
	// ReasonClock: several exchanges may have these sizes, and the clock cannot be trusted
	// now (ambiguous).
	ReasonClock Reason = "clock"
	// ReasonNoTurn: nothing of the connection was seen (unmatched).
	ReasonNoTurn Reason = "no_connection"
	// ReasonNoTime: nothing of the connection was seen at the time (unmatched).
	ReasonNoTime Reason = "no_exchange"
	// ReasonTaken: the exchange was given to another record (unmatched).
	ReasonTaken Reason = "taken"
	// ReasonDouble: the record, or another one of the same exchange, came before
	// (unmatched).
	ReasonDouble Reason = "double"
	// ReasonUpgraded: the connection is not HTTP any more (unmatched).
	ReasonUpgraded Reason = "upgraded"
	// ReasonOld: the record came too late (unmatched).
	ReasonOld Reason = "late"
	// ReasonSource: what was seen could not be read (unmatched).
	ReasonSource Reason = "unreadable"
)

const (
	// maxWait is how long a record waits for its exchange.
	maxWait = 3 * time.Second
	// maxAge is how long after its end a record is joined.
	maxAge = 15 * time.Second
	// maxWaiting is the number of records that wait, some 500 bytes each.
	maxWaiting = 16384
	// maxBatch is the number of records that are judged together.
	maxBatch = 1024
	// tickInterval is the time between two looks at the records that wait.
	tickInterval = 50 * time.Millisecond
	// near and far are how long before and after a record's window turns are read: in the
	// usual case, and to find out whether the clock is right.
	near = uint64(50 * time.Millisecond)
	far  = uint64(2 * time.Second)
	// maxFarLooks bounds the far looks at once: they read much.
	maxFarLooks = 64
)

// retries are the times from a record's arrival to its further tries.
var retries = []time.Duration{100 * time.Millisecond, 400 * time.Millisecond, 1200 * time.Millisecond, maxWait}

// settledTries is the try from which on a record may be joined whose exchange is not known to
// be the only one of its sizes: by then the records of the same time show whether the clock
// was just stepped.
const settledTries = 4

// missTries is the try from which on a record without an exchange counts against the clock.
// Before, the packets may be on their way.
const missTries = 3

// Options of a Joiner. Source, Offset, Monotonic and Out are required.
type Options struct {
	Source Source
	// Offset returns the wall time in Unix ns at monotonic time 0, as measured now.
	Offset func() int64
	// Monotonic returns the present time in ns of CLOCK_MONOTONIC.
	Monotonic func() uint64
	// Wants reports whether the capture point of a turn is on the sender's side of the
	// request (client) or the receiver's; nil: by its socket or direction, as at vNICs.
	Wants func(t *observe.Turn, client bool) bool
	// Infer also joins exchanges without records: Lister lists the connections.
	Infer Lister
	// Out takes the observations, without Point and Peers. It may block.
	Out func(*observe.Observation)
	// Log, default slog.Default.
	Log *slog.Logger
}

// Joiner joins records with exchanges. Add may be called concurrently, Run once.
type Joiner struct {
	opts Options
	Metrics

	mu      sync.Mutex
	arrived []*waiting // not looked at yet
	count   int        // records that wait
	plain   []observe.Observation
	wake    chan struct{}

	// The rest is Run's.
	waiting  []*waiting
	evidence *evidence
	turns    []observe.Turn
	wide     []observe.Turn
	farLooks int // left in this look
	infer    *inferrer
}

// waiting is a record that waits for its exchange.
type waiting struct {
	accesslog.Record
	arrived time.Time
	tries   int
	// given are the points at which the exchange was found.
	given []point
	// best is the outcome so far.
	best outcome
	// judged is what the record has shown about the clock.
	judged judgement
	// otherSizes: an exchange of the time was found, with other sizes. That shows nothing
	// about the clock.
	otherSizes bool
	// missing: a point that saw the connection has not shown the exchange yet.
	missing bool
	// doubted: the clock was not trusted while the record waited. Trust that comes later
	// does not cover the time of the record.
	doubted bool
	// candidates are what was found in this look.
	candidates []candidate
}

// judgement is what a record shows about the clock.
type judgement uint8

const (
	judgedNone judgement = iota
	judgedMiss           // it should have an exchange, and has none
	judgedHit
)

// point is a capture point of a connection, and the side of the request that it is on.
type point struct {
	networkInterface int
	direction        observe.Direction
	cookie           uint64
	client           bool
}

func pointOf(t *observe.Turn) point {
	p := point{networkInterface: t.Interface, direction: t.Direction}
	if t.Socket != nil {
		p.cookie, p.client = t.Socket.Cookie, t.Socket.Client
	}
	return p
}

// byPoint returns the turns of each point, which are neighbours.
func byPoint(turns []observe.Turn) iter.Seq2[point, []observe.Turn] {
	return func(yield func(point, []observe.Turn) bool) {
		for len(turns) > 0 {
			at, n := pointOf(&turns[0]), 1
			for n < len(turns) && pointOf(&turns[n]) == at {
				n++
			}
			if !yield(at, turns[:n]) {
				return
			}
			turns = turns[n:]
		}
	}
}

// outcome is a state with its reason.
type outcome struct {
	state  State
	reason Reason
}

// rank orders states from the least known to the surest.
func (o outcome) rank() int {
	return slices.Index([]State{StateUnmatched, StateAmbiguous, StateTime, StateExact}, o.state)
}

// better replaces the outcome by one that is known more surely.
func (o *outcome) better(with outcome) {
	if with.rank() > o.rank() || with.rank() == o.rank() && slices.Contains([]Reason{ReasonNoTurn, ReasonNoTime}, o.reason) {
		*o = with
	}
}

// candidate is an exchange that a record may be about.
type candidate struct {
	exchange
	at     point
	window window
	// unique: no other exchange of a long time has these sizes, as far as a far look was
	// made. retried: the record's sizes are those of several attempts.
	unique, retried bool
	// early: the record's times are early, by this pause.
	early bool
	pause pause
}

// New returns a joiner that counts with the given metrics.
func New(opts Options, metrics *Metrics) *Joiner {
	if opts.Log == nil {
		opts.Log = slog.Default()
	}
	if opts.Wants == nil {
		opts.Wants = wantsAtVNIC
	}
	j := &Joiner{opts: opts, Metrics: *metrics, wake: make(chan struct{}, 1), evidence: newEvidence()}
	if opts.Infer != nil {
		j.infer = newInferrer(opts.Infer)
	}
	return j
}

func wantsAtVNIC(t *observe.Turn, client bool) bool {
	if t.Socket != nil {
		return t.Socket.Client == client
	}
	return (t.Direction == observe.DirectionIngress) == client
}

// Add takes records and returns how many, from the first on: the rest does not fit.
func (j *Joiner) Add(records []accesslog.Record) int {
	n := j.add(records, time.Now())
	select {
	case j.wake <- struct{}{}:
	default:
	}
	return n
}

func (j *Joiner) add(records []accesslog.Record, now time.Time) int {
	j.mu.Lock()
	defer j.mu.Unlock()
	n := min(len(records), maxWaiting-j.count)
	for i := range records[:n] {
		j.arrived = append(j.arrived, &waiting{Record: records[i], arrived: now, best: outcome{StateUnmatched, ReasonNoTurn}})
	}
	j.count += n
	return n
}

// Run joins until ctx is done, and then what is there without waiting further.
func (j *Joiner) Run(ctx context.Context) {
	tick := time.NewTicker(tickInterval)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			j.look(time.Now(), true)
			return
		case <-j.wake:
		case <-tick.C:
		}
		j.look(time.Now(), false)
	}
}

// look joins the records that are due. It searches for the exchanges of all of a batch before
// it joins the first: how many it finds shows whether the clock is right.
func (j *Joiner) look(now time.Time, last bool) {
	if j.infer != nil {
		defer j.inferAll(now, last)
	}
	j.mu.Lock()
	j.waiting = append(j.waiting, j.arrived...)
	j.arrived = nil
	j.mu.Unlock()
	if len(j.waiting) == 0 {
		return
	}
	j.evidence.measured(j.opts.Offset(), now)
	var due, later []*waiting
	for _, w := range j.waiting {
		if last || w.due(now) {
			due = append(due, w)
		} else {
			later = append(later, w)
		}
	}
	ended := 0
	j.farLooks = maxFarLooks
	for len(due) > 0 {
		n := min(len(due), maxBatch)
		batch := due[:n]
		due = due[n:]
		for _, w := range batch {
			j.prepare(w)
		}
		for _, w := range batch {
			j.search(w)
		}
		for _, w := range batch {
			if j.decide(w, last || w.tries > len(retries)) {
				ended++
			} else {
				later = append(later, w)
			}
		}
	}
	j.waiting = later
	j.evidence.forget(now)
	j.mu.Lock()
	j.count -= ended
	j.mu.Unlock()
}

// due reports whether the time of a record's next try has come.
func (w *waiting) due(now time.Time) bool {
	return w.tries == 0 || now.Sub(w.arrived) >= retries[w.tries-1]
}

// prepare notes what a record shows about others.
func (j *Joiner) prepare(w *waiting) {
	switch {
	case w.tries > 0:
	case j.evidence.isDouble(&w.Record):
		w.best = outcome{StateUnmatched, ReasonDouble}
	case w.Side == accesslog.SideAttempt:
		j.evidence.addAttempt(&w.Record)
	}
}

// search finds the candidates of a record at all points of its side.
func (j *Joiner) search(w *waiting) {
	w.tries++
	w.candidates, w.missing, w.otherSizes = w.candidates[:0], false, false
	switch {
	case w.final():
		return
	case w.Protocol != "" && w.Protocol != "HTTP/1.1" && w.Protocol != "HTTP/1.0":
		w.best = outcome{StateAmbiguous, ReasonHTTP2}
		return
	case w.Status == 101:
		w.best = outcome{StateUnmatched, ReasonUpgraded}
		return
	}
	for _, offset := range j.evidence.offsets {
		j.searchAt(w, offset.ns)
	}
}

// final reports whether a record needs no further try.
func (w *waiting) final() bool {
	return slices.Contains([]Reason{ReasonHTTP2, ReasonUpgraded, ReasonOld, ReasonDouble}, w.best.reason)
}

// searchAt is search by one offset of the clocks.
func (j *Joiner) searchAt(w *waiting, offset int64) {
	win := windowOf(&w.Record, offset)
	now := j.opts.Monotonic()
	until := max(win.from, win.first, win.to)
	if until+uint64(maxAge) < now {
		w.best.better(outcome{StateUnmatched, ReasonOld})
		return
	}
	if win.to == 0 {
		until = now // what has no end is the connection's last
	}
	// Without trust in the clock an exchange has to be the only one of its sizes for long.
	reach := near
	if (len(j.evidence.offsets) > 1 || !j.evidence.proven(w.Peer)) && j.farLooks > 0 {
		j.farLooks--
		reach = far
	}
	turns, err := j.pull(j.turns[:0], w, win.from, until, reach)
	j.turns = turns
	if err != nil {
		w.best.better(outcome{StateUnmatched, ReasonSource})
		return
	}
	found := j.searchTurns(w, turns, win, reach == far)
	if w.ResponseLast == 0 || len(w.given) > 0 || w.judged == judgedHit {
		return // it shows nothing more about the clock
	}
	switch {
	case found:
		j.evidence.hit(w.Peer, w.judged == judgedMiss)
		w.judged = judgedHit
	case w.judged == judgedNone && !w.otherSizes && w.tries >= missTries:
		if reach != far && j.farLooks > 0 {
			j.farLooks--
			turns, _ = j.pull(j.wide[:0], w, win.from, until, far)
			j.wide = turns
		}
		if slices.ContainsFunc(turns, func(t observe.Turn) bool { return j.isOwn(w, &t) }) {
			w.best.better(outcome{StateUnmatched, ReasonNoTime})
			// Of a connection that was open before, the first exchange was not seen whole.
			if !slices.ContainsFunc(turns, func(t observe.Turn) bool { return t.Flags&observe.TurnMiddle != 0 && j.isOwn(w, &t) }) {
				w.judged = judgedMiss
				j.evidence.miss(w.Peer)
			}
		}
	}
}

func (j *Joiner) pull(dst []observe.Turn, w *waiting, from, until, reach uint64) ([]observe.Turn, error) {
	return j.opts.Source.Turns(dst, w.Client, w.Server, from-min(from, reach), until+reach)
}

// isOwn reports whether a turn is of the record's connection and side.
func (j *Joiner) isOwn(w *waiting, t *observe.Turn) bool {
	return t.Client == w.Client && t.Server == w.Server && j.opts.Wants(t, w.Side != accesslog.SideServer)
}

// requestFor is what to look for among the turns of a point.
func (j *Joiner) requestFor(win window, w *want, own []observe.Turn) request {
	return request{window: win, want: w.sizes, comparable: w.comparable, overhead: j.evidence.overhead(&own[0])}
}

// searchTurns adds the candidates among turns, by point, and reports whether there is one.
// far: the turns are those of a long time.
func (j *Joiner) searchTurns(w *waiting, turns []observe.Turn, win window, far bool) (found bool) {
	for at, own := range byPoint(turns) {
		if !j.isOwn(w, &own[0]) || slices.Contains(w.given, at) {
			continue
		}
		w.best.better(outcome{StateUnmatched, ReasonNoTime})
		hit := false
		for _, want := range j.evidence.wants(&w.Record, w.tries > len(retries)) {
			q := j.requestFor(win, &want, own)
			x := find(own, &q)
			if x.fit == fitNone {
				continue
			}
			if x.fit == fitSizes || !want.comparable && !want.allows(&x) {
				w.best.better(outcome{StateAmbiguous, ReasonSizes})
				w.otherSizes = true
				continue
			}
			hit = true
			c := candidate{exchange: x, at: at, window: win, retried: want.limits}
			c.turns = slices.Clone(x.turns) // the buffer is used again
			c.unique = far && x.fit == fitExact && !x.isDropped(0, 0) && isUnique(own, &x, &q)
			if !slices.ContainsFunc(w.candidates, c.same) {
				w.candidates = append(w.candidates, c)
			}
			break
		}
		found = found || hit
		w.missing = w.missing || !hit
	}
	return found
}

// same reports whether two candidates are one exchange at one point.
func (c *candidate) same(o candidate) bool {
	return c.at == o.at && c.first(0) == o.first(0) && c.last() == o.last()
}

// isUnique reports whether no other turns among those of the point may have the same sizes.
func isUnique(own []observe.Turn, x *exchange, q *request) bool {
	for i := range own {
		t := &own[i]
		if t.Number >= x.turns[0].Number && t.Number <= x.turns[len(x.turns)-1].Number {
			continue
		}
		for n := i + 1; n <= min(i+len(x.turns)+1, len(own)); n++ {
			other := exchange{turns: own[i:n]}
			if !comparable(other.turns) || t.Flags&observe.TurnMiddle != 0 || q.matchSizes(&other) {
				return false
			}
		}
	}
	return true
}

// decide joins a record with its candidates, and reports whether it waits no longer. last:
// this is the last try.
func (j *Joiner) decide(w *waiting, last bool) bool {
	w.doubted = w.doubted || j.evidence.doubted(w.Peer)
	settle := false
	for i := range w.candidates {
		c := &w.candidates[i]
		others := slices.ContainsFunc(w.candidates, func(o candidate) bool { return o.at == c.at && !c.same(o) })
		switch {
		case others, !c.unique && (w.doubted || !j.evidence.trusted(w.Peer, last)):
			w.best.better(outcome{StateAmbiguous, ReasonClock})
			w.missing = true
		case !c.unique && !last && w.tries < settledTries:
			w.missing, settle = true, true
		case !j.evidence.take(w, c):
			w.best.better(outcome{StateUnmatched, j.evidence.whyTaken(w, c)})
		default:
			j.give(w, c)
		}
	}
	w.candidates = w.candidates[:0]
	if !last && !w.final() && (len(w.given) == 0 || w.missing) {
		if settle {
			w.tries = settledTries - 1 // nothing changes before
		}
		return false
	}
	if w.tries > len(retries) {
		j.joinEarly(w)
	}
	j.ended(&w.Record, w.best)
	if w.missing && len(w.given) > 0 {
		j.partial.Inc()
	}
	return true
}

// give passes on the exchange of a record at one point.
func (j *Joiner) give(w *waiting, c *candidate) {
	w.given = append(w.given, c.at)
	o := c.observation(&c.window)
	o.Context.Context = w.Context
	if w.Context.TraceID.IsZero() {
		o.Context.Context = w.OwnContext
	}
	o.Method, o.Path, o.Status = w.Method, w.Path, w.Status
	o.Join = observe.JoinExact
	result := outcome{StateExact, ReasonNone}
	if c.fit == fitTime {
		o.Join = observe.JoinTime
		result = outcome{StateTime, c.whyTime()}
	} else {
		j.evidence.learn(&c.turns[0], c.overhead)
		if c.early {
			result.reason = ReasonEarly
		}
	}
	w.best.better(result)
	j.joined(o.Join)
	j.infer.took(&o)
	j.opts.Out(&o)
}

// whyTime returns why the sizes of an exchange could not be compared.
func (c *candidate) whyTime() Reason {
	switch {
	case c.cut:
		return ReasonCut
	case !comparable(c.turns):
		return ReasonUnseen
	case c.retried:
		return ReasonRetried
	default:
		return ReasonNoSizes
	}
}
