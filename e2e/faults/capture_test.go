// SPDX-License-Identifier: Apache-2.0

package faults

import (
	"encoding/binary"
	"net/netip"
	"testing"
	"time"

	"github.com/layertrace/layertrace/e2e/lab"
)

var (
	client = netip.MustParseAddrPort("10.0.0.1:40000")
	server = netip.MustParseAddrPort("10.0.0.2:9080")
)

// frame returns an Ethernet frame with TCP.
func frame(src, dst netip.AddrPort, seq uint32, data string) []byte {
	f := make([]byte, 14+20+20+len(data))
	binary.BigEndian.PutUint16(f[12:], etherIPv4)
	ip := f[14:]
	ip[0], ip[9] = 0x45, protocolTCP
	binary.BigEndian.PutUint16(ip[2:], uint16(len(ip)))
	copy(ip[12:], src.Addr().AsSlice())
	copy(ip[16:], dst.Addr().AsSlice())
	tcp := ip[20:]
	binary.BigEndian.PutUint16(tcp, src.Port())
	binary.BigEndian.PutUint16(tcp[2:], dst.Port())
	binary.BigEndian.PutUint32(tcp[4:], seq)
	tcp[12] = 5 << 4
	copy(tcp[20:], data)
	return f
}

// recorded returns a recorder with the frames at 1 ms, 2 ms, and so on.
func recorded(t *testing.T, frames ...[]byte) *recorder {
	t.Helper()
	r := &recorder{}
	for i, f := range frames {
		if s, ok := parseFrame(f); ok {
			s.Time = time.UnixMilli(int64(i + 1))
			r.record(s)
		}
	}
	return r
}

func TestParseRefuses(t *testing.T) {
	good := frame(client, server, 1, "data")
	if _, ok := parseFrame(good); !ok {
		t.Fatal("a valid frame was rejected")
	}
	for n := range len(good) {
		if _, ok := parseFrame(good[:n]); ok {
			t.Errorf("accepted when cut to %d bytes", n)
		}
	}
	if _, ok := parseFrame(frame(client, server, 1, "")); ok {
		t.Error("a segment without data was accepted")
	}
}

// Two requests on one connection: the second is of the trace. Its head is in two
// segments, and its response in three that arrive out of order.
func TestExchange(t *testing.T) {
	first := uint32(0xfffffff0) // so that sequence numbers wrap around
	r := recorded(t,
		frame(client, server, first, "GET 1\n"),
		frame(server, client, 100, "ok"),
		frame(client, server, first+6, "GET 2\n"),
		frame(client, server, first+12, "trace: abc\n"),
		frame(client, server, first+6, "GET 2\n"), // retransmission
		frame(server, client, 102, "12"),
		frame(server, client, 106, "56"),
		frame(server, client, 104, "34"),
		frame(server, client, 106, "56"),
		frame(client, server, first+23, "GET 3\n"),
	)
	found := r.exchangesOf("abc", 9080)
	if len(found) != 1 {
		t.Fatalf("%d exchanges: %v", len(found), found)
	}
	for name, want := range map[string]struct {
		m        message
		from, to uint32
		began    int64
		passed   int64
	}{
		"request":  {found[0].Request, 0xfffffff6, 7, 3, 4},
		"response": {found[0].Response, 102, 108, 6, 8},
	} {
		began, ok1 := r.began(want.m)
		passed, ok2 := r.passed(want.m)
		if want.m.From != want.from || want.m.To != want.to || !ok1 || !ok2 ||
			began.UnixMilli() != want.began || passed.UnixMilli() != want.passed {
			t.Errorf("%s: %+v began %v passed %v", name, want.m, began.UnixMilli(), passed.UnixMilli())
		}
	}
	if got := r.exchangesOf("xyz", 9080); got != nil {
		t.Errorf("of another trace: %v", got)
	}
	lost := found[0].Response
	lost.To++
	if _, ok := r.passed(lost); ok {
		t.Error("a missing byte passed")
	}
}

// Productpage has the request for 2 ms before it calls reviews, and for 3 ms after the
// response, which takes 40 ms and comes from the address that was called.
func TestStayedWithoutCalls(t *testing.T) {
	const traceID = "0123456789abcdef0123456789abcdef"
	end := func(address string, port uint16) netip.AddrPort {
		return netip.AddrPortFrom(netip.MustParseAddr(address), port)
	}
	pod := podIP("productpage")
	sidecar, app, caller := end("127.0.0.6", 30000), end(pod, lab.AppPort), end(pod, 40000)
	reviews := end(lab.Services["reviews"].ClusterIP, lab.AppPort)
	request := "GET / HTTP/1.1\r\nx-b3-traceid: " + traceID + "\r\n\r\n"
	passed := []struct {
		at       time.Duration
		src, dst netip.AddrPort
		data     string
	}{
		{1 * time.Millisecond, sidecar, app, request},
		{3 * time.Millisecond, caller, redirected, request},
		{42 * time.Millisecond, reviews, caller, "HTTP/1.1 200 OK\r\n"},
		{43 * time.Millisecond, reviews, caller, "\r\n"},
		{46 * time.Millisecond, app, sidecar, "HTTP/1.1 200 OK\r\n\r\n"},
	}
	for n, want := range map[int]time.Duration{len(passed): 5 * time.Millisecond, len(passed) - 1: 0, 1: 0} {
		var seen recording
		next := map[[2]netip.AddrPort]uint32{}
		for _, p := range passed[:n] {
			direction := [2]netip.AddrPort{p.src, p.dst}
			// A loopback interface shows each packet twice.
			for range 2 {
				seen.record(redirectedBack(segment{
					Src: p.src, Dst: p.dst, Seq: next[direction], Length: len(p.data), Data: []byte(p.data), Time: time.Unix(0, 0).Add(p.at),
				}))
			}
			next[direction] += uint32(len(p.data))
		}
		if got := seen.residence(traceID); got != want {
			t.Errorf("after %d segments: %v, want %v", n, got, want)
		}
	}
}
