// SPDX-License-Identifier: Apache-2.0

package encrypted

import (
	"cmp"
	"maps"
	"slices"
	"time"

	"github.com/layertrace/layertrace/internal/observe"
	"github.com/layertrace/layertrace/internal/tracecontext"
)

// Without a record of the proxy, its plain exchanges within the pod can still lead to an
// encrypted one: the proxy sent the request on while it handled the application's,
// so the encrypted exchange lies within the plain one; a request from outside encloses the
// plain one. Both have the same bodies, and heads that differ by what the proxy adds, which is
// much the same for all requests of a pod. That is no proof: such joins are marked.

const (
	// inferAfter is how long after its end a plain exchange is looked at: its record, if
	// there is one, has come by then.
	inferAfter = 4500 * time.Millisecond
	// scanInterval is the time between two looks at all connections.
	scanInterval = 250 * time.Millisecond
	// keepPassed is how long an encrypted exchange is remembered.
	keepPassed = 20 * time.Second
	// maxPassed and maxLegs are the numbers of encrypted and plain exchanges that are kept.
	maxPassed, maxLegs = 65536, 8192
	// maxNested is the number of encrypted exchanges that are compared with a plain one.
	maxNested = 1024
	// sizeSlack is how many bytes the difference of the heads may deviate from the usual: the
	// digits of a time, names of a peer.
	sizeSlack = 12
	// The usual difference is learned from the last maxLearned plain exchanges of which each
	// may belong to encrypted ones with at most maxPossible differences. It is one that
	// usualShare of them have; minLearned more than have any other one, of which at most
	// rivalShare as many have it.
	minLearned, maxLearned, maxPossible = 3, 65, 128
	usualShare, rivalShare              = 0.8, 0.75
	// soonPassedOn is how long in ns after its first byte a proxy passes a request on: if its
	// client has gone away by then, a plain one may still be of it.
	soonPassedOn = 50_000_000
	// maxPods is the number of pods and sides whose usual difference is remembered.
	maxPods = 1024
)

// Lister lists the sockets of encrypted connections.
type Lister interface {
	Sockets(each func(observe.Key, *observe.Socket)) error
}

// inferrer joins exchanges without records. It belongs to the joiner's goroutine.
type inferrer struct {
	list   Lister
	legs   []observe.Observation // plain exchanges that wait
	passed map[sideOfPod][]passed
	count  int
	// overflowed is when there were too many.
	overflowed uint64
	last       map[uint64]number            // of the last turn of a socket
	learned    map[sideOfPod][][]difference // of each plain exchange
	usuals     map[sideOfPod]usual          // what this look has found
	scanned    time.Time
	turns      []observe.Turn
}

// sideOfPod is a network namespace, and whether the proxy in it sends the encrypted request.
type sideOfPod struct {
	netns  uint32
	client bool
}

// passed is an encrypted exchange at the socket of a proxy.
type passed struct {
	observe.Key
	first, last uint64
	sizes
	number uint64
	// atLeast: the sizes may contain parts of the handshake. unknown: they are not known.
	atLeast, unknown bool
	// gap: exchanges before it on its connection were missed since then.
	gap uint64
	// taken: it belongs to this trace.
	taken tracecontext.TraceID
}

type number struct {
	turn uint64
	at   uint64 // time of its end
	seen time.Time
}

// difference is that of the plain sizes of an encrypted exchange and a plain one.
type difference struct{ request, response int32 }

type usual struct {
	difference
	known bool
}

func newInferrer(list Lister) *inferrer {
	return &inferrer{list: list, passed: map[sideOfPod][]passed{}, last: map[uint64]number{}, learned: map[sideOfPod][][]difference{}, usuals: map[sideOfPod]usual{}}
}

// AddPlain takes a plain exchange at a proxy's socket, and reports whether there was room.
func (j *Joiner) AddPlain(o *observe.Observation) bool {
	if j.infer == nil || o.Socket == nil || o.Socket.Netns == 0 || o.Join != observe.JoinNone || o.Response.First == 0 ||
		o.Flags&(observe.Cut|observe.FlagPipelined|observe.FlagUpgraded|observe.FlagReset) != 0 {
		return true // of no use
	}
	j.mu.Lock()
	defer j.mu.Unlock()
	if len(j.plain) >= maxLegs {
		j.legsFull.Inc()
		return false
	}
	j.plain = append(j.plain, *o)
	return true
}

