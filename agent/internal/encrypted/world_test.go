// SPDX-License-Identifier: Apache-2.0

package encrypted

import (
	"cmp"
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"

	"github.com/layertrace/layertrace/agent/internal/accesslog"
	"github.com/layertrace/layertrace/internal/observe"
	"github.com/layertrace/layertrace/internal/tracecontext"
)

// wallOffset is the wall time at monotonic time 0 in the tests' worlds.
const wallOffset = int64(1_700_000_000_000_000_000)

// Interfaces of the world: the vNICs of both pods.
const (
	clientVNIC = 1
	serverVNIC = 2
)

// seen is a Source with what capture points saw, by connection.
type seen struct {
	turns map[observe.Key]map[point][]observe.Turn
	fails error
	// redirected: the server's sockets have another port too.
	redirected bool
}

// redirectedPort is what a socket has instead of the port on the wire.
const redirectedPort = 15006

func (s *seen) add(t observe.Turn) {
	if s.turns == nil {
		s.turns = map[observe.Key]map[point][]observe.Turn{}
	}
	if s.turns[t.Key] == nil {
		s.turns[t.Key] = map[point][]observe.Turn{}
	}
	s.turns[t.Key][pointOf(&t)] = append(s.turns[t.Key][pointOf(&t)], t)
}

// Turns implements Source.
func (s *seen) Turns(dst []observe.Turn, client, server netip.AddrPort, from, to uint64) ([]observe.Turn, error) {
	key := observe.Key{Client: client, Server: server}
	points := s.turns[key]
	if s.redirected && server.Port() == redirectedPort {
		points = map[point][]observe.Turn{}
		key.Server = netip.AddrPortFrom(server.Addr(), 80)
		for at, turns := range s.turns[key] {
			if at.networkInterface == 0 && !at.client {
				points[at] = turns
			}
		}
	}
	order := make([]point, 0, len(points))
	for p := range points {
		order = append(order, p)
	}
	slices.SortFunc(order, func(a, b point) int { return cmp.Compare(a.networkInterface, b.networkInterface) })
	for _, p := range order {
		all := points[p]
		i, _ := slices.BinarySearchFunc(all, from, func(t observe.Turn, at uint64) int { return cmp.Compare(end(&t), at) })
		for ; i < len(all) && begin(&all[i]) <= to; i++ {
			dst = append(dst, all[i])
		}
	}
	return dst, s.fails
}

// bench drives a joiner in the time of a test's world.
type bench struct {
	*Joiner
	seen     *seen
	registry *prometheus.Registry
	now      uint64 // monotonic ns
	offset   int64
	out      []observe.Observation
}

func newBench() *bench {
	b := &bench{seen: &seen{}, registry: prometheus.NewRegistry(), offset: wallOffset}
	b.Joiner = New(Options{
		Source: b.seen, Offset: func() int64 { return b.offset }, Monotonic: func() uint64 { return b.now },
		Out: func(o *observe.Observation) { b.out = append(b.out, *o) },
	}, NewMetrics(b.registry))
	return b
}

func (b *bench) time() time.Time { return time.Unix(0, wallOffset+int64(b.now)) }

// until lets the time pass.
func (b *bench) until(t uint64) {
	for b.now < t {
		b.now = min(b.now+uint64(tickInterval), t)
		b.look(b.time(), false)
	}
}

// receive gives records to the joiner now.
func (b *bench) receive(records ...accesslog.Record) {
	b.add(records, b.time())
	b.look(b.time(), false)
}

// states returns how many records ended in each state and reason.
func (b *bench) states(t testing.TB) map[string]int {
	t.Helper()
	families, err := b.registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	states := map[string]int{}
	for _, f := range families {
		if f.GetName() != "layertrace_encrypted_records_total" {
			continue
		}
		for _, m := range f.GetMetric() {
			if n := int(m.GetCounter().GetValue()); n > 0 {
				states[label(m, "state")+"/"+label(m, "reason")] += n
			}
		}
	}
	return states
}

func label(m *dto.Metric, name string) string {
	for _, l := range m.GetLabel() {
		if l.GetName() == name {
			return l.GetValue()
		}
	}
	return ""
}

// spanOf is the span ID of the n-th record.
func spanOf(n int) (id tracecontext.SpanID) {
	binary.BigEndian.PutUint64(id[:], uint64(n)+1)
	return id
}

