// SPDX-License-Identifier: Apache-2.0

package probe

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"fmt"
	"io"
	"math/big"
	mathrand "math/rand/v2"
	"net"
	"net/http"
	"net/netip"
	"os"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/features"
	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"

	"github.com/layertrace/layertrace/bpf"
	"github.com/layertrace/layertrace/internal/observe"
)

// authority has the certificates of both ends of a test's connections.
type authority struct {
	pool *x509.CertPool
	leaf tls.Certificate
}

// newAuthority makes a chain of so many certificates, the root included.
func newAuthority(t *testing.T, chain int) authority {
	t.Helper()
	a := authority{pool: x509.NewCertPool()}
	var parent *x509.Certificate
	var parentKey *ecdsa.PrivateKey
	for i := range chain {
		key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		must(t, err)
		template := &x509.Certificate{
			SerialNumber: big.NewInt(int64(i + 1)), Subject: pkix.Name{CommonName: fmt.Sprintf("layertrace test %d", i)},
			NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
			IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign,
			DNSNames: []string{"test"},
		}
		if parent == nil {
			parent, parentKey = template, key
		}
		der, err := x509.CreateCertificate(rand.Reader, template, parent, &key.PublicKey, parentKey)
		must(t, err)
		certificate, err := x509.ParseCertificate(der)
		must(t, err)
		if i == 0 {
			a.pool.AddCert(certificate)
		}
		a.leaf.Certificate = slices.Insert(a.leaf.Certificate, 0, der)
		a.leaf.PrivateKey = key
		parent, parentKey = certificate, key
	}
	return a
}

func (a authority) client() *tls.Config {
	return &tls.Config{RootCAs: a.pool, ServerName: "test", Certificates: []tls.Certificate{a.leaf}}
}

func (a authority) server() *tls.Config {
	return &tls.Config{Certificates: []tls.Certificate{a.leaf}, ClientCAs: a.pool, ClientAuth: tls.RequireAndVerifyClientCert}
}

// pair is this network namespace and another one, with a veth between them.
type pair struct {
	ifindex int // of the end in this namespace
	other   netns.NsHandle
}

// newPair makes a pair with addresses of both IP versions. The veth does not offload
// segmentation unless offload is set.
func newPair(t *testing.T, offload bool) pair {
	t.Helper()
	must(t, neverResend())
	veth := &netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: "vethc"}, PeerName: "veths"}
	must(t, netlink.LinkAdd(veth))
	p := pair{}
	within(t, nil, func() {
		var err error
		p.other, err = netns.New()
		must(t, err)
		must(t, neverResend())
	})
	t.Cleanup(func() { p.other.Close() })
	peer, err := netlink.LinkByName("veths")
	must(t, err)
	must(t, netlink.LinkSetNsFd(peer, int(p.other)))
	handle, err := netlink.NewHandleAt(p.other)
	must(t, err)
	defer handle.Close()
	for i, end := range []struct {
		h    *netlink.Handle
		name string
	}{{&netlink.Handle{}, "vethc"}, {handle, "veths"}} {
		setUp(t, end.h, end.name, fmt.Sprintf("10.91.0.%d/24", i+1))
		link, err := end.h.LinkByName(end.name)
		must(t, err)
		v6, err := netlink.ParseAddr(fmt.Sprintf("fd91::%d/64", i+1))
		must(t, err)
		v6.Flags = 2 // IFA_F_NODAD: usable at once
		must(t, end.h.AddrAdd(link, v6))
		if !offload {
			must(t, end.h.LinkSetGSOMaxSegs(link, 1))
		}
		if i == 0 {
			p.ifindex = link.Attrs().Index
		}
	}
	return p
}

// listen listens in the other namespace until the test ends.
func (p *pair) listen(t *testing.T) (listener net.Listener) {
	t.Helper()
	within(t, &p.other, func() {
		var err error
		listener, err = net.Listen("tcp", "10.91.0.2:8080")
		must(t, err)
	})
	t.Cleanup(func() { listener.Close() })
	return listener
}

// within calls do in a network namespace: the given one, or one that do makes. The thread
// returns afterwards: /proc/self is of the process's first one.
func within(t *testing.T, ns *netns.NsHandle, do func()) {
	t.Helper()
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	own, err := netns.Get()
	must(t, err)
	defer own.Close()
	defer func() {
		if err := netns.Set(own); err != nil {
			panic(err) // other tests would run elsewhere
		}
	}()
	if ns != nil {
		must(t, netns.Set(*ns))
	}
	do()
}

// exchangeSizes are the bytes of each write of a request, and of its response.
type exchangeSizes struct{ request, response []int }

// exchanged is what the ends did, by their own clocks.
type exchanged struct {
	exchangeSizes
	written, read uint64 // by the client, before the first write and after the last read
	// by the server, after the last read and before the first write
	serverRead, serverWritten uint64
}

func sum(sizes []int) (n uint64) {
	for _, s := range sizes {
		n += uint64(s)
	}
	return n
}

// peers are the two ends of a test's connection.
type peers struct {
	t              *testing.T
	client, server net.Conn
}

// connectTLS opens a connection to the other namespace. It begins the handshake of both.
func (p pair) connectTLS(t *testing.T, host string, client, server *tls.Config) peers {
	t.Helper()
	return p.connect(t, host).overTLS(client, server)
}

// overTLS begins TLS on a connection.
func (raw peers) overTLS(client, server *tls.Config) peers {
	t := raw.t
	t.Helper()
	c := peers{t, tls.Client(raw.client, client), tls.Server(raw.server, server)}
	failed := make(chan error, 1)
	go func() { failed <- c.server.(*tls.Conn).Handshake() }()
	must(t, c.client.(*tls.Conn).Handshake())
	must(t, <-failed)
	return c
}

