// SPDX-License-Identifier: Apache-2.0

package k8s

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
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

// statusReport is what layertrace status --json prints, as far as it is checked.
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

// What status tells: nothing is installed; an agent does not run; a real agent
// runs, and sees which contexts stand in front in real traffic.
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

	space, err := c.AddPodNamespace("web", webIP)
	if err != nil {
		t.Fatal(err)
	}
	runAgent(t, c, pod)
	ask := serveIn(t, space)
	const front, behind, without = 7, 3, 2
	for range front {
		ask("GET / HTTP/1.1\r\nhost: web\r\ntraceparent: 00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01\r\n\r\n")
	}
	for range behind {
		ask("GET / HTTP/1.1\r\nhost: web\r\nx-envoy-peer-metadata: " + strings.Repeat("m", 1100) +
			"\r\ntraceparent: 00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01\r\n\r\n")
	}
	for range without {
		ask("GET / HTTP/1.1\r\nhost: web\r\n\r\n")
	}
	awaitNil(t, "the counts", func() error {
		report, failed = readStatus(t, c)
		if failed || len(report.Agents) != 1 || report.Agents[0].Requests < front+behind+without {
			return fmt.Errorf("status says %+v", report)
		}
		return nil
	})
	if a := report.Agents[0]; a.Found != front || a.Missed != behind || a.Without != without || a.Interfaces == 0 || a.Node != statusNode {
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

// makeKernel makes a node, as its kubelet would, with a kernel of this version.
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

// makeWorkload makes a pod with a sidecar, as far as the API server goes.
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

// bindAgent does what the scheduler would do with the pod that the DaemonSet's
// controller made.
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

// runAgent does what the kubelet would: it runs the agent in the node's network,
// here the control plane's, as the service account of the manifests, and tells the
// API server when it is ready: when it has listed the pods, among others. The
// capabilities are those of the DaemonSet: root gets no more than the bounding set.
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
	client := &http.Client{Transport: &http.Transport{DialContext: c.Namespace.DialContext, DisableKeepAlives: true}}
	awaitNil(t, "the agent", func() error {
		if err := agent.Running(); err != nil {
			t.Fatal(err, agent.Tail())
		}
		answer, err := client.Get("http://" + cluster.BridgeIP + ":9464/readyz")
		if err != nil {
			return err
		}
		defer answer.Body.Close()
		if answer.StatusCode != http.StatusOK {
			return errors.New(answer.Status)
		}
		return nil
	})
	self, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", agent.PID()))
	if err != nil || !strings.Contains(string(self), "CapEff:\t000000c000001000\n") { // 39, 38 and 12 (capability.h)
		t.Errorf("the agent has other capabilities: %v\n%s", err, self)
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

// serveIn serves in a pod's namespace, and returns a function that sends the
// bytes of a request there from the node, and reads the answer.
func serveIn(t *testing.T, space *sandbox.Namespace) (ask func(request string)) {
	t.Helper()
	var listener net.Listener
	err := space.Do(func() (err error) {
		listener, err = net.Listen("tcp", fmt.Sprintf("%s:%d", webIP, webPort))
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	server := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { fmt.Fprintln(w, "hello") })}
	ended := make(chan error, 1)
	go func() { ended <- server.Serve(listener) }()
	t.Cleanup(func() {
		if err := server.Close(); err != nil {
			t.Error(err)
		}
		if err := <-ended; !errors.Is(err, http.ErrServerClosed) {
			t.Error(err)
		}
	})
	return func(request string) {
		conn, err := shared.cluster.Namespace.DialContext(interrupted, "tcp", listener.Addr().String())
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
		answer := make([]byte, 12)
		if _, err := io.ReadFull(conn, answer); err != nil || string(answer) != "HTTP/1.1 200" {
			t.Fatalf("answer %q, %v", answer, err)
		}
	}
}
