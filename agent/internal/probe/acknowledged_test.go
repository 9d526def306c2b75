// SPDX-License-Identifier: Apache-2.0

package probe

import (
	"io"
	"net"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/layertrace/layertrace/internal/observe"
)

// When a message was acknowledged is known at the socket that sent it, also
// where the peer sends nothing else: it is before the sender's own TCP says so.
func TestAcknowledged(t *testing.T) {
	if !inNamespace(t) {
		return
	}
	k := newLoopback(t)
	client, server := connect(t)
	request := tracedRequest(0)
	requestKnown := untilAcknowledged(t, client, server, request)
	responseKnown := untilAcknowledged(t, server, client, ok200)
	all := k.exchanges()
	if len(all) != 2 {
		t.Fatalf("%d exchanges, want one at each socket", len(all))
	}
	for _, x := range all {
		own, other, known := x.Request, x.Response, requestKnown
		if !x.Socket.Client {
			own, other, known = other, own, responseKnown
		}
		if own.Acknowledged < own.Last || own.Acknowledged > known {
			t.Errorf("client %v: acknowledged at %d; sent at %d, and TCP knew at %d", x.Socket.Client, own.Acknowledged, own.Last, known)
		}
		if other.Acknowledged != 0 {
			t.Errorf("client %v: what came in was acknowledged at %d", x.Socket.Client, other.Acknowledged)
		}
	}
}

// untilAcknowledged sends a message and returns a time, in ns of
// CLOCK_MONOTONIC, at which the sender's TCP knew that it had arrived. Only then
// the peer reads.
func untilAcknowledged(t *testing.T, from, to *net.TCPConn, message string) uint64 {
	t.Helper()
	control(t, to, func(fd int) error {
		return unix.SetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_QUICKACK, 1)
	})
	_, err := io.WriteString(from, message)
	must(t, err)
	poll(t, "the message is acknowledged", func() bool { return tcpInfo(t, from).Unacked == 0 })
	known := monotonic(t)
	_, err = io.ReadFull(to, make([]byte, len(message)))
	must(t, err)
	return known
}

// An answer acknowledges its request, too. What is not acknowledged any more
// while the exchange is open has no time.
func TestAcknowledgedWithTheAnswer(t *testing.T) {
	if !inNamespace(t) {
		return
	}
	k := newLoopback(t)
	client, server := connect(t)
	for _, conn := range []*net.TCPConn{client, server} {
		control(t, conn, func(fd int) error {
			return unix.SetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_QUICKACK, 0)
		})
	}
	const rounds = 5
	for i := range rounds {
		request := tracedRequest(i)
		for _, pass := range []struct {
			from, to *net.TCPConn
			message  string
		}{{client, server, request}, {server, client, ok200}} {
			_, err := io.WriteString(pass.from, pass.message)
			must(t, err)
			_, err = io.ReadFull(pass.to, make([]byte, len(pass.message)))
			must(t, err)
		}
	}
	all := k.exchanges()
	if len(all) != 2*rounds {
		t.Fatalf("%d exchanges, want %d", len(all), 2*rounds)
	}
	withAnswer := 0
	for _, x := range all {
		if x.Socket.Client {
			if a := x.Request.Acknowledged; a < x.Request.Last || a > x.Response.First {
				t.Errorf("acknowledged at %d, sent at %d, answered at %d", a, x.Request.Last, x.Response.First)
			} else if a == x.Response.First {
				withAnswer++
			}
		} else if a := x.Response.Acknowledged; a != 0 && a < x.Response.Last {
			t.Errorf("acknowledged at %d, sent at %d", a, x.Response.Last)
		}
	}
	if withAnswer == 0 {
		t.Error("no answer acknowledged its request: each was acknowledged alone")
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