func (p pair) connect(t *testing.T, host string) peers {
	t.Helper()
	return p.connectFrom(t, host, 0)
}

// connectFrom connects from a port, 0: any.
func (p pair) connectFrom(t *testing.T, host string, port int) peers {
	t.Helper()
	var listener net.Listener
	within(t, &p.other, func() {
		var err error
		listener, err = net.Listen("tcp", net.JoinHostPort(host, "8443"))
		must(t, err)
	})
	defer listener.Close()
	dialer := net.Dialer{LocalAddr: &net.TCPAddr{Port: port}}
	client, err := dialer.Dial("tcp", listener.Addr().String())
	must(t, err)
	t.Cleanup(func() { client.Close() })
	server, err := listener.Accept()
	must(t, err)
	t.Cleanup(func() { server.Close() })
	return peers{t, client, server}
}

// exchange makes one exchange: the server answers when it has read all.
func (c peers) exchange(sizes exchangeSizes) exchanged {
	c.t.Helper()
	x := exchanged{exchangeSizes: sizes}
	failed := make(chan error, 1)
	go func() {
		_, err := io.CopyN(io.Discard, c.server, int64(sum(sizes.request)))
		x.serverRead = monotonic(c.t)
		x.serverWritten = monotonic(c.t)
		failed <- errors.Join(err, writeAll(c.server, sizes.response))
	}()
	x.written = monotonic(c.t)
	must(c.t, writeAll(c.client, sizes.request))
	_, err := io.CopyN(io.Discard, c.client, int64(sum(sizes.response)))
	x.read = monotonic(c.t)
	must(c.t, err)
	must(c.t, <-failed)
	return x
}

func writeAll(to io.Writer, sizes []int) error {
	for _, n := range sizes {
		if _, err := to.Write(make([]byte, n)); err != nil {
			return err
		}
	}
	return nil
}

// openEncrypted opens the programs, and keeps the test on one CPU: those of two may contend
// for a connection, and a machine whose processors are not always running (an emulated one)
// makes that last, until a segment is not read.
func openEncrypted(t *testing.T, opts EncryptedOptions) *Encrypted {
	t.Helper()
	onOneCPU(t)
	return openEncryptedOnAll(t, opts)
}

// openEncryptedOnAll is openEncrypted on all CPUs.
func openEncryptedOnAll(t *testing.T, opts EncryptedOptions) *Encrypted {
	t.Helper()
	e, err := OpenEncrypted(opts)
	must(t, err)
	t.Cleanup(func() { must(t, e.Close()) })
	return e
}

func (e *Encrypted) count(t *testing.T, which bpf.EncryptedEncryptedCounter) uint64 {
	t.Helper()
	n, err := readCounter(e.objects.Maps[bpf.EncryptedMapEncryptedCounters], uint32(which), encryptedCounters[which].name)
	must(t, err)
	return n
}

// turnsOf returns all turns of a connection by capture point.
func (e *Encrypted) turnsOf(t *testing.T, c peers) [][]observe.Turn {
	t.Helper()
	turns, err := e.Turns(nil, addrPort(c.client.LocalAddr()), addrPort(c.client.RemoteAddr()), 0, ^uint64(0))
	must(t, err)
	return byPoint(turns)
}

func byPoint(turns []observe.Turn) (points [][]observe.Turn) {
	for i, turn := range turns {
		if i == 0 || turn.Interface != turns[i-1].Interface || turn.Socket != turns[i-1].Socket {
			points = append(points, nil)
		}
		points[len(points)-1] = append(points[len(points)-1], turn)
	}
	return points
}

func addrPort(a net.Addr) netip.AddrPort {
	ap := a.(*net.TCPAddr).AddrPort()
	return netip.AddrPortFrom(ap.Addr().Unmap(), ap.Port())
}

// Bytes by which a record is longer than its plain text.
const (
	tls13Overhead    = 17
	gcm12Overhead    = 24
	chacha12Overhead = 16
)

// plainBytes returns the plain text's length, less the first records.
func plainBytes(m observe.TurnMessage, overhead uint64, dropped int) uint64 {
	n := m.RecordBytes - uint64(m.Records)*overhead
	for _, r := range m.Leading[:dropped] {
		n -= uint64(r.Length) - overhead
	}
	return n
}

// fits returns after how many leading records a message has so many bytes.
func fits(m observe.TurnMessage, overhead, want uint64) (dropped int, ok bool) {
	for dropped = range len(m.Leading) {
		if plainBytes(m, overhead, dropped) == want {
			return dropped, true
		}
	}
	return 0, false
}

// wantTurns requires a turn for each exchange at each of so many points, with the plain
// text's length to the byte, and times between those of the ends. Only the first turn of a
// connection may begin with records of the handshake.
func wantTurns(t *testing.T, points [][]observe.Turn, want int, overhead uint64, exchanges []exchanged) {
	t.Helper()
	if len(points) != want {
		t.Fatalf("%d points, want %d", len(points), want)
	}
	for _, turns := range points {
		at := "interface"
		if turns[0].Socket != nil {
			at = map[bool]string{true: "client's socket", false: "server's socket"}[turns[0].Socket.Client]
		}
		if len(turns) != len(exchanges) {
			t.Errorf("%s: %d turns, want %d", at, len(turns), len(exchanges))
			continue
		}
		for i, x := range exchanges {
			turn := turns[i]
			wantExchange(t, fmt.Sprintf("%s, turn %d", at, i), turn, overhead, x)
			if isOpen := turn.Flags&observe.TurnOpen != 0; turn.Number != uint64(i) || isOpen != (i == len(exchanges)-1) {
				t.Errorf("%s, turn %d: number %d, open %v", at, i, turn.Number, isOpen)
			}
			if handshake := turn.Flags&observe.TurnHandshake != 0; handshake != (i == 0) {
				t.Errorf("%s, turn %d: flag of the handshake is %v", at, i, handshake)
			}
		}
	}
}

