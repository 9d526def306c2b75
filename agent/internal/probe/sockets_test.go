// SPDX-License-Identifier: Apache-2.0

package probe

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"

	"github.com/layertrace/layertrace/bpf"
	"github.com/layertrace/layertrace/internal/observe"
)

// Each request is seen at the sending and at the receiving socket, with the
// application's times in order.
func TestSocketsOfACgroup(t *testing.T) {
	if !inNamespace(t) {
		return
	}
	n := newNetwork(t)
	k := newKernel(t, Options{SocketCgroups: []string{n.group}})
	n.talk(t)
	seen, writes, late := map[bool]int{}, writePoint(), 0
	for _, x := range k.exchanges() {
		if x.Socket == nil {
			t.Fatalf("an exchange without a socket: %+v", x)
		}
		seen[x.Socket.Client]++
		late += checkOrder(t, &x, writes)
	}
	if seen[true] != requests || seen[false] != requests {
		t.Errorf("%d exchanges at the client's socket and %d at the server's, want %d each", seen[true], seen[false], requests)
	}
	checkLate(t, late)
}

// checkOrder checks the order of the times. Without the tracepoint that reports writes,
// the sending process has no time; where that reports the end of a write, also if the
// next request arrives first: it counts these.
func checkOrder(t *testing.T, x *observe.Observation, writes string) (late int) {
	t.Helper()
	q, r := x.Request, x.Response
	times := []uint64{q.First, q.App.First, r.App.First, r.First} // at a server
	lasts := []uint64{q.Last, q.App.Last, r.App.Last, r.Last}
	written := 2
	if x.Socket.Client {
		times = []uint64{q.App.First, q.First, r.First, r.App.First}
		lasts = []uint64{q.App.Last, q.Last, r.Last, r.App.Last}
		written = 0
	}
	if writes == writeEnds && !x.Socket.Client && times[written] == 0 {
		writes, late = "", 1
	}
	if writes == "" {
		if times[written] != 0 || lasts[written] != 0 {
			t.Errorf("client %v: written from %d to %d, but the kernel does not report writes", x.Socket.Client, times[written], lasts[written])
		}
		times, lasts = slices.Delete(times, written, written+1), slices.Delete(lasts, written, written+1)
	}
	for _, row := range [][]uint64{times, lasts} {
		for i, at := range row {
			if at == 0 || i > 0 && at < row[i-1] {
				t.Errorf("client %v: times %d are not in order", x.Socket.Client, row)
				return late
			}
		}
	}
	if x.Socket.Netns == 0 || x.Socket.Cookie == 0 {
		t.Errorf("socket %+v: namespace or cookie is not known", *x.Socket)
	}
	return late
}

// checkLate checks that most ends of writes were reported before the next request.
func checkLate(t *testing.T, late int) {
	t.Helper()
	if late > requests/2 {
		t.Errorf("%d of %d responses have no time of writing", late, requests)
	}
}

// Sockets opened before the capture are seen from its start on.
func TestSocketsOpenedBefore(t *testing.T) {
	if !inNamespace(t) {
		return
	}
	n := newNetwork(t)
	must(t, awaitServer())
	client := n.command(t, "patient client")
	stdin, err := client.StdinPipe()
	must(t, err)
	stdout, err := client.StdoutPipe()
	must(t, err)
	must(t, client.Start())
	_, err = bufio.NewReader(stdout).ReadString('\n')
	must(t, err)
	k := newKernel(t, Options{SocketCgroups: []string{n.group}})
	_, err = io.WriteString(stdin, "\n")
	must(t, err)
	must(t, client.Wait())
	seen, written := map[bool]int{}, 0
	for _, x := range k.exchanges() {
		seen[x.Socket.Client]++
		if x.Socket.Client && x.Request.App.Last != 0 {
			written++
		}
	}
	want := requests - 1
	wantWritten := want
	if writePoint() == "" {
		wantWritten = 0
	}
	if seen[true] != want || seen[false] != want || written != wantWritten {
		t.Errorf("%d exchanges at the client's socket, %d with the time of writing, and %d at the server's, want %d, %d and %d", seen[true], written, seen[false], want, wantWritten, want)
	}
}

// The sending socket knows when its message was acknowledged, even if the peer
// sends nothing else: before the sender's own TCP reports it.
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

// untilAcknowledged sends a message and returns a time, in ns of CLOCK_MONOTONIC,
// by which the sender's TCP had the acknowledgement. The peer reads after that.
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

