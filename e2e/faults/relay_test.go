// SPDX-License-Identifier: Apache-2.0

package faults

import (
	"container/heap"
	"net/netip"
	"testing"
	"time"

	"github.com/layertrace/layertrace/e2e/lab"
)

var (
	src = netip.MustParseAddrPort("10.0.0.1:9080")
	dst = netip.MustParseAddrPort("10.0.0.2:40000")
)

func data(seq uint32, last bool) packet {
	return packet{Data: true, Last: last, Segment: segment{Src: src, Dst: dst, Seq: seq, Length: 10}}
}

func everything(segment) bool { return true }

func TestLoseLosesTheLastPacketOnce(t *testing.T) {
	other := func(s segment) bool { return s.Seq >= 100 }
	plan := newLosePlan(other)
	if plan.Met() {
		t.Error("a packet was lost before any arrived")
	}
	for i, step := range []struct {
		packet packet
		lost   bool
	}{
		{data(1, true), false}, {packet{}, false}, {data(100, false), false},
		{data(110, true), true}, {data(110, true), false}, {data(120, true), false},
	} {
		if _, lost := plan.Decide(step.packet, time.Now()); lost != step.lost {
			t.Errorf("step %d: lost %v", i, lost)
		}
	}
	if !plan.Met() {
		t.Error("no packet was lost")
	}
}

func TestReorderHoldsTheFirstPacketAndItsCopies(t *testing.T) {
	plan := newReorderPlan(everything, 20*time.Millisecond)
	start := time.UnixMilli(0)
	for i, step := range []struct {
		packet packet
		after  time.Duration
		hold   time.Duration
	}{
		{packet{}, 0, 0},
		{data(0xfffffffb, false), 0, 20 * time.Millisecond}, // its end is 5
		{data(5, false), time.Millisecond, 0},
		{data(0xfffffffb, true), 8 * time.Millisecond, 12 * time.Millisecond},
		{data(0, true), 15 * time.Millisecond, 5 * time.Millisecond},
		{data(0xfffffffb, true), 30 * time.Millisecond, 0},
	} {
		hold, lost := plan.Decide(step.packet, start.Add(step.after))
		if hold != step.hold || lost {
			t.Errorf("step %d: %v, lost %v, want %v", i, hold, lost, step.hold)
		}
	}
}

func TestDelayKeepsTheOrder(t *testing.T) {
	var w packetHeap
	start := time.UnixMilli(0)
	for i := range 10 {
		heap.Push(&w, heldPacket{start.Add(time.Duration(i/2) * time.Millisecond), uint64(i), []byte{byte(i)}})
	}
	ready, next := w.due(start.Add(2 * time.Millisecond))
	if len(ready) != 6 || !next.Equal(start.Add(3*time.Millisecond)) {
		t.Fatalf("%d ready, next %v", len(ready), next)
	}
	for i, raw := range ready {
		if int(raw[0]) != i {
			t.Errorf("packet %d at position %d", raw[0], i)
		}
	}
	if ready, next := w.due(start.Add(time.Hour)); len(ready) != 4 || !next.IsZero() {
		t.Errorf("%d left, next %v", len(ready), next)
	}
}

func TestParse(t *testing.T) {
	raw := make([]byte, 41)
	raw[0], raw[9], raw[3] = 0x45, 6, 41
	raw[32], raw[33] = 5<<4, 0x18
	if p := parsePacket(raw); !p.Data || !p.Last || p.Segment.Length != 1 {
		t.Errorf("%+v", p)
	}
	raw[33] = 0x10
	if p := parsePacket(raw); p.Last {
		t.Error("a packet without PSH is the last")
	}
	if p := parsePacket(raw[:40]); p.Data {
		t.Error("a truncated packet has data")
	}
}

// The relay may see a response before the capture has read its request: it waits for it.
func TestResponseIsAheadOfItsCapture(t *testing.T) {
	transfer := Transfer{Caller: "productpage", Callee: "details", Response: true}
	caller := netip.AddrPortFrom(netip.MustParseAddr(podIP("productpage")), 40000)
	callee := netip.AddrPortFrom(netip.MustParseAddr(podIP("details")), lab.AppPort)
	var before recording
	selects := messageTarget(&before, transfer, "abc")
	response := segment{Src: callee, Dst: caller, Seq: 500, Length: 100}
	looked := make(chan bool)
	go func() { looked <- selects(segment{Src: callee, Dst: caller, Seq: 560, Length: 40}) }()
	before.record(segment{Src: caller, Dst: callee, Seq: 1, Length: 20, Data: []byte("GET /\r\ntrace: abc\r\n\r\n")})
	select {
	case got := <-looked:
		t.Fatalf("decided %v before the response was captured", got)
	default:
	}
	before.record(response)
	if !<-looked {
		t.Error("the response was not selected")
	}
	if selects(segment{Src: caller, Dst: callee, Seq: 1, Length: 20}) {
		t.Error("the request was selected")
	}
}