// sideOf returns the side of the pod at which a plain exchange has its encrypted one: what the
// proxy receives in plain text it sends on encrypted, and the other way round.
func sideOf(leg *observe.Observation) sideOfPod {
	return sideOfPod{leg.Socket.Netns, !leg.Socket.Client}
}

// inferAll joins the plain exchanges that have waited. last: all.
func (j *Joiner) inferAll(now time.Time, last bool) {
	in := j.infer
	j.mu.Lock()
	if room := maxLegs - len(in.legs); len(j.plain) > room {
		j.legsFull.Add(float64(len(j.plain) - room))
		j.plain = j.plain[:room]
	}
	in.legs = append(in.legs, j.plain...)
	j.plain = nil
	j.mu.Unlock()
	if now.Sub(in.scanned) >= scanInterval || last {
		in.scanned = now
		if err := in.scan(j.opts.Source, j.opts.Monotonic(), now); err != nil {
			j.opts.Log.Debug("list encrypted connections", "error", err)
		}
	}
	monotonic := j.opts.Monotonic()
	var due, later []observe.Observation
	for _, leg := range in.legs {
		if last || leg.Response.Last+uint64(inferAfter) <= monotonic {
			due = append(due, leg)
		} else {
			later = append(later, leg)
		}
	}
	in.legs = later
	for i := range due {
		in.learn(&due[i])
	}
	clear(in.usuals)
	for i := range due {
		if x := in.find(&due[i]); x != nil {
			j.giveInferred(&due[i], x)
		} else {
			j.notInferred.Inc()
		}
	}
	in.forget(monotonic, now)
	j.evidence.forget(now)
}

// scan takes the exchanges that have ended since the last look at all sockets.
func (in *inferrer) scan(source Source, monotonic uint64, now time.Time) error {
	type listed struct {
		socket *observe.Socket
		keys   []observe.Key
	}
	sockets := map[uint64]*listed{}
	err := in.list.Sockets(func(key observe.Key, s *observe.Socket) {
		if s.Netns == 0 {
			return
		}
		if sockets[s.Cookie] == nil {
			sockets[s.Cookie] = &listed{socket: s}
		}
		sockets[s.Cookie].keys = append(sockets[s.Cookie].keys, key)
	})
	for _, l := range sockets {
		in.scanSocket(source, l.socket, l.keys, monotonic, now)
	}
	return err
}

// scanSocket takes the exchanges of a socket that have ended since the last look. After a
// redirection it has two keys: with the port that it has itself, and with that on the wire, at
// which interfaces see it too.
func (in *inferrer) scanSocket(source Source, s *observe.Socket, keys []observe.Key, monotonic uint64, now time.Time) {
	before, known := in.last[s.Cookie]
	from := before.at
	if !known {
		from = monotonic - min(monotonic, uint64(keepPassed))
	}
	var key observe.Key
	var turns []observe.Turn
	for _, key = range keys {
		var err error
		if turns, err = source.Turns(in.turns[:0], key.Client, key.Server, from, monotonic); err != nil {
			return
		}
		in.turns = turns
		if slices.ContainsFunc(turns, func(t observe.Turn) bool { return t.Socket == nil }) {
			break
		}
	}
	side := sideOfPod{s.Netns, s.Client}
	for i := range turns {
		t := &turns[i]
		if t.Socket == nil || t.Socket.Cookie != s.Cookie || known && t.Number <= before.turn {
			continue
		}
		if t.Flags&observe.TurnOpen != 0 && (t.Response.Last == 0 || t.Response.Last+uint64(scanInterval) > monotonic) {
			break // it goes on
		}
		p := passed{Key: key, first: t.Request.First, number: t.Number}
		if known && t.Number != before.turn+1 {
			p.gap = before.at
		}
		before, known = number{t.Number, end(t), now}, true
		one := exchange{turns: turns[i : i+1]}
		one.dropAlerts()
		p.last = one.lastOf(0, 1)
		s, ok := one.plain(one.usualOverhead())
		s.request -= min(s.request, uint64(one.alerts[0])*(alertLength-overheads[0]))
		s.response -= min(s.response, uint64(one.alerts[1])*(alertLength-overheads[0]))
		p.sizes, p.atLeast = s, t.Flags&observe.TurnHandshake != 0
		p.unknown = !ok || t.Flags&(observe.TurnMiddle|observe.TurnDesynchronized|observe.TurnPacketsMissing) != 0
		switch {
		case p.first == 0 || p.last == 0 && side.client: // no exchange, or of no use without a response
		case in.count < maxPassed:
			in.passed[side] = append(in.passed[side], p)
			in.count++
		default:
			in.overflowed = monotonic
		}
	}
	if known {
		before.seen = now
		in.last[s.Cookie] = before
	}
}

