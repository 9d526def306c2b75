// SPDX-License-Identifier: Apache-2.0

package probe

import (
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"testing"
	"time"

	"github.com/vishvananda/netlink"

	"github.com/layertrace/layertrace/bpf"
	"github.com/layertrace/layertrace/internal/observe"
)

// encryptedTransfer is a long message over TLS.
type encryptedTransfer struct {
	peers
	upload   bool
	from, to net.Conn
	bytes    int64
	written  chan error
	begin    uint64 // ns of CLOCK_MONOTONIC
}

// beginTransfer begins to write the second request of a connection, or the response to it.
func (p pair) beginTransfer(t *testing.T, a authority, upload bool, bytes int) *encryptedTransfer {
	t.Helper()
	x := &encryptedTransfer{peers: p.connectTLS(t, "10.91.0.2", a.client(), a.server()), upload: upload, bytes: int64(bytes), written: make(chan error, 1)}
	x.exchange(exchangeSizes{[]int{100}, []int{200}})
	x.from, x.to = x.server, x.client
	if upload {
		x.from, x.to = x.client, x.server
	} else {
		x.pass(x.client, x.server)
	}
	x.begin = monotonic(t)
	go func() { x.written <- writeAll(x.from, []int{bytes}) }()
	return x
}

// pass sends a short message.
func (x *encryptedTransfer) pass(from, to net.Conn) {
	x.t.Helper()
	must(x.t, writeAll(from, []int{100}))
	_, err := io.CopyN(io.Discard, to, 100)
	must(x.t, err)
}

// finish reads the message, and responds to a request. It returns how long all of it took.
func (x *encryptedTransfer) finish() (took uint64) {
	x.t.Helper()
	_, err := io.CopyN(io.Discard, x.to, x.bytes)
	must(x.t, err)
	must(x.t, <-x.written)
	took = monotonic(x.t) - x.begin
	if x.upload {
		x.pass(x.server, x.client)
	}
	return took
}

// waitsOf returns the waits of the transfer's message. No other message has any.
func (x *encryptedTransfer) waitsOf(e *Encrypted) (w waits, zeroWindows uint32) {
	x.t.Helper()
	sockets := 0
	for _, turns := range e.turnsOf(x.t, x.peers) {
		for i, turn := range turns {
			long, short := &turn.Response, &turn.Request
			if x.upload {
				long, short = short, long
			}
			if i != len(turns)-1 || turn.Socket == nil {
				if long.Waited+long.Unread+short.Waited+short.Unread > uint64(5*time.Millisecond) {
					x.t.Errorf("turn %d, socket %v: another message has waits: %+v", i, turn.Socket != nil, turn)
				}
				continue
			}
			sockets++
			if short.Held != 0 || short.Unread != 0 {
				x.t.Errorf("client %v: the short message has waits: %+v", turn.Socket.Client, short.Message)
			}
			if turn.Socket.Client == x.upload {
				w.waited, w.held, w.stalled = long.Waited, long.Held, long.Stalled
				if long.Unread != 0 {
					x.t.Errorf("the sender's socket: unread for %d ns", long.Unread)
				}
			} else {
				w.unread, zeroWindows = long.Unread, turn.ZeroWindows
				if long.Waited != 0 {
					x.t.Errorf("the reader's socket: waited for %d ns", long.Waited)
				}
			}
		}
	}
	if sockets != 2 {
		x.t.Fatalf("%d sockets, want both", sockets)
	}
	return w, zeroWindows
}

func tcpOf(c net.Conn) *net.TCPConn { return c.(*tls.Conn).NetConn().(*net.TCPConn) }

