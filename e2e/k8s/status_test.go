// SPDX-License-Identifier: Apache-2.0

package k8s

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	core "k8s.io/api/core/v1"
	meta "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/layertrace/layertrace/e2e/cluster"
	"github.com/layertrace/layertrace/e2e/sandbox"
)

const (
	statusNode = "node1"
	webIP      = "10.77.0.50"
	webPort    = 8080
)

// statusReport is the part of layertrace status --json that is checked.
type statusReport struct {
	Installed bool   `json:"installed"`
	Reorder   string `json:"reorder"`
	Agents    []struct {
		Node       string  `json:"node"`
		Ready      bool    `json:"ready"`
		Interfaces int     `json:"interfaces"`
		Requests   float64 `json:"requests"`
		Found      float64 `json:"contexts_found"`
		Missed     float64 `json:"contexts_missed"`
		Behind     float64 `json:"contexts_behind_window"`
		Without    float64 `json:"contexts_none"`
	} `json:"agents"`
	Workloads []struct {
		Namespace string `json:"namespace"`
		Name      string `json:"name"`
		Sidecars  int    `json:"sidecars"`
		Tracing   struct {
			On       bool    `json:"on"`
			Sampling float64 `json:"sampling"`
			By       string  `json:"by"`
			Reason   string  `json:"reason"`
		} `json:"tracing"`
		Problem string `json:"problem"`
	} `json:"workloads"`
	Problems []string `json:"problems"`
}

func readStatus(t *testing.T, c *cluster.Cluster) (report statusReport, failed bool) {
	t.Helper()
	cmd := exec.CommandContext(interrupted, theAgent(t), "status", "--json", "--kubeconfig", c.Kubeconfig)
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	err := cmd.Run()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		t.Fatal(err)
	}
	if jsonErr := json.Unmarshal(stdout.Bytes(), &report); jsonErr != nil {
		t.Fatalf("status printed %q, %q: %v", stdout.String(), stderr.String(), jsonErr)
	}
	return report, err != nil
}

// Status reports: nothing is installed; an agent does not run; a real agent runs, and
// counts leading contexts in real traffic.
func testStatus(t *testing.T, c *cluster.Cluster) {
	if report, failed := readStatus(t, c); !failed || report.Installed || len(report.Problems) != 1 {
		t.Errorf("without an installation: %+v", report)
	}
	makeKernel(t, c, statusNode, "6.18.0")
	uninstallAfter(t, c)
	does(t, c, "install", "--yes", "--reorder=lua", "--tracing-provider=otel-tracing", "--sampling=100")
	makeWorkload(t, c)

	pod := bindAgent(t, c)
	report, failed := readStatus(t, c)
	if !failed || len(report.Agents) != 1 || report.Agents[0].Ready || len(report.Problems) == 0 {
		t.Fatalf("with an agent that does not run: %+v", report)
	}
	checkWorkload(t, report)

	namespace, err := c.AddPodNamespace("web", webIP)
	if err != nil {
		t.Fatal(err)
	}
	runAgent(t, c, pod)
	ask := serveIn(t, namespace)
	const leading, late, without = 7, 3, 2
	for range leading {
		ask("GET / HTTP/1.1\r\nhost: web\r\ntraceparent: 00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01\r\n\r\n")
	}
	for range late {
		ask("GET / HTTP/1.1\r\nhost: web\r\nx-envoy-peer-metadata: " + strings.Repeat("m", 1100) +
			"\r\ntraceparent: 00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01\r\n\r\n")
	}
	for range without {
		ask("GET / HTTP/1.1\r\nhost: web\r\n\r\n")
	}
	awaitNil(t, "the counts", func() error {
		report, failed = readStatus(t, c)
		if failed || len(report.Agents) != 1 || report.Agents[0].Requests < leading+late+without {
			return fmt.Errorf("status reports %+v", report)
		}
		return nil
	})
	if a := report.Agents[0]; a.Found != leading+late || a.Behind != late || a.Missed != 0 || a.Without != without || a.Interfaces == 0 || a.Node != statusNode {
		t.Errorf("the agent: %+v", a)
	}
	if report.Reorder != "lua" {
		t.Errorf("reordering by %q", report.Reorder)
	}
	out := does(t, c, "status")
	expect(t, out, "70.0 % (7 of 10)", "shop/web", "100 % [otel-tracing]", "70.0 % of the contexts are in the prefix window")
}

func checkWorkload(t *testing.T, report statusReport) {
	t.Helper()
	if len(report.Workloads) != 1 {
		t.Fatalf("workloads: %+v", report.Workloads)
	}
	w := report.Workloads[0]
	if w.Namespace != "shop" || w.Name != "web" || w.Sidecars != 1 || !w.Tracing.On || w.Tracing.Sampling != 100 || w.Tracing.By != "Telemetry istio-system/layertrace" {
		t.Errorf("workload %+v", w)
	}
}

// makeKernel creates a node, as its kubelet would, with a version of the kernel.
func makeKernel(t *testing.T, c *cluster.Cluster, name, kernel string) {
	t.Helper()
	nodes := c.Client.CoreV1().Nodes()
	labels := map[string]string{"kubernetes.io/os": "linux", "kubernetes.io/arch": "amd64"}
	if _, err := nodes.Create(interrupted, &core.Node{ObjectMeta: meta.ObjectMeta{Name: name, Labels: labels}}, meta.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := nodes.Delete(interrupted, name, meta.DeleteOptions{}); err != nil {
			t.Error(err)
		}
	})
	awaitNil(t, "the node's status", func() error { // controllers write the node too
		node, err := nodes.Get(interrupted, name, meta.GetOptions{})
		if err != nil {
			return err
		}
		node.Status.NodeInfo = core.NodeSystemInfo{KernelVersion: kernel, Architecture: "amd64", OperatingSystem: "linux"}
		_, err = nodes.UpdateStatus(interrupted, node, meta.UpdateOptions{})
		return err
	})
}

