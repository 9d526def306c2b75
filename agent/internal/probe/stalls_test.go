// SPDX-License-Identifier: Apache-2.0

package probe

import (
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/link"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/layertrace/layertrace/internal/observe"
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
// has no room: it is from its next write on. Kernels that report only the end of a write
// (before 6.16) count such a stall from the first probe of the window on.
func TestStalledFromTheWriteOn(t *testing.T) {
	needs(t, HaveTracepoint("tcp_sendmsg_locked", 2))
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

// waits are the sums of what an exchange's sockets measured, in ns.
type waits struct{ waited, held, stalled, unread uint64 }

// waitsOf returns what the sender's socket (waited, held, stalled) and the reader's (unread) say
// of a message, and checks that they say nothing of the other message.
func waitsOf(t *testing.T, exchanges []observe.Observation, upload bool) (w waits) {
	t.Helper()
	if len(exchanges) != 2 {
		t.Fatalf("%d exchanges, want one at each socket", len(exchanges))
	}
	for _, x := range exchanges {
		m, other := &x.Response, &x.Request
		if upload {
			m, other = other, m
		}
		if x.Socket.Client == upload {
			w.waited, w.held, w.stalled = m.Waited, m.Held, m.Stalled
			if m.Unread != 0 {
				t.Errorf("the sender's socket: unread for %d ns", m.Unread)
			}
		} else {
			w.unread = m.Unread
			if m.Waited != 0 || m.Held != 0 || m.Stalled != 0 {
				t.Errorf("the reader's socket: %+v", *m)
			}
		}
		if other.Waited > uint64(time.Millisecond) || other.Held != 0 || other.Stalled != 0 || other.Unread != 0 {
			t.Errorf("client %v, the short message: %+v", x.Socket.Client, *other)
		}
	}
	return w
}

// setMTU lets packets over loopback be as long as on Ethernet.
func setMTU(t *testing.T) netlink.Link {
	t.Helper()
	lo, err := netlink.LinkByName("lo")
	must(t, err)
	must(t, netlink.LinkSetMTU(lo, 1500))
	return lo
}

// The time until a read counts as unread at the reader's socket, and the sender waits as
// long: when the reader's TCP delays the last acknowledgement, when
// the window is small but not closed, so that probes carry data, and when the reader drops
// packets for lack of memory.
func TestUnread(t *testing.T) {
	if !inNamespace(t) {
		return
	}
	k := newLoopback(t)
	setMTU(t)
	const slack = uint64(25 * time.Millisecond) // two processors, and the first flight
	for _, upload := range []bool{false, true} {
		for _, blocking := range []bool{false, true} {
			for _, buffer := range []int{4 << 10, 8 << 10, 64 << 10, 65<<10 + 300, 0} {
				t.Run(fmt.Sprintf("upload %v, blocking %v, buffer %d", upload, blocking, buffer), func(t *testing.T) {
					// The longest pause begins first, and the others pass within it.
					pauses := []time.Duration{time.Second, 300 * time.Millisecond, 100 * time.Millisecond}
					all := make([]*unread, len(pauses))
					for i := range all {
						all[i] = beginUnread(t, upload, blocking, buffer)
					}
					for i, x := range slices.Backward(all) {
						x.finish(pauses[i])
					}
					exchanges := k.exchanges()
					if len(exchanges) != 2*len(all) {
						t.Errorf("%d exchanges, want one at each of %d sockets", len(exchanges), 2*len(all))
					}
					for i, x := range all {
						t.Run(pauses[i].String(), func(t *testing.T) {
							w := waitsOf(t, x.of(exchanges), upload)
							if w.unread+slack < x.paused || w.unread > x.took {
								t.Errorf("unread for %d ns of %d ns", w.unread, x.paused)
							}
							if w.waited+slack < x.paused || w.waited > x.took {
								t.Errorf("the sender waited for %d ns of %d ns", w.waited, x.paused)
							}
						})
					}
				})
			}
		}
	}
}

// unread is a message whose sender waits for the reader.
type unread struct {
	*transferred
	written      <-chan error
	since        uint64 // the sender waits
	paused, took uint64 // ns: the reader did not read; all of it
}

// beginUnread begins a transfer, with a receive buffer of this size unless it is 0.
func beginUnread(t *testing.T, upload, blocking bool, buffer int) *unread {
	t.Helper()
	x := &unread{transferred: newTransfer(t, upload, 3_000_000)}
	if buffer > 0 {
		must(t, x.to.SetReadBuffer(buffer))
	}
	x.written = x.write(blocking, x.message)
	poll(t, "the sender waits", func() bool { return tcpInfo(t, x.from).Notsent_bytes != 0 })
	x.since = monotonic(t)
	return x
}

// finish reads after the pause.
func (x *unread) finish(pause time.Duration) {
	x.t.Helper()
	poll(x.t, "the pause is over", func() bool { return monotonic(x.t) >= x.since+uint64(pause) })
	x.paused = monotonic(x.t) - x.since
	x.transferred.finish(x.written)
	x.took = monotonic(x.t) - x.begin
}

// of returns those of these exchanges that are of the transfer's connection.
func (x *unread) of(exchanges []observe.Observation) (own []observe.Observation) {
	port := x.client.LocalAddr().(*net.TCPAddr).AddrPort().Port()
	for _, o := range exchanges {
		if o.Client.Port() == port {
			own = append(own, o)
		}
	}
	return own
}

// A response that has arrived as a whole ends with the read of its last part.
func TestReaderOfAPart(t *testing.T) {
	if !inNamespace(t) {
		return
	}
	k := newLoopback(t)
	x := newTransfer(t, false, 50_000)
	must(t, <-x.write(true, x.message))
	poll(t, "all of it has arrived", func() bool { return waiting(t, x.client) == len(x.message) })
	read := func(n int) {
		_, err := io.ReadFull(x.client, make([]byte, n))
		must(t, err)
	}
	read(4096)
	for _, o := range k.settle() {
		if o.Socket.Client {
			t.Fatalf("reported while %d bytes are unread: %+v", len(x.message)-4096, o)
		}
	}
	again := monotonic(t)
	read(len(x.message) - 4096 - 2) // some readers leave the last CRLF
	got := k.settle()
	if len(got) != 1 || !got[0].Socket.Client || got[0].Flags != 0 || got[0].Response.App.Last < again {
		t.Errorf("want the client's exchange, read until after %d: %+v", again, got)
	}
}

// A reader that reads little at a time is slow all the time.
func TestUnreadByATrickle(t *testing.T) {
	if !inNamespace(t) {
		return
	}
	k := newLoopback(t)
	setMTU(t)
	for _, upload := range []bool{false, true} {
		x := newTransfer(t, upload, 1_000_000)
		must(t, x.to.SetReadBuffer(32<<10))
		written := x.write(false, x.message)
		begin, read := monotonic(t), 0
		for range 20 {
			wait(t, 20*time.Millisecond)
			n, err := x.to.Read(make([]byte, 2000))
			must(t, err)
			read += n
		}
		paused := monotonic(t) - begin
		x.message = x.message[read:]
		x.finish(written)
		w := waitsOf(t, k.exchanges(), upload)
		if ready := min(w.unread, w.waited); ready < paused*3/4 || max(w.unread, w.waited) > monotonic(t)-x.begin {
			t.Errorf("%+v, the reader was slow for %d ns", w, paused)
		}
	}
}

// The network holds the sender up, by a slow link or by lost packets: a reader that reads
// at once leaves nothing unread.
func TestNetworkIsNoReader(t *testing.T) {
	if !inNamespace(t) {
		return
	}
	k := newLoopback(t)
	lo := setMTU(t)
	for name, begin := range map[string]func(t *testing.T, lo netlink.Link) (end func()){"slow": slowDown, "lossy": loseSome} {
		for _, upload := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s, upload %v", name, upload), func(t *testing.T) {
				// Which packets are lost is chance: a few transfers pass nearly unharmed.
				for harmed, tries := 0, 0; harmed < 3; tries++ {
					if tries == 20 {
						t.Fatalf("the network had a fault in %d of %d transfers, want 3", harmed, tries)
					}
					x := newTransfer(t, upload, 1_000_000)
					must(t, x.to.SetReadBuffer(64<<10))
					end, starved := begin(t, lo), starvation(t)
					x.finish(x.write(false, x.message))
					took, lost := monotonic(t)-x.begin, tcpInfo(t, x.from).Total_retrans
					end()
					w := waitsOf(t, k.exchanges(), upload)
					t.Logf("%+v of %d ns, %d packets sent again", w, took, lost)
					if took < uint64(100*time.Millisecond) || lost == 0 && name == "lossy" {
						continue
					}
					harmed++
					if w.waited < took/2 {
						t.Errorf("the sender waited for %d ns of %d ns", w.waited, took)
					}
					// On a busy machine the reader is without a processor now and then.
					if starved = starvation(t) - starved; w.unread > uint64(10*time.Millisecond)+starved {
						t.Errorf("unread for %d ns, without a processor for %d ns", w.unread, starved)
					}
				}
			})
		}
	}
}

