// SPDX-License-Identifier: Apache-2.0

package decode

import (
	"bufio"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/vishvananda/netlink"

	"github.com/layertrace/layertrace/internal/observe"
)

// insideEnv tells the test that it runs in its own network namespace.
const insideEnv = "LAYERTRACE_TEST_INSIDE_NETNS"

// TestRealCapture has Go's HTTP client and server talk over the loopback of a
// fresh network namespace, captures that with tcpdump, and compares what is
// decoded with what both ends logged.
func TestRealCapture(t *testing.T) {
	if os.Getenv(insideEnv) == "" {
		runInNamespace(t)
		return
	}
	lo, err := netlink.LinkByName("lo")
	if err != nil {
		t.Fatal(err)
	}
	if err := netlink.LinkSetUp(lo); err != nil {
		t.Fatal(err)
	}
	file, stop := startTCPDump(t)
	calls := makeCalls(t)

	want := map[bool]int{}
	for _, c := range calls {
		if c.sampled {
			want[true]++
			if !c.deepOnly {
				want[false]++
			}
		}
	}
	// tcpdump lags behind: wait for the last answer before it is stopped.
	deadline := time.Now().Add(20 * time.Second)
	for !answered(decodeCapture(t, file, true), calls[len(calls)-1]) && time.Now().Before(deadline) {
		time.Sleep(50 * time.Millisecond) // the pause of a poll
	}
	stop()
	for _, deep := range []bool{false, true} {
		got := decodeCapture(t, file, deep)
		if len(got) != want[deep] || want[deep] == 0 {
			t.Errorf("deep %v: %d exchanges, want %d", deep, len(got), want[deep])
		}
		compare(t, calls, got, deep)
	}
	t.Logf("%d calls, %d found in the first segment, %d in deep mode", len(calls), want[false], want[true])
}

// runInNamespace runs this test again in a fresh network namespace.
func runInNamespace(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("making a network namespace and capturing takes root")
	}
	if _, err := exec.LookPath("tcpdump"); err != nil {
		t.Skip("tcpdump is not installed")
	}
	cmd := exec.Command(os.Args[0], "-test.run=^TestRealCapture$", "-test.v")
	cmd.Env = append(os.Environ(), insideEnv+"=1")
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNET, Pdeathsig: syscall.SIGKILL}
	out, err := cmd.CombinedOutput()
	t.Logf("in the namespace:\n%s", out)
	if err != nil || !strings.Contains(string(out), "--- PASS: TestRealCapture") {
		t.Errorf("the test failed in its namespace: %v", err)
	}
}

// startTCPDump captures on the loopback until stop is called. The buffer of 64
// MiB holds all that makeCalls sends, however late tcpdump gets to read it.
func startTCPDump(t *testing.T) (file string, stop func()) {
	t.Helper()
	file = filepath.Join(t.TempDir(), "lo.pcap")
	cmd := exec.Command("tcpdump", "-i", "lo", "-s", "0", "-B", "65536", "-U",
		"--time-stamp-precision=nano", "-Z", "root", "-w", file, "tcp")
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	stderr, err := cmd.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	lines := bufio.NewScanner(stderr)
	for lines.Scan() && !strings.Contains(lines.Text(), "listening on") {
	}
	return file, func() {
		if err := cmd.Process.Signal(syscall.SIGINT); err != nil {
			t.Error(err)
		}
		for lines.Scan() {
			if strings.Contains(lines.Text(), "dropped by kernel") && !strings.HasPrefix(lines.Text(), "0 ") {
				t.Errorf("tcpdump: %s", lines.Text())
			}
		}
		if err := cmd.Wait(); err != nil {
			t.Errorf("tcpdump: %v", err)
		}
	}
}

// makeCalls talks on several connections at once, over IPv4 and IPv6.
func makeCalls(t *testing.T) []call {
	var lock sync.Mutex
	served := map[string]time.Time{}
	log := func(name string, at time.Time) {
		lock.Lock()
		defer lock.Unlock()
		served[name] = at
	}
	servers := []string{serve(t, "127.0.0.1:0", log), serve(t, "[::1]:0", log)}
	var calls []call
	var group sync.WaitGroup
	for connection := range 6 {
		group.Go(func() {
			done := talkHTTP(t, servers[connection%2], connection, 40)
			lock.Lock()
			defer lock.Unlock()
			calls = append(calls, done...)
		})
	}
	group.Wait()
	calls = append(calls, talkHTTP(t, servers[0], 6, 1)...) // behind all others
	for i := range calls {
		calls[i].served = served[calls[i].name]
	}
	return calls
}

func answered(got []observe.Observation, last call) bool {
	return slices.ContainsFunc(got, func(x observe.Observation) bool {
		return x.Context.SpanID.String() == last.span && x.Response.Bytes == uint64(last.received)
	})
}

func decodeCapture(t *testing.T, file string, deep bool) (got []observe.Observation) {
	t.Helper()
	f, err := os.Open(file)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = f.Close() }()
	d := New(Options{Deep: deep}, func(x observe.Observation) { got = append(got, x) })
	// The file's last packet may be half written while tcpdump runs.
	if err := ReadFile(f, d.Packet); err != nil {
		t.Logf("while reading: %v", err)
	}
	d.Flush()
	return got
}
