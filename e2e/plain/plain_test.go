// SPDX-License-Identifier: Apache-2.0

// Package plain tests the agent on a machine without Kubernetes: services in systemd's
// cgroups, a container, and a program started by hand, over loopback.
package plain

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/vishvananda/netlink"

	"github.com/layertrace/layertrace/e2e/lab"
	"github.com/layertrace/layertrace/e2e/provision"
	"github.com/layertrace/layertrace/e2e/sandbox"
	"github.com/layertrace/layertrace/e2e/testrun"
)

var interrupted context.Context // ends on Ctrl-C

func TestMain(m *testing.M) {
	if role := os.Getenv(roleEnv); role != "" {
		roles[role]()
		return
	}
	testrun.Main(m, &interrupted, func() error { return nil })
}

const (
	group       = "layertrace-plain-test.slice"
	container   = "5f0e4a1c9b7d5f0e4a1c9b7d5f0e4a1c9b7d5f0e4a1c9b7d5f0e4a1c9b7d0123"
	stockTakes  = 40 * time.Millisecond
	jaeger      = "127.0.0.1"
	metricsAddr = "127.0.0.1:9464"
)

// machine is a network namespace with a few services and an agent.
type machine struct {
	t         *testing.T
	tools     lab.Tools
	dir       string
	namespace *sandbox.Namespace
	group     *sandbox.Group
	agent     *sandbox.Process
}

// A request passes a proxy that binds as root and works as another user, an application
// and a container. Nobody named them, and each has its name and its parent.
func TestNamesByThemselves(t *testing.T) {
	m := newMachine(t)
	m.startJaeger()
	m.start("stock", "docker-"+container+".scope")
	m.start("shop", "shop.service")
	m.start("edge", "edge.service")
	identity := filepath.Join(m.dir, "identity.yaml")
	m.write(identity, "node: box\n")
	m.startAgent("--identity", identity)

	const stock = "5f0e4a1c9b7d" // the short ID: no runtime knows it
	m.client("00000000000000000000000000000001")
	m.check("00000000000000000000000000000001", [][2]string{{"plain.test", "edge"}, {"edge", "shop"}, {"shop", stock}}, stock)
	m.checkCounters()

	// The file names what serves at a port, with everything that it sends.
	m.write(identity, "node: box\naddresses:\n  :"+shopPort+": {service: storefront, color: red}\n")
	m.reload("keeping the names of before.*line 3: addresses.:" + shopPort + ".color is an unknown key")
	m.client("00000000000000000000000000000002")
	m.check("00000000000000000000000000000002", [][2]string{{"plain.test", "edge"}, {"edge", "shop"}, {"shop", stock}}, stock)
	m.write(identity, "node: box\naddresses:\n  :"+shopPort+": {service: storefront}\n")
	m.reload("read the identity file again")
	m.client("00000000000000000000000000000003")
	m.check("00000000000000000000000000000003", [][2]string{{"plain.test", "edge"}, {"edge", "storefront"}, {"storefront", stock}}, stock)
}

func newMachine(t *testing.T) *machine {
	t.Helper()
	testrun.Needs(t, "a machine with an agent and Jaeger")
	tools, err := provision.Tools(interrupted, testrun.Report)
	must(t, err)
	m := &machine{t: t, tools: tools, dir: t.TempDir()}
	must(t, os.Chmod(m.dir, 0o777)) // the proxy's user writes there
	must(t, os.Chmod(filepath.Dir(m.dir), 0o755))
	m.namespace, err = sandbox.NewNamespace("lt-plain-test")
	must(t, err)
	t.Cleanup(func() { must(t, m.namespace.Delete()) })
	must(t, m.namespace.Do(func() error {
		lo, err := netlink.LinkByName("lo")
		if err != nil {
			return err
		}
		return netlink.LinkSetUp(lo)
	}))
	_, err = sandbox.RemoveGroup(interrupted, group) // of a run that was killed
	must(t, err)
	m.group, err = sandbox.NewGroup(group)
	must(t, err)
	t.Cleanup(func() { must(t, m.group.Remove(context.Background())) })
	return m
}

