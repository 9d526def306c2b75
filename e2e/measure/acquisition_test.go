// SPDX-License-Identifier: Apache-2.0

package measure

import (
	"net/netip"
	"testing"

	"github.com/layertrace/layertrace/internal/observe"
	"github.com/layertrace/layertrace/internal/tracecontext"
)

func TestCountDistinguishesWhatAnAgentReports(t *testing.T) {
	client, server := netip.MustParseAddrPort("10.0.0.1:4000"), netip.MustParseAddrPort("10.0.0.2:9080")
	report := func(span byte, client netip.AddrPort) observe.Observation {
		return observe.Observation{
			Context: observe.Context{Context: tracecontext.Context{TraceID: tracecontext.TraceID{15: 1}, SpanID: tracecontext.SpanID{7: span}}},
			Key:     observe.Key{Client: client, Server: server},
		}
	}
	passed := map[Key]Hop{}
	for span := byte(1); span <= 4; span++ {
		x := report(span, client)
		passed[Key{x.Context.TraceID.String(), x.Context.SpanID.String()}] = Hop{Client: client, Server: server}
	}
	result, seen := Acquired{Passed: len(passed)}, map[Key]bool{}
	for _, x := range []observe.Observation{
		report(1, client), report(2, client), report(2, client), // twice
		report(3, server), // not the request's client
		report(9, client), // not a request that passed
	} {
		result.count(x, passed, seen)
	}
	if want := (Acquired{Passed: 4, Acquired: 3, Doubled: 1, Unknown: 1, WrongEnds: 1}); result != want {
		t.Errorf("%+v, want %+v", result, want)
	}
	if result.Rate() != 0.75 {
		t.Errorf("rate %v, want 0.75", result.Rate())
	}
	if result.Exact() == nil {
		t.Error("that counts as exact")
	}
	if err := (Acquired{Passed: 4, Acquired: 4}).Exact(); err != nil {
		t.Error(err)
	}
}
