// SPDX-License-Identifier: Apache-2.0

package probe

import (
	"testing"
	"unsafe"

	"github.com/layertrace/layertrace/bpf"
	"github.com/layertrace/layertrace/internal/observe"
)

// The record of an interface ends where a socket's goes on.
func TestRecordSizes(t *testing.T) {
	const header = 8 // of a record in the ring: BPF_RINGBUF_HDR_SZ of include/uapi/linux/bpf.h
	k := newKernel(t, Options{})
	exchanges(k, 1)
	if got := k.probe.reader.AvailableBytes(); got != header+recordOfInterface {
		t.Errorf("an exchange at an interface takes %d bytes of the ring, want %d", got, header+recordOfInterface)
	}
	if rest := recordOfSocket - recordOfInterface; rest < 80 {
		t.Errorf("the record of an interface is %d bytes shorter than that of a socket, want 80 and more", rest)
	}
	for _, test := range []struct {
		name     string
		isSocket uint8
		size     int
		ok       bool
	}{
		{"nothing", 0, 0, false},
		{"cut, of an interface", 0, recordOfInterface - 1, false},
		{"of an interface", 0, recordOfInterface, true},
		{"of a socket", 1, recordOfSocket, true},
		{"of an interface, as long as that of a socket", 0, recordOfSocket, true},
		{"cut, of a socket", 1, recordOfSocket - 1, false},
		{"of a socket, as short as that of an interface", 1, recordOfInterface, false},
	} {
		record := bpf.CaptureExchangeRecord{IsSocket: test.isSocket, Cookie: 7}
		raw := unsafe.Slice((*byte)(unsafe.Pointer(&record)), recordOfSocket)[:test.size]
		var o observe.Observation
		err := NewDecoder(false).Decode(raw, &o)
		if (err == nil) != test.ok {
			t.Errorf("%s, %d bytes: error %v", test.name, test.size, err)
		}
		if test.ok && (o.Socket != nil) != (test.isSocket == 1) {
			t.Errorf("%s: socket %v", test.name, o.Socket)
		}
	}
}

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
