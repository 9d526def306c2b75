// SPDX-License-Identifier: Apache-2.0

package probe

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/link"
	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"

	"github.com/layertrace/layertrace/internal/observe"
)

// roleEnv makes the test binary play a role in another namespace or cgroup.
const roleEnv = "LAYERTRACE_PROBE_TEST_ROLE"

const (
	clientAddr = "10.91.0.1/24"
	serverAddr = "10.91.0.2"
	serverPort = 8080
)

func TestMain(m *testing.M) {
	switch os.Getenv(roleEnv) {
	case "server":
		serve()
	case "server on a passed listener":
		servePassed()
	case "client":
		call(0, requests)
	case "patient client":
		call(0, 1)
		fmt.Println("connected")
		if _, err := bufio.NewReader(os.Stdin).ReadString('\n'); err != nil {
			panic(err)
		}
		call(1, requests)
	default:
		os.Exit(m.Run())
	}
}

// serve answers requests once the interface exists (one line on stdin).
func serve() {
	if _, err := bufio.NewReader(os.Stdin).ReadString('\n'); err != nil {
		panic(err)
	}
	if err := neverResend(); err != nil {
		panic(err)
	}
	http.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) {
		if _, err := io.Copy(io.Discard, r.Body); err != nil {
			panic(err)
		}
		fmt.Fprint(w, strings.Repeat("r", 3000))
	})
	panic(http.ListenAndServe(fmt.Sprintf("%s:%d", serverAddr, serverPort), nil))
}

// requests is the number that the client sends on its one connection. Each body
// is bodyStep bytes longer than the one before.
const (
	requests = 40
	bodyStep = 200
)

func traceID(i int) string { return fmt.Sprintf("4bf92f3577b34da6a3ce929d0e0e%04x", i+1) }
func spanID(i int) string  { return fmt.Sprintf("00f067aa0ba9%04x", i+1) }

// call sends requests on one connection, which stays open.
func call(from, to int) {
	for i := from; i < to; i++ {
		body := strings.NewReader(strings.Repeat("q", i*bodyStep))
		r, err := http.NewRequest(http.MethodPost, fmt.Sprintf("http://%s:%d/%d", serverAddr, serverPort, i), body)
		if err != nil {
			panic(err)
		}
		r.Header.Set("traceparent", "00-"+traceID(i)+"-"+spanID(i)+"-01")
		response, err := http.DefaultClient.Do(r)
		if err != nil {
			panic(err)
		}
		if _, err := io.Copy(io.Discard, response.Body); err != nil {
			panic(err)
		}
		response.Body.Close()
	}
}

// said finds the messages in the output of a test.
var said = regexp.MustCompile(`\S+_test\.go:\d+: (.*)`)

// inNamespace runs the calling test again in a new network namespace, and reports
// whether this is that run. If that one is skipped, so is this one, for its reason.
func inNamespace(t *testing.T) bool {
	t.Helper()
	if os.Getenv(roleEnv) == "inside" {
		return true
	}
	cmd := exec.Command(os.Args[0], "-test.run=^"+t.Name()+"$", "-test.v")
	files, names := handOver(t)
	cmd.ExtraFiles = files
	cmd.Env = append(os.Environ(), roleEnv+"=inside", handedEnv+"="+names)
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNET, Pdeathsig: syscall.SIGKILL}
	out, err := cmd.CombinedOutput()
	for _, file := range files {
		must(t, file.Close())
	}
	t.Logf("in the namespace:\n%s", out)
	if before, _, skipped := strings.Cut(string(out), "--- SKIP: "+t.Name()+" ("); skipped && err == nil {
		if reasons := said.FindAllStringSubmatch(before, -1); len(reasons) > 0 {
			t.Skip(reasons[len(reasons)-1][1])
		}
		t.Skip("no reason given")
	}
	if err != nil || !strings.Contains(string(out), "--- PASS: "+t.Name()+" (") {
		t.Errorf("failed in its namespace (does it run as root?): %v", err)
	}
	return false
}

// network is a veth pair between this namespace and a server in another one.
type network struct {
	ifindex int
	group   string // cgroup of client and server
}

func newNetwork(t *testing.T) *network {
	t.Helper()
	return newNetworkOf(t, netlink.LinkAttrs{})
}

