// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"math"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"runtime/debug"
	"slices"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
	"github.com/spf13/pflag"
	"github.com/vishvananda/netlink"
	"golang.org/x/sync/errgroup"

	"github.com/layertrace/layertrace/agent/internal/config"
	"github.com/layertrace/layertrace/internal/observe"
	"github.com/layertrace/layertrace/internal/testkit"
)

const traceID = "0af7651916cd43dd8448eb211c80319c"

// request sends a GET with the i-th span ID.
func request(t *testing.T, client *http.Client, i int) {
	t.Helper()
	if err := get(client, i); err != nil {
		t.Fatal(err)
	}
}

func get(client *http.Client, i int) error {
	r, err := http.NewRequest(http.MethodGet, "http://10.98.0.2:8080/", nil)
	if err != nil {
		return err
	}
	r.Header.Set("traceparent", fmt.Sprintf("00-%s-%016x-01", traceID, i))
	response, err := client.Do(r)
	if err != nil {
		return err
	}
	defer response.Body.Close()
	_, err = io.Copy(io.Discard, response.Body)
	if err == nil && response.StatusCode != http.StatusTeapot {
		err = fmt.Errorf("request %d: %s", i, response.Status)
	}
	return err
}

func checkExchange(t *testing.T, line string, i int) {
	t.Helper()
	var x observe.Observation
	if err := json.Unmarshal([]byte(line), &x); err != nil {
		t.Fatal(err)
	}
	if x.Context.TraceID.String() != traceID || x.Context.SpanID.String() != fmt.Sprintf("%016x", i) || x.Status != http.StatusTeapot {
		t.Errorf("exchange %d is %s", i, line)
	}
}

// programs counts the TCX programs at an interface of s, -1 without TCX.
func programs(s *space, index int) (n int) {
	s.Do(func() error {
		for _, attach := range []ebpf.AttachType{ebpf.AttachTCXIngress, ebpf.AttachTCXEgress} {
			q, err := link.QueryPrograms(link.QueryOptions{Target: index, Attach: attach})
			if err != nil {
				n = -1
				return nil
			}
			n += len(q.Programs)
		}
		return nil
	})
	return n
}

// awaitNoPrograms polls, as the kernel may free the links of a dead process later.
func awaitNoPrograms(t *testing.T, s *space, index int) {
	t.Helper()
	testkit.Eventually(t, "no programs are left", func() bool { return programs(s, index) <= 0 })
}