func wantExchange(t *testing.T, at string, turn observe.Turn, overhead uint64, x exchanged) {
	t.Helper()
	q, qFits := fits(turn.Request, overhead, sum(x.request))
	r, rFits := fits(turn.Response, overhead, sum(x.response))
	if !qFits || !rFits {
		t.Errorf("%s: %d and %d bytes of plain text, want %d and %d: %+v", at,
			plainBytes(turn.Request, overhead, 0), plainBytes(turn.Response, overhead, 0), sum(x.request), sum(x.response), turn)
		return
	}
	if turn.Flags&observe.TurnHandshake == 0 && (q > 0 || r > 0) {
		t.Errorf("%s: %d and %d leading records are none of the messages", at, q, r)
	}
	if records := turn.Request.Records - uint32(q); len(x.request) == 1 && records < uint32(sum(x.request)/16384) {
		t.Errorf("%s: %d records", at, records)
	}
	first, last := turn.Request.Leading[q].First, turn.Request.Last
	if first < x.written || last < first || last > x.serverRead {
		t.Errorf("%s: request from %d to %d, written at %d and read at %d", at, first, last, x.written, x.serverRead)
	}
	first, last = turn.Response.Leading[r].First, turn.Response.Last
	if first < x.serverWritten || last < first || last > x.read {
		t.Errorf("%s: response from %d to %d, written at %d and read at %d", at, first, last, x.serverWritten, x.read)
	}
	if turn.Socket != nil && q == 0 && r == 0 {
		wantApplicationTimes(t, at, turn, x)
	}
	if turn.Response.LastLarge > turn.Response.Last || turn.Response.LastLarge < turn.Response.Leading[r].First {
		t.Errorf("%s: last of the large records %d, last %d", at, turn.Response.LastLarge, turn.Response.Last)
	}
	const bad = observe.TurnDesynchronized | observe.TurnPacketsMissing | observe.TurnReset | observe.TurnMiddle
	if turn.Flags&bad != 0 {
		t.Errorf("%s: flags %b", at, turn.Flags)
	}
}

// wantApplicationTimes requires times of reads and writes at a socket, to 16 ns.
func wantApplicationTimes(t *testing.T, at string, turn observe.Turn, x exchanged) {
	t.Helper()
	const unit = 1 << turnTimeShift
	between := func(what string, e observe.Extent, earliest, first, latestFirst, latest uint64) {
		if e.First+unit < earliest || e.First > latestFirst || e.First+unit < first || e.Last+unit < e.First || e.Last > latest {
			t.Errorf("%s: %s from %d to %d, want the first from %d to %d, and the last until %d", at, what, e.First, e.Last, max(earliest, first), latestFirst, latest)
		}
	}
	q, r := turn.Request, turn.Response
	sent, until := r, monotonic(t) // the client's TCP may wait for its next request
	if turn.Socket.Client {
		sent, until = q, x.read // the response acknowledges, at the latest
	}
	waits := sent.Acknowledged == 0 && turn.Flags&observe.TurnOpen != 0 && !turn.Socket.Client
	if (sent.Acknowledged < sent.Last || sent.Acknowledged > until+unit) && !waits {
		t.Errorf("%s: acknowledged at %d, want from %d to %d", at, sent.Acknowledged, sent.Last, until)
	}
	if turn.Socket.Client {
		if writePoint() != "" {
			between("writes of the request", q.App, x.written, 0, q.First, q.Last)
		}
		between("reads of the response", r.App, x.serverWritten, r.First, x.read, x.read)
		return
	}
	between("reads of the request", q.App, x.written, q.First, x.serverRead, x.serverRead)
	if writePoint() != "" {
		between("writes of the response", r.App, x.serverWritten, 0, r.First, r.Last)
	}
}

