// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"encoding/json"
	"fmt"
	"io"
	"math"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"runtime"
	"runtime/debug"
	"syscall"
	"testing"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
	"github.com/spf13/pflag"

	"github.com/layertrace/layertrace/agent/internal/config"
	"github.com/layertrace/layertrace/internal/observe"
	"github.com/layertrace/layertrace/internal/testkit"
)

const traceID = "0af7651916cd43dd8448eb211c80319c"

// request sends a GET with the i-th span ID.
func request(t *testing.T, client *http.Client, i int) {
	t.Helper()
	r, err := http.NewRequest(http.MethodGet, "http://10.98.0.2:8080/", nil)
	if err != nil {
		t.Fatal(err)
	}
	r.Header.Set("traceparent", fmt.Sprintf("00-%s-%016x-01", traceID, i))
	response, err := client.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	if _, err := io.Copy(io.Discard, response.Body); err != nil {
		t.Fatal(err)
	}
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

// The real agent on a real interface reports exchanges with the IDs that were sent
// and follows interfaces that come and go. Its end, soft or hard, detaches
// everything and does not affect the traffic.
func TestAgent(t *testing.T) {
	needRoot(t)
	node, pod := newSpace(t), newSpace(t)
	index := pair(node, "vethp", "10.98.0.1/24", pod, "eth0", "10.98.0.2/24")
	server := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusTeapot) }))
	pod.Do(func() (err error) {
		server.Listener.Close()
		server.Listener, err = net.Listen("tcp", "10.98.0.2:8080")
		return err
	})
	server.Start()
	defer server.Close()
	transport := &http.Transport{DialContext: node.dial}
	defer transport.CloseIdleConnections()
	client := &http.Client{Transport: transport}
	identities := filepath.Join(t.TempDir(), "identity.yaml")
	if err := os.WriteFile(identities, []byte("node: n1\ninterfaces: {vethp: {service: web}}\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	args := []string{"agent", "--identity", identities, "--export=stdout", "--metrics-address=", "--idle-timeout=200ms"}

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
