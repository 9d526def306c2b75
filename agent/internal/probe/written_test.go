// SPDX-License-Identifier: Apache-2.0

package probe

import (
	"fmt"
	"io"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

// A request that has to wait, for earlier bytes or for its own, which its peer
// does not read, was written before it was sent.
func TestWriteThatWaits(t *testing.T) {
	needsWrites(t)
	if !inNamespace(t) {
		return
	}
	checkWaiting(t, newLoopback(t))
}

// Kernels before 6.16 tell of a write when it is over: the same times come of it.
func TestWriteThatIsOver(t *testing.T) {
	needs(t, HaveTracepoint("sock_send_length", 2))
	if !inNamespace(t) {
		return
	}
	without(t, "tcp_sendmsg_locked")
	checkWaiting(t, newLoopback(t))
	n := newNetwork(t)
	k := newKernel(t, Options{Sockets: true, SocketCgroups: []string{n.group}})
	n.talk(t)
	seen := 0
	for _, x := range k.exchanges() {
		checkOrder(t, &x, true)
		seen++
	}
	if seen != 2*requests {
		t.Errorf("%d exchanges at sockets, want %d", seen, 2*requests)
	}
}

// checkWaiting makes requests of this process wait in two ways, and holds when
// they were written against when that was done.
func checkWaiting(t *testing.T, k *kernel) {
	t.Helper()
	long := strings.Repeat("no HTTP\n", 1<<15) // more than the peer takes
	head := fmt.Sprintf(" / HTTP/1.1\r\ntraceparent: 00-%s-%s-01\r\n\r\n", traceID(0), spanID(0))
	for name, messages := range map[string][]string{
		"behind others": {long, "GET" + head},
		"long":          {"POST" + head + long},
	} {
		t.Run(name, func(t *testing.T) {
			written := writeUnread(t, messages)
			x := onlyAtClient(t, k)
			if x.Request.Last < written {
				t.Errorf("sent until %d, which cannot be before %d: nobody read", x.Request.Last, written)
			}
			if h := x.Request.App; h.First == 0 || h.Last > written {
				t.Errorf("written from %d to %d, but it was done at %d", h.First, h.Last, written)
			}
		})
	}
}

// writeUnread writes the messages to a connection, whose peer reads and answers
// only then. It returns when all was written, in ns of CLOCK_MONOTONIC.
func writeUnread(t *testing.T, messages []string) (written uint64) {
	t.Helper()
	client, server := connect(t)
	must(t, client.SetWriteBuffer(1<<20))
	raw, err := client.SyscallConn()
	must(t, err)
	must(t, raw.Control(func(fd uintptr) {
		for _, message := range messages {
			// The end of a record: what comes next begins a segment of its own.
			n, err := syscall.SendmsgN(int(fd), []byte(message), nil, nil, unix.MSG_EOR|unix.MSG_DONTWAIT)
			if err != nil || n != len(message) {
				t.Errorf("wrote %d of %d bytes: %v", n, len(message), err)
			}
		}
	}))
	written = monotonic(t)
	_, err = io.ReadFull(server, make([]byte, len(strings.Join(messages, ""))))
	must(t, err)
	_, err = io.WriteString(server, ok200)
	must(t, err)
	_, err = io.ReadFull(client, make([]byte, len(ok200)))
	must(t, err)
	return written
}

// The last part of a request is sent at once, where an earlier one had to wait:
// its own time counts.
func TestWriteBehindOneThatWaited(t *testing.T) {
	needsWrites(t)
	if !inNamespace(t) {
		return
	}
	k := newLoopback(t)
	client, server := connect(t)

	head := fmt.Sprintf("POST / HTTP/1.1\r\ntraceparent: 00-%s-%s-01\r\n\r\n", traceID(0), spanID(0))
	first := head + strings.Repeat("no HTTP\n", 1<<15)
	must(t, client.SetWriteBuffer(1<<20))
	_, err := io.WriteString(client, first)
	must(t, err)
	_, err = io.ReadFull(server, make([]byte, len(first)))
	must(t, err)
	poll(t, "all of it is acknowledged", func() bool { return tcpInfo(t, client).Unacked == 0 })
	before := monotonic(t)
	_, err = io.WriteString(client, "the end")
	must(t, err)
	_, err = io.ReadFull(server, make([]byte, len("the end")))
	must(t, err)
	_, err = io.WriteString(server, ok200)
	must(t, err)
	_, err = io.ReadFull(client, make([]byte, len(ok200)))
	must(t, err)
	x := onlyAtClient(t, k)
	if h := x.Request.App; h.First == 0 || h.First > before || h.Last < before {
		t.Errorf("written from %d to %d, but the end not before %d", h.First, h.Last, before)
	}
}

// monotonic is now in ns of CLOCK_MONOTONIC.
func monotonic(t *testing.T) uint64 {
	t.Helper()
	var now unix.Timespec
	must(t, unix.ClockGettime(unix.CLOCK_MONOTONIC, &now))
	return uint64(now.Nano())
}

func TestTooManyCgroups(t *testing.T) {
	groups := strings.Split(strings.Repeat(t.TempDir()+",", 17), ",")[:17]
	p, err := Open(Options{Sockets: true, SocketCgroups: groups})
	if err == nil {
		p.Close()
	}
	if err == nil || !strings.Contains(err.Error(), "17 cgroups: the limit is 16") {
		t.Errorf("17 cgroups: %v", err)
	}
}

// What is lost and sent again was written before it was lost.
func TestWriteOfWhatIsSentAgain(t *testing.T) {
	needsWrites(t)
	if !inNamespace(t) {
		return
	}
	k := newLoopback(t)
	client, server := connect(t)
	request := tracedRequest(0)
	var written uint64
	dropAll(t, 1, func() { // lo is the first interface of each namespace
		_, err := io.WriteString(client, request)
		must(t, err)
		written = monotonic(t)
	})
	_, err := io.ReadFull(server, make([]byte, len(request)))
	must(t, err)
	_, err = io.WriteString(server, ok200)
	must(t, err)
	_, err = io.ReadFull(client, make([]byte, len(ok200)))
	must(t, err)
	x := onlyAtClient(t, k)
	if h := x.Request.App; h.First == 0 || h.Last > written || x.Retransmits == 0 {
		t.Errorf("written from %d to %d, but it was done at %d; %d segments sent again", h.First, h.Last, written, x.Retransmits)
	}
}
