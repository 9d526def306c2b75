// SPDX-License-Identifier: Apache-2.0

package probe

import (
	"fmt"
	"io"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// A sender is stalled for as long as its peer does not read, whether its writes block or
// wait for room otherwise.
func TestStalledByTheReader(t *testing.T) {
	if !inNamespace(t) {
		return
	}
	checkStalls(t, newLoopback(t))
}

// Kernels before 6.16 do not report the start of a write: the acknowledgements suffice.
func TestStalledWithoutWrites(t *testing.T) {
	needs(t, HaveTracepoint("sock_send_length", 2))
	if !inNamespace(t) {
		return
	}
	without(t, "tcp_sendmsg_locked")
	checkStalls(t, newLoopback(t))
}

// checkStalls compares Stalled with the times that readers paused.
func checkStalls(t *testing.T, k *kernel) {
	t.Helper()
	for _, upload := range []bool{false, true} {
		for _, blocking := range []bool{false, true} {
			for _, pause := range []time.Duration{300 * time.Millisecond, time.Second} {
				t.Run(fmt.Sprintf("upload %v, blocking %v, %v", upload, blocking, pause), func(t *testing.T) {
					x := newTransfer(t, upload, 8<<20)
					written := x.write(blocking, x.message)
					stuck := x.awaitStuck()
					wait(t, pause)
					low := monotonic(t) - stuck
					x.finish(written)
					checkStalled(t, k, upload, low, monotonic(t)-x.begin)
				})
			}
		}
	}
}

// An application that pauses between two writes is not stalled, while there is room.
func TestPausingSenderIsNotStalled(t *testing.T) {
	if !inNamespace(t) {
		return
	}
	k := newLoopback(t)
	const pause = 300 * time.Millisecond
	for _, upload := range []bool{false, true} {
		x := newTransfer(t, upload, 1<<16)
		half := len(x.message) / 2
		must(t, <-x.write(false, x.message[:half]))
		wait(t, pause)
		x.finish(x.write(false, x.message[half:]))
		checkStalled(t, k, upload, 0, uint64(pause)/10)
	}
}

// A sender that pauses with nothing left to send is not stalled either, even if its peer
// has no room: it is from its next write on.
func TestStalledFromTheWriteOn(t *testing.T) {
	needsWrites(t)
	if !inNamespace(t) {
		return
	}
	k := newLoopback(t)
	const pause, stalled = time.Second, 300 * time.Millisecond
	for _, upload := range []bool{false, true} {
		x := newTransfer(t, upload, 1<<20)
		sent := x.fillWindow()
		wait(t, pause)
		begin := monotonic(t)
		written := x.write(false, x.message[sent:])
		wait(t, stalled)
		low := monotonic(t) - begin - uint64(stalled)/10
		x.finish(written)
		checkStalled(t, k, upload, low, monotonic(t)-begin)
	}
}

// A slow link holds the sender up, not the reader.
func TestSlowLinkIsNoStall(t *testing.T) {
	if !inNamespace(t) {
		return
	}
	k := newLoopback(t)
	lo, err := netlink.LinkByName("lo")
	must(t, err)
	must(t, netlink.QdiscAdd(&netlink.Tbf{
		QdiscAttrs: netlink.QdiscAttrs{LinkIndex: lo.Attrs().Index, Handle: netlink.MakeHandle(1, 0), Parent: netlink.HANDLE_ROOT},
		Rate:       4 << 20, // bytes per second
		Limit:      8 << 20, Buffer: 1 << 20,
	}))
	for _, upload := range []bool{false, true} {
		x := newTransfer(t, upload, 4<<20)
		x.finish(x.write(false, x.message))
		if lasted := time.Duration(monotonic(t) - x.begin); lasted < 300*time.Millisecond {
			t.Fatalf("the link is not slow: the message passed in %v", lasted)
		}
		checkStalled(t, k, upload, 0, uint64(20*time.Millisecond))
	}
}

// transferred is a long message on its way, in an exchange of its own connection.
type transferred struct {
	t              *testing.T
	upload         bool
	message        string
	client, server *net.TCPConn
	from, to       *net.TCPConn
	begin          uint64 // ns of CLOCK_MONOTONIC
}

func newTransfer(t *testing.T, upload bool, body int) *transferred {
	t.Helper()
	x := &transferred{t: t, upload: upload}
	x.client, x.server = connect(t)
	x.from, x.to = x.server, x.client
	head := "HTTP/1.1 200 OK\r\n"
	if upload {
		x.from, x.to = x.client, x.server
		head = fmt.Sprintf("POST / HTTP/1.1\r\ntraceparent: 00-%s-%s-01\r\n", traceID(0), spanID(0))
	} else {
		receiveRequest(t, x.client, x.server)
	}
	x.message = head + fmt.Sprintf("content-length: %d\r\n\r\n", body) + strings.Repeat("x", body)
	x.begin = monotonic(t)
	return x
}

// write begins to write a part of the message, with one blocking call or with Go's.
func (x *transferred) write(blocking bool, part string) <-chan error {
	done := make(chan error, 1)
	go func() {
		if !blocking {
			_, err := io.WriteString(x.from, part)
			done <- err
			return
		}
		file, err := x.from.File()
		if err != nil {
			done <- err
			return
		}
		defer file.Close()
		// Fd makes both descriptors blocking.
		n, err := unix.Write(int(file.Fd()), []byte(part))
		if err == nil && n != len(part) {
			err = io.ErrShortWrite
		}
		done <- err
	}()
	return done
}

// awaitStuck waits until only the peer's window holds the sender up, and returns since
// when that is so.
func (x *transferred) awaitStuck() uint64 {
	x.t.Helper()
	poll(x.t, "the window is closed", func() bool {
		info := tcpInfo(x.t, x.from)
		return info.Unacked == 0 && info.Notsent_bytes != 0
	})
	return monotonic(x.t)
}

// fillWindow writes the message's beginning, exactly as much as the peer has room for.
func (x *transferred) fillWindow() (sent int) {
	x.t.Helper()
	poll(x.t, "the window is closed, and nothing is left to send", func() bool {
		info := tcpInfo(x.t, x.from)
		if info.Unacked != 0 || info.Notsent_bytes != 0 {
			return false
		}
		if room := int(info.Snd_wnd); room > 0 {
			n, err := io.WriteString(x.from, x.message[sent:sent+room])
			must(x.t, err)
			sent += n
			return false
		}
		return true
	})
	return sent
}

// finish reads the message, and responds to a request.
func (x *transferred) finish(written <-chan error) {
	x.t.Helper()
	_, err := io.ReadFull(x.to, make([]byte, len(x.message)))
	must(x.t, err)
	must(x.t, <-written)
	if x.upload {
		send(x.t, x.server, x.client, ok200)
	}
}

// wait waits until the time is over.
func wait(t *testing.T, pause time.Duration) {
	t.Helper()
	until := monotonic(t) + uint64(pause)
	poll(t, "the pause is over", func() bool { return monotonic(t) >= until })
}

// checkStalled compares the exchange at both sockets, in ns.
func checkStalled(t *testing.T, k *kernel, atClient bool, low, high uint64) {
	t.Helper()
	for _, x := range k.exchanges() {
		got, other := x.Response.Stalled, x.Request.Stalled
		if x.Socket.Client {
			got, other = other, got
		}
		wantLow, wantHigh := low, high
		if x.Socket.Client != atClient {
			wantLow, wantHigh = 0, 0
		}
		if got < wantLow || got > wantHigh || other != 0 {
			t.Errorf("client %v: stalled for %d ns, want %d to %d; the message that came in: %d", x.Socket.Client, got, wantLow, wantHigh, other)
		}
	}
}