// A response acknowledges its request, too. A message not acknowledged while the
// exchange is open has no such time.
func TestAcknowledgedWithTheResponse(t *testing.T) {
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
			send(t, pass.from, pass.to, pass.message)
		}
	}
	all := k.exchanges()
	if len(all) != 2*rounds {
		t.Fatalf("%d exchanges, want %d", len(all), 2*rounds)
	}
	withResponse := 0
	for _, x := range all {
		if x.Socket.Client {
			if a := x.Request.Acknowledged; a < x.Request.Last || a > x.Response.First {
				t.Errorf("acknowledged at %d, sent at %d, answered at %d", a, x.Request.Last, x.Response.First)
			} else if a == x.Response.First {
				withResponse++
			}
		} else if a := x.Response.Acknowledged; a != 0 && a < x.Response.Last {
			t.Errorf("acknowledged at %d, sent at %d", a, x.Response.Last)
		}
	}
	if withResponse == 0 {
		t.Error("no response acknowledged its request")
	}
}

// Peeking, as Envoy's listeners do at a connection's first bytes, is not a read.
func TestPeekIsNoRead(t *testing.T) {
	if !inNamespace(t) {
		return
	}
	k := newLoopback(t)
	client, server := connect(t)

	const rounds = 3
	var requestRead, responseRead [rounds]uint64
	for i := range rounds {
		requestRead[i] = pass(t, client, server, tracedRequest(i))
		responseRead[i] = pass(t, server, client, ok200)
	}
	got := k.exchanges()
	if len(got) != 2*rounds {
		t.Fatalf("%d exchanges, want %d", len(got), 2*rounds)
	}
	for _, x := range got {
		for i := range rounds {
			if x.Context.TraceID.String() != traceID(i) {
				continue
			}
			begun, read := requestRead[i], x.Request.App
			if x.Socket.Client {
				begun, read = responseRead[i], x.Response.App
			}
			if read.First < begun {
				t.Errorf("round %d, client %v: read from %d on, but the read began at %d", i, x.Socket.Client, read.First, begun)
			}
		}
	}
}

// pass sends a message, peeks at it and then reads it. It returns the start of
// the read in ns of CLOCK_MONOTONIC.
func pass(t *testing.T, from, to net.Conn, message string) uint64 {
	t.Helper()
	_, err := io.WriteString(from, message)
	must(t, err)
	raw, err := to.(*net.TCPConn).SyscallConn()
	must(t, err)
	buffer := make([]byte, len(message))
	must(t, raw.Read(func(fd uintptr) bool {
		n, _, err := syscall.Recvfrom(int(fd), buffer, syscall.MSG_PEEK|syscall.MSG_DONTWAIT)
		return err == nil && n == len(message) || err != nil && err != syscall.EAGAIN
	}))
	if string(buffer) != message {
		t.Fatalf("peeked %q, want %q", buffer, message)
	}
	now := monotonic(t)
	_, err = io.ReadFull(to, buffer)
	must(t, err)
	return now
}

// A request that has to wait for earlier bytes or its own, because its peer does
// not read, was written before it was sent.
func TestWriteThatWaits(t *testing.T) {
	needsWrites(t)
	if !inNamespace(t) {
		return
	}
	checkWaiting(t, newLoopback(t))
}

// Kernels before 6.16 report the end of a write, which leads to the same times.
func TestEndOfAWrite(t *testing.T) {
	needs(t, HaveTracepoint(writeEnds, 2))
	if !inNamespace(t) {
		return
	}
	without(t, "tcp_sendmsg_locked")
	checkWaiting(t, newLoopback(t))
	n := newNetwork(t)
	k := newKernel(t, Options{SocketCgroups: []string{n.group}})
	n.talk(t)
	seen, late := 0, 0
	for _, x := range k.exchanges() {
		late += checkOrder(t, &x, writeEnds)
		seen++
	}
	if seen != 2*requests {
		t.Errorf("%d exchanges at sockets, want %d", seen, 2*requests)
	}
	checkLate(t, late)
}

// A write that ends when the next request has arrived, but was not read, is not its
// response: a busy server may be interrupted between sending and the end of its write.
func TestWriteBeforeTheRequestIsRead(t *testing.T) {
	if !inNamespace(t) {
		return
	}
	k := newLoopback(t)
	for _, kernel := range []string{"this one", "before 6.16"} {
		if kernel != "this one" {
			without(t, "tcp_sendmsg_locked")
			k = newKernel(t, Options{SocketCgroups: []string{ownCgroup(t)}})
		}
		client, server := connect(t)
		_, err := io.WriteString(client, tracedRequest(0))
		must(t, err)
		poll(t, "the request has arrived", func() bool { return waiting(t, server) > 0 })
		control(t, server, func(fd int) error { // more follows: no packet is sent
			return unix.Sendmsg(fd, []byte("\r\n"), nil, nil, unix.MSG_MORE)
		})
		_, err = io.ReadFull(server, make([]byte, len(tracedRequest(0))))
		must(t, err)
		before := monotonic(t)
		send(t, server, client, ok200)
		client.Close()
		for _, x := range k.exchanges() {
			if h := x.Response.App; !x.Socket.Client && h.First != 0 && h.First < before && x.Response.First >= before {
				t.Errorf("kernel %s: written from %d on, but not before %d", kernel, h.First, before)
			}
		}
	}
}

