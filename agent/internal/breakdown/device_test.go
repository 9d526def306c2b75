// SPDX-License-Identifier: Apache-2.0

package breakdown

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"net/netip"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/layertrace/layertrace/internal/observe"
	"github.com/layertrace/layertrace/internal/tracecontext"
)

// route is a request through devices with known times: per machine its clock, and the time
// that each message takes in each device and on each link.
type route struct {
	devices []string
	// Times in ns: device i, and the link before it; the last link leads to the server.
	device, link [2][]int64 // by message
	handling     int64
	// request, response: the message passes the device.
	request, response map[string]bool
	// hidden are points that nothing captures: "router1 in", "router1 out".
	hidden map[string]bool
	// noQueue are devices whose kernels do not report when packets leave a queue.
	noQueue map[string]bool
	clock   map[string]int64
}

func newRoute(rng *rand.Rand, devices ...string) *route {
	r := &route{devices: devices, request: map[string]bool{}, response: map[string]bool{}, hidden: map[string]bool{}, noQueue: map[string]bool{}, clock: map[string]int64{}}
	for i := range r.device {
		for range devices {
			r.device[i] = append(r.device[i], 1+rng.Int64N(5_000_000))
			r.link[i] = append(r.link[i], 1+rng.Int64N(5_000_000))
		}
		r.link[i] = append(r.link[i], 1+rng.Int64N(5_000_000))
	}
	r.handling = 1 + rng.Int64N(5_000_000)
	for _, place := range append([]string{"node2", "node3"}, devices...) {
		r.request[place], r.response[place] = true, true
		r.clock[place] = 1 + rng.Int64N(1e15)
	}
	return r
}

// observations returns what all capture points see.
func (r *route) observations() (all []observe.Observation) {
	const begin = int64(1e9)
	n := len(r.devices)
	in, out := make([][2]int64, n), make([][2]int64, n) // true times where the client's side and the server's side are
	now := begin
	for i := range n {
		now += r.link[0][i]
		in[i][0] = now
		now += r.device[0][i]
		out[i][0] = now
	}
	now += r.link[0][n]
	arrived := now
	now += r.handling
	answered := now
	for i := n - 1; i >= 0; i-- {
		now += r.link[1][i+1]
		out[i][1] = now
		now += r.device[1][i]
		in[i][1] = now
	}
	now += r.link[1][0]
	point := func(kind observe.Kind, node, nic string, direction observe.Direction) observe.Observation {
		o := observe.Observation{
			Key:       observe.Key{Client: netip.MustParseAddrPort("10.244.2.11:40000"), Server: netip.MustParseAddrPort("10.244.3.11:9080")},
			Point:     &observe.Point{ID: node + "/" + nic, Kind: kind, Node: node, Interface: nic},
			Direction: direction, ConnectionID: []byte{1, 2, 3, 4, 5, 6, 7, 8}, Wall: 1,
		}
		o.Context.TraceID, o.Context.SpanID = tracecontext.TraceID{1}, tracecontext.SpanID{2}
		o.Request.Seq, o.Response.Seq = 100, 900
		return o
	}
	see := func(o observe.Observation, request, response int64, ttl uint8) {
		message := func(m *observe.Message, at int64, ttl uint8) {
			t := uint64(at + r.clock[o.Point.Node])
			m.First, m.Last, m.Bytes, m.Packets = t, t, 100, 1
			if o.Point.Kind == observe.KindDevice {
				m.TTL = ttl
			}
		}
		if r.request[o.Point.Node] {
			message(&o.Request, request, 64-ttl)
		}
		if r.response[o.Point.Node] {
			message(&o.Response, response, 64-uint8(n)+ttl)
		}
		// What leaves an interface leaves its queue at the same time here.
		if r.noQueue[o.Point.Node] {
			all = append(all, o)
			return
		}
		if o.Direction == observe.DirectionEgress {
			o.Request.Tx = observe.Extent{First: o.Request.First, Last: o.Request.Last}
		} else {
			o.Response.Tx = observe.Extent{First: o.Response.First, Last: o.Response.Last}
		}
		all = append(all, o)
	}
	see(point(observe.KindPNIC, "node2", "eth0", observe.DirectionEgress), begin, now, 0)
	for i, d := range r.devices {
		if !r.hidden[d+" in"] && (r.request[d] || r.response[d]) {
			see(point(observe.KindDevice, d, "in", observe.DirectionIngress), in[i][0], in[i][1], uint8(i))
		}
		if !r.hidden[d+" out"] && (r.request[d] || r.response[d]) {
			see(point(observe.KindDevice, d, "out", observe.DirectionEgress), out[i][0], out[i][1], uint8(i+1))
		}
	}
	see(point(observe.KindPNIC, "node3", "eth0", observe.DirectionIngress), arrived, answered, 0)
	return all
}