// dropAlerts takes what may be an alert at the end of a connection for one: no record shows that
// it is data. TLS 1.2 marks alerts.
func (x *exchange) dropAlerts() {
	t := &x.turns[0]
	if !ended(x.turns) || t.Flags&observe.TurnTLS12 != 0 {
		return
	}
	for message := range x.alerts {
		x.alerts[message] = int(min(messageOf(t, message).Alerts, maxAlerts))
	}
}

// usualOverhead is that of TLS 1.3, or 1.2 with AES-GCM.
func (x *exchange) usualOverhead() uint64 {
	if x.turns[0].Flags&observe.TurnTLS12 != 0 {
		return overheads[1]
	}
	return overheads[0]
}

// nested returns the encrypted exchanges without a trace that a plain one may have by their
// times. complete: all of that time are known, and the plain one has none yet.
func (in *inferrer) nested(leg *observe.Observation) (all []*passed, complete bool) {
	side := sideOf(leg)
	list := in.passed[side]
	if in.overflowed != 0 && in.overflowed < leg.Response.Last+uint64(keepPassed) {
		return nil, false
	}
	for i := range list {
		p := &list[i]
		if p.gap != 0 && p.gap < leg.Response.Last && p.first > leg.Request.First {
			return nil, false
		}
		inside := leg.Request.First <= p.first && p.last <= leg.Response.Last
		switch {
		case side.client:
		case p.last != 0:
			inside = p.first <= leg.Request.First && leg.Response.Last <= p.last
		default: // the client has gone, and the application may have answered all the same
			inside = p.first <= leg.Request.First && leg.Request.First <= p.first+soonPassedOn
		}
		if !inside {
			continue
		}
		switch {
		case p.taken == leg.Context.TraceID:
			return nil, false // it has its exchange
		case !p.taken.IsZero():
			continue
		}
		if all = append(all, p); len(all) > maxNested {
			return nil, false
		}
	}
	return all, true
}

// differ returns how the sizes of an encrypted exchange differ from those of a plain one.
func (p *passed) differ(leg *observe.Observation) difference {
	return difference{limited(int64(p.request) - int64(leg.Request.Bytes)), limited(int64(p.response) - int64(leg.Response.Bytes))}
}

// limited is a difference of bytes, at most a gigabyte.
func limited(n int64) int32 { return int32(max(-1<<30, min(n, 1<<30))) }

// learn takes the differences to all exchanges that the times leave.
func (in *inferrer) learn(leg *observe.Observation) {
	side := sideOf(leg)
	all, complete := in.nested(leg)
	if !complete || len(in.learned) >= maxPods && in.learned[side] == nil {
		return
	}
	possible := map[difference]struct{}{}
	for _, p := range all {
		if !p.unknown && !p.atLeast && p.last != 0 {
			possible[p.differ(leg)] = struct{}{}
		}
	}
	if len(possible) == 0 || len(possible) > maxPossible {
		return
	}
	list := append(in.learned[side], slices.Collect(maps.Keys(possible)))
	if len(list) > maxLearned {
		list = slices.Delete(list, 0, 1)
	}
	in.learned[side] = list
}

// bin is a square of differences, sizeSlack wide.
type bin struct{ request, response int32 }

func binOf(d difference) bin {
	floor := func(n int32) int32 { return (n - (n%sizeSlack+sizeSlack)%sizeSlack) / sizeSlack }
	return bin{floor(d.request), floor(d.response)}
}

// usual returns the difference that nearly all plain exchanges of a side have to one of those
// that they may belong to. It is unknown if another one is nearly as frequent.
func (in *inferrer) usual(side sideOfPod) (d difference, known bool) {
	if u, ok := in.usuals[side]; ok {
		return u.difference, u.known
	}
	d, known = usualOf(in.learned[side])
	in.usuals[side] = usual{d, known}
	return d, known
}

