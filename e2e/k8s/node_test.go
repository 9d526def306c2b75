// SPDX-License-Identifier: Apache-2.0

package k8s

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	trace "go.opentelemetry.io/proto/otlp/trace/v1"
	core "k8s.io/api/core/v1"
	meta "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/layertrace/layertrace/e2e/cluster"
	"github.com/layertrace/layertrace/e2e/sandbox"
	"github.com/layertrace/layertrace/internal/testkit"
)

const (
	agentNode = "identity-node"
	// nodeIP is the node's address on the control plane's bridge.
	nodeIP = "10.77.0.50"
	// podPort is the port of every pod's server.
	podPort = "8080"
	// otlpAddress is the receiver's address in the node's namespace.
	otlpAddress = "127.0.0.1:4317"
	// metricsAddress is the agent's address in the node's namespace.
	metricsAddress = "127.0.0.1:9464"
)

// testNode is a node's network namespace with the agent in it. Pods are connected to
// it as by CNIs; no kubelet runs.
type testNode struct {
	cluster   *cluster.Cluster
	namespace *sandbox.Namespace
	spans     testkit.Receiver
	agent     *sandbox.Process
}

// newNode creates a node without pods, with a bridge as of the bridge plugin.
func newNode(t *testing.T, c *cluster.Cluster) *testNode {
	t.Helper()
	n := &testNode{cluster: c, namespace: makePodNamespace(t, "node")}
	err := errors.Join(
		c.Namespace.AddPair("veth-node", cluster.Bridge, n.namespace, nodeIP+"/24"),
		n.namespace.AddBridge("cni0", "10.60.0.1/24"),
		n.namespace.Do(forward),
	)
	if err != nil {
		t.Fatal(err)
	}
	listener, err := n.namespace.Listen(otlpAddress)
	if err != nil {
		t.Fatal(err)
	}
	n.spans.ServeOn(t, listener)
	return n
}

// forward enables routing in the calling thread's namespace.
func forward() error { return os.WriteFile("/proc/sys/net/ipv4/ip_forward", []byte("1"), 0) }

// makePodNamespace creates a network namespace that ends with the test.
func makePodNamespace(t *testing.T, name string) *sandbox.Namespace {
	t.Helper()
	namespace, err := sandbox.NewNamespace("lt-cluster-" + *clusterName + "-" + name)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := namespace.Delete(); err != nil {
			t.Error(err)
		}
	})
	return namespace
}