// waiting returns how many bytes wait for a reader.
func waiting(t *testing.T, conn *net.TCPConn) (bytes int) {
	t.Helper()
	control(t, conn, func(fd int) (err error) {
		bytes, err = unix.IoctlGetInt(fd, unix.SIOCINQ)
		return err
	})
	return bytes
}

// checkWaiting delays requests of this process in two ways and compares their
// write times with the actual ones.
func checkWaiting(t *testing.T, k *kernel) {
	t.Helper()
	long := strings.Repeat("no HTTP\n", 1<<15) // more than the peer takes
	head := fmt.Sprintf(" / HTTP/1.1\r\ntraceparent: 00-%s-%s-01\r\n\r\n", traceID(0), spanID(0))
	for name, messages := range map[string][]string{
		"after others": {long, "GET" + head},
		"long":         {strings.Replace("POST"+head, end+end, fmt.Sprintf("\r\ncontent-length: %d\r\n\r\n", len(long)), 1) + long},
	} {
		t.Run(name, func(t *testing.T) {
			written := writeUnread(t, messages)
			x := onlyAtClient(t, k)
			if x.Request.Last < written {
				t.Errorf("sent until %d, before %d, when the peer had not read", x.Request.Last, written)
			}
			if h := x.Request.App; h.First == 0 || h.Last > written {
				t.Errorf("written from %d to %d, but it was done at %d", h.First, h.Last, written)
			}
		})
	}
}

// writeUnread writes messages to a connection whose peer reads and responds only
// after that. It returns the end of the writes in ns of CLOCK_MONOTONIC.
func writeUnread(t *testing.T, messages []string) (written uint64) {
	t.Helper()
	client, server := connect(t)
	must(t, client.SetWriteBuffer(1<<20))
	raw, err := client.SyscallConn()
	must(t, err)
	must(t, raw.Control(func(fd uintptr) {
		for _, message := range messages {
			// The end of a record: the next data begins a segment.
			n, err := syscall.SendmsgN(int(fd), []byte(message), nil, nil, unix.MSG_EOR|unix.MSG_DONTWAIT)
			if err != nil || n != len(message) {
				t.Errorf("wrote %d of %d bytes: %v", n, len(message), err)
			}
		}
	}))
	written = monotonic(t)
	_, err = io.ReadFull(server, make([]byte, len(strings.Join(messages, ""))))
	must(t, err)
	send(t, server, client, ok200)
	return written
}

// The last part of a request is sent at once, after an earlier part had to wait:
// its own write time counts.
func TestWriteAfterOneThatWaited(t *testing.T) {
	needsWrites(t)
	if !inNamespace(t) {
		return
	}
	k := newLoopback(t)
	client, server := connect(t)

	body, last := strings.Repeat("no HTTP\n", 1<<15), "the end"
	first := fmt.Sprintf("POST / HTTP/1.1\r\ntraceparent: 00-%s-%s-01\r\ncontent-length: %d\r\n\r\n", traceID(0), spanID(0), len(body+last)) + body
	must(t, client.SetWriteBuffer(1<<20))
	send(t, client, server, first)
	poll(t, "all of it is acknowledged", func() bool { return tcpInfo(t, client).Unacked == 0 })
	before := monotonic(t)
	send(t, client, server, last)
	send(t, server, client, ok200)
	x := onlyAtClient(t, k)
	if h := x.Request.App; h.First == 0 || h.First > before || h.Last < before {
		t.Errorf("written from %d to %d, but the end not before %d", h.First, h.Last, before)
	}
}

func TestTooManyCgroups(t *testing.T) {
	groups := strings.Split(strings.Repeat(t.TempDir()+",", 17), ",")[:17]
	p, err := Open(Options{SocketCgroups: groups})
	if err == nil {
		p.Close()
	}
	if err == nil || !strings.Contains(err.Error(), "17 cgroups: the limit is 16") {
		t.Errorf("17 cgroups: %v", err)
	}
}