func (m *machine) startJaeger() {
	m.t.Helper()
	config, err := lab.JaegerConfig(jaeger, 1000)
	must(m.t, err)
	m.write(filepath.Join(m.dir, "jaeger.yaml"), config)
	m.run(sandbox.Spec{Name: "jaeger", Path: m.tools.Jaeger, Args: []string{"--config", filepath.Join(m.dir, "jaeger.yaml")}}, "jaeger.scope",
		fmt.Sprintf("http://%s:%d/api/services", jaeger, lab.JaegerQueryPort))
}

// start starts this test binary in a role, as a service of its own.
func (m *machine) start(role, cgroup string) {
	m.t.Helper()
	m.run(sandbox.Spec{Name: role, Path: os.Args[0], Env: m.env(role)}, cgroup, "")
	sandboxed := filepath.Join(m.dir, role+".ready")
	must(m.t, sandbox.Await(interrupted, role, 20*time.Second, 10*time.Millisecond, func(context.Context) error {
		_, err := os.Stat(sandboxed)
		return err
	}))
}

func (m *machine) env(role string) []string {
	return []string{roleEnv + "=" + role, dirEnv + "=" + m.dir}
}

// run starts a program in a cgroup until the test ends, and waits until it answers.
func (m *machine) run(spec sandbox.Spec, cgroup, url string) *sandbox.Process {
	m.t.Helper()
	child, err := m.group.Child(cgroup)
	must(m.t, err)
	spec.Namespace, spec.Cgroup, spec.Stderr = m.namespace, child, filepath.Join(m.dir, spec.Name+".log")
	p, err := sandbox.Start(spec)
	must(m.t, err)
	m.t.Cleanup(func() {
		stop := p.Kill
		if spec.Name == "agent" {
			stop = func() error { return p.Stop(10 * time.Second) }
		}
		if err := stop(); err != nil {
			m.t.Error(err)
		}
	})
	if url != "" {
		must(m.t, sandbox.AwaitReady(interrupted, p, 30*time.Second, 50*time.Millisecond, func(ctx context.Context) error {
			_, err := m.namespace.Get(ctx, url)
			return err
		}))
	}
	return p
}

// startAgent starts the agent with its own choice of interfaces.
func (m *machine) startAgent(args ...string) {
	m.t.Helper()
	args = append([]string{
		"agent", "--spans=layers", "--socket-cgroup", m.group.Path, "--idle-timeout=300ms", "--read-interval=100ms",
		"--otlp-endpoint", fmt.Sprintf("%s:%d", jaeger, lab.JaegerOTLPPort), "--otlp-insecure", "--metrics-address", metricsAddr,
	}, args...)
	m.agent = m.run(sandbox.Spec{Name: "agent", Path: m.tools.Agent, Args: args}, "layertrace.service", "http://"+metricsAddr+"/readyz")
}

// client sends a request of a trace and waits for the response.
func (m *machine) client(trace string) {
	m.t.Helper()
	m.get(trace, "", "session-"+trace[30:]+".scope")
}

// get is client for any path, from a session of its own; without a trace the request has no
// context.
func (m *machine) get(trace, path, session string) {
	m.t.Helper()
	cgroup, err := m.group.Child(session)
	must(m.t, err)
	p, err := sandbox.Start(sandbox.Spec{
		Name: "client", Path: os.Args[0], Env: append(m.env("client"), traceEnv+"="+trace, pathEnv+"="+path),
		Namespace: m.namespace, Cgroup: cgroup, Stderr: filepath.Join(m.dir, "client.log"),
	})
	must(m.t, err)
	ctx, cancel := context.WithTimeout(interrupted, 20*time.Second)
	defer cancel()
	if err := p.Wait(ctx); err != nil {
		m.t.Fatalf("client: %v\n%s", err, p.Tail())
	}
}

