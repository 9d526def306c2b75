// SPDX-License-Identifier: Apache-2.0

package encrypted

import (
	"fmt"
	"maps"
	"testing"
	"time"

	"github.com/layertrace/layertrace/agent/internal/accesslog"
	"github.com/layertrace/layertrace/internal/observe"
)

// A proxy that is paused between its two clocks writes a record whose times are all early. It
// is joined at all capture points with the only exchange that it may be about.
func TestEarlyRecord(t *testing.T) {
	const (
		pNIC  = 7
		begin = t0 + 6000*ms // of the exchange: the request passes 1 ms later, the response until 9 ms
	)
	exchange := func(number, from uint64, change ...func(*observe.Turn)) observe.Turn {
		x := atClient(number, part(from+ms, from+ms, 517), part(from+8*ms, from+9*ms, 1217), 0)
		for _, c := range change {
			c(&x)
		}
		return x
	}
	shorter := func(x *observe.Turn) { x.Response.First, x.Response.Last = x.Request.Last+ms, x.Request.Last+2*ms }
	record := func(from uint64, by time.Duration, change ...func(*accesslog.Record)) accesslog.Record {
		r := attempted(500, 1200, change...)
		r.RequestID = fmt.Sprint(from)
		shift(&r, int64(from)-int64(t0)+int64(by))
		return r
	}
	one := []observe.Turn{exchange(100, begin)}
	for _, test := range []struct {
		name    string
		turns   []observe.Turn // at the vNIC
		pnic    []observe.Turn // at the pNIC, the same by default
		by      time.Duration
		others  []accesslog.Record
		change  func(*accesslog.Record)
		unknown bool // it is not known that the clock is right
		first   bool // no turn is known before
		want    map[string]int
	}{
		{name: "in time", turns: one, want: map[string]int{"exact/": 1}},
		{name: "early by less than the window leaves room for", turns: one, by: -900 * time.Microsecond, want: map[string]int{"exact/": 1}},
		{name: "early", turns: one, by: -1700 * time.Microsecond, want: map[string]int{"exact/early": 1}},
		{name: "early by a CPU limit", turns: one, by: -95 * time.Millisecond, want: map[string]int{"exact/early": 1}},
		{name: "earlier than a pause lasts", turns: one, by: -110 * time.Millisecond, want: map[string]int{"unmatched/no_exchange": 1}},
		{name: "late", turns: one, by: 1700 * time.Microsecond, want: map[string]int{"unmatched/no_exchange": 1}},
		{name: "other sizes", turns: one, by: -1700 * time.Microsecond, change: func(r *accesslog.Record) { r.RequestBytes++ }, want: map[string]int{"unmatched/no_exchange": 1}},
		{name: "a longer exchange", turns: one, by: -1700 * time.Microsecond, change: func(r *accesslog.Record) { r.ResponseFirst, r.ResponseLast = r.RequestFirst+5*ms, r.RequestFirst+6*ms },
			want: map[string]int{"unmatched/no_exchange": 1}},
		{name: "the response began earlier than the exchange's", turns: one, by: -1700 * time.Microsecond,
			change: func(r *accesslog.Record) { r.ResponseFirst = r.RequestFirst + ms }, want: map[string]int{"unmatched/no_exchange": 1}},
		{name: "no end", turns: one, by: -9 * time.Millisecond, change: func(r *accesslog.Record) { r.ResponseLast = 0 }, want: map[string]int{"unmatched/no_exchange": 1}},
		{name: "a clock that is not known to be right", turns: one, by: -1700 * time.Microsecond, unknown: true, want: map[string]int{"unmatched/no_exchange": 1}},
		{
			name: "another exchange that no record has", turns: []observe.Turn{one[0], exchange(101, begin+20*ms, shorter)}, by: -1700 * time.Microsecond,
			want: map[string]int{"ambiguous/clock": 1},
		},
		{
			name: "another one before it", turns: []observe.Turn{exchange(99, begin-20*ms, shorter), one[0]}, by: -1700 * time.Microsecond,
			want: map[string]int{"ambiguous/clock": 1},
		},
		{
			name: "another one whose sizes are not known", turns: []observe.Turn{one[0], exchange(101, begin+20*ms, shorter, func(x *observe.Turn) { x.Flags |= observe.TurnDesynchronized })},
			by: -1700 * time.Microsecond, want: map[string]int{"ambiguous/clock": 1},
		},
		{
			name: "another one with a record of its own", turns: []observe.Turn{one[0], exchange(101, begin+20*ms)}, by: -1700 * time.Microsecond,
			others: []accesslog.Record{record(begin+20*ms, 0)}, want: map[string]int{"exact/": 1, "exact/early": 1},
		},
		{
			name: "in the window is another one, with a record of its own", turns: []observe.Turn{exchange(99, begin-20*ms), one[0]}, by: -20 * time.Millisecond,
			others: []accesslog.Record{record(begin-20*ms, 0)}, want: map[string]int{"exact/": 1, "exact/early": 1},
		},
		{
			name: "two early ones", turns: []observe.Turn{one[0], exchange(101, begin+20*ms)}, by: -1700 * time.Microsecond,
			others: []accesslog.Record{record(begin+20*ms, -1700*time.Microsecond)}, want: map[string]int{"ambiguous/clock": 2},
		},
		{
			name: "another one at one of the points", turns: one, pnic: []observe.Turn{one[0], exchange(101, begin+20*ms, shorter)}, by: -1700 * time.Microsecond,
			want: map[string]int{"ambiguous/clock": 1},
		},
		{
			name: "other pauses at two points", turns: one, pnic: []observe.Turn{exchange(100, begin+20*ms, shorter)}, by: -1700 * time.Microsecond,
			want: map[string]int{"ambiguous/clock": 1},
		},
		{
			name: "its own was not seen, but one after it", turns: []observe.Turn{exchange(99, begin-20*ms), exchange(101, begin+20*ms)},
			others: []accesslog.Record{record(begin-20*ms, 0)}, want: map[string]int{"exact/": 1, "unmatched/no_exchange": 1},
		},
		{name: "its own may have been overwritten", turns: one, first: true, by: -1700 * time.Microsecond, want: map[string]int{"unmatched/no_exchange": 1}},
		{name: "the first of its connection", turns: []observe.Turn{exchange(0, begin)}, first: true, by: -1700 * time.Microsecond, want: map[string]int{"exact/early": 1}},
	} {
		t.Run(test.name, func(t *testing.T) {
			b := newBench()
			b.opts.Wants = func(*observe.Turn, bool) bool { return true }
			if !test.unknown {
				for i := range uint64(4 * minHits) {
					from := t0 + i*20*ms
					b.seen.add(exchange(i, from))
					b.now = from + 15*ms
					b.receive(record(from, 0))
				}
			}
			b.until(t0 + 5900*ms)
			if test.pnic == nil {
				test.pnic = test.turns
			}
			for _, turns := range []*[]observe.Turn{&test.turns, &test.pnic} {
				if first := (*turns)[0].Number; !test.first {
					*turns = append([]observe.Turn{exchange(first-1, begin-500*ms, shorter)}, *turns...)
				}
			}
			for _, x := range test.turns {
				b.seen.add(x)
			}
			for _, x := range test.pnic {
				x.Interface = pNIC
				x.Request.First, x.Request.Last = x.Request.First+10*us, x.Request.Last+10*us
				x.Response.First, x.Response.Last = x.Response.First-10*us, x.Response.Last-10*us
				b.seen.add(x)
			}
			b.until(begin + 300*ms)
			before, states := len(b.out), b.states(t)
			own := record(begin, test.by, func(r *accesslog.Record) {
				r.Context.SpanID = spanOf(77)
				if test.change != nil {
					test.change(r)
				}
			})
			b.receive(append(test.others, own)...) // in the order of their ends
			b.until(b.now + 5000*ms)
			got := b.states(t)
			for state, n := range states {
				if got[state] -= n; got[state] == 0 {
					delete(got, state)
				}
			}
			if !maps.Equal(got, test.want) {
				t.Errorf("%v, want %v", got, test.want)
			}
			joined := 0
			for _, o := range b.out[before:] {
				if o.Context.SpanID != spanOf(77) {
					continue
				}
				if joined++; o.Request.First/ms != begin/ms+1 || o.Join != observe.JoinExact {
					t.Errorf("at interface %d joined %s with the request of %d", o.Interface, o.Join, o.Request.First)
				}
			}
			if test.want["exact/early"] == 1 && joined != 2 || test.want["ambiguous/clock"]+test.want["unmatched/no_exchange"] > 0 && joined > 0 {
				t.Errorf("joined at %d points", joined)
			}
		})
	}
}