// startAgent starts the agent as a service account of the cluster, until stop is
// called or the test ends.
func (n *testNode) startAgent(t *testing.T, namespace string, env ...string) (stop func()) {
	t.Helper()
	kubeconfig := filepath.Join(t.TempDir(), "kubeconfig")
	if _, err := n.cluster.ServiceAccountKubeconfig(interrupted, namespace, "default", kubeconfig, true); err != nil {
		t.Fatal(err)
	}
	var err error
	n.agent, err = n.cluster.Run(sandbox.Spec{
		Name: "agent", Path: theAgent(t), Namespace: n.namespace, Env: env,
		Args: []string{
			"agent", "--kubernetes", "--kubeconfig", kubeconfig, "--node", agentNode, "--pnic", "eth0",
			"--otlp-endpoint", otlpAddress, "--otlp-insecure", "--metrics-address", metricsAddress,
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	agent := n.agent
	stop = sync.OnceFunc(func() {
		if err := agent.Stop(time.Minute); err != nil {
			t.Error(err)
		}
	})
	t.Cleanup(stop)
	return stop
}

// get requests a page of the agent.
func (n *testNode) get(path string) (code int, body string, err error) {
	if err := n.agent.Running(); err != nil {
		return 0, "", err
	}
	return fetch(n.namespace, metricsAddress, path, "")
}

// metric returns the value of one of the agent's metrics as text.
func (n *testNode) metric(name string) (string, error) {
	_, body, err := n.get("/metrics")
	if err != nil {
		return "", err
	}
	for line := range strings.Lines(body) {
		if value, ok := strings.CutPrefix(line, name+" "); ok {
			return strings.TrimSpace(value), nil
		}
	}
	return "", fmt.Errorf("no metric %s", name)
}

// awaitMetric waits until a metric has a value.
func (n *testNode) awaitMetric(t *testing.T, name, want string) {
	t.Helper()
	awaitNil(t, name+" "+want, func() error {
		got, err := n.metric(name)
		if err == nil && got != want {
			err = fmt.Errorf("%s is %s", name, got)
		}
		return err
	})
}

// addBridged connects a pod to the node's bridge.
func (n *testNode) addBridged(t *testing.T, name, nic, ip string) *sandbox.Namespace {
	t.Helper()
	pod := makePodNamespace(t, name)
	err := errors.Join(
		n.namespace.AddPair(nic, "cni0", pod, ip+"/24"),
		pod.AddRoute("0.0.0.0/0", "10.60.0.1"),
	)
	if err != nil {
		t.Fatal(err)
	}
	serve(t, pod, "0.0.0.0:"+podPort)
	return pod
}

// addRouted connects a pod by a host route, as the ptp plugin and kindnet do.
func (n *testNode) addRouted(t *testing.T, name, nic, ip string) *sandbox.Namespace {
	t.Helper()
	pod := makePodNamespace(t, name)
	if err := routed(n.namespace, pod, nic, ip); err != nil {
		t.Fatal(err)
	}
	serve(t, pod, "0.0.0.0:"+podPort)
	return pod
}

func routed(host, pod *sandbox.Namespace, nic, ip string) error {
	const gateway = "169.254.1.1"
	outer, err := host.Netlink()
	if err != nil {
		return err
	}
	defer outer.Close()
	inner, err := pod.Netlink()
	if err != nil {
		return err
	}
	defer inner.Close()
	attrs := netlink.NewLinkAttrs()
	attrs.Name = nic
	if err := outer.LinkAdd(&netlink.Veth{LinkAttrs: attrs, PeerName: "eth0", PeerNamespace: netlink.NsFd(pod.FD())}); err != nil {
		return err
	}
	up := func(nl *netlink.Handle, name, address string, routes ...*netlink.Route) error {
		link, err := nl.LinkByName(name)
		if err != nil {
			return err
		}
		addr, err := netlink.ParseAddr(address)
		if err != nil {
			return err
		}
		if err := errors.Join(nl.AddrAdd(link, addr), nl.LinkSetUp(link)); err != nil {
			return err
		}
		for _, r := range routes {
			r.LinkIndex = link.Attrs().Index
			if err := nl.RouteAdd(r); err != nil {
				return err
			}
		}
		return nil
	}
	host32 := func(ip string) *net.IPNet { return &net.IPNet{IP: net.ParseIP(ip).To4(), Mask: net.CIDRMask(32, 32)} }
	return errors.Join(
		up(outer, nic, gateway+"/32", &netlink.Route{Dst: host32(ip), Scope: netlink.SCOPE_LINK}),
		up(inner, "eth0", ip+"/32",
			&netlink.Route{Dst: host32(gateway), Scope: netlink.SCOPE_LINK},
			&netlink.Route{Gw: net.ParseIP(gateway)}),
	)
}

// serve serves HTTP at an address of a namespace until the end of the test, and
// returns the listener's address.
func serve(t *testing.T, namespace *sandbox.Namespace, address string) string {
	t.Helper()
	listener, err := namespace.Listen(address)
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
	return listener.Addr().String()
}

// spanAt returns the span of a trace at an interface, if it has arrived.
func (n *testNode) spanAt(traceID [16]byte, nic string) (span *trace.Span, ok bool) {
	for _, s := range n.spans.Spans() {
		if string(s.TraceId) == string(traceID[:]) && strings.HasSuffix(s.Name, "_"+nic) {
			return s, true
		}
	}
	return nil, false
}

// call sends a request with a trace context of its own from a pod, and returns
// its trace ID.
func call(t *testing.T, from *sandbox.Namespace, to string) (traceID [16]byte) {
	t.Helper()
	_, _ = rand.Read(traceID[:]) // never fails
	code, _, err := fetch(from, net.JoinHostPort(to, podPort), "/", fmt.Sprintf("00-%x-00f067aa0ba902b7-01", traceID))
	if err != nil || code != http.StatusOK {
		t.Fatalf("call %s: status %d, %v", to, code, err)
	}
	return traceID
}

func fetch(namespace *sandbox.Namespace, address, path, traceparent string) (code int, body string, err error) {
	ctx, cancel := context.WithTimeout(interrupted, 30*time.Second)
	defer cancel()
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+address+path, nil)
	if err != nil {
		return 0, "", err
	}
	if traceparent != "" {
		request.Header.Set("traceparent", traceparent)
	}
	transport := &http.Transport{DialContext: namespace.DialContext, DisableKeepAlives: true}
	response, err := transport.RoundTrip(request)
	if err != nil {
		return 0, "", err
	}
	defer response.Body.Close()
	text, err := io.ReadAll(response.Body)
	return response.StatusCode, string(text), err
}

// removeBridged disconnects a pod from the node's bridge. The next pod with its address
// would announce itself to the neighbours (gratuitous ARP); here their entries are
// deleted.
func (n *testNode) removeBridged(t *testing.T, nic string) {
	t.Helper()
	nl, err := n.namespace.Netlink()
	if err != nil {
		t.Fatal(err)
	}
	defer nl.Close()
	link, err := nl.LinkByName(nic)
	if err == nil {
		err = nl.LinkDel(link)
	}
	if err != nil {
		t.Fatalf("remove %s: %v", nic, err)
	}
	bridge, err := nl.LinkByName("cni0")
	if err != nil {
		t.Fatal(err)
	}
	neighbours, err := nl.NeighList(bridge.Attrs().Index, netlink.FAMILY_V4)
	if err != nil {
		t.Fatal(err)
	}
	for i := range neighbours {
		// It may be gone already.
		if err := nl.NeighDel(&neighbours[i]); err != nil && !errors.Is(err, syscall.ENOENT) {
			t.Fatal(err)
		}
	}
}

// number returns the value of a metric as an integer.
func (n *testNode) number(t *testing.T, name string) int {
	t.Helper()
	text, err := n.metric(name)
	if err != nil {
		t.Fatal(err)
	}
	value, err := strconv.Atoi(text)
	if err != nil {
		t.Fatal(err)
	}
	return value
}

// deploy creates a Deployment of one pod on the test's node, with labels in YAML, and
// returns the pod that the controllers create for it.
func deploy(t *testing.T, c *cluster.Cluster, namespace, name, labels string) *core.Pod {
	t.Helper()
	object := fmt.Sprintf(`
apiVersion: apps/v1
kind: Deployment
metadata: {name: %[2]s, namespace: %[1]s}
spec:
  selector: {matchLabels: {deployment: %[2]s}}
  template:
    metadata: {labels: {deployment: %[2]s, %[3]s}}
    spec:
      nodeName: %[4]s
      terminationGracePeriodSeconds: 0
      containers: [{name: app, image: none}]
`, namespace, name, labels, agentNode)
	if err := c.Apply(interrupted, []byte(object)); err != nil {
		t.Fatal(err)
	}
	var pod *core.Pod
	awaitNil(t, "pod of "+name, func() error {
		list, err := c.Client.CoreV1().Pods(namespace).List(interrupted, meta.ListOptions{LabelSelector: "deployment=" + name})
		if err != nil {
			return err
		}
		if len(list.Items) != 1 {
			return fmt.Errorf("%d pods", len(list.Items))
		}
		pod = &list.Items[0]
		return nil
	})
	return pod
}

// makePod creates a pod without a controller.
func makePod(t *testing.T, c *cluster.Cluster, namespace, name, node string, hostNetwork bool) *core.Pod {
	t.Helper()
	grace := int64(0)
	made, err := c.Client.CoreV1().Pods(namespace).Create(interrupted, &core.Pod{
		ObjectMeta: meta.ObjectMeta{Name: name},
		Spec: core.PodSpec{
			NodeName: node, HostNetwork: hostNetwork, TerminationGracePeriodSeconds: &grace,
			Containers: []core.Container{{Name: "app", Image: "none"}},
		},
	}, meta.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	return made
}

// setStatus sets the status of a pod, as a kubelet would.
func setStatus(t *testing.T, c *cluster.Cluster, pod *core.Pod, phase core.PodPhase, ip, hostIP string) {
	t.Helper()
	awaitNil(t, "status of pod "+pod.Name, func() error { // a controller may write at the same time
		pods := c.Client.CoreV1().Pods(pod.Namespace)
		now, err := pods.Get(interrupted, pod.Name, meta.GetOptions{})
		if err != nil {
			return err
		}
		now.Status.Phase = phase
		now.Status.PodIP, now.Status.PodIPs = ip, []core.PodIP{{IP: ip}}
		now.Status.HostIP, now.Status.HostIPs = hostIP, []core.HostIP{{IP: hostIP}}
		_, err = pods.UpdateStatus(interrupted, now, meta.UpdateOptions{})
		return err
	})
}