// newNetworkOf gives the veth in this namespace attributes other than its name.
func newNetworkOf(t *testing.T, attrs netlink.LinkAttrs) *network {
	t.Helper()
	must(t, neverResend())
	n := &network{group: newCgroup(t)}
	server := n.command(t, "server")
	server.SysProcAttr.Cloneflags = syscall.CLONE_NEWNET
	stdin, err := server.StdinPipe()
	must(t, err)
	must(t, server.Start())
	t.Cleanup(func() { _ = server.Process.Kill(); _ = server.Wait() })

	attrs.Name = "vethc"
	veth := &netlink.Veth{LinkAttrs: attrs, PeerName: "veths"}
	must(t, netlink.LinkAdd(veth))
	peer, err := netlink.LinkByName("veths")
	must(t, err)
	must(t, netlink.LinkSetNsPid(peer, server.Process.Pid))
	setUp(t, &netlink.Handle{}, "vethc", clientAddr)
	ns, err := netns.GetFromPid(server.Process.Pid)
	must(t, err)
	defer ns.Close()
	handle, err := netlink.NewHandleAt(ns)
	must(t, err)
	defer handle.Close()
	setUp(t, handle, "veths", serverAddr+"/24")
	_, err = io.WriteString(stdin, "\n")
	must(t, err)
	link, err := netlink.LinkByName("vethc")
	must(t, err)
	n.ifindex = link.Attrs().Index
	return n
}

func setUp(t *testing.T, h *netlink.Handle, name, cidr string) {
	t.Helper()
	link, err := h.LinkByName(name)
	must(t, err)
	addr, err := netlink.ParseAddr(cidr)
	must(t, err)
	must(t, h.AddrAdd(link, addr))
	must(t, h.LinkSetUp(link))
	// See neverResend.
	must(t, h.RouteReplace(&netlink.Route{
		LinkIndex: link.Attrs().Index, Scope: netlink.SCOPE_LINK, Src: addr.IP,
		Dst:    &net.IPNet{IP: addr.IP.Mask(addr.Mask), Mask: addr.Mask},
		RtoMin: int(time.Minute.Milliseconds()),
	}))
}

// neverResend turns off TCP's tail loss probes (tcp_early_retrans of
// Documentation/networking/ip-sysctl.rst) in this network namespace; the routes
// delay the retransmission timer. A busy machine acknowledges late, and needless
// retransmissions would be counted, correctly, but differ from what the client
// sent.
func neverResend() error {
	return os.WriteFile("/proc/sys/net/ipv4/tcp_early_retrans", []byte("0"), 0)
}

// command is this test binary in another role and the network's cgroup.
func (n *network) command(t *testing.T, role string) *exec.Cmd {
	t.Helper()
	group, err := os.Open(n.group)
	must(t, err)
	t.Cleanup(func() { group.Close() })
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), roleEnv+"="+role)
	cmd.Stderr = os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{UseCgroupFD: true, CgroupFD: int(group.Fd()), Pdeathsig: syscall.SIGKILL}
	return cmd
}

// talk runs the client until its requests are answered.
func (n *network) talk(t *testing.T) {
	t.Helper()
	must(t, awaitServer())
	must(t, n.command(t, "client").Run())
}

func newCgroup(t *testing.T) string {
	t.Helper()
	for _, mount := range []string{"/sys/fs/cgroup/unified", "/sys/fs/cgroup"} {
		if _, err := os.Stat(filepath.Join(mount, "cgroup.controllers")); err != nil {
			continue
		}
		dir, err := os.MkdirTemp(mount, "layertrace-probe-test-")
		must(t, err)
		t.Cleanup(func() { must(t, os.Remove(dir)) })
		return dir
	}
	t.Fatal("no cgroup2 mount")
	return ""
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// ownCgroup moves this process into a new cgroup until the test ends.
func ownCgroup(t *testing.T) string {
	t.Helper()
	group := newCgroup(t)
	must(t, joinCgroup(group))
	t.Cleanup(func() {
		if err := joinCgroup(filepath.Dir(group)); err != nil {
			t.Error(err)
		}
	})
	return group
}

// joinCgroup moves this process into a cgroup.
func joinCgroup(dir string) error {
	return os.WriteFile(filepath.Join(dir, "cgroup.procs"), []byte("0"), 0)
}

func awaitServer() error {
	deadline := time.Now().Add(20 * time.Second)
	for {
		conn, err := net.DialTimeout("tcp", fmt.Sprintf("%s:%d", serverAddr, serverPort), time.Second)
		if err == nil {
			return conn.Close()
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("connect to the server: %w", err)
		}
	}
}

// newLoopback captures at the sockets of this process and enables loopback in its
// network namespace.
func newLoopback(t *testing.T) *kernel {
	t.Helper()
	return newLoopbackOf(t, ownCgroup(t))
}

// newLoopbackOf captures at the sockets of these cgroups.
func newLoopbackOf(t *testing.T, cgroups ...string) *kernel {
	t.Helper()
	lo, err := netlink.LinkByName("lo")
	must(t, err)
	must(t, netlink.LinkSetUp(lo))
	return newKernel(t, Options{SocketCgroups: cgroups})
}

// connect returns both ends of a connection over loopback, until the test ends.
func connect(t *testing.T) (client, server *net.TCPConn) {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	defer listener.Close()
	dialled, err := net.Dial("tcp", listener.Addr().String())
	must(t, err)
	t.Cleanup(func() { dialled.Close() })
	accepted, err := listener.Accept()
	must(t, err)
	t.Cleanup(func() { accepted.Close() })
	return dialled.(*net.TCPConn), accepted.(*net.TCPConn)
}

// send writes a message and reads it at the other end.
func send(t *testing.T, from, to net.Conn, message string) {
	t.Helper()
	_, err := io.WriteString(from, message)
	must(t, err)
	_, err = io.ReadFull(to, make([]byte, len(message)))
	must(t, err)
}

// receiveRequest lets the server read a request with a trace context, without a
// response.
func receiveRequest(t *testing.T, client, server *net.TCPConn) {
	t.Helper()
	pass(t, client, server, tracedRequest(0))
}

// tracedRequest is a request with a trace context.
func tracedRequest(i int) string {
	return fmt.Sprintf("GET /%d HTTP/1.1\r\ntraceparent: 00-%s-%s-01\r\n\r\n", i, traceID(i), spanID(i))
}

// onlyAtClient returns the only exchange at the client's socket.
func onlyAtClient(t *testing.T, k *kernel) (only observe.Observation) {
	t.Helper()
	clients := 0
	for _, x := range k.exchanges() {
		if x.Socket.Client {
			clients++
			only = x
		}
	}
	if clients != 1 {
		t.Fatalf("%d exchanges at the client's socket, want 1", clients)
	}
	return only
}

// poll waits for a condition, for at most ten seconds.
func poll(t *testing.T, what string, isSo func() bool) {
	t.Helper()
	for deadline := time.Now().Add(10 * time.Second); !isSo(); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("not in ten seconds: %s", what)
		}
	}
}