// Retransmitted data was written before it was lost.
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
	send(t, server, client, ok200)
	x := onlyAtClient(t, k)
	if h := x.Request.App; h.First == 0 || h.Last > written || x.Retransmits == 0 {
		t.Errorf("written from %d to %d, but it was done at %d; %d segments sent again", h.First, h.Last, written, x.Retransmits)
	}
}

// At a write, the program distinguishes the sockets in a target cgroup or below
// from all others that write meanwhile.
func TestChosenCgroups(t *testing.T) {
	needsWrites(t)
	if !inNamespace(t) {
		return
	}
	own := ownCgroup(t)
	for name, test := range map[string]struct {
		targets []string
		want    bool
	}{
		"own":           {[]string{own}, true},
		"one above":     {[]string{filepath.Dir(own)}, true},
		"another":       {[]string{newCgroup(t)}, false},
		"one of others": {[]string{newCgroup(t), newCgroup(t), own}, true},
	} {
		t.Run(name, func(t *testing.T) {
			k := newLoopbackOf(t, test.targets...)
			writeUnread(t, []string{strings.Repeat("no HTTP\n", 1<<15), "GET / HTTP/1.1\r\n\r\n"})
			inTarget, cached := false, false
			for _, result := range cachedCgroups(t, k) {
				inTarget = inTarget || result&1 != 0
				cached = cached || result != 0
			}
			if !cached || inTarget != test.want {
				t.Errorf("cached: %v, in a target: %v, want %v", cached, inTarget, test.want)
			}
		})
	}
}

// A new cgroup does not inherit the cached result of an earlier one at the same
// address.
func TestMadeCgroupIsAskedFor(t *testing.T) {
	needsWrites(t)
	if !inNamespace(t) {
		return
	}
	k := newLoopbackOf(t, newCgroup(t))
	const stale = 1 << 62
	var all bpf.SocketCgroupCache
	for i := range all.Of {
		all.Of[i] = stale
	}
	must(t, k.probe.sockets.collection.Maps[bpf.SocketMapCachedCgroups].Put(uint32(0), &all))
	newCgroup(t)
	if known := cachedCgroups(t, k); !slices.Contains(known, 0) {
		t.Errorf("no entry was cleared: %#x", known)
	}
}

// cachedCgroups returns the programs' results for cgroups.
func cachedCgroups(t *testing.T, k *kernel) []uint64 {
	t.Helper()
	var known bpf.SocketCgroupCache
	must(t, k.probe.sockets.collection.Maps[bpf.SocketMapCachedCgroups].Lookup(uint32(0), &known))
	return known.Of[:]
}

// Writes of a process in a cgroup below the target are recorded.
func TestWriteOfACgroupBelow(t *testing.T) {
	needsWrites(t)
	if !inNamespace(t) {
		return
	}
	above := newCgroup(t)
	below := filepath.Join(above, "below")
	must(t, os.Mkdir(below, 0o755))
	must(t, joinCgroup(below))
	t.Cleanup(func() {
		must(t, joinCgroup(filepath.Dir(above)))
		must(t, os.Remove(below))
	})
	k := newLoopbackOf(t, above)
	checkWaiting(t, k)
}

// A kernel whose kfree_skb has three arguments accepts the program, which then
// ignores the receiver. icmp_send has arguments of the same kinds and takes the
// place of the older kfree_skb.
func TestDropWithoutAReceiver(t *testing.T) {
	const point = "icmp_send"
	must(t, HaveTracepoint(point, dropReceiver-1))
	if HaveTracepoint(point, dropReceiver) == nil {
		t.Fatalf("%s has %d arguments: choose another", point, dropReceiver)
	}
	for _, known := range []bool{false, true} {
		spec, err := bpf.LoadSocket()
		must(t, err)
		for name := range spec.Programs {
			if name != bpf.SocketProgSocketDrop {
				delete(spec.Programs, name)
			}
		}
		spec.Programs[bpf.SocketProgSocketDrop].AttachTo = point
		must(t, setAll(spec, map[string]any{bpf.SocketVarHaveRxSk: known}))
		collection, err := ebpf.NewCollection(spec)
		if err == nil {
			collection.Close()
		}
		if (err == nil) == known {
			t.Errorf("receiver known: %v; loading: %v", known, err)
		}
	}
}