// A record whose exchange was seen at one point is not early, whatever another point has.
func TestEarlyAtOnePointOnly(t *testing.T) {
	b := newBench()
	b.opts.Wants = func(*observe.Turn, bool) bool { return true }
	exchange := func(number, from uint64) observe.Turn {
		return atClient(number, part(from+ms, from+ms, 517), part(from+8*ms, from+9*ms, 1217), 0)
	}
	record := func(from uint64) accesslog.Record {
		r := attempted(500, 1200)
		r.RequestID = fmt.Sprint(from)
		shift(&r, int64(from)-int64(t0))
		return r
	}
	for i := range uint64(4 * minHits) {
		from := t0 + i*20*ms
		b.seen.add(exchange(i, from))
		b.now = from + 15*ms
		b.receive(record(from))
	}
	begin := t0 + 6000*ms
	b.until(begin - 100*ms)
	b.seen.add(exchange(100, begin))
	after := exchange(101, begin+20*ms)
	after.Interface = 7
	b.seen.add(after)
	b.until(begin + 300*ms)
	before := len(b.out)
	b.receive(record(begin))
	b.until(b.now + 5000*ms)
	if joined := b.out[before:]; len(joined) != 1 || joined[0].Interface != clientVNIC {
		t.Errorf("joined %+v, want the exchange at interface %d alone", joined, clientVNIC)
	}
}
