// SPDX-License-Identifier: Apache-2.0

package probe

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
)

// roleEnv makes the test binary play a part in another namespace or cgroup.
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

// serve answers requests once the interface is there (one line on stdin).
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

// requests is how many the client sends on its one connection, each with a body
// that is longer by bodyStep bytes.
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

// inNamespace runs the calling test again in a fresh network namespace, and
// reports whether this is that run.
func inNamespace(t *testing.T) bool {
	t.Helper()
	if os.Getenv(roleEnv) == "inside" {
		return true
	}
	cmd := exec.Command(os.Args[0], "-test.run=^"+t.Name()+"$", "-test.v")
	cmd.Env = append(os.Environ(), roleEnv+"=inside")
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNET, Pdeathsig: syscall.SIGKILL}
	out, err := cmd.CombinedOutput()
	t.Logf("in the namespace:\n%s", out)
	if err != nil || !strings.Contains(string(out), "--- PASS: "+t.Name()) {
		t.Errorf("failed in its namespace (does it run as root?): %v", err)
	}
	return false
}

// network is a veth pair from this namespace to a server in one of its own.
type network struct {
	ifindex int
	group   string // cgroup of client and server
}

func newNetwork(t *testing.T) *network {
	t.Helper()
	return newNetworkOf(t, netlink.LinkAttrs{})
}

// newNetworkOf gives the veth here these attributes, beside its name.
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
// put off the timer. A busy machine acknowledges late, and what is then sent
// again, with nothing lost, would count as retransmitted: rightly, but these
// tests compare with what the client sent.
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

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