// TestEncryptedSlowReader: for as long as a reader does not read, the sender waits, is held
// up, and is stalled, and data is unread, in the turn that is open as in one that has ended;
// on kernels that do not report the start of a write too.
func TestEncryptedSlowReader(t *testing.T) {
	if !inNamespace(t) {
		return
	}
	p, a := newPair(t, true), newAuthority(t, 1)
	for _, older := range []bool{false, true} {
		for _, upload := range []bool{false, true} {
			t.Run(fmt.Sprintf("older kernel %v, upload %v", older, upload), func(t *testing.T) {
				if older {
					without(t, "tcp_sendmsg_locked")
				}
				e := openEncrypted(t, EncryptedOptions{SocketCgroups: []string{ownCgroup(t)}, Drivers: true})
				must(t, e.Attach(p.ifindex))
				x := p.beginTransfer(t, a, upload, 16<<20)
				poll(t, "only the reader holds the sender up", func() bool {
					info := tcpInfo(t, tcpOf(x.from))
					return info.Unacked == 0 && info.Notsent_bytes != 0
				})
				since := monotonic(t)
				wait(t, 400*time.Millisecond)
				paused := monotonic(t) - since
				took := x.finish()
				for _, open := range []bool{true, false} {
					w, zeroWindows := x.waitsOf(e)
					for name, ns := range map[string]uint64{"waited": w.waited, "held": w.held, "stalled": w.stalled, "unread": w.unread} {
						// Waits are in units of 1024 ns.
						if ns+1024 < paused || ns > took {
							t.Errorf("turn open %v: %s for %d ns, the reader did not read for %d ns of %d ns", open, name, ns, paused, took)
						}
					}
					if zeroWindows == 0 {
						t.Errorf("turn open %v: no window of 0", open)
					}
					if open {
						must(t, x.client.Close()) // the turn ends
						must(t, x.server.Close())
					}
				}
			})
		}
	}
}

// TestEncryptedSlowNetwork: the sender waits for a slow network, but a reader that reads at
// once leaves nothing unread, and nothing is stalled.
func TestEncryptedSlowNetwork(t *testing.T) {
	if !inNamespace(t) {
		return
	}
	p, a := newPair(t, true), newAuthority(t, 1)
	e := openEncrypted(t, EncryptedOptions{SocketCgroups: []string{ownCgroup(t)}})
	must(t, netlink.QdiscAdd(&netlink.Tbf{
		QdiscAttrs: netlink.QdiscAttrs{LinkIndex: p.ifindex, Handle: netlink.MakeHandle(1, 0), Parent: netlink.HANDLE_ROOT},
		Rate:       4 << 20, Limit: 8 << 20, Buffer: 1 << 20,
	}))
	starved := starvation(t)
	x := p.beginTransfer(t, a, true, 2<<20)
	took := x.finish()
	starved = starvation(t) - starved
	w, _ := x.waitsOf(e)
	t.Logf("%+v of %d ns", w, took)
	if w.waited < took/2 || w.waited > took {
		t.Errorf("the sender waited for %d ns of %d ns", w.waited, took)
	}
	if limit := uint64(20*time.Millisecond) + starved; w.unread > limit || w.stalled > limit {
		t.Errorf("unread for %d ns, stalled for %d ns, without a processor for %d ns", w.unread, w.stalled, starved)
	}
}