func usualOf(legs [][]difference) (d difference, known bool) {
	// Legs with a difference in the four bins from each one on: the usual one may be at an edge.
	support, counted := map[bin]int{}, map[bin]int{}
	for leg, list := range legs {
		for _, d := range list {
			b := binOf(d)
			for _, from := range []bin{b, {b.request - 1, b.response}, {b.request, b.response - 1}, {b.request - 1, b.response - 1}} {
				if counted[from] != leg+1 {
					counted[from] = leg + 1
					support[from]++
				}
			}
		}
	}
	var best bin
	for b, n := range support {
		if n > support[best] || n == support[best] && cmp.Or(cmp.Compare(b.request, best.request), cmp.Compare(b.response, best.response)) < 0 {
			best = b
		}
	}
	rival := 0
	for b, n := range support {
		if abs(b.request-best.request) > 2 || abs(b.response-best.response) > 2 {
			rival = max(rival, n)
		}
	}
	most := support[best]
	if most-rival < minLearned || float64(most) < usualShare*float64(len(legs)) || float64(rival) > rivalShare*float64(most) {
		return d, false
	}
	inside := func(n int32) bool { return n == 0 || n == 1 }
	var requests, responses []int32
	for _, list := range legs {
		for _, d := range list {
			if b := binOf(d); inside(b.request-best.request) && inside(b.response-best.response) {
				requests, responses = append(requests, d.request), append(responses, d.response)
			}
		}
	}
	slices.Sort(requests)
	slices.Sort(responses)
	return difference{requests[len(requests)/2], responses[len(responses)/2]}, true
}

func abs(n int32) int32 { return max(n, -n) }

// find returns the only encrypted exchange that fits a plain one by times and sizes.
func (in *inferrer) find(leg *observe.Observation) *passed {
	usual, known := in.usual(sideOf(leg))
	all, complete := in.nested(leg)
	if !known || !complete {
		return nil
	}
	var found *passed
	for _, p := range all {
		d := p.differ(leg)
		if p.last == 0 {
			d.response = usual.response // it would have had any
		}
		more, less := max(d.request-usual.request, d.response-usual.response), max(usual.request-d.request, usual.response-d.response)
		switch {
		case p.unknown:
			return nil // it may be this one
		case less > sizeSlack || more > sizeSlack && !p.atLeast:
			continue
		case p.atLeast || p.last == 0 || found != nil:
			return nil
		}
		found = p
	}
	return found
}

// giveInferred passes on the exchange at all points of its side.
func (j *Joiner) giveInferred(leg *observe.Observation, p *passed) {
	client := sideOf(leg).client
	turns, err := j.opts.Source.Turns(j.turns[:0], p.Client, p.Server, p.first-min(p.first, near), p.last+near)
	j.turns = turns
	if err != nil {
		return
	}
	p.taken = leg.Context.TraceID
	q := request{window: window{server: !client, from: p.first, to: p.last}, want: p.sizes, comparable: true}
	for at, own := range byPoint(turns) {
		if own[0].Key != p.Key || !j.opts.Wants(&own[0], client) {
			continue
		}
		x := find(own, &q)
		if x.fit != fitExact || !j.evidence.takeFor(at, client, &x, leg.Context.Context) {
			continue
		}
		o := x.observation(&q.window)
		o.Context, o.Method, o.Path, o.Status, o.Join = leg.Context, leg.Method, leg.Path, leg.Status, observe.JoinInferred
		o.Context.HeaderOffset = 0
		if x.alerts != [2]int{} {
			o.Flags |= observe.FlagEndGuessed
		}
		j.joined(o.Join)
		j.opts.Out(&o)
	}
}

// took notes that an exchange at a proxy's socket was given to a record.
func (in *inferrer) took(o *observe.Observation) {
	if in == nil || o.Socket == nil {
		return
	}
	list := in.passed[sideOfPod{o.Socket.Netns, o.Socket.Client}]
	for i := range list {
		if p := &list[i]; p.Key == o.Key && p.first <= o.Request.First && o.Request.First <= p.last {
			p.taken = o.Context.TraceID
		}
	}
}

// forget forgets what is old.
func (in *inferrer) forget(monotonic uint64, now time.Time) {
	in.count = 0
	for side, list := range in.passed {
		list = slices.DeleteFunc(list, func(p passed) bool { return max(p.first, p.last)+uint64(keepPassed) < monotonic })
		slices.SortFunc(list, func(a, b passed) int { return cmp.Compare(a.first, b.first) })
		in.count += len(list)
		if in.passed[side] = list; len(list) == 0 {
			delete(in.passed, side)
		}
	}
	for cookie, n := range in.last {
		if now.Sub(n.seen) > keepPassed {
			delete(in.last, cookie)
		}
	}
	if len(in.learned) >= maxPods {
		clear(in.learned)
	}
}
