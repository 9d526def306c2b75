// SPDX-License-Identifier: Apache-2.0

package breakdown_test

import (
	"encoding/json"
	"fmt"
	"math"
	"math/rand/v2"
	"net/netip"
	"reflect"
	"runtime"
	"slices"
	"testing"
	"time"

	"github.com/layertrace/layertrace/agent/internal/breakdown"
	"github.com/layertrace/layertrace/agent/internal/breakdown/breakdowntest"
	"github.com/layertrace/layertrace/internal/observe"
)

// through returns observations of one trace as they come out of the trace buffer.
func through(observations ...observe.Observation) (got []observe.Observation) {
	b := newBuffer(math.MaxInt, func(t *breakdown.BufferedTrace) { got = new(breakdown.Unpacker).Unpack(t) })
	for i := range observations {
		b.Add(&observations[i], time.Unix(1000, 0))
	}
	b.Close()
	return got
}

func newBuffer(most int, done func(*breakdown.BufferedTrace)) *breakdown.TraceBuffer {
	return breakdown.NewTraceBuffer(breakdown.TraceBufferOptions{
		Wait: 5 * time.Second, MaxBytes: most, MaxOfTrace: 4096, MaxPutOff: time.Minute, Done: done,
	})
}

// fill sets every field in a value to something that is not zero.
func fill(v reflect.Value, random *rand.Rand) {
	switch v.Interface().(type) {
	case netip.AddrPort:
		v.Set(reflect.ValueOf(address(random)))
		return
	case *observe.Point:
		v.Set(reflect.ValueOf(&observe.Point{ID: "here"}))
		return
	}
	switch v.Kind() {
	case reflect.Struct:
		for i := range v.NumField() {
			fill(v.Field(i), random)
		}
	case reflect.Array:
		for i := range v.Len() {
			fill(v.Index(i), random)
		}
	case reflect.Slice:
		v.Set(reflect.MakeSlice(v.Type(), 8, 8))
		for i := range 8 {
			fill(v.Index(i), random)
		}
	case reflect.Pointer:
		v.Set(reflect.New(v.Type().Elem()))
		fill(v.Elem(), random)
	case reflect.String:
		v.SetString(fmt.Sprint("text ", random.Uint32()))
	case reflect.Bool:
		v.SetBool(true)
	case reflect.Int, reflect.Int64:
		v.SetInt(1 + random.Int64())
	default:
		v.SetUint(random.Uint64() >> random.IntN(64) >> (64 - v.Type().Bits()))
		if v.IsZero() {
			v.SetUint(1)
		}
	}
}

func address(random *rand.Rand) netip.AddrPort {
	var b [16]byte
	for i := range b {
		b[i] = byte(random.Uint32())
	}
	switch random.IntN(3) {
	case 0:
		return netip.AddrPortFrom(netip.AddrFrom4([4]byte(b[:4])), 1+uint16(random.Uint32N(65535)))
	case 1:
		return netip.AddrPortFrom(netip.AddrFrom16(b), 1+uint16(random.Uint32N(65535)))
	default: // an IPv4 address in the form of IPv6
		return netip.AddrPortFrom(netip.AddrFrom16(netip.AddrFrom4([4]byte(b[:4])).As16()), 1)
	}
}

// withoutLeftOut returns an observation without what the buffer leaves out: what no layer is
// made of. A field that is not here has to come out of the buffer.
func withoutLeftOut(o observe.Observation) observe.Observation {
	o.Context.HeaderOffset, o.Context.Sampling, o.Context.Format = 0, 0, 0
	o.Interface, o.Method, o.Path, o.Status = 0, "", "", 0
	o.OptionTime, o.Retransmits, o.Drops, o.DropReason = 0, 0, 0, ""
	if o.Socket != nil {
		o.Socket = &observe.Socket{Client: o.Socket.Client, Netns: o.Socket.Netns}
	}
	return o
}

func TestPackedObservationIsComplete(t *testing.T) {
	random := rand.New(rand.NewPCG(1, 2))
	check := func(o observe.Observation) {
		t.Helper()
		got := through(o)
		if want := withoutLeftOut(o); len(got) != 1 || !reflect.DeepEqual(got[0], want) {
			t.Fatalf("got  %+v\nwant %+v", got, want)
		}
	}
	for range 2000 {
		var o observe.Observation
		fill(reflect.ValueOf(&o).Elem(), random)
		check(o)
		o.Socket.Client = false
		check(o)
		o.Socket, o.ConnectionID = nil, nil
		check(o)
		o.Request = observe.Message{} // only a response was seen
		check(o)
	}
	check(observe.Observation{})
}

// The layers of a trace that was in the buffer are those of the same trace that was not,
// whatever its observations have that the buffer leaves out.
func TestLayersOfPackedObservations(t *testing.T) {
	random := rand.New(rand.NewPCG(3, 4))
	for i := range 300 {
		w := breakdowntest.New()
		w.Drop = func(*observe.Observation) bool { return random.IntN(8) == 0 }
		w.FrontPage(func(h *breakdowntest.Hop) {
			if random.IntN(4) == 0 {
				h.ResponseStall, h.Blamed = uint64(random.IntN(5_000_000)), "details"
			}
			h.Stack, h.RequestLate = uint64(random.IntN(300_000)), uint64(random.IntN(100_000))
		})
		if len(w.All) == 0 {
			continue
		}
		for i := range w.All {
			o := &w.All[i]
			o.Method, o.Path, o.Status, o.Interface = "GET", "/", 200, random.IntN(9)
			o.Retransmits, o.Drops, o.DropReason, o.OptionTime = 3, 2, "netfilter_drop", 9
			if random.IntN(20) == 0 {
				o.Flags = observe.FlagIdle
			}
			if o.Socket != nil {
				o.Socket.Netns, o.Socket.PID, o.Socket.ProcessName, o.Socket.SRTT = 7, 8, "nginx", 9
			}
		}
		if got, want := layers(t, through(w.All...)), layers(t, w.All); got != want {
			t.Fatalf("world %d: layers of the buffered trace\n%s\nwant\n%s", i, got, want)
		}
	}
}

