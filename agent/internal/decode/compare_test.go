// SPDX-License-Identifier: Apache-2.0

package decode

import (
	"testing"
	"time"

	"github.com/layertrace/layertrace/internal/observe"
)

// lenContinue is what the interim response of Go's server takes.
const lenContinue = int64(len("HTTP/1.1 100 Continue\r\n\r\n"))

// compare checks each exchange against the logs of both ends.
func compare(t *testing.T, calls []call, got []observe.Observation, deep bool) {
	t.Helper()
	bySpan := map[string]call{}
	for _, c := range calls {
		bySpan[c.span] = c
	}
	for _, x := range got {
		c, ok := bySpan[x.Context.SpanID.String()]
		if !ok {
			t.Errorf("span %s was never sent, or came twice", x.Context.SpanID)
			continue
		}
		delete(bySpan, x.Context.SpanID.String())
		compareOne(t, c, x)
	}
	for _, c := range bySpan {
		if c.sampled && (deep || !c.deepOnly) {
			t.Errorf("call %s was not seen", c.name)
		}
	}
}

func compareOne(t *testing.T, c call, x observe.Observation) {
	t.Helper()
	received := c.received
	var flags observe.Flags
	if c.interim {
		received -= lenContinue
		flags |= observe.FlagInterim
	}
	if c.deepOnly {
		flags |= observe.FlagMultiSegment
	}
	if x.Context.TraceID.String() != c.trace || x.Client.String() != c.client || x.Status != c.status ||
		x.Request.Bytes != uint64(c.sent) || x.Response.Bytes != uint64(received) || x.Flags != flags {
		t.Errorf("call %+v\nwas decoded as %+v, flags %v", c, x, x.Flags.Names())
	}
	at := func(ns uint64) time.Time { return time.Unix(0, int64(ns)) }
	times := []time.Time{c.started, at(x.Request.First), c.served, at(x.Response.First), at(x.Response.Last), c.over}
	for i := range times[1:] {
		if times[i+1].Before(times[i]) {
			t.Errorf("call %s: times %v are not in order", c.name, times)
			break
		}
	}
}