// TestEncryptedExchanges: real TLS of each kind over a veth, seen at both sockets and at the
// interface, has a turn for each exchange, and no other.
func TestEncryptedExchanges(t *testing.T) {
	if !inNamespace(t) {
		return
	}
	sizes := []exchangeSizes{
		{[]int{100}, []int{200}},
		{[]int{1}, []int{1}},
		{[]int{50, 60, 70}, []int{10, 20, 3000}},
		{[]int{500}, []int{300_000}},
		{[]int{200_000}, []int{100}},
		{[]int{40, 2, 5}, []int{50, 2, 5}}, // of the length of an alert, and of a KeyUpdate
		{[]int{16384}, []int{16384}},
		{[]int{1000, 1000, 100_000}, slices.Repeat([]int{1}, 60)},
	}
	group := ownCgroup(t)
	netns, err := ownNetns()
	must(t, err)
	for _, test := range []struct {
		name     string
		host     string
		chain    int
		suite    uint16 // 0: TLS 1.3
		overhead uint64
		resumed  bool
		offload  bool
		retried  bool // the server asks for another ClientHello
	}{
		{"TLS 1.3", "10.91.0.2", 1, 0, tls13Overhead, false, true, false},
		{"TLS 1.3, without offload", "10.91.0.2", 1, 0, tls13Overhead, false, false, false},
		{"TLS 1.3 over IPv6", "fd91::2", 1, 0, tls13Overhead, false, true, false},
		{"TLS 1.3, long chain", "10.91.0.2", 8, 0, tls13Overhead, false, true, false},
		{"TLS 1.3, long chain without offload", "10.91.0.2", 8, 0, tls13Overhead, false, false, false},
		{"TLS 1.3, resumed", "10.91.0.2", 1, 0, tls13Overhead, true, true, false},
		{"TLS 1.3, hello retried", "10.91.0.2", 4, 0, tls13Overhead, false, true, true},
		{"TLS 1.2 AES-GCM", "10.91.0.2", 1, tls.TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256, gcm12Overhead, false, true, false},
		{"TLS 1.2 ChaCha20", "10.91.0.2", 1, tls.TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256, chacha12Overhead, false, false, false},
		{"TLS 1.2 resumed over IPv6", "fd91::2", 3, tls.TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384, gcm12Overhead, true, false, false},
	} {
		t.Run(test.name, func(t *testing.T) {
			p := newPair(t, test.offload)
			defer func() { must(t, netlink.LinkDel(&netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: "vethc"}})) }()
			e := openEncrypted(t, EncryptedOptions{SocketCgroups: []string{group}})
			must(t, e.Attach(p.ifindex))
			a := newAuthority(t, test.chain)
			client, server := a.client(), a.server()
			client.ClientSessionCache = tls.NewLRUClientSessionCache(1)
			if test.retried {
				client.CurvePreferences, server.CurvePreferences = []tls.CurveID{tls.X25519, tls.CurveP256}, []tls.CurveID{tls.CurveP256}
			}
			if test.suite != 0 {
				client.MaxVersion, client.CipherSuites = tls.VersionTLS12, []uint16{test.suite}
			}
			c := p.connectTLS(t, test.host, client, server)
			if retried := c.client.(*tls.Conn).ConnectionState().HelloRetryRequest; retried != test.retried {
				t.Fatalf("the hello was retried: %v", retried)
			}
			if test.resumed {
				c.exchange(sizes[0]) // which reads the ticket
				must(t, c.client.Close())
				must(t, c.server.Close())
				c = p.connectTLS(t, test.host, client, server)
				if !c.client.(*tls.Conn).ConnectionState().DidResume {
					t.Fatal("the session was not resumed")
				}
			}
			var done []exchanged
			for _, s := range sizes {
				done = append(done, c.exchange(s))
			}
			points := e.turnsOf(t, c)
			wantTurns(t, points, 3, test.overhead, done)
			for _, turns := range points {
				for _, turn := range turns {
					if tls12 := turn.Flags&observe.TurnTLS12 != 0; tls12 != (test.suite != 0) {
						t.Errorf("flag of TLS 1.2 is %v", tls12)
					}
					if s := turn.Socket; s != nil && (int(s.PID) != os.Getpid() || s.ProcessName == "" || s.Cookie == 0 || s.Cgroup == 0 || (s.Netns == netns) != s.Client) {
						t.Errorf("socket %+v, want process %d, at the client in network namespace %d", s, os.Getpid(), netns)
					}
					if turn.Socket == nil && (turn.Direction != observe.DirectionEgress || turn.Interface != p.ifindex) {
						t.Errorf("interface %d %v, want %d and egress", turn.Interface, turn.Direction, p.ifindex)
					}
				}
			}
			for _, which := range []bpf.EncryptedEncryptedCounter{
				bpf.EncryptedEncryptedCounterENCRYPTED_COUNTER_DESYNCHRONIZED, bpf.EncryptedEncryptedCounterENCRYPTED_COUNTER_RECORDS_BEYOND,
				bpf.EncryptedEncryptedCounterENCRYPTED_COUNTER_CONTENDED, bpf.EncryptedEncryptedCounterENCRYPTED_COUNTER_FROM_MIDDLE,
			} {
				if n := e.count(t, which); n != 0 {
					t.Errorf("%s is %d", encryptedCounters[which].name, n)
				}
			}
			// The last turn is open. At a client's socket, so is that of a connection which the
			// client closed: what arrives afterwards passes no socket (TIME_WAIT).
			if n, want := e.count(t, bpf.EncryptedEncryptedCounterENCRYPTED_COUNTER_TURNS), uint64(3*(len(sizes)-1)); n != want && !test.resumed {
				t.Errorf("%d turns kept, want %d", n, want)
			}
		})
	}
}

// TestEncryptedOlderKernels: without a tracepoint at the start of writes their times are those
// of what was sent; without any they are unknown, and so are reads without theirs.
func TestEncryptedOlderKernels(t *testing.T) {
	if !inNamespace(t) {
		return
	}
	needsWrites(t)
	group := ownCgroup(t)
	p, a := newPair(t, true), newAuthority(t, 1)
	for _, missing := range [][]string{
		{"tcp_sendmsg_locked"},
		{"tcp_sendmsg_locked", "sock_send_length"},
		{"tcp_sendmsg_locked", "sock_send_length", "tcp_rcv_space_adjust", "qdisc_dequeue"},
	} {
		t.Run(strings.Join(missing, ","), func(t *testing.T) {
			without(t, missing...)
			e := openEncrypted(t, EncryptedOptions{SocketCgroups: []string{group}, Drivers: true})
			c := p.connectTLS(t, "10.91.0.2", a.client(), a.server())
			var done []exchanged
			for range 3 {
				done = append(done, c.exchange(exchangeSizes{[]int{300, 300_000}, []int{200_000}}))
			}
			points := e.turnsOf(t, c)
			if len(points) != 2 {
				t.Fatalf("%d points, want both sockets", len(points))
			}
			for _, turns := range points {
				if len(turns) != len(done) {
					t.Fatalf("%d turns, want %d", len(turns), len(done))
				}
				for i, turn := range turns {
					written, read := turn.Request.App, turn.Response.App
					if !turn.Socket.Client {
						written, read = read, written
					}
					switch {
					case len(missing) == 1:
						wantApplicationTimes(t, fmt.Sprintf("turn %d", i), turn, done[i])
					case written != (observe.Extent{}) || (read == (observe.Extent{})) != (len(missing) > 2):
						t.Errorf("turn %d: written %+v, read %+v", i, written, read)
					}
				}
			}
		})
	}
}