// layers returns all that is known of a trace's hops.
func layers(t *testing.T, observations []observe.Observation) (text string) {
	t.Helper()
	for _, h := range breakdown.Split(slices.Clone(observations), nil).Hops {
		segments, err := json.Marshal(h.Segments)
		if err != nil {
			t.Fatal(err)
		}
		text += fmt.Sprintln(h.SpanID, h.Depth, h.OnCriticalPath, h.Start, h.Total, h.Unattributed, h.Cut(), h.Notes, h.Intervals(),
			h.ClientService(), h.ServerService(), string(segments))
		for _, s := range h.Segments {
			text += fmt.Sprintln(s.Node, s.At)
		}
	}
	return text
}

// one is a request between two pods of a node as the kernel reports it, at both sockets and
// interfaces, and its trace's ID the n-th.
func one(n uint64, shared []observe.Observation) []observe.Observation {
	for i := range shared {
		o := &shared[i]
		for b := range 8 {
			o.Context.TraceID[15-b], o.Context.SpanID[7-b] = byte(n>>(8*b)), byte(n>>(8*b))
		}
		for _, at := range []*uint64{
			&o.Request.First, &o.Request.Last, &o.Response.First, &o.Response.Last,
			&o.Request.App.First, &o.Request.App.Last, &o.Response.App.First, &o.Response.App.Last,
		} {
			if *at != 0 {
				*at += 1009
			}
		}
		o.Wall = int64(o.Request.First)
	}
	return shared
}

// onOneNode returns what one needs.
func onOneNode() []observe.Observation {
	w := breakdowntest.New()
	w.Hop(breakdowntest.Details, observe.AppProcess, breakdowntest.Ratings, observe.AppProcess).Run(func() {
		w.Spend(observe.Application, "ratings", 300_000)
	})
	for i := range w.All {
		o := &w.All[i]
		o.Wall, o.Method, o.Path, o.Interface = int64(o.Request.First), "GET", "/ratings/0", 5
		o.Context.Sampling, o.Context.Format, o.Context.HeaderOffset = 1, 1, 90
		o.Peers = observe.Peers{Client: observe.Peer{Service: "details", Namespace: "default"}, Server: observe.Peer{Service: "ratings", Namespace: "default"}}
		if o.Socket != nil {
			o.Socket.Netns, o.Socket.UID, o.Socket.PID, o.Socket.ProcessName = 4026532300, 1000, 4711, "ratings"
			o.Response.Acknowledged, o.Socket.SRTT, o.Socket.Cookie, o.Socket.Cgroup = o.Response.Last, 40_000, 12345, 6789
		}
	}
	return w.All
}

// heap is the memory in use after a collection.
func heap() uint64 {
	runtime.GC()
	runtime.GC() // what the first one made free
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.HeapAlloc
}

// The buffer has no more memory than it may, as it counts it.
func TestMemoryOfTheBuffer(t *testing.T) {
	const most = 8 << 20
	before := heap()
	b := newBuffer(most, func(*breakdown.BufferedTrace) {})
	shared := onOneNode()
	n := uint64(0)
	for early := uint64(0); early == 0; early, _ = b.Counts() {
		n++
		for i := range one(n, shared) {
			b.Add(&shared[i], time.Unix(1000, 0))
		}
	}
	used := float64(heap() - before)
	runtime.KeepAlive(b)
	t.Logf("%d exchanges of %d traces in %.1f MiB: %.0f bytes each", 4*n, n, used/(1<<20), used/float64(4*n))
	if used > 1.1*most || used < 0.6*most {
		t.Errorf("%.1f MiB in use, want some %d", used/(1<<20), most>>20)
	}
}

// BenchmarkHeld is an exchange on its way through the buffer, of which 40,000 per second wait
// for 5 s. It reports the memory that each held one takes.
func BenchmarkHeld(b *testing.B) {
	before := heap()
	var unpacker breakdown.Unpacker
	buffer := newBuffer(math.MaxInt, func(t *breakdown.BufferedTrace) { unpacker.Unpack(t) })
	shared := onOneNode()
	const held = 50_000
	at, n := time.Unix(1000, 0), uint64(0)
	add := func() {
		n++
		at = at.Add(5 * time.Second / held)
		for i := range one(n, shared) {
			buffer.Add(&shared[i], at)
		}
		if n%1000 == 0 {
			buffer.Flush(at)
		}
	}
	for range 2 * held {
		add()
	}
	b.ReportAllocs()
	b.ResetTimer()
	for range (b.N + 3) / 4 {
		add()
	}
	b.StopTimer()
	b.ReportMetric(float64(heap()-before)/(4*held), "bytes/held")
	runtime.KeepAlive(buffer)
}