// world simulates exchanges on encrypted connections. It knows which exchange each record
// is about.
type world struct {
	rand *rand.Rand
	seen *seen
	// records in the order of their arrival.
	records []arrival
	// truth is the beginning of each record's exchange at its vNIC, by span.
	truth map[tracecontext.SpanID]uint64
	// joinable is the number of records that have an exchange, without doubles.
	joinable int

	// equal: all messages have the same size.
	equal bool
	// shift of the proxies' clock in ns.
	shift int64
	// lost, doubled and late are shares of the records.
	lost, doubled, late float64
	// paused is the share of the senders' records whose proxy was paused between its clocks.
	paused float64
	// rough: retries, resets, early responses, closed connections, tickets.
	rough bool
	// sockets: the proxies' sockets are points too, and what they do in plain text makes legs.
	sockets bool
	// inferred is what came of infer.
	inferred []observe.Observation
	legs     []observe.Observation
	// busy: no time between the exchanges of a connection, and short ones.
	busy bool
}

type arrival struct {
	at     uint64
	record accesslog.Record
}

// flushed is the time between two batches of a proxy's records, if these are in order.
const flushed = uint64(time.Second)

func (w *world) us(low, high int) uint64 { return uint64(low+w.rand.IntN(high-low+1)) * 1000 }

// connection simulates the exchanges of a connection.
func (w *world) connection(n int, start, until uint64) {
	key := observe.Key{
		Client: netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, 0, 1, byte(n % 4)}), uint16(20000+n)),
		Server: netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, 0, 2, 1}), 8080),
	}
	overhead := uint64(17)
	handshake := observe.TurnHandshake
	if n%5 == 4 {
		overhead, handshake = 24, observe.TurnHandshake|observe.TurnTLS12
	}
	now, number := start, uint64(0)
	for now < until {
		now = w.exchange(key, overhead, &number, handshake, now)
		handshake &^= observe.TurnHandshake
		if now == 0 {
			return // closed
		}
		if !w.busy {
			now += w.us(50, 4000)
		}
	}
}

// message returns a message of TLS records.
func (w *world) message(plain, overhead, first, last uint64) observe.TurnMessage {
	m := observe.TurnMessage{Message: observe.Message{First: first, Last: last, Packets: 1}}
	for left := plain; left > 0; {
		n := min(left, 16384)
		left -= n
		m.Records++
		m.RecordBytes += n + overhead
		m.Bytes += n + overhead + recordHeader
		if len(m.Leading) < observe.MaxLeading {
			m.Leading = append(m.Leading, observe.LeadingRecord{Length: uint16(n + overhead), First: first})
		}
	}
	return m
}

// ticket puts a record before a message.
func ticket(m *observe.TurnMessage, length uint16, at uint64) {
	m.Leading = append([]observe.LeadingRecord{{Length: length, First: at}}, m.Leading...)
	m.Leading = m.Leading[:min(len(m.Leading), observe.MaxLeading)]
	m.RecordBytes += uint64(length)
	m.Bytes += uint64(length) + recordHeader
	m.Records++
	m.First = at
}