// TestEncryptedMemory: the kernel takes 216 bytes for each turn, by its own count (memlock in
// proc_pid_fdinfo(5)), and its tables have as many places as the options say. Before Linux 6.4
// that count is computed from the sum of key and value, rounded up to 8 bytes.
func TestEncryptedMemory(t *testing.T) {
	if !inNamespace(t) {
		return
	}
	const (
		turn  = 216
		slack = 2 * 4096 // of the map itself, and to whole pages
	)
	counted := uint64(turn)
	linux, err := features.LinuxVersionCode()
	must(t, err)
	if linux < 6<<16|4<<8 {
		counted += 8 // the key, rounded up
	}
	for _, test := range []struct {
		opts               EncryptedOptions
		turns, connections uint64
	}{
		{EncryptedOptions{}, 65536, 65536},
		{EncryptedOptions{Turns: MinTurns, MaxConnections: 1000}, 1024, 1000},
		{EncryptedOptions{Turns: 1 << 17}, 1 << 17, 65536},
	} {
		e := openEncrypted(t, test.opts)
		got, err := memlock(e.objects.Maps[bpf.EncryptedMapTurns].FD())
		must(t, err)
		if want := test.turns * counted; got < want || got > want+slack {
			t.Errorf("%+v: a ring of %d bytes, want %d", test.opts, got, want)
		}
		for _, name := range []string{bpf.EncryptedMapConnections, bpf.EncryptedMapPointsOfEnds} {
			if n := e.objects.Maps[name].MaxEntries(); uint64(n) != test.connections {
				t.Errorf("%+v: %d places in %s, want %d", test.opts, n, name, test.connections)
			}
		}
	}
}

// memlock reads the memory of a BPF map of this process in bytes.
func memlock(fd int) (n uint64, err error) {
	text, err := os.ReadFile(fmt.Sprintf("/proc/self/fdinfo/%d", fd))
	if err != nil {
		return 0, err
	}
	for line := range strings.Lines(string(text)) {
		if value, ok := strings.CutPrefix(line, "memlock:"); ok {
			return strconv.ParseUint(strings.TrimSpace(value), 10, 64)
		}
	}
	return 0, fmt.Errorf("no memlock in %q", text)
}

// TestEncryptedRange: turns are returned if a part of them lies in the range, also after the
// end of their connection, and until it is forgotten.
func TestEncryptedRange(t *testing.T) {
	if !inNamespace(t) {
		return
	}
	p, a := newPair(t, true), newAuthority(t, 1)
	e := openEncrypted(t, EncryptedOptions{Turns: 8})
	must(t, e.Attach(p.ifindex))
	c := p.connectTLS(t, "10.91.0.2", a.client(), a.server())
	var done []exchanged
	for range 6 {
		done = append(done, c.exchange(exchangeSizes{[]int{100}, []int{200}}))
	}
	client, server := addrPort(c.client.LocalAddr()), addrPort(c.client.RemoteAddr())
	between := func(from, to uint64) (numbers []uint64) {
		t.Helper()
		turns, err := e.Turns(nil, client, server, from, to)
		must(t, err)
		for _, turn := range turns {
			numbers = append(numbers, turn.Number)
		}
		return numbers
	}
	for _, test := range []struct {
		from, to uint64
		want     []uint64
	}{
		{0, done[0].written, nil},
		{0, done[0].read, []uint64{0}},
		{done[1].written, done[2].read, []uint64{1, 2}},
		{done[1].serverRead, done[1].serverWritten, []uint64{1}},
		{done[4].written, ^uint64(0), []uint64{4, 5}},
		{done[5].read, ^uint64(0), nil},
	} {
		if got := between(test.from, test.to); !slices.Equal(got, test.want) {
			t.Errorf("turns %v, want %v", got, test.want)
		}
	}
	must(t, c.client.Close()) // close_notify, FIN
	must(t, c.server.Close())
	poll(t, "the connection ends", func() bool {
		turns, err := e.Turns(nil, client, server, 0, ^uint64(0))
		must(t, err)
		last := turns[len(turns)-1]
		return last.Flags&observe.TurnOpen == 0 && last.Flags&observe.TurnClosed != 0
	})
	turns, err := e.Turns(nil, client, server, 0, ^uint64(0))
	must(t, err)
	last := turns[len(turns)-1]
	if last.Request.Alerts != 1 || last.Request.Records != 2 || last.Request.LastLarge > done[5].serverRead || last.Request.Last <= done[5].read {
		t.Errorf("the client's close_notify is not told from its request: %+v", last.Request)
	}
	if r := last.Response; r.Alerts > 1 || plainBytes(r, tls13Overhead, 0) != 200+2*uint64(r.Alerts) || r.LastLarge > done[5].read {
		t.Errorf("the server's close_notify is not told from its response: %+v", r)
	}
	for range 3 { // of the eight places in the ring, six are taken
		next := p.connectTLS(t, "10.91.0.2", a.client(), a.server())
		next.exchange(exchangeSizes{[]int{100}, []int{200}})
		next.exchange(exchangeSizes{[]int{100}, []int{200}})
	}
	if got := between(0, ^uint64(0)); !slices.Equal(got, []uint64{1, 2, 3, 4, 5}) || e.overwritten.Load() != 1 {
		t.Errorf("after one was overwritten: turns %v, counted %d", got, e.overwritten.Load())
	}
	if left, err := e.sweep(0, time.Hour); err != nil || left != 3 {
		t.Errorf("%d connections left (%v), want 3", left, err)
	}
	if got := between(0, ^uint64(0)); got != nil {
		t.Errorf("after the connection was forgotten: turns %v", got)
	}
	if left, err := e.sweep(0, 0); err != nil || left != 0 {
		t.Errorf("%d connections left (%v), want none", left, err)
	}
	var slots [1 << 14]uint32
	must(t, e.objects.Variables[bpf.EncryptedVarFollowed].Get(&slots))
	if slices.ContainsFunc(slots[:], func(n uint32) bool { return n != 0 }) {
		t.Error("slots of forgotten connections are taken")
	}
}

