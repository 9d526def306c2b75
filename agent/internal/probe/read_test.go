// SPDX-License-Identifier: Apache-2.0

package probe

import (
	"testing"

	"github.com/layertrace/layertrace/internal/observe"
)

// A socket sends one of the two messages.
func TestSent(t *testing.T) {
	x := observe.Observation{Socket: &observe.Socket{Client: true}}
	if sent(&x) != &x.Request {
		t.Error("a client sends the request")
	}
	x.Socket.Client = false
	if sent(&x) != &x.Response {
		t.Error("a server sends the response")
	}
}

// Transmit times from what was seen of a message at the qdisc.
func TestTransmitTimes(t *testing.T) {
	unknown := observe.Extent{}
	for _, test := range []struct {
		name string
		seen observe.Extent
		dequeued
		want observe.Extent
	}{
		{"nothing", observe.Extent{}, dequeued{}, observe.Extent{First: 10, Last: 20}},
		{"all", observe.Extent{First: 15, Last: 25}, dequeued{whole: true}, observe.Extent{First: 15, Last: 25}},
		{"not the first byte", observe.Extent{Last: 25}, dequeued{whole: true}, unknown},
		{"not the last byte", observe.Extent{First: 15, Last: 18}, dequeued{}, unknown},
		{"the first byte bypassed", observe.Extent{Last: 25}, dequeued{bypass: true, whole: true}, observe.Extent{First: 10, Last: 25}},
		{"the last byte bypassed", observe.Extent{First: 15, Last: 18}, dequeued{bypass: true}, observe.Extent{First: 15, Last: 20}},
		{"both bypassed", observe.Extent{Last: 18}, dequeued{bypass: true}, observe.Extent{First: 10, Last: 20}},
	} {
		out := observe.Message{First: 10, Last: 20, Packets: 3, Tx: test.seen}
		if got := transmitted(&out, test.dequeued); got != test.want {
			t.Errorf("%s: %+v, want %+v", test.name, got, test.want)
		}
	}
}

func TestDropReasonIsNamedByTheKernel(t *testing.T) {
	// Its number is 1 in some kernels, 2 in others.
	if one, two := dropReason(1), dropReason(2); one != "not_specified" && two != "not_specified" {
		t.Errorf("reasons 1 and 2 are %q and %q, want one to be not_specified, as in every kernel that has reasons", one, two)
	}
	if got := dropReason(1 << 30); got != "1073741824" {
		t.Errorf("a reason that no kernel has is %q", got)
	}
}