// starvation returns for how long threads of this process were ready to run, but had no
// processor, in ns; see proc_pid_schedstat() in fs/proc/base.c.
func starvation(t *testing.T) (sum uint64) {
	t.Helper()
	threads, err := filepath.Glob("/proc/self/task/*/schedstat")
	must(t, err)
	for _, file := range threads {
		text, err := os.ReadFile(file)
		if errors.Is(err, os.ErrNotExist) {
			continue // the thread has ended
		}
		must(t, err)
		var ran, waited uint64
		_, err = fmt.Sscan(string(text), &ran, &waited)
		must(t, err)
		sum += waited
	}
	return sum
}

// slowDown lets 2 MiB pass in a second.
func slowDown(t *testing.T, lo netlink.Link) (end func()) {
	t.Helper()
	qdisc := &netlink.Tbf{
		QdiscAttrs: netlink.QdiscAttrs{LinkIndex: lo.Attrs().Index, Handle: netlink.MakeHandle(1, 0), Parent: netlink.HANDLE_ROOT},
		Rate:       2 << 20, Limit: 8 << 20, Buffer: 1 << 20,
	}
	must(t, netlink.QdiscAdd(qdisc))
	return func() { must(t, netlink.QdiscDel(qdisc)) }
}

// loseSome loses one packet of five on its way, acknowledgements too, for half a second.
func loseSome(t *testing.T, lo netlink.Link) (end func()) {
	t.Helper()
	const drop, pass = 1, 2 // enum xdp_action
	program, err := ebpf.NewProgram(&ebpf.ProgramSpec{Type: ebpf.XDP, License: "GPL", Instructions: asm.Instructions{
		asm.FnGetPrandomU32.Call(),
		asm.Mod.Imm(asm.R0, 5),
		asm.JEq.Imm(asm.R0, 0, "drop"),
		asm.Mov.Imm(asm.R0, pass),
		asm.Return(),
		asm.Mov.Imm(asm.R0, drop).WithSymbol("drop"),
		asm.Return(),
	}})
	must(t, err)
	attached, err := link.AttachXDP(link.XDPOptions{Program: program, Interface: lo.Attrs().Index, Flags: link.XDPGenericMode})
	must(t, err)
	ended := make(chan error, 1)
	time.AfterFunc(500*time.Millisecond, func() { ended <- attached.Close() }) // part of the case
	return func() {
		must(t, <-ended)
		must(t, program.Close())
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
		if held := x.Request.Held + x.Response.Held; held < got {
			t.Errorf("client %v: held up for %d ns, but stalled for %d", x.Socket.Client, held, got)
		}
	}
}