// exchange simulates one exchange that the client's proxy begins at a time, and returns when
// it has the response; 0 if the connection was closed.
func (w *world) exchange(key observe.Key, overhead uint64, number *uint64, flags observe.TurnFlags, begin uint64) uint64 {
	request, response := uint64(900), uint64(1200)
	if !w.equal {
		request, response = 700+w.rand.Uint64N(3000), 200+w.rand.Uint64N(200_000)
	}
	kind := 1.0
	if w.rough {
		kind = w.rand.Float64()
	}
	work := w.us(100, 6000)
	if w.busy {
		work = w.us(150, 400)
	}
	qFirst := begin + w.us(5, 150)
	qLast := qFirst + w.us(0, 50)
	sFirst, sLast := qFirst+w.us(2, 20), qLast+w.us(2, 20)
	received := sFirst + w.us(5, 120) // the server's proxy
	sr := max(received, sLast) + work
	srLast := sr + w.us(0, 300)
	written := sr + (srLast-sr)/2
	cr, crLast := sr+w.us(2, 20), srLast+w.us(20, 40)
	done := crLast + w.us(5, 150)

	turn := func(at int, d observe.Direction, q, r observe.TurnMessage, f observe.TurnFlags) observe.Turn {
		return observe.Turn{Key: key, Interface: at, Direction: d, Number: *number, Request: q, Response: r, Flags: f}
	}
	client := turn(clientVNIC, observe.DirectionIngress, w.message(request, overhead, qFirst, qLast), w.message(response, overhead, cr, crLast), flags)
	server := turn(serverVNIC, observe.DirectionEgress, w.message(request, overhead, sFirst, sLast), w.message(response, overhead, sr, srLast), flags)
	if flags&observe.TurnHandshake != 0 && overhead == 17 {
		ticket(&client.Response, 1373, qFirst+20_000)
		ticket(&server.Response, 1373, qFirst+10_000)
		ticket(&client.Request, 53, begin-15_000)
		ticket(&server.Request, 53, begin-12_000)
	}
	c := accesslog.Record{
		Side: accesslog.SideAttempt, Start: begin - w.us(10, 100), RequestFirst: begin, ResponseFirst: cr + w.us(1, 5), ResponseLast: done,
		RequestBytes: request, ResponseBytes: response, Status: 200,
	}
	s := accesslog.Record{Side: accesslog.SideServer, Start: received, ResponseLast: written, RequestBytes: request, ResponseBytes: response, Status: 200}
	switch {
	case kind < 0.05 && !w.sockets && flags&observe.TurnHandshake == 0 && sr > sFirst+200_000: // the response begins during the upload: several turns
		middleC, middleS := client, server
		half := request / 2
		client.Request, server.Request = w.message(half, overhead, qFirst, qFirst), w.message(half, overhead, sFirst, sFirst)
		client.Response, server.Response = w.message(100, overhead, qFirst+90_000, qFirst+90_000), w.message(100, overhead, sFirst+80_000, sFirst+80_000)
		middleC.Request, middleS.Request = w.message(request-half, overhead, qFirst+100_000, qFirst+100_000), w.message(request-half, overhead, sFirst+100_000, sFirst+100_000)
		middleC.Response, middleS.Response = w.message(response-100, overhead, cr, crLast), w.message(response-100, overhead, sr, srLast)
		s.Start = min(s.Start, sFirst+60_000)
		w.seen.add(client)
		w.seen.add(server)
		*number++
		client, server = middleC, middleS
		client.Number, server.Number = *number, *number
	case kind < 0.10: // the response is retried: its end is not logged
		c.ResponseLast = 0
	case kind < 0.13: // broken off: what did not leave is in the log
		client.Response, server.Response = observe.TurnMessage{}, observe.TurnMessage{}
		client.Flags |= observe.TurnReset
		server.Flags |= observe.TurnReset
		c.ResponseFirst, c.ResponseLast, c.ResponseBytes, c.Status = 0, 0, 0, 0
		c.RequestBytes += 500
		s.ResponseLast, s.ResponseBytes, s.Status = 0, 0, 0
	case kind < 0.16: // closed, with an alert in a packet of its own
		for _, t := range []*observe.Turn{&client, &server} {
			t.Flags |= observe.TurnClosed
			if overhead == 17 {
				t.Response.Records++
				t.Response.RecordBytes += alertLength
				t.Response.Bytes += alertLength + recordHeader
				t.Response.Alerts = 1
				t.Response.LastLarge = t.Response.Last
				t.Response.Last += 300_000
			}
		}
	}
	closed := (client.Flags|server.Flags)&(observe.TurnReset|observe.TurnClosed) != 0
	w.seen.add(client)
	w.seen.add(server)
	*number++
	if w.sockets {
		w.atSockets(client, server, request, response, begin, done, received, written, len(w.truth))
	}
	w.log(c, key, qFirst)
	w.log(s, key, sFirst)
	if closed {
		return 0
	}
	return done
}