func TestFind(t *testing.T) {
	any := func(string) bool { return true }
	for name, test := range map[string]struct{ dirs, want []string }{
		"systemd":            {[]string{"node/kubepods.slice", "node/system.slice"}, []string{"node/kubepods.slice"}},
		"cgroupfs":           {[]string{"node/kubepods"}, []string{"node/kubepods"}},
		"kind":               {[]string{"node/kubelet.slice/kubelet-kubepods.slice"}, []string{"node/kubelet.slice/kubelet-kubepods.slice"}},
		"beside version 1":   {[]string{"node/unified/kubepods"}, []string{"node/unified/kubepods"}},
		"two drivers":        {[]string{"node/kubepods.slice", "node/kubepods"}, []string{"node/kubepods.slice", "node/kubepods"}},
		"the mount wins":     {[]string{"node/kubepods", "own/kubepods.slice"}, []string{"node/kubepods"}},
		"not in a container": {[]string{"own/kubepods.slice"}, []string{"own/kubepods.slice"}},
	} {
		t.Run(name, func(t *testing.T) {
			root := t.TempDir()
			in := func(names ...string) (all []string) {
				for _, n := range names {
					all = append(all, filepath.Join(root, n))
				}
				return all
			}
			for _, dir := range in(test.dirs...) {
				if err := os.MkdirAll(dir, 0o755); err != nil {
					t.Fatal(err)
				}
			}
			got, err := findPodCgroups(in("node", "node/unified", "own"), any)
			if err != nil || !slices.Equal(got, in(test.want...)) {
				t.Errorf("got %v, %v", got, err)
			}
		})
	}
}

// A directory of the right name on another file system does not count.
func TestFindNothing(t *testing.T) {
	root := t.TempDir()
	if err := os.Mkdir(filepath.Join(root, "kubepods"), 0o755); err != nil {
		t.Fatal(err)
	}
	got, err := findPodCgroups([]string{root}, isCgroup2)
	if err == nil || got != nil || !strings.Contains(err.Error(), "--socket-cgroup") || !strings.Contains(err.Error(), root) {
		t.Errorf("got %v, %v", got, err)
	}
}

// Without pod cgroups the agent works, and logs what it lacks.
func TestNoCgroupOfPods(t *testing.T) {
	var out bytes.Buffer
	log := slog.New(slog.NewTextHandler(&out, nil))
	auto := Options{SocketCgroups: []string{SocketCgroupAuto}, Log: log, Cluster: true}
	if auto.resolveSocketCgroups([]string{t.TempDir()}); auto.SocketCgroups != nil {
		t.Errorf("got %v", auto.SocketCgroups)
	}
	for _, want := range []string{"level=WARN", "no capture at sockets", "--socket-cgroup", "kubepods.slice"} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("it lacks %q: %s", want, &out)
		}
	}
	const named = "/sys/fs/cgroup/pods"
	o := Options{SocketCgroups: []string{named}, Log: log}
	if o.resolveSocketCgroups(nil); !slices.Equal(o.SocketCgroups, []string{named}) {
		t.Errorf("named %v, got %v", named, o.SocketCgroups)
	}
}

// Without pods all processes of a machine are captured, in a cluster none.
func TestRootCgroup(t *testing.T) {
	mount := filepath.Dir(newCgroup(t))
	for name, test := range map[string]struct {
		cluster bool
		mounts  []string
		want    []string
	}{
		"machine":             {false, []string{t.TempDir(), mount}, []string{mount}},
		"cluster":             {true, []string{mount}, nil},
		"cgroup namespace":    {false, []string{newCgroup(t)}, nil},
		"no cgroup version 2": {false, []string{t.TempDir()}, nil},
	} {
		o := Options{SocketCgroups: []string{SocketCgroupAuto}, Log: slog.New(slog.DiscardHandler), Cluster: test.cluster}
		if o.resolveSocketCgroups(test.mounts); !slices.Equal(o.SocketCgroups, test.want) {
			t.Errorf("%s: %v, want %v", name, o.SocketCgroups, test.want)
		}
	}
}

// With all requests those of all processes are captured, also where there are pods.
func TestChooseCgroups(t *testing.T) {
	pods := []string{"/c/kubepods"}
	for _, test := range []struct {
		all, cluster bool
		pods         []string
		root         string
		want         []string
	}{
		{false, false, pods, "/c", pods},
		{true, false, pods, "/c", []string{"/c"}},
		{true, false, nil, "/c", []string{"/c"}},
		{true, false, pods, "", pods},
		{true, true, pods, "/c", pods},
		{false, false, nil, "", nil},
	} {
		o := Options{AllRequests: test.all, Cluster: test.cluster}
		if got := o.chooseCgroups(test.pods, test.root); !slices.Equal(got, test.want) {
			t.Errorf("%+v: %v", test, got)
		}
	}
}