// relayTimes returns the times of the relay network by location and phase.
func relayTimes(t *testing.T, observations []observe.Observation) (times map[string]int64, notes []string) {
	t.Helper()
	tree := Split(observations, nil)
	if len(tree.Hops) != 1 {
		t.Fatalf("%d hops, want 1", len(tree.Hops))
	}
	times = map[string]int64{}
	for _, s := range tree.Hops[0].Segments {
		if s.Layer == observe.RelayNetwork {
			times[s.Location+" "+string(s.Phase)] += s.Time
		}
	}
	return times, tree.Hops[0].Notes
}

// TestDevicesSplitTheRelayNetwork: each link and each device gets its own time, whatever the
// clocks are and in whatever order the spans come; what a device cannot see stays with the
// link around it.
func TestDevicesSplitTheRelayNetwork(t *testing.T) {
	rng := rand.New(rand.NewPCG(7, 7))
	both := func(r *route, i int) int64 { return r.link[0][i] + r.link[1][i] }
	for _, test := range []struct {
		name    string
		devices []string
		change  func(*route)
		want    func(*route) map[string]int64
	}{
		{"one device", []string{"router1"}, func(*route) {}, func(r *route) map[string]int64 {
			return map[string]int64{
				"node2-router1 both": both(r, 0), "router1 request": r.device[0][0], "router1 response": r.device[1][0], "node3-router1 both": both(r, 1),
			}
		}},
		{"two devices", []string{"router1", "router2"}, func(*route) {}, func(r *route) map[string]int64 {
			return map[string]int64{
				"node2-router1 both": both(r, 0), "router1 request": r.device[0][0], "router1 response": r.device[1][0],
				"router1-router2 both": both(r, 1), "router2 request": r.device[0][1], "router2 response": r.device[1][1], "node3-router2 both": both(r, 2),
			}
		}},
		{"one interface of the first is not watched", []string{"router1", "router2"}, func(r *route) { r.hidden["router1 out"] = true }, func(r *route) map[string]int64 {
			return map[string]int64{
				"node2-router1 both": both(r, 0), "router1-router2 with router1 both": both(r, 1) + r.device[0][0] + r.device[1][0],
				"router2 request": r.device[0][1], "router2 response": r.device[1][1], "node3-router2 both": both(r, 2),
			}
		}},
		{"the request only passes the second", []string{"router1", "router2"}, func(r *route) { r.response["router2"] = false }, func(r *route) map[string]int64 {
			return map[string]int64{
				"node2-router1 both": both(r, 0), "router1 request": r.device[0][0], "router1 response": r.device[1][0],
				"router2 request": r.device[0][1], "node3-router1 both": both(r, 1) + both(r, 2) + r.device[1][1],
			}
		}},
		{"each device has one way", []string{"router1", "router2"}, func(r *route) { r.response["router1"], r.request["router2"] = false, false }, func(r *route) map[string]int64 {
			return map[string]int64{
				"router1 request": r.device[0][0], "router2 response": r.device[1][1],
				"node2-node3 both": both(r, 0) + both(r, 1) + both(r, 2) + r.device[1][0] + r.device[0][1],
			}
		}},
		{"one way, and one interface", []string{"router1"}, func(r *route) { r.response["router1"], r.hidden["router1 in"] = false, true }, func(r *route) map[string]int64 {
			return map[string]int64{"node2-node3 both": both(r, 0) + both(r, 1) + r.device[0][0] + r.device[1][0]}
		}},
		{"the queues of the first are not seen", []string{"router1", "router2"}, func(r *route) { r.noQueue["router1"] = true }, func(r *route) map[string]int64 {
			return map[string]int64{
				"node2-router1 with router1 both": both(r, 0), "router1 request": r.device[0][0], "router1 response": r.device[1][0],
				"router1-router2 with router1 both": both(r, 1), "router2 request": r.device[0][1], "router2 response": r.device[1][1], "node3-router2 both": both(r, 2),
			}
		}},
		{"one way, and the queue is not seen", []string{"router1"}, func(r *route) { r.response["router1"], r.noQueue["router1"] = false, true }, func(r *route) map[string]int64 {
			return map[string]int64{"router1 request": r.device[0][0], "node2-node3 with router1 both": both(r, 0) + both(r, 1) + r.device[1][0]}
		}},
		{"no device", nil, func(*route) {}, func(r *route) map[string]int64 {
			return map[string]int64{"node2-node3 both": both(r, 0)}
		}},
	} {
		t.Run(test.name, func(t *testing.T) {
			for range 50 {
				r := newRoute(rng, test.devices...)
				test.change(r)
				all := r.observations()
				rng.Shuffle(len(all), func(i, j int) { all[i], all[j] = all[j], all[i] })
				got, notes := relayTimes(t, all)
				if diff := cmp.Diff(test.want(r), got); diff != "" || len(notes) > 0 {
					t.Fatalf("%s\nnotes: %q", diff, notes)
				}
			}
		})
	}
}