// atSockets adds what the proxies' sockets see of an exchange, and both plain exchanges in the
// pods, whose spans are those of the records.
func (w *world) atSockets(client, server observe.Turn, request, response, begin, done, received, written uint64, span int) {
	const sooner = 2_000
	clientPod, serverPod := uint32(client.Client.Addr().As4()[3])+1, uint32(100)
	client.Interface, client.Direction = 0, observe.DirectionUnknown
	server.Interface, server.Direction = 0, observe.DirectionUnknown
	client.Socket = &observe.Socket{Cookie: uint64(client.Client.Port()) << 1, Netns: clientPod, Client: true}
	server.Socket = &observe.Socket{Cookie: uint64(client.Client.Port())<<1 | 1, Netns: serverPod}
	for _, move := range []struct {
		turn *observe.Turn
		by   uint64
	}{{&client, sooner}, {&server, ^uint64(sooner) + 1}} {
		for _, m := range []*observe.TurnMessage{&move.turn.Request, &move.turn.Response} {
			if move.by = -move.by; m.First != 0 {
				m.First, m.Last = m.First+move.by, m.Last+move.by
			}
		}
	}
	w.seen.add(client)
	w.seen.add(server)
	if client.Response.First == 0 {
		return
	}
	leg := func(netns uint32, client bool, first, last uint64, n int) {
		o := observe.Observation{
			Socket:   &observe.Socket{Netns: netns, Client: client},
			Request:  observe.Message{First: first, Last: first, Bytes: request - 110 + uint64(w.rand.IntN(9)), Packets: 1},
			Response: observe.Message{First: last, Last: last, Bytes: response - 90 + uint64(w.rand.IntN(9)), Packets: 1},
			Method:   "GET", Path: "/leg", Status: 200,
		}
		o.Context.TraceID, o.Context.SpanID = tracecontext.TraceID{1, byte(n >> 16), byte(n >> 8), byte(n)}, spanOf(n)
		w.legs = append(w.legs, o)
	}
	leg(clientPod, false, begin-w.us(10, 60), done+w.us(10, 60), span)
	leg(serverPod, true, received+w.us(10, 40), written-min(written-received-50_000, w.us(10, 40)), span+1)
}

// Sockets implements Lister.
func (s *seen) Sockets(each func(observe.Key, *observe.Socket)) error {
	for key, points := range s.turns {
		for _, turns := range points {
			socket := turns[0].Socket
			if socket == nil {
				continue
			}
			redirected := observe.Key{Client: key.Client, Server: netip.AddrPortFrom(key.Server.Addr(), redirectedPort)}
			if s.redirected && !socket.Client && socket.Cookie%2 == 0 {
				each(redirected, socket)
			}
			each(key, socket)
			if s.redirected && !socket.Client && socket.Cookie%2 == 1 {
				each(redirected, socket)
			}
		}
	}
	return s.fails
}

// log sends a record.
func (w *world) log(r accesslog.Record, key observe.Key, truth uint64) {
	id := spanOf(len(w.truth))
	w.truth[id] = truth
	r.Client, r.Server, r.SizesKnown, r.Protocol, r.Method, r.Path = key.Client, key.Server, true, "HTTP/1.1", "GET", "/x"
	r.Context = tracecontext.Context{TraceID: tracecontext.TraceID{15: 1}, SpanID: id, Sampling: tracecontext.Accepted, Format: tracecontext.FormatW3C}
	r.RequestID = fmt.Sprint(id)
	r.Peer = key.Client.Addr()
	if r.Side == accesslog.SideServer {
		r.Peer = key.Server.Addr()
	}
	last := max(r.Start, r.RequestFirst, r.ResponseFirst, r.ResponseLast)
	// The start has µs, and the others are relative to it.
	shift(&r, wallOffset+w.shift-int64(r.Start%1000))
	if r.Side == accesslog.SideAttempt && w.rand.Float64() < w.paused {
		shift(&r, -int64(w.us(10, 5_000)))
	}
	at := last + w.us(1_000, 1_000_000)
	at += uint64(50*time.Millisecond) - at%uint64(50*time.Millisecond) // a batch
	if w.paused != 0 {                                                 // in order, as Envoy does
		at = last + flushed - last%flushed
	}
	if w.rand.Float64() < w.late {
		at += uint64(2 * time.Second)
	}
	if w.rand.Float64() < w.lost {
		return
	}
	w.joinable++
	w.records = append(w.records, arrival{at, r})
	if w.rand.Float64() < w.doubled {
		w.records = append(w.records, arrival{at + w.us(0, 500_000), r})
	}
}

// outcomeOf is what a joiner made of a world.
type outcomeOf struct {
	right, wrong, twice int
	exact               int
	states              map[string]int
}

