// SPDX-License-Identifier: Apache-2.0

package layer

import (
	"net/netip"
	"testing"

	"github.com/layertrace/layertrace/internal/exchange"
	"go.opentelemetry.io/otel/trace"
)

// remoteHop is one request from front on node1 to back on node2, whose back end
// asks a third service in between; clocks differ by an hour.
func remoteHop() (client, server []Sighting) {
	const hour = 3_600_000_000_000
	addr := netip.MustParseAddrPort
	see := func(node, service, iface string, kind Kind, d exchange.Direction, request, response uint64, driver exchange.Extent) Sighting {
		s := Sighting{
			TraceID: trace.TraceID{1}, SpanID: trace.SpanID{1}, Kind: kind, Node: node, Service: service, Interface: iface, Direction: d,
			Client: addr("10.0.1.1:4000"), Server: addr("10.0.2.1:9080"), ClientName: "front", ServerName: "back",
			Request: exchange.Message{First: request, Last: request}, Response: exchange.Message{First: response, Last: response},
		}
		if kind == PNIC && d == exchange.DirectionEgress {
			s.Request.Handover = driver
		} else if kind == PNIC {
			s.Response.Handover = driver
		}
		return s
	}
	client = []Sighting{
		see("node1", "front", "veth1", VNIC, exchange.DirectionIngress, 1_000_000, 9_000_000, exchange.Extent{}),
		see("node1", "", "eth0", PNIC, exchange.DirectionEgress, 1_100_000, 8_800_000, exchange.Extent{First: 1_300_000, Last: 1_300_000}),
	}
	child := see("node2", "back", "veth2", VNIC, exchange.DirectionIngress, hour+3_000_000, hour+5_000_000, exchange.Extent{})
	child.SpanID, child.Client, child.Server = trace.SpanID{2}, addr("10.0.2.1:4001"), addr("10.0.3.1:9080")
	server = []Sighting{
		see("node2", "", "eth0", PNIC, exchange.DirectionIngress, hour+2_000_000, hour+8_000_000, exchange.Extent{First: hour + 8_200_000, Last: hour + 8_200_000}),
		see("node2", "back", "veth2", VNIC, exchange.DirectionEgress, hour+2_100_000, hour+7_900_000, exchange.Extent{}),
		child,
	}
	return client, server
}

// What two agents tell of a hop makes up its relay network, also when the
// server asks others in between.
func TestStretchesGiveTheRelayNetwork(t *testing.T) {
	client, server := remoteHop()
	c, s := Split(client, nil).Legs[0].Stretches(), Split(server, nil).Legs[0].Stretches()
	if c[WholeHop] != 8_000_000 || c[Outside] != 7_500_000 || s[Inside] != 6_200_000 {
		t.Errorf("hop and outside %v, inside %v", c, s)
	}
	if _, ok := c[Inside]; ok || len(s) != 1 {
		t.Errorf("an agent tells of the other node: %v, %v", c, s)
	}
	var relay int64
	for _, leg := range Split(append(client, server...), nil).Legs {
		for _, p := range leg.Parts {
			if p.Layer == RelayNetwork {
				relay += p.Time
			}
		}
	}
	if got := c[Outside] - s[Inside]; got != relay || relay != 1_300_000 {
		t.Errorf("outside - inside is %d, the relay network of the whole trace %d", got, relay)
	}
}

// The client's agent tells all beyond its node as one part.
func TestPartBeyondTheNode(t *testing.T) {
	client, _ := remoteHop()
	leg := Split(client, nil).Legs[0]
	for _, p := range leg.Parts {
		if p.Layer == RelayNetwork {
			if p.Place != "?-node1" || p.Way != Both || len(p.Covers) != 5 || p.Time != 7_500_000 {
				t.Errorf("%+v", p)
			}
			return
		}
	}
	t.Errorf("no such part: %+v", leg.Parts)
}
