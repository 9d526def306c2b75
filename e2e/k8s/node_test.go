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

	"github.com/layertrace/layertrace/e2e/cluster"
	"github.com/layertrace/layertrace/e2e/sandbox"
	"github.com/layertrace/layertrace/internal/otlptest"
)

const (
	agentNode = "identity-node"
	// nodeIP is the node's address, on the control plane's bridge.
	nodeIP = "10.77.0.50"
	// podPort is where every pod of a test answers.
	podPort = "8080"
	// otlpAddress is the receiver's, in the node's namespace.
	otlpAddress = "127.0.0.1:4317"
	// metricsAddress is the agent's, in the node's namespace.
	metricsAddress = "127.0.0.1:9464"
)

// testNode is a node's network namespace with the agent in it. Pods are
// connected to it the way that CNIs do; no kubelet runs.
type testNode struct {
	cluster *cluster.Cluster
	space   *sandbox.Namespace
	spans   otlptest.Receiver
	agent   *sandbox.Process
}

// newNode makes a node without pods, with a bridge as the bridge plugin has.
func newNode(t *testing.T, c *cluster.Cluster) *testNode {
	t.Helper()
	n := &testNode{cluster: c, space: makeSpace(t, "node")}
	err := errors.Join(
		c.Namespace.AddPair("veth-node", cluster.Bridge, n.space, nodeIP+"/24"),
		n.space.AddBridge("cni0", "10.60.0.1/24"),
		n.space.Do(forward),
	)
	if err != nil {
		t.Fatal(err)
	}
	n.spans.ServeOn(t, listenIn(t, n.space, otlpAddress))
	return n
}

// forward lets the calling thread's namespace route.
func forward() error { return os.WriteFile("/proc/sys/net/ipv4/ip_forward", []byte("1"), 0) }

// makeSpace makes a network namespace that ends with the test.
func makeSpace(t *testing.T, name string) *sandbox.Namespace {
	t.Helper()
	space, err := sandbox.NewNamespace("lt-cluster-" + *clusterName + "-" + name)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := space.Delete(); err != nil {
			t.Error(err)
		}
	})
	return space
}

// startAgent starts the agent as a service account of the cluster, and returns
// what ends it; the test's end does as well.
func (n *testNode) startAgent(t *testing.T, namespace string, env ...string) (stop func()) {
	t.Helper()
	kubeconfig := filepath.Join(t.TempDir(), "kubeconfig")
	if _, err := n.cluster.ServiceAccountKubeconfig(interrupted, namespace, "default", kubeconfig, true); err != nil {
		t.Fatal(err)
	}
	var err error
	n.agent, err = n.cluster.Run(sandbox.Spec{
		Name: "agent", Path: theAgent(t), Namespace: n.space, Env: env,
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

// get reads a page of the agent's.
func (n *testNode) get(path string) (code int, body string, err error) {
	if err := n.agent.Running(); err != nil {
		return 0, "", err
	}
	return fetch(n.space, metricsAddress, path, "")
}

// metric is the value of one of the agent's metrics, as it is written.
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
	pod := makeSpace(t, name)
	err := errors.Join(
		n.space.AddPair(nic, "cni0", pod, ip+"/24"),
		pod.AddRoute("0.0.0.0/0", "10.60.0.1"),
	)
	if err != nil {
		t.Fatal(err)
	}
	return answer(t, pod)
}

// addRouted connects a pod by a host route, as the ptp plugin and kindnet do.
func (n *testNode) addRouted(t *testing.T, name, nic, ip string) *sandbox.Namespace {
	t.Helper()
	pod := makeSpace(t, name)
	if err := routed(n.space, pod, nic, ip); err != nil {
		t.Fatal(err)
	}
	return answer(t, pod)
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

// answer serves HTTP in a pod.
func answer(t *testing.T, pod *sandbox.Namespace) *sandbox.Namespace {
	t.Helper()
	listener := listenIn(t, pod, "0.0.0.0:"+podPort)
	server := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { fmt.Fprintln(w, "hello") })}
	go func() { _ = server.Serve(listener) }() // ends with Close
	t.Cleanup(func() { _ = server.Close() })
	return pod
}

// spanAt returns the span of a trace that was made at an interface, once it has
// arrived.
func (n *testNode) spanAt(traceID [16]byte, nic string) (span *trace.Span, ok bool) {
	for _, s := range n.spans.Spans() {
		if string(s.TraceId) == string(traceID[:]) && strings.HasSuffix(s.Name, "_"+nic) {
			return s, true
		}
	}
	return nil, false
}

func listenIn(t *testing.T, space *sandbox.Namespace, address string) (listener net.Listener) {
	t.Helper()
	err := space.Do(func() (err error) {
		listener, err = net.Listen("tcp", address)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return listener
}

// call sends a request with a trace context of its own from a pod, and returns
// its trace ID.
func call(t *testing.T, from *sandbox.Namespace, to string) (traceID [16]byte) {
	t.Helper()
	_, _ = rand.Read(traceID[:]) // never fails
	code, _, err := fetch(from, net.JoinHostPort(to, podPort), "/", fmt.Sprintf("00-%x-00f067aa0ba902b7-01", traceID))
	if err != nil || code != http.StatusOK {
		t.Fatalf("call of %s: status %d, %v", to, code, err)
	}
	return traceID
}

func fetch(space *sandbox.Namespace, address, path, traceparent string) (code int, body string, err error) {
	ctx, cancel := context.WithTimeout(interrupted, 30*time.Second)
	defer cancel()
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+address+path, nil)
	if err != nil {
		return 0, "", err
	}
	if traceparent != "" {
		request.Header.Set("traceparent", traceparent)
	}
	transport := &http.Transport{DialContext: space.DialContext, DisableKeepAlives: true}
	response, err := transport.RoundTrip(request)
	if err != nil {
		return 0, "", err
	}
	defer response.Body.Close()
	text, err := io.ReadAll(response.Body)
	return response.StatusCode, string(text), err
}

// removeBridged takes a pod off the node's bridge. The next one with its
// address would announce itself to the neighbours (gratuitous ARP); here they
// are made to forget.
func (n *testNode) removeBridged(t *testing.T, nic string) {
	t.Helper()
	nl, err := n.space.Netlink()
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
		// That it has gone meanwhile is all right.
		if err := nl.NeighDel(&neighbours[i]); err != nil && !errors.Is(err, syscall.ENOENT) {
			t.Fatal(err)
		}
	}
}

// number is the value of a metric that is a whole number.
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