// play gives a world to a joiner, in time.
func (w *world) play(t testing.TB, step func(b *bench)) outcomeOf {
	b := newBench()
	b.seen = w.seen
	b.opts.Source = w.seen
	slices.SortStableFunc(w.records, func(a, b arrival) int { return cmp.Compare(a.at, b.at) })
	for i := 0; i < len(w.records); {
		n := i
		var batch []accesslog.Record
		for ; n < len(w.records) && w.records[n].at == w.records[i].at; n++ {
			batch = append(batch, w.records[n].record)
		}
		b.until(w.records[i].at)
		if step != nil {
			step(b)
		}
		b.receive(batch...)
		i = n
	}
	b.until(b.now + uint64(5*time.Second))
	w.explain(t, b)
	result := outcomeOf{states: b.states(t)}
	type given struct {
		span tracecontext.SpanID
		at   int
	}
	done, turns := map[given]bool{}, map[string]bool{}
	for i := range b.out {
		o := &b.out[i]
		turn := fmt.Sprint(o.Key, o.Interface, o.Request.First)
		if g := (given{o.Context.SpanID, o.Interface}); done[g] || turns[turn] {
			result.twice++
		} else {
			done[g], turns[turn] = true, true
		}
		if o.Request.First != w.truth[o.Context.SpanID] {
			if result.wrong++; result.wrong < 3 {
				t.Logf("wrong: %s at interface %d, %+d us: request %d, response %d, flags %v, join %s", o.Client, o.Interface, (int64(o.Request.First)-int64(w.truth[o.Context.SpanID]))/1000, o.Request.Bytes, o.Response.Bytes, o.Flags.Names(), o.Join)
				for i := range w.records {
					if r := &w.records[i].record; r.Context.SpanID == o.Context.SpanID {
						t.Logf("   %v from %d to %d first %d, arrived %d, truth %d, got %d", r.Side, int64(r.RequestFirst)-wallOffset, int64(r.ResponseLast)-wallOffset, int64(r.ResponseFirst)-wallOffset, w.records[i].at, w.truth[r.Context.SpanID], o.Request.First)
					}
				}
			}
			continue
		}
		result.right++
		if o.Join == observe.JoinExact {
			result.exact++
		}
	}
	return result
}

// newWorld simulates connections for some seconds, in parallel.
func newWorld(seed uint64, connections int, length time.Duration, set func(*world)) *world {
	w := &world{rand: rand.New(rand.NewPCG(seed, 1)), seen: &seen{}, truth: map[tracecontext.SpanID]uint64{}}
	set(w)
	for n := range connections {
		start := uint64(10*time.Second) + w.us(0, 20_000)
		for range 20 { // a closed connection is followed by another one
			w.connection(n, start, uint64(10*time.Second+length))
			n += connections
			start += w.us(10_000, 400_000)
		}
	}
	return w
}

// explain logs records that got no observation though they should have.
func (w *world) explain(t testing.TB, b *bench) {
	if w.shift != 0 {
		return
	}
	got := map[tracecontext.SpanID]bool{}
	for i := range b.out {
		got[b.out[i].Context.SpanID] = true
	}
	n := 0
	for i := range w.records {
		r := &w.records[i].record
		if !got[r.Context.SpanID] && n < 4 {
			n++
			t.Logf("not joined: %v %v want %d/%d, from %d, to %d, truth %d", r.Side, r.Client, r.RequestBytes, r.ResponseBytes, max(r.RequestFirst, r.Start)-uint64(wallOffset), int64(r.ResponseLast)-wallOffset, w.truth[r.Context.SpanID])
			for p, turns := range w.seen.turns[observe.Key{Client: r.Client, Server: r.Server}] {
				for j := range turns {
					if d := int64(turns[j].Request.First) - int64(w.truth[r.Context.SpanID]); d > -1_000_000 && d < 1_000_000 {
						t.Logf("   %v: #%d q %d-%d %d/%d r %d-%d %d/%d flags %x", p, turns[j].Number, turns[j].Request.First, turns[j].Request.Last, turns[j].Request.RecordBytes, turns[j].Request.Records, turns[j].Response.First, turns[j].Response.Last, turns[j].Response.RecordBytes, turns[j].Response.Records, turns[j].Flags)
					}
				}
			}
		}
	}
}