// TestEncryptedSockets: the sockets of both ends of encrypted connections are listed with the
// connection's ends, by which their turns are found.
func TestEncryptedSockets(t *testing.T) {
	if !inNamespace(t) {
		return
	}
	p, a := newPair(t, true), newAuthority(t, 1)
	e := openEncrypted(t, EncryptedOptions{SocketCgroups: []string{ownCgroup(t)}})
	for _, host := range []string{"10.91.0.2", "fd91::2"} {
		c := p.connectTLS(t, host, a.client(), a.server())
		c.exchange(exchangeSizes{[]int{100}, []int{200}})
		want := observe.Key{
			Client: c.client.LocalAddr().(*net.TCPAddr).AddrPort(),
			Server: c.client.RemoteAddr().(*net.TCPAddr).AddrPort(),
		}
		sides := map[bool]*observe.Socket{}
		must(t, e.Sockets(func(key observe.Key, s *observe.Socket) {
			if key == want {
				sides[s.Client] = s
			}
		}))
		if len(sides) != 2 || sides[true].Cookie == sides[false].Cookie || sides[true].Netns == 0 || sides[true].Netns == sides[false].Netns {
			t.Fatalf("%s: sockets %+v", host, sides)
		}
		turns, err := e.Turns(nil, want.Client, want.Server, 0, ^uint64(0))
		must(t, err)
		found := 0
		for i := range turns {
			if s := turns[i].Socket; s != nil && s.Cookie == sides[s.Client].Cookie {
				found++
			}
		}
		if found != 2 {
			t.Errorf("%s: %d turns at the sockets, want one at each", host, found)
		}
	}
}

// TestEncryptedPortReused: a connection with the ends of an earlier one has turns of its own,
// with the earlier ones before them, whether its SYN was seen or not.
func TestEncryptedPortReused(t *testing.T) {
	if !inNamespace(t) {
		return
	}
	p, a := newPair(t, true), newAuthority(t, 1)
	e := openEncrypted(t, EncryptedOptions{})
	var done []exchanged
	var c peers
	for n := range 3 {
		if n != 1 {
			must(t, e.Attach(p.ifindex))
		}
		raw := p.connectFrom(t, "10.91.0.2", 45678)
		if n == 1 {
			must(t, e.Attach(p.ifindex)) // after the SYN
		}
		c = raw.overTLS(a.client(), a.server())
		for i := range 2 {
			done = append(done, c.exchange(exchangeSizes{[]int{100 + n}, []int{200 + i}}))
		}
		must(t, raw.client.(*net.TCPConn).SetLinger(0))
		must(t, raw.client.Close()) // resets: the port is free
		poll(t, "the connection has ended", func() bool {
			turns := e.turnsOf(t, c)[0]
			return turns[len(turns)-1].Flags&observe.TurnReset != 0
		})
		if n == 0 {
			must(t, e.Detach(p.ifindex))
		}
	}
	turns := e.turnsOf(t, c)[0]
	if len(turns) != len(done) {
		t.Fatalf("%d turns, want %d", len(turns), len(done))
	}
	for i, turn := range turns {
		turn.Flags &^= observe.TurnReset
		wantExchange(t, fmt.Sprintf("turn %d", i), turn, tls13Overhead, done[i])
		if neighbour := i > 0 && turn.Number == turns[i-1].Number+1; neighbour != (i%2 == 1) {
			t.Errorf("turn %d has number %d after %d", i, turn.Number, turns[max(i-1, 0)].Number)
		}
	}
}

// TestEncryptedDuplex: a response that begins during the upload makes several turns, which
// together have all bytes.
func TestEncryptedDuplex(t *testing.T) {
	if !inNamespace(t) {
		return
	}
	p, a := newPair(t, true), newAuthority(t, 1)
	e := openEncrypted(t, EncryptedOptions{})
	must(t, e.Attach(p.ifindex))
	c := p.connectTLS(t, "10.91.0.2", a.client(), a.server())
	const part, parts = 30_000, 5
	for range parts {
		send(t, c.client, c.server, strings.Repeat("q", part))
		send(t, c.server, c.client, strings.Repeat("r", 2*part))
	}
	must(t, c.client.(*tls.Conn).NetConn().(*net.TCPConn).SetLinger(0))
	must(t, c.client.(*tls.Conn).NetConn().Close()) // resets
	var turns []observe.Turn
	poll(t, "the connection ends", func() bool {
		points := e.turnsOf(t, c)
		turns = points[0]
		return turns[len(turns)-1].Flags&observe.TurnReset != 0
	})
	var q, r uint64
	for _, turn := range turns {
		dropped, ok := fits(turn.Response, tls13Overhead, 2*part)
		if !ok {
			t.Errorf("turn %+v", turn)
		}
		q += plainBytes(turn.Request, tls13Overhead, 0)
		r += plainBytes(turn.Response, tls13Overhead, dropped)
	}
	if len(turns) != parts || q != parts*part || r != 2*parts*part {
		t.Errorf("%d turns with %d bytes up and %d down", len(turns), q, r)
	}
}

