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

	"github.com/layertrace/layertrace/internal/observe"
)

// long is a body of more than the buffers between two sockets hold.
const long = 8 << 20

// pausedTolerance is how much of a reader's pause may be missing in Stalled: until its
// window is closed, and it acknowledges the last bytes, which TCP may delay for two times
// 40 ms.
const pausedTolerance = 120 * time.Millisecond

// messageOf returns a message with a body of n bytes.
func messageOf(upload bool, n int) string {
	head := fmt.Sprintf("HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n", n)
	if upload {
		head = fmt.Sprintf("POST / HTTP/1.1\r\nContent-Length: %d\r\ntraceparent: 00-%s-%s-01\r\n\r\n", n, traceID(0), spanID(0))
	}
	return head + strings.Repeat("x", n)
}

// atSender returns the exchange at the socket that sent the message, and that message.
func atSender(t *testing.T, k *kernel, upload bool) (message, other observe.Message) {
	t.Helper()
	found := 0
	for _, x := range k.exchanges() {
		if x.Socket.Client != upload {
			continue
		}
		found++
		if message, other = x.Response, x.Request; upload {
			message, other = other, message
		}
	}
	if found != 1 {
		t.Fatalf("%d exchanges at the sender's socket, want 1", found)
	}
	return message, other
}

// transfer sends a message while read reads it at the other end, within a whole
// exchange. It returns the time that the writing took.
func transfer(t *testing.T, upload bool, message string, write func(*net.TCPConn), read func(*net.TCPConn)) time.Duration {
	t.Helper()
	client, server := connect(t)
	from, to := server, client
	if upload {
		from, to = client, server
	} else {
		receiveRequest(t, client, server)
	}
	done := make(chan time.Duration)
	go func() {
		begin := time.Now()
		write(from)
		done <- time.Since(begin)
	}()
	read(to)
	_, err := io.ReadFull(to, make([]byte, len(message)))
	must(t, err)
	took := <-done
	if upload {
		send(t, server, client, ok200)
	}
	return took
}

// A reader that pauses holds up the sender, whether its write blocks or is repeated
// when there is room, and the sender's socket knows for how long.
func TestStalledByThePausingReader(t *testing.T) {
	if !inNamespace(t) {
		return
	}
	k := newLoopback(t)
	for _, upload := range []bool{false, true} {
		for _, blocking := range []bool{false, true} {
			for _, pause := range []time.Duration{300 * time.Millisecond, time.Second} {
				t.Run(fmt.Sprintf("upload %v, blocking %v, %v", upload, blocking, pause), func(t *testing.T) {
					message := messageOf(upload, long)
					took := transfer(t, upload, message, func(c *net.TCPConn) { writeAs(t, c, message, blocking) },
						func(*net.TCPConn) { <-time.After(pause) })
					sent, other := atSender(t, k, upload)
					got := time.Duration(sent.Stalled)
					if got < pause-pausedTolerance || got > took+pausedTolerance {
						t.Errorf("stalled for %v; the reader paused for %v, and the writing took %v", got, pause, took)
					}
					if other.Stalled != 0 {
						t.Errorf("the other message stalled for %d ns", other.Stalled)
					}
				})
			}
		}
	}
}

// writeAs writes with one blocking call, or with Go's non-blocking ones.
func writeAs(t *testing.T, c *net.TCPConn, message string, blocking bool) {
	if !blocking {
		if _, err := io.WriteString(c, message); err != nil {
			t.Error(err)
		}
		return
	}
	f, err := c.File()
	if err != nil {
		t.Error(err)
		return
	}
	defer f.Close()
	fd := int(f.Fd())
	if err := unix.SetNonblock(fd, false); err != nil {
		t.Error(err)
	}
	if n, err := unix.Write(fd, []byte(message)); err != nil || n != len(message) {
		t.Errorf("wrote %d of %d bytes: %v", n, len(message), err)
	}
	if err := unix.SetNonblock(fd, true); err != nil {
		t.Error(err)
	}
}

// An application that pauses between two writes is not held up.
func TestPausingWriterIsNotStalled(t *testing.T) {
	if !inNamespace(t) {
		return
	}
	k := newLoopback(t)
	for _, upload := range []bool{false, true} {
		message := messageOf(upload, 1<<16)
		transfer(t, upload, message, func(c *net.TCPConn) {
			writeAs(t, c, message[:1<<15], false)
			<-time.After(300 * time.Millisecond)
			writeAs(t, c, message[1<<15:], false)
		}, func(*net.TCPConn) {})
		if sent, _ := atSender(t, k, upload); sent.Stalled > uint64(10*time.Millisecond) {
			t.Errorf("upload %v: stalled for %d ns", upload, sent.Stalled)
		}
	}
}

// A slow link holds up the sender, not the reader.
func TestSlowLinkIsNoStall(t *testing.T) {
	if !inNamespace(t) {
		return
	}
	k := newLoopback(t)
	lo, err := netlink.LinkByName("lo")
	must(t, err)
	const rate = 4 << 20 // bytes per second
	must(t, netlink.QdiscAdd(&netlink.Tbf{
		QdiscAttrs: netlink.QdiscAttrs{LinkIndex: lo.Attrs().Index, Handle: netlink.MakeHandle(1, 0), Parent: netlink.HANDLE_ROOT},
		Rate:       rate, Limit: long, Buffer: 1 << 20,
	}))
	for _, upload := range []bool{false, true} {
		message := messageOf(upload, 4<<20)
		took := transfer(t, upload, message, func(c *net.TCPConn) { writeAs(t, c, message, false) }, func(*net.TCPConn) {})
		sent, _ := atSender(t, k, upload)
		if lasted := time.Duration(sent.Last - sent.First); lasted < 300*time.Millisecond {
			t.Fatalf("the link is not slow: the message passed in %v", lasted)
		}
		if sent.Stalled > uint64(20*time.Millisecond) {
			t.Errorf("upload %v: stalled for %d ns of %v", upload, sent.Stalled, took)
		}
	}
}