// TestEncryptedDrops: what a queue drops is counted at the interface and at the sending socket,
// with the reason, and what passes after it has its turn.
func TestEncryptedDrops(t *testing.T) {
	if !inNamespace(t) {
		return
	}
	p, a := newPair(t, false), newAuthority(t, 1)
	e := openEncrypted(t, EncryptedOptions{SocketCgroups: []string{ownCgroup(t)}, Drivers: true})
	must(t, e.Attach(p.ifindex))
	nic, err := netlink.LinkByIndex(p.ifindex)
	must(t, err)
	// 8 MB/s with room for a few packets, which the first flight exceeds.
	must(t, netlink.QdiscAdd(&netlink.Tbf{
		QdiscAttrs: netlink.QdiscAttrs{LinkIndex: p.ifindex, Handle: netlink.MakeHandle(1, 0), Parent: netlink.HANDLE_ROOT},
		Rate:       8_000_000, Limit: 6_000, Buffer: 3_000 * 15625 / 8_000_000 * 1000,
	}))
	x := p.beginTransfer(t, a, true, 200_000)
	x.finish()
	qdiscs, err := netlink.QdiscList(nic)
	must(t, err)
	dropped := qdiscs[0].Attrs().Statistics.Queue.Drops
	if dropped == 0 {
		t.Fatal("the queue dropped nothing")
	}
	seen := 0
	for _, turns := range e.turnsOf(t, x.peers) {
		drops, reason := uint32(0), ""
		for _, turn := range turns {
			drops += turn.Drops
			if turn.DropReason != "" {
				reason = turn.DropReason
			}
		}
		if s := turns[0].Socket; s != nil && !s.Client {
			if drops != 0 {
				t.Errorf("at the receiver: %d drops because of %q", drops, reason)
			}
			continue
		}
		seen++
		// A dropped packet without data is in no turn.
		if drops == 0 || drops > dropped || reason == "" {
			t.Errorf("socket %v: %d drops because of %q, the queue dropped %d", turns[0].Socket != nil, drops, reason, dropped)
		}
		if last := turns[len(turns)-1]; last.Flags&observe.TurnDesynchronized != 0 || last.Request.Bytes < 200_000 {
			t.Errorf("socket %v: %+v", turns[0].Socket != nil, last)
		}
	}
	if seen != 2 {
		t.Errorf("%d points where packets were dropped, want interface and socket", seen)
	}
}

// TestEncryptedDriverGetsACopy: a message that is dropped at its interface, with nothing queued,
// has left when the driver gets the retransmission. So has one of which only the last packet is
// dropped, but its first byte left at once.
func TestEncryptedDriverGetsACopy(t *testing.T) {
	needsTCX(t)
	if !inNamespace(t) {
		return
	}
	p, a := newPair(t, false), newAuthority(t, 1)
	e := openEncrypted(t, EncryptedOptions{Drivers: true})
	must(t, e.Attach(p.ifindex))
	c := p.connectTLS(t, "10.91.0.2", a.client(), a.server())
	direct := exchangeSizes{[]int{1000}, []int{1000}}
	c.exchange(direct)
	for _, test := range []struct {
		name   string
		passes []int // writes that pass, then one that is dropped
	}{{"all of it", nil}, {"the last packet", []int{700}}} {
		lost := e.count(t, bpf.EncryptedEncryptedCounterENCRYPTED_COUNTER_DROPPED)
		begun, dropping := monotonic(t), uint64(0)
		must(t, writeAll(c.client, test.passes))
		dropAll(t, p.ifindex, func() {
			must(t, writeAll(c.client, []int{900}))
			poll(t, "a packet is dropped", func() bool {
				return e.count(t, bpf.EncryptedEncryptedCounterENCRYPTED_COUNTER_DROPPED) > lost
			})
			dropping = monotonic(t)
		})
		_, err := io.CopyN(io.Discard, c.server, int64(sum(test.passes)+900))
		must(t, err)
		must(t, writeAll(c.server, []int{1000}))
		_, err = io.CopyN(io.Discard, c.client, 1000)
		must(t, err)
		turns := e.turnsOf(t, c)[0]
		q := turns[len(turns)-1].Request
		if q.Last > dropping || q.Tx.Last < dropping || q.Tx.Last > monotonic(t) {
			t.Errorf("%s dropped: %+v, want the last byte to leave after %d", test.name, q.Message, dropping)
		}
		if atOnce := q.Tx.First < q.Tx.Last; atOnce != (len(test.passes) > 0) || q.Tx.First < begun {
			t.Errorf("%s dropped: %+v, want the first byte to leave at once: %v", test.name, q.Message, len(test.passes) > 0)
		}
	}
	c.exchange(direct)
	turns := e.turnsOf(t, c)[0]
	if q := turns[len(turns)-1].Request; q.Tx != (observe.Extent{First: q.First, Last: q.Last}) {
		t.Errorf("after that: %+v, want transmitted at once", q.Message)
	}
}