// TestEncryptedTransmit: a message waits in the queue of its interface, which is seen, or
// passes an interface without one.
func TestEncryptedTransmit(t *testing.T) {
	if !inNamespace(t) {
		return
	}
	p, a := newPair(t, true), newAuthority(t, 1)
	e := openEncrypted(t, EncryptedOptions{Drivers: true})
	must(t, e.Attach(p.ifindex))
	c := p.connectTLS(t, "10.91.0.2", a.client(), a.server())
	direct := c.exchange(exchangeSizes{[]int{20_000}, []int{1000}})
	// 500 kB/s with a burst of 10 kB: an emulated machine is not faster than 2 MB/s when it is busy.
	must(t, netlink.QdiscAdd(&netlink.Tbf{
		QdiscAttrs: netlink.QdiscAttrs{LinkIndex: p.ifindex, Handle: netlink.MakeHandle(1, 0), Parent: netlink.HANDLE_ROOT},
		Rate:       500_000, Limit: 1_000_000, Buffer: 10_000 * 15625 / 500_000 * 1000,
	}))
	queued := c.exchange(exchangeSizes{[]int{100_000}, []int{1000}})
	turns := e.turnsOf(t, c)[0]
	if len(turns) != 2 {
		t.Fatalf("%d turns, want 2", len(turns))
	}
	q := turns[0].Request
	if q.Tx != (observe.Extent{First: q.First, Last: q.Last}) || q.Last > direct.serverRead {
		t.Errorf("without a queue: %+v, want transmitted at once", q.Message)
	}
	q = turns[1].Request
	if q.Tx.First+16 < q.First || q.Tx.Last < q.Last || q.Tx.Last > queued.serverRead {
		t.Errorf("with a queue: %+v, read at %d", q.Message, queued.serverRead)
	}
	if waited := time.Duration(q.Tx.Last - q.Last); waited < time.Millisecond {
		t.Errorf("waited in the queue for %v, want longer: its rate is the limit", waited)
	}
	if turns[1].Response.Tx != (observe.Extent{}) {
		t.Errorf("the response arrives here, but has a time of transmission: %+v", turns[1].Response.Message)
	}
}

// TestEncryptedFromMiddle: of a connection whose handshake was not seen, only the first turn
// is incomplete, and it is marked; whichever end was seen first.
func TestEncryptedFromMiddle(t *testing.T) {
	if !inNamespace(t) {
		return
	}
	p, a := newPair(t, true), newAuthority(t, 1)
	for _, test := range []struct {
		name  string
		begin func(c peers)
	}{
		{"between exchanges", func(peers) {}},
		{"in a request", func(c peers) {
			send(t, c.client, c.server, "part of a request")
		}},
		{"before a response", nil},
	} {
		t.Run(test.name, func(t *testing.T) {
			e := openEncrypted(t, EncryptedOptions{})
			c := p.connectTLS(t, "10.91.0.2", a.client(), a.server())
			c.exchange(exchangeSizes{[]int{100}, []int{200}})
			if test.begin == nil {
				send(t, c.client, c.server, strings.Repeat("q", 100))
			} else {
				test.begin(c)
			}
			must(t, e.Attach(p.ifindex))
			if test.begin == nil {
				send(t, c.server, c.client, strings.Repeat("r", 200))
			}
			var done []exchanged
			for range 4 {
				done = append(done, c.exchange(exchangeSizes{[]int{150, 1500}, []int{100_000}}))
			}
			turns := e.turnsOf(t, c)[0]
			if turns[0].Flags&observe.TurnMiddle == 0 {
				t.Errorf("the first turn is not marked: %b", turns[0].Flags)
			}
			whole := turns[len(turns)-3:]
			for i, turn := range whole {
				wantExchange(t, fmt.Sprintf("turn %d", i+1), turn, tls13Overhead, done[i+1])
			}
			if n := e.count(t, bpf.EncryptedEncryptedCounterENCRYPTED_COUNTER_FROM_MIDDLE); n != 1 {
				t.Errorf("%d connections from the middle, want 1", n)
			}
		})
	}
}

// TestEncryptedPlainText: HTTP without TLS is not followed, even if a body has what looks
// like a record.
func TestEncryptedPlainText(t *testing.T) {
	if !inNamespace(t) {
		return
	}
	p := newPair(t, true)
	group := ownCgroup(t)
	e := openEncrypted(t, EncryptedOptions{SocketCgroups: []string{group}})
	must(t, e.Attach(p.ifindex))
	var listener net.Listener
	within(t, &p.other, func() {
		var err error
		listener, err = net.Listen("tcp", "10.91.0.2:8080")
		must(t, err)
	})
	server := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		if err == nil {
			_, err = w.Write(body)
		}
		if err != nil {
			t.Error(err)
		}
	})}
	go func() { _ = server.Serve(listener) }()
	defer server.Close()
	for i := range 20 {
		body := bytes.Repeat([]byte{0x17, 3, 3, 0, 100, byte(i)}, 1000*i)
		response, err := http.Post("http://10.91.0.2:8080/", "application/octet-stream", bytes.NewReader(body))
		must(t, err)
		back, err := io.ReadAll(response.Body)
		must(t, err)
		must(t, response.Body.Close())
		if !bytes.Equal(back, body) {
			t.Fatal("the body came back changed")
		}
	}
	if n := e.count(t, bpf.EncryptedEncryptedCounterENCRYPTED_COUNTER_TURNS); n != 0 {
		t.Errorf("%d turns, want none", n)
	}
	if left, err := e.sweep(0, time.Hour); err != nil || left != 0 {
		t.Errorf("%d connections are still followed (%v)", left, err)
	}
}

