// SPDX-License-Identifier: Apache-2.0

package inject

import (
	"net/netip"
	"testing"
	"time"

	"github.com/layertrace/layertrace/e2e/faults/tap"
	"github.com/layertrace/layertrace/e2e/lab"
)

// Productpage has the request for 2 ms before it calls reviews and 3 ms after it
// got the answer, which takes 40 ms and comes from the address that was called.
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
		var seen sight
		next := map[[2]netip.AddrPort]uint32{}
		for _, p := range passed[:n] {
			way := [2]netip.AddrPort{p.src, p.dst}
			// A loopback interface shows each packet twice.
			for range 2 {
				seen.Record(redirectedBack(tap.Segment{
					Src: p.src, Dst: p.dst, Seq: next[way], Length: len(p.data), Data: []byte(p.data), Time: time.Unix(0, 0).Add(p.at),
				}))
			}
			next[way] += uint32(len(p.data))
		}
		if got := seen.stayed(traceID); got != want {
			t.Errorf("after %d segments: %v, want %v", n, got, want)
		}
	}
}
