// SPDX-License-Identifier: Apache-2.0

package breakdown

import (
	"net/netip"
	"testing"

	"github.com/layertrace/layertrace/internal/observe"
	"github.com/layertrace/layertrace/internal/tracecontext"
)

// remoteHop is a request from front on node1 to back on node2, which calls a third
// service meanwhile. The clocks differ by an hour.
func remoteHop() (client, server []observe.Observation) {
	const hour = 3_600_000_000_000
	addr := netip.MustParseAddrPort
	see := func(node, service, iface string, kind observe.Kind, d observe.Direction, request, response uint64, driver observe.Extent) observe.Observation {
		s := observe.Observation{
			Key:   observe.Key{Client: addr("10.0.1.1:4000"), Server: addr("10.0.2.1:9080")},
			Point: &observe.Point{Kind: kind, Node: node, Interface: iface, Workload: observe.Workload{Service: service}}, Direction: d,
			Peers:   observe.Peers{Client: observe.Peer{Service: "front"}, Server: observe.Peer{Service: "back"}},
			Request: observe.Message{First: request, Last: request}, Response: observe.Message{First: response, Last: response},
		}
		s.Context.TraceID, s.Context.SpanID = tracecontext.TraceID{1}, tracecontext.SpanID{1}
		if kind == observe.KindPNIC && d == observe.DirectionEgress {
			s.Request.Tx = driver
		} else if kind == observe.KindPNIC {
			s.Response.Tx = driver
		}
		return s
	}
	client = []observe.Observation{
		see("node1", "front", "veth1", observe.KindVNIC, observe.DirectionIngress, 1_000_000, 9_000_000, observe.Extent{}),
		see("node1", "", "eth0", observe.KindPNIC, observe.DirectionEgress, 1_100_000, 8_800_000, observe.Extent{First: 1_300_000, Last: 1_300_000}),
	}
	child := see("node2", "back", "veth2", observe.KindVNIC, observe.DirectionIngress, hour+3_000_000, hour+5_000_000, observe.Extent{})
	child.Context.SpanID, child.Client, child.Server = tracecontext.SpanID{2}, addr("10.0.2.1:4001"), addr("10.0.3.1:9080")
	server = []observe.Observation{
		see("node2", "", "eth0", observe.KindPNIC, observe.DirectionIngress, hour+2_000_000, hour+8_000_000, observe.Extent{First: hour + 8_200_000, Last: hour + 8_200_000}),
		see("node2", "back", "veth2", observe.KindVNIC, observe.DirectionEgress, hour+2_100_000, hour+7_900_000, observe.Extent{}),
		child,
	}
	return client, server
}

// The intervals of two agents give the relay network's time of a hop, also if the
// server calls other services meanwhile.
func TestIntervalsGiveTheRelayNetwork(t *testing.T) {
	client, server := remoteHop()
	c, s := Split(client, nil).Hops[0].Intervals(), Split(server, nil).Hops[0].Intervals()
	if c[WholeHop] != 8_000_000 || c[Outside] != 7_500_000 || s[Inside] != 6_200_000 {
		t.Errorf("hop and outside %v, inside %v", c, s)
	}
	if _, ok := c[Inside]; ok || len(s) != 1 {
		t.Errorf("intervals of the other node: %v, %v", c, s)
	}
	var relay int64
	for _, hop := range Split(append(client, server...), nil).Hops {
		for _, p := range hop.Segments {
			if p.Layer == observe.RelayNetwork {
				relay += p.Time
			}
		}
	}
	if got := c[Outside] - s[Inside]; got != relay || relay != 1_300_000 {
		t.Errorf("outside - inside is %d, the relay network of the whole trace %d", got, relay)
	}
}

// For the client's agent everything beyond its node is one segment.
func TestSegmentBeyondTheNode(t *testing.T) {
	client, _ := remoteHop()
	hop := Split(client, nil).Hops[0]
	for _, p := range hop.Segments {
		if p.Layer == observe.RelayNetwork {
			if p.Location != "?-node1" || p.Phase != Both || len(p.MergedLayers) != 5 || p.Time != 7_500_000 {
				t.Errorf("%+v", p)
			}
			return
		}
	}
	t.Errorf("no such segment: %+v", hop.Segments)
}