// TestEncryptedModes: in each mode, beside the capture programs on the same interface.
func TestEncryptedModes(t *testing.T) {
	if !inNamespace(t) {
		return
	}
	p, a := newPair(t, true), newAuthority(t, 1)
	for _, mode := range []Mode{ModeTCX, ModeClsact, ModeSocketFilter} {
		t.Run(string(mode), func(t *testing.T) {
			if mode == ModeTCX {
				needsTCX(t)
			}
			capture, err := open(Options{Mode: mode})
			must(t, err)
			defer func() { must(t, capture.Close()) }()
			must(t, capture.Attach(p.ifindex))
			e := openEncrypted(t, EncryptedOptions{Mode: mode})
			must(t, e.Attach(p.ifindex))
			c := p.connectTLS(t, "10.91.0.2", a.client(), a.server())
			var done []exchanged
			for range 3 {
				done = append(done, c.exchange(exchangeSizes{[]int{3000}, []int{50_000}}))
			}
			wantTurns(t, e.turnsOf(t, c), 1, tls13Overhead, done)
			if foreign, err := capture.Ahead(p.ifindex); err != nil || len(foreign) > 0 {
				t.Errorf("programs of others ahead of ours: %v (%v), want none", foreign, err)
			}
			checkAheadWithoutNames(t, capture, p.ifindex)
			must(t, e.Detach(p.ifindex))
			// The capture programs are still there.
			before, err := capture.counter(bpf.CaptureCounterCOUNTER_REQUESTS)
			must(t, err)
			plain := p.connect(t, "10.91.0.2")
			send(t, plain.client, plain.server, get+end)
			if after, err := capture.counter(bpf.CaptureCounterCOUNTER_REQUESTS); err != nil || after == before {
				t.Errorf("%d requests captured after the others were detached (%v), want more than %d", after, err, before)
			}
		})
	}
}

// checkAheadWithoutNames: an agent in a cluster has no CAP_SYS_ADMIN, and so cannot read names.
func checkAheadWithoutNames(t *testing.T, capture *Probe, ifindex int) {
	t.Helper()
	names := programName
	defer func() { programName = names }()
	programName = func(ebpf.ProgramID) string { return "" }
	if foreign, err := capture.Ahead(ifindex); err != nil || len(foreign) > 0 {
		t.Errorf("without names, programs of others ahead of ours: %v (%v), want none", foreign, err)
	}
}

// TestEncryptedParallel: many connections at once, whose turns are read meanwhile.
func TestEncryptedParallel(t *testing.T) {
	if !inNamespace(t) {
		return
	}
	const connections, exchanges = 16, 40
	p, a := newPair(t, true), newAuthority(t, 1)
	e := openEncryptedOnAll(t, EncryptedOptions{SocketCgroups: []string{ownCgroup(t)}})
	must(t, e.Attach(p.ifindex))
	done := make([][]exchanged, connections)
	var all []peers
	for range connections {
		all = append(all, p.connectTLS(t, "fd91::2", a.client(), a.server())) // lost segments are sent again soon: see setUp
	}
	var group sync.WaitGroup
	for i, c := range all {
		group.Go(func() {
			random := mathrand.New(mathrand.NewPCG(1, uint64(i)))
			for range exchanges {
				done[i] = append(done[i], c.exchange(exchangeSizes{randomSizes(random), randomSizes(random)}))
				e.turnsOf(t, c)
			}
		})
	}
	group.Wait()
	contended := e.count(t, bpf.EncryptedEncryptedCounterENCRYPTED_COUNTER_CONTENDED)
	uncertain := 0
	for i, c := range all {
		points := e.turnsOf(t, c)
		if contended == 0 && len(points) != 3 {
			t.Errorf("%d points, want 3", len(points))
		}
		for _, turns := range points {
			if contended == 0 && len(turns) != exchanges {
				t.Errorf("%d turns, want %d", len(turns), exchanges)
				continue
			}
			for n, turn := range turns {
				if turn.Flags&observe.TurnDesynchronized != 0 {
					uncertain++
				} else if contended == 0 {
					wantExchange(t, fmt.Sprintf("connection %d, turn %d", i, n), turn, tls13Overhead, done[i][n])
				}
			}
		}
	}
	t.Logf("%d turns have unknown sizes, %d segments were contended, %d reads unstable", uncertain, contended, e.unstable.Load())
	if contended == 0 && uncertain > 0 {
		t.Errorf("%d turns have unknown sizes, although no segment was contended", uncertain)
	}
}

// TestEncryptedPorts: with ports, only connections to or from them are followed.
func TestEncryptedPorts(t *testing.T) {
	if !inNamespace(t) {
		return
	}
	p, a := newPair(t, true), newAuthority(t, 1)
	for port, want := range map[uint16]int{8443: 1, 8444: 0} {
		e := openEncrypted(t, EncryptedOptions{Ports: []uint16{port}})
		must(t, e.Attach(p.ifindex))
		c := p.connectTLS(t, "10.91.0.2", a.client(), a.server())
		c.exchange(exchangeSizes{[]int{100}, []int{200}})
		if points := e.turnsOf(t, c); len(points) != want {
			t.Errorf("port %d: %d points, want %d", port, len(points), want)
		}
		must(t, e.Detach(p.ifindex))
	}
}