// tcpInfo returns TCP_INFO of a connection.
func tcpInfo(t *testing.T, conn *net.TCPConn) (info *unix.TCPInfo) {
	t.Helper()
	control(t, conn, func(fd int) (err error) {
		info, err = unix.GetsockoptTCPInfo(fd, unix.IPPROTO_TCP, unix.TCP_INFO)
		return err
	})
	return info
}

// control calls do with the connection's socket.
func control(t *testing.T, conn *net.TCPConn, do func(fd int) error) {
	t.Helper()
	raw, err := conn.SyscallConn()
	must(t, err)
	var failed error
	must(t, raw.Control(func(fd uintptr) { failed = do(int(fd)) }))
	must(t, failed)
}

// monotonic returns the current time in ns of CLOCK_MONOTONIC.
func monotonic(t *testing.T) uint64 {
	t.Helper()
	var now unix.Timespec
	must(t, unix.ClockGettime(unix.CLOCK_MONOTONIC, &now))
	return uint64(now.Nano())
}

// Tests of features that older kernels lack are skipped there, with the reason.
// The suite for several kernels knows which ones to expect.

// needsWrites requires a tracepoint that reports writes.
func needsWrites(t *testing.T) {
	t.Helper()
	_, err := HaveWrites()
	needs(t, err)
}

// writeEnds is the tracepoint that reports writes when they end.
const writeEnds = "sock_send_length"

// writePoint is the tracepoint that reports writes in this kernel, "" for none: expected
// times depend on it. The answer takes long to find.
var writePoint = sync.OnceValue(func() string {
	name, err := HaveWrites()
	if err != nil {
		return ""
	}
	return name
})

// needsReceivers requires the receiving socket of dropped packets.
func needsReceivers(t *testing.T) {
	t.Helper()
	needs(t, HaveTracepoint("kfree_skb", dropReceiver))
}

// needsTCX requires TCX.
func needsTCX(t *testing.T) {
	t.Helper()
	nothing, err := ebpf.NewProgram(&ebpf.ProgramSpec{
		Type: ebpf.SchedCLS, License: "GPL", Instructions: asm.Instructions{asm.Mov.Imm(asm.R0, int32(netlink.TC_ACT_UNSPEC)), asm.Return()},
	})
	must(t, err)
	defer nothing.Close()
	const lo = 1 // the first interface of each namespace
	l, err := link.AttachTCX(link.TCXOptions{Interface: lo, Attach: ebpf.AttachTCXIngress, Program: nothing})
	if err == nil {
		must(t, l.Close())
	}
	needs(t, err)
}

func needs(t *testing.T, err error) {
	t.Helper()
	if errors.Is(err, ebpf.ErrNotSupported) {
		t.Skipf("the kernel lacks it: %v", err)
	}
	must(t, err)
}

// without hides tracepoints of the kernel for one test.
func without(t *testing.T, names ...string) {
	t.Helper()
	t.Cleanup(func() { haveTracepoint = HaveTracepoint })
	haveTracepoint = func(name string, arguments int) error {
		if slices.Contains(names, name) {
			return fmt.Errorf("no %s: %w", name, ebpf.ErrNotSupported)
		}
		return HaveTracepoint(name, arguments)
	}
}