type report struct {
	Total int64 `json:"total_ns"`
	Hops  []struct {
		Depth int    `json:"depth"`
		From  string `json:"from"`
		To    string `json:"to"`
	} `json:"hops"`
	Layers []struct {
		Layer    string `json:"layer"`
		Location string `json:"location"`
		Time     int64  `json:"time_ns"`
	} `json:"layers"`
}

// check waits until explain has all hops of a trace, each below the one before, and the
// time of the application that took it.
func (m *machine) check(trace string, hops [][2]string, slow string) {
	m.t.Helper()
	var got report
	err := sandbox.Await(interrupted, "explain "+trace, 30*time.Second, 200*time.Millisecond, func(context.Context) error {
		got = report{}
		var out []byte
		err := m.namespace.Do(func() (err error) {
			out, err = exec.Command(m.tools.Agent, "explain", "--json", "--baseline=0",
				"--jaeger", fmt.Sprintf("http://%s:%d", jaeger, lab.JaegerQueryPort), trace).Output()
			return err
		})
		if err != nil {
			return err
		}
		if err := json.Unmarshal(out, &got); err != nil {
			return err
		}
		if len(got.Hops) != len(hops) {
			return fmt.Errorf("%d hops, want %d: %+v", len(got.Hops), len(hops), got.Hops)
		}
		for i, h := range got.Hops {
			if h.Depth != i || h.From != hops[i][0] || h.To != hops[i][1] {
				return fmt.Errorf("hop %d is %+v, want %v", i, h, hops[i])
			}
		}
		return nil
	})
	must(m.t, err)
	for _, l := range got.Layers {
		if l.Layer == "application" && l.Location == slow {
			if l.Time < stockTakes.Nanoseconds() || l.Time > got.Total {
				m.t.Errorf("%s took %d ns of %d, want at least %v", slow, l.Time, got.Total, stockTakes)
			}
			return
		}
	}
	m.t.Errorf("no time of the application of %s: %+v", slow, got.Layers)
}

// checkCounters checks that nothing waited for names that cannot come, and that
// loopback did not count segments as sent again.
func (m *machine) checkCounters() {
	m.t.Helper()
	metrics, err := m.namespace.Get(interrupted, "http://"+metricsAddr+"/metrics")
	must(m.t, err)
	for name, want := range map[string]int{
		"layertrace_exchanges_name_waits_total":               0,
		"layertrace_exchanges_unnamed_total":                  0,
		"layertrace_segments_retransmitted_total":             0,
		"layertrace_observations_late_total":                  0,
		`layertrace_exchanges_handled_total\{kind="socket"\}`: 6,
		`layertrace_exchanges_handled_total\{kind="vnic"\}`:   3,
	} {
		found := regexp.MustCompile(`(?m)^` + name + ` (\S+)$`).FindSubmatch(metrics)
		if found == nil || string(found[1]) != strconv.Itoa(want) {
			m.t.Errorf("%s is %q, want %d", name, found, want)
		}
	}
}

// reload lets the agent read its identity file again, until its log says so.
func (m *machine) reload(want string) {
	m.t.Helper()
	must(m.t, m.agent.Signal(syscall.SIGHUP))
	pattern := regexp.MustCompile(want)
	must(m.t, sandbox.Await(interrupted, "log line "+want, 10*time.Second, 20*time.Millisecond, func(context.Context) error {
		log, err := os.ReadFile(filepath.Join(m.dir, "agent.log"))
		if err == nil && !pattern.Match(log) {
			lines := strings.Split(strings.TrimSpace(string(log)), "\n")
			err = fmt.Errorf("the last line is %s", lines[len(lines)-1])
		}
		return err
	}))
}

func (m *machine) write(name, text string) {
	m.t.Helper()
	must(m.t, os.WriteFile(name, []byte(text), 0o644))
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
