// SPDX-License-Identifier: Apache-2.0

package span

import (
	"net/netip"
	"testing"

	"github.com/layertrace/layertrace/internal/exchange"
	"github.com/layertrace/layertrace/internal/tracecontext"
)

func sample() exchange.Exchange {
	return exchange.Exchange{
		Interface: 7,
		Direction: exchange.DirectionIngress,
		Context: tracecontext.Context{
			TraceID: tracecontext.TraceID{0: 0xaa, 15: 0x01}, SpanID: tracecontext.SpanID{0: 0xbb, 7: 0x02},
			Sampling: tracecontext.Accepted, Format: tracecontext.FormatB3Multi,
		},
		Client:   netip.MustParseAddrPort("10.244.2.11:40000"),
		Server:   netip.MustParseAddrPort("10.244.4.2:9080"),
		Request:  exchange.Message{First: 5_000_000_000, Last: 5_000_100_000, Bytes: 1500, Packets: 2},
		Response: exchange.Message{First: 5_004_000_000, Last: 5_006_000_000, Bytes: 4000, Packets: 3},
		Status:   200, HeaderOffset: 42, Retransmits: 1,
	}
}

func TestIDIsStable(t *testing.T) {
	x, again := sample(), sample()
	if ID("node2/7", &x) != ID("node2/7", &again) {
		t.Error("the same exchange has two IDs")
	}
	// What the agent learns later, or the probe sees differently after a
	// restart, does not change the ID.
	again.Response, again.Status, again.Flags, again.Retransmits = exchange.Message{}, 0, exchange.FlagNoResponse, 0
	again.Request.Last, again.Request.Bytes = 0, 0
	if ID("node2/7", &x) != ID("node2/7", &again) {
		t.Error("the ID depends on more than the request's beginning")
	}
	// An ID is part of what is stored: it must not change between releases.
	if got := ID("node2/7", &x).String(); got != "b3835f3015a1e7bf" {
		t.Errorf("ID is %s", got)
	}
}

func TestIDsOfDifferentExchangesDiffer(t *testing.T) {
	base := sample()
	seen := map[string]string{ID("node2/7", &base).String(): "base"}
	for name, change := range map[string]func(*exchange.Exchange){
		"other trace":            func(x *exchange.Exchange) { x.Context.TraceID[3] = 1 },
		"other header span":      func(x *exchange.Exchange) { x.Context.SpanID[3] = 1 },
		"hairpin, other way":     func(x *exchange.Exchange) { x.Direction = exchange.DirectionEgress },
		"other client port":      func(x *exchange.Exchange) { x.Client = netip.MustParseAddrPort("10.244.2.11:40001") },
		"other server":           func(x *exchange.Exchange) { x.Server = netip.MustParseAddrPort("10.244.4.3:9080") },
		"retry, same connection": func(x *exchange.Exchange) { x.Request.First += attemptGrain },
	} {
		x := sample()
		change(&x)
		id := ID("node2/7", &x).String()
		if other, ok := seen[id]; ok {
			t.Errorf("%s has the ID of %s", name, other)
		}
		seen[id] = name
	}
	if _, ok := seen[ID("node2/8", &base).String()]; ok {
		t.Error("two capture points give one ID")
	}
}

// IPv4 addresses come mapped into IPv6 from some sources.
func TestIDIsThatOfTheMappedAddress(t *testing.T) {
	x, mapped := sample(), sample()
	mapped.Client = netip.MustParseAddrPort("[::ffff:10.244.2.11]:40000")
	if ID("p", &x) != ID("p", &mapped) {
		t.Error("a mapped IPv4 address changes the ID")
	}
}
