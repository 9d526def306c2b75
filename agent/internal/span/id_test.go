// SPDX-License-Identifier: Apache-2.0

package span

import (
	"net/netip"
	"testing"

	"github.com/layertrace/layertrace/internal/observe"
	"github.com/layertrace/layertrace/internal/tracecontext"
)

func sample() observe.Observation {
	return observe.Observation{
		Interface: 7,
		Direction: observe.DirectionIngress,
		Context: observe.Context{
			Context: tracecontext.Context{
				TraceID: tracecontext.TraceID{0: 0xaa, 15: 0x01}, SpanID: tracecontext.SpanID{0: 0xbb, 7: 0x02},
				Sampling: tracecontext.Accepted, Format: tracecontext.FormatB3Multi,
			},
			HeaderOffset: 42,
		},
		Key: observe.Key{
			Client: netip.MustParseAddrPort("10.244.2.11:40000"),
			Server: netip.MustParseAddrPort("10.244.4.2:9080"),
		},
		Point: &observe.Point{
			ID: "node2/7", Kind: observe.KindVNIC, Node: "node2", Interface: "vethgw",
			Workload: observe.Workload{Service: "gateway", Namespace: "default", Pod: "gateway-1", Node: "node2"},
		},
		Request:  observe.Message{First: 5_000_000_000, Last: 5_000_100_000, Bytes: 1500, Packets: 2},
		Response: observe.Message{First: 5_004_000_000, Last: 5_006_000_000, Bytes: 4000, Packets: 3},
		Status:   200, Retransmits: 1,
		Peers: observe.Peers{
			Client: observe.Peer{Service: "gateway", Namespace: "default"}, Server: observe.Peer{Service: "productpage", Namespace: "default"},
		},
	}
}

func TestIDIsStable(t *testing.T) {
	x, again := sample(), sample()
	if ID(&x) != ID(&again) {
		t.Error("the same exchange has two IDs")
	}
	// What the agent learns later, or the probe sees differently after a restart,
	// does not change the ID.
	again.Response, again.Status, again.Flags, again.Retransmits = observe.Message{}, 0, observe.FlagNoResponse, 0
	again.Request.Last, again.Request.Bytes = 0, 0
	if ID(&x) != ID(&again) {
		t.Error("the ID depends on more than the start of the request")
	}
	// IDs are stored: they must not change between releases. Without a stream the
	// hash has none.
	if got := ID(&x).String(); got != "b3835f3015a1e7bf" {
		t.Errorf("ID is %s", got)
	}
}

func TestIDsOfDifferentExchangesDiffer(t *testing.T) {
	base := sample()
	seen := map[string]string{ID(&base).String(): "base"}
	for name, change := range map[string]func(*observe.Observation){
		"other trace":              func(x *observe.Observation) { x.Context.TraceID[3] = 1 },
		"other header span":        func(x *observe.Observation) { x.Context.SpanID[3] = 1 },
		"hairpin, other direction": func(x *observe.Observation) { x.Direction = observe.DirectionEgress },
		"other client port":        func(x *observe.Observation) { x.Client = netip.MustParseAddrPort("10.244.2.11:40001") },
		"other server":             func(x *observe.Observation) { x.Server = netip.MustParseAddrPort("10.244.4.3:9080") },
		"retry, same connection":   func(x *observe.Observation) { x.Request.First += attemptGrain },
		"stream 1":                 func(x *observe.Observation) { x.Stream = 1 },
		"stream 3":                 func(x *observe.Observation) { x.Stream = 3 },
	} {
		x := sample()
		change(&x)
		id := ID(&x).String()
		if other, ok := seen[id]; ok {
			t.Errorf("%s has the ID of %s", name, other)
		}
		seen[id] = name
	}
	base.Point = &observe.Point{ID: "node2/8"}
	if _, ok := seen[ID(&base).String()]; ok {
		t.Error("two capture points give one ID")
	}
}

// Some sources map IPv4 addresses into IPv6.
func TestIDIsThatOfTheMappedAddress(t *testing.T) {
	x, mapped := sample(), sample()
	mapped.Client = netip.MustParseAddrPort("[::ffff:10.244.2.11]:40000")
	if ID(&x) != ID(&mapped) {
		t.Error("a mapped IPv4 address changes the ID")
	}
}