// makeWorkload creates a pod with a sidecar in the API server.
func makeWorkload(t *testing.T, c *cluster.Cluster) {
	t.Helper()
	makeNamespace(t, c, "shop")
	pod := &core.Pod{
		ObjectMeta: meta.ObjectMeta{Name: "web", Namespace: "shop"},
		Spec: core.PodSpec{NodeName: statusNode, Containers: []core.Container{
			{Name: "web", Image: "example.org/web:1"}, {Name: "istio-proxy", Image: "example.org/proxyv2:1"},
		}},
	}
	if _, err := c.Client.CoreV1().Pods("shop").Create(interrupted, pod, meta.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		now := int64(0) // there is no kubelet to wait for
		if err := c.Client.CoreV1().Pods("shop").Delete(interrupted, "web", meta.DeleteOptions{GracePeriodSeconds: &now}); err != nil {
			t.Error(err)
		}
	})
}

// bindAgent binds the pod of the DaemonSet's controller to the node, as the scheduler
// would.
func bindAgent(t *testing.T, c *cluster.Cluster) *core.Pod {
	t.Helper()
	pods := c.Client.CoreV1().Pods(agentNamespace)
	var pod *core.Pod
	awaitNil(t, "the agent's pod", func() error {
		list, err := pods.List(interrupted, meta.ListOptions{})
		if err != nil || len(list.Items) != 1 {
			return errors.Join(fmt.Errorf("%d pods", len(list.Items)), err)
		}
		pod = &list.Items[0]
		return nil
	})
	binding := &core.Binding{ObjectMeta: meta.ObjectMeta{Name: pod.Name, Namespace: pod.Namespace}, Target: core.ObjectReference{Kind: "Node", Name: statusNode}}
	if err := pods.Bind(interrupted, binding, meta.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { // as the kubelet would when the DaemonSet is gone
		now := int64(0)
		if err := pods.DeleteCollection(interrupted, meta.DeleteOptions{GracePeriodSeconds: &now}, meta.ListOptions{}); err != nil {
			t.Error(err)
		}
	})
	return pod
}

// runAgent runs the agent as the kubelet would: in the node's network, here the control
// plane's, as the service account of the manifests, and with the capabilities of the
// DaemonSet, to which the bounding set limits root. It reports to the API server when
// the agent is ready, which has then listed the pods.
func runAgent(t *testing.T, c *cluster.Cluster, pod *core.Pod) {
	t.Helper()
	kubeconfig := filepath.Join(t.TempDir(), "kubeconfig")
	if _, err := c.ServiceAccountKubeconfig(interrupted, agentNamespace, "layertrace-agent", kubeconfig, true); err != nil {
		t.Fatal(err)
	}
	setpriv, err := exec.LookPath("setpriv")
	if err != nil {
		t.Fatal(err)
	}
	agent, err := c.Run(sandbox.Spec{Name: "agent", Path: setpriv, Args: []string{
		"--bounding-set=-all,+bpf,+perfmon,+net_admin", "--no-new-privs", theAgent(t),
		"agent", "--kubernetes", "--kubeconfig=" + kubeconfig, "--node=" + statusNode,
		"--export=none", "--pnic=nosuch*", "--metrics-address=[" + cluster.BridgeIP + "]:9464",
	}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := agent.Stop(time.Minute); err != nil {
			t.Error(err)
		}
	})
	awaitNil(t, "the agent", func() error {
		if err := agent.Running(); err != nil {
			t.Fatal(err, agent.Tail())
		}
		_, err := c.Namespace.Get(interrupted, "http://"+cluster.BridgeIP+":9464/readyz")
		return err
	})
	self, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", agent.PID()))
	if err != nil || !strings.Contains(string(self), "CapEff:\t000000c000001000\n") { // 39, 38 and 12 (capability.h)
		t.Errorf("the agent has wrong capabilities: %v\n%s", err, self)
	}
	pods := c.Client.CoreV1().Pods(pod.Namespace)
	awaitNil(t, "the agent's status", func() error {
		now, err := pods.Get(interrupted, pod.Name, meta.GetOptions{})
		if err != nil {
			return err
		}
		now.Status.Phase, now.Status.PodIP = core.PodRunning, cluster.BridgeIP
		now.Status.PodIPs = []core.PodIP{{IP: cluster.BridgeIP}}
		now.Status.Conditions = append(now.Status.Conditions, core.PodCondition{Type: core.PodReady, Status: core.ConditionTrue})
		_, err = pods.UpdateStatus(interrupted, now, meta.UpdateOptions{})
		return err
	})
}

// serveIn serves in a pod's namespace, and returns a function that sends the bytes of
// a request there from the node and reads the response.
func serveIn(t *testing.T, namespace *sandbox.Namespace) (ask func(request string)) {
	t.Helper()
	address := serve(t, namespace, fmt.Sprintf("%s:%d", webIP, webPort))
	return func(request string) {
		conn, err := shared.cluster.Namespace.DialContext(interrupted, "tcp", address)
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		if err := conn.SetDeadline(time.Now().Add(limit)); err != nil {
			t.Fatal(err)
		}
		if _, err := conn.Write([]byte(request)); err != nil {
			t.Fatal(err)
		}
		response := make([]byte, 12)
		if _, err := io.ReadFull(conn, response); err != nil || string(response) != "HTTP/1.1 200" {
			t.Fatalf("response %q, %v", response, err)
		}
	}
}