// site returns a node with a pod that serves HTTP, the index of the pod's interface, a client
// on the node, and the arguments of an agent there.
func site(t *testing.T) (node, pod *space, index int, client *http.Client, args []string) {
	t.Helper()
	needRoot(t)
	node, pod = newSpace(t), newSpace(t)
	index = pair(node, "vethp", "10.98.0.1/24", pod, "eth0", "10.98.0.2/24")
	server := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusTeapot) }))
	pod.Do(func() (err error) {
		server.Listener.Close()
		server.Listener, err = net.Listen("tcp", "10.98.0.2:8080")
		return err
	})
	server.Start()
	t.Cleanup(server.Close)
	transport := &http.Transport{DialContext: node.dial}
	t.Cleanup(transport.CloseIdleConnections)
	identities := filepath.Join(t.TempDir(), "identity.yaml")
	if err := os.WriteFile(identities, []byte("node: n1\ninterfaces: {vethp: {service: web}}\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	return node, pod, index, &http.Client{Transport: transport},
		[]string{"agent", "--identity", identities, "--export=stdout", "--metrics-address=", "--idle-timeout=200ms"}
}

// The real agent on a real interface reports exchanges with the IDs that were sent
// and follows interfaces that come and go. Its end, soft or hard, detaches
// everything and does not affect the traffic.
func TestAgent(t *testing.T) {
	node, pod, index, client, args := site(t)
	agent := start(t, node, args...)
	agent.await(agent.stderr, "msg=attached", "interface=vethp", "kind=vnic")
	for i := 1; i <= 5; i++ { // on one connection
		request(t, client, i)
		checkExchange(t, agent.await(agent.stdout, `"interface_name":"vethp"`, `"node":"n1"`, `"direction":"egress"`), i)
	}
	pair(node, "vethq", "10.98.1.1/24", pod, "eth1", "10.98.1.2/24")
	agent.await(agent.stderr, "msg=attached", "interface=vethq")
	link, err := node.Links.LinkByName("vethq")
	if err != nil {
		t.Fatal(err)
	}
	if err := node.Links.LinkDel(link); err != nil {
		t.Fatal(err)
	}
	agent.await(agent.stderr, "msg=detached", "interface=vethq")

	request(t, client, 6) // still open when the agent gets SIGTERM
	if err := agent.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	code, rest := agent.end()
	if code != 0 || len(rest) != 1 {
		t.Fatalf("exit code %d, last lines %q", code, rest)
	}
	checkExchange(t, rest[0], 6)
	awaitNoPrograms(t, node, index)

	killed := start(t, node, args...)
	killed.await(killed.stderr, "msg=attached", "interface=vethp")
	if err := killed.cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	killed.end()
	request(t, client, 7)
	awaitNoPrograms(t, node, index)
}

// A second agent beside one that runs is refused. One that follows a killed one removes its
// filters, whatever its own mode, and reports what passes once.
func TestAgentsOfANodeTakeTurns(t *testing.T) {
	node, _, index, client, args := site(t)
	clsact := append(slices.Clone(args), "--mode=clsact")
	first := start(t, node, clsact...)
	first.await(first.stderr, "msg=attached", "interface=vethp")
	var second result
	node.Do(func() error { second = runBinary(t, exec.Command(binary, args...)); return nil })
	checkRefusal(t, second, 1, fmt.Sprintf("another agent captures in this network namespace (process %d)", first.cmd.Process.Pid))
	request(t, client, 1)
	checkExchange(t, first.await(first.stdout, `"interface_name":"vethp"`), 1)
	if err := first.cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	first.end()
	if n := filters(node, index); n != 2 {
		t.Errorf("%d clsact filters of a killed agent, want 2", n)
	}
	var report result
	node.Do(func() error { report = runBinary(t, exec.Command(binary, "doctor")); return nil })
	if !strings.Contains(report.stdout, "An agent was killed here. Its filters still run at lo, vethp,") {
		t.Errorf("doctor does not name the filters: %s", report.stdout)
	}
	request(t, client, 2)
	for i, mode := range [][]string{args, clsact} {
		agent := start(t, node, mode...)
		agent.await(agent.stderr, "msg=attached", "interface=vethp")
		if n := filters(node, index); programs(node, index) == 2 && n != 0 {
			t.Errorf("%d clsact filters beside TCX", n)
		}
		request(t, client, 3+i)
		checkExchange(t, agent.await(agent.stdout, `"interface_name":"vethp"`), 3+i)
		if err := agent.cmd.Process.Signal(syscall.SIGTERM); err != nil {
			t.Fatal(err)
		}
		if code, rest := agent.end(); code != 0 || len(rest) != 0 {
			t.Errorf("exit code %d, more lines %q", code, rest)
		}
		if n := filters(node, index); n != 0 {
			t.Errorf("%d clsact filters are left after %q", n, mode)
		}
	}
}

// Under load, agents replace each other after SIGTERM and after SIGKILL, in clsact mode and by
// one that chooses its mode. No request fails, none is reported twice, and each agent reports
// all that passes while it captures.
func TestUpgradeUnderLoad(t *testing.T) {
	node, _, index, client, args := site(t)
	clsact := append(slices.Clone(args), "--mode=clsact")
	var sent, answered atomic.Int64 // requests; sent is the span ID of the latest
	var done [1 << 20]atomic.Bool   // by span ID: the response has come
	loading, stop := context.WithCancel(t.Context())
	var load errgroup.Group
	for range 4 {
		load.Go(func() error {
			for pace := time.NewTicker(8 * time.Millisecond); ; {
				select {
				case <-loading.Done():
					pace.Stop()
					return nil
				case <-pace.C:
				}
				i := int(sent.Add(1))
				if err := get(client, i); err != nil {
					return err
				}
				done[i].Store(true)
				answered.Add(1)
			}
		})
	}
	defer func() { stop(); _ = load.Wait() }()

	reported := map[string]int{} // by span ID
	note := func(line string) bool {
		var x observe.Observation
		if !strings.Contains(line, `"interface_name":"vethp"`) || json.Unmarshal([]byte(line), &x) != nil {
			return false // a killed agent may leave half a line
		}
		reported[x.Context.SpanID.String()]++
		return true
	}
	for i, generation := range []struct {
		args []string
		end  syscall.Signal
	}{{clsact, syscall.SIGTERM}, {clsact, syscall.SIGKILL}, {args, syscall.SIGKILL}, {args, syscall.SIGTERM}} {
		agent := start(t, node, generation.args...)
		agent.await(agent.stderr, "msg=attached", "interface=vethp")
		from, before := int(sent.Load())+1, answered.Load() // those from here on begin while it captures
		testkit.Eventually(t, "requests pass", func() bool { return answered.Load() > before+200 })
		for n := 0; n < 100; {
			if note(agent.await(agent.stdout, `"trace_id"`)) {
				n++
			}
		}
		if i == 3 {
			stop()
			if err := load.Wait(); err != nil {
				t.Fatal(err)
			}
		}
		var whole []int // both ways while it captures
		for n := from; n <= int(sent.Load()); n++ {
			if done[n].Load() {
				whole = append(whole, n)
			}
		}
		if err := agent.cmd.Process.Signal(generation.end); err != nil {
			t.Fatal(err)
		}
		code, rest := agent.end()
		if generation.end == syscall.SIGTERM && code != 0 {
			t.Errorf("agent %d: exit code %d", i+1, code)
		}
		for _, line := range rest {
			note(line)
		}
		if generation.end == syscall.SIGKILL {
			continue // what it had not written is lost with it
		}
		for _, n := range whole {
			if id := fmt.Sprintf("%016x", n); reported[id] != 1 {
				t.Errorf("agent %d: request %d was reported %d times", i+1, n, reported[id])
			}
		}
	}
	for id, n := range reported {
		if n > 1 {
			t.Errorf("request %s was reported %d times", id, n)
		}
	}
	t.Logf("%d requests, %d reported", sent.Load(), len(reported))
	awaitNoPrograms(t, node, index)
	if n := filters(node, index); n != 0 {
		t.Errorf("%d clsact filters are left", n)
	}
}

// filters counts the clsact filters at an interface of s.
func filters(s *space, index int) (n int) {
	s.Do(func() error {
		for _, parent := range []uint32{netlink.HANDLE_MIN_INGRESS, netlink.HANDLE_MIN_EGRESS} {
			some, err := netlink.FilterList(&netlink.GenericLink{LinkAttrs: netlink.LinkAttrs{Index: index}}, parent)
			if err != nil {
				return err
			}
			n += len(some)
		}
		return nil
	})
	return n
}

// Open exchanges are reported early where a trace buffer needs it: before it splits a
// trace whose other exchanges have ended.
func TestHoldAfter(t *testing.T) {
	for _, c := range []struct {
		args []string
		want time.Duration
	}{
		{nil, 0},
		{[]string{"--spans=layers"}, 2 * time.Second},
		{[]string{"--spans=layers", "--idle-timeout=500ms"}, 500 * time.Millisecond},
		{[]string{"--spans=interfaces"}, 0},
	} {
		fs := pflag.NewFlagSet("agent", pflag.ContinueOnError)
		cfg := config.Define(fs)
		if err := fs.Parse(c.args); err != nil {
			t.Fatal(err)
		}
		if got := probeOptions(cfg, nil).HoldAfter; got != c.want {
			t.Errorf("%v: held after %v, want %v", c.args, got, c.want)
		}
	}
}

// The ring is larger with layers, as the container's memory allows.
func TestRingBytes(t *testing.T) {
	file := filepath.Join(t.TempDir(), "memory.max")
	for _, c := range []struct {
		memory string
		args   []string
		want   int
	}{
		{"max\n", nil, 0},
		{"268435456\n", nil, 0},
		{"268435456\n", []string{"--ring-bytes=65536", "--spans=layers"}, 65536},
		{"max\n", []string{"--spans=layers"}, 8 << 20},
		{"67108864\n", []string{"--spans=layers"}, 4 << 20},
		{"134217728\n", []string{"--spans=layers"}, 4 << 20},
		{"268435456\n", []string{"--spans=layers"}, 8 << 20},
		{"500000000\n", []string{"--spans=layers"}, 8 << 20},
		{"1099511627776\n", []string{"--spans=layers"}, 32 << 20},
	} {
		if err := os.WriteFile(file, []byte(c.memory), 0o600); err != nil {
			t.Fatal(err)
		}
		fs := pflag.NewFlagSet("agent", pflag.ContinueOnError)
		cfg := config.Define(fs)
		if err := fs.Parse(c.args); err != nil {
			t.Fatal(err)
		}
		if got := ringBytes(cfg, file); got != c.want {
			t.Errorf("%v in %q: %d bytes, want %d", c.args, c.memory, got, c.want)
		}
	}
}

// The agent takes one CPU, with layers two and less garbage, and half of its container's memory.
func TestBeModest(t *testing.T) {
	cpus, memory, garbage := runtime.GOMAXPROCS(8), debug.SetMemoryLimit(-1), debug.SetGCPercent(100)
	t.Cleanup(func() { runtime.GOMAXPROCS(cpus); debug.SetMemoryLimit(memory); debug.SetGCPercent(garbage) })
	file := filepath.Join(t.TempDir(), "memory.max")
	for _, c := range []struct {
		text    string
		layers  bool
		env     map[string]string
		cpus    int
		memory  int64
		garbage int
	}{
		{"268435400\n", false, nil, 1, 134217700, 100},
		{"268435400\n", true, nil, 2, 134217700, layersGarbage},
		{"max\n", false, nil, 1, math.MaxInt64, 100},
		{"", true, nil, 2, math.MaxInt64, layersGarbage},
		{"268435400\n", true, map[string]string{"GOMAXPROCS": "8", "GOGC": "80", "GOMEMLIMIT": "1GiB"}, 8, math.MaxInt64, 100},
	} {
		debug.SetGCPercent(100)
		runtime.GOMAXPROCS(8)
		debug.SetMemoryLimit(math.MaxInt64)
		for name, value := range c.env {
			t.Setenv(name, value)
		}
		if err := os.WriteFile(file, []byte(c.text), 0o600); err != nil {
			t.Fatal(err)
		}
		beModest(c.layers, file)
		n, limit, garbage := runtime.GOMAXPROCS(0), debug.SetMemoryLimit(-1), debug.SetGCPercent(100)
		if n != c.cpus || limit != c.memory || garbage != c.garbage {
			t.Errorf("%+v: %d CPUs, %d bytes and %d %% garbage", c, n, limit, garbage)
		}
	}
}