// TestDeviceContradictions: what a device cannot have seen does not change the time between
// the nodes.
func TestDeviceContradictions(t *testing.T) {
	rng := rand.New(rand.NewPCG(8, 8))
	for name, change := range map[string]func(*observe.Observation){
		"a response that takes longer than the client waits": func(o *observe.Observation) {
			o.Response.Last += 1e9
			o.Response.Tx.Last = o.Response.Last
		},
		"a response before the server can have sent it": func(o *observe.Observation) {
			o.Response.First, o.Response.Last = o.Request.Last, o.Request.Last
			o.Response.Tx = observe.Extent{First: o.Request.Last, Last: o.Request.Last}
		},
	} {
		t.Run(name, func(t *testing.T) {
			r := newRoute(rng, "router1")
			r.hidden["router1 out"] = true
			all := r.observations()
			change(&all[1])
			got, notes := relayTimes(t, all)
			want := map[string]int64{"node2-node3 both": 0}
			for i := range 2 {
				want["node2-node3 both"] += r.device[i][0] + r.link[i][0] + r.link[i][1]
			}
			if diff := cmp.Diff(want, got); diff != "" {
				t.Error(diff)
			}
			if len(notes) != 1 || !strings.Contains(notes[0], "contradictory times") {
				t.Errorf("notes %q, want one about contradictory times", notes)
			}
		})
	}
}

// TestDeviceOfAnAttempt: of two attempts on one connection, each has what the device saw of
// it, by the sequence numbers.
func TestDeviceOfAnAttempt(t *testing.T) {
	rng := rand.New(rand.NewPCG(9, 9))
	first, second := newRoute(rng, "router1"), newRoute(rng, "router1")
	second.clock = maps.Clone(first.clock)
	for place := range second.clock {
		second.clock[place] += 1e9 // one second later
	}
	all := first.observations()
	for _, o := range second.observations() {
		o.Request.Seq, o.Response.Seq = 200, 1800
		all = append(all, o)
	}
	rng.Shuffle(len(all), func(i, j int) { all[i], all[j] = all[j], all[i] })
	tree := Split(all, nil)
	if len(tree.Hops) != 2 {
		t.Fatalf("%d hops, want 2", len(tree.Hops))
	}
	for _, h := range tree.Hops {
		r, seq := first, uint32(100)
		if h.ClientPNIC.Request.Seq == 200 {
			r, seq = second, 200
		}
		if len(h.Devices) != 2 || h.Devices[0].Request.Seq != seq || h.Devices[1].Request.Seq != seq {
			t.Errorf("the hop from %d on has %d points of devices", seq, len(h.Devices))
		}
		got := map[string]int64{}
		for _, s := range h.Segments {
			got[fmt.Sprint(s.Location, " ", s.Phase)] += s.Time
		}
		if want := r.device[0][0]; got["router1 request"] != want {
			t.Errorf("the request from %d on took %d in the device, want %d", seq, got["router1 request"], want)
		}
	}
}
