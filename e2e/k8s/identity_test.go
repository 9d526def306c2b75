// SPDX-License-Identifier: Apache-2.0

package k8s

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"net/http"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	trace "go.opentelemetry.io/proto/otlp/trace/v1"
	"golang.org/x/sync/errgroup"
	core "k8s.io/api/core/v1"
	meta "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"

	"github.com/layertrace/layertrace/e2e/cluster"
	"github.com/layertrace/layertrace/e2e/sandbox"
)

const (
	shop       = "shop"
	frontIP    = "10.50.0.2"
	reviewsIP  = "10.60.0.2"
	ratingsIP  = "10.77.0.60"
	otherNode  = "identity-other-node"
	otherIP    = "10.77.0.61"
	remotePods = `layertrace_identity_pods{scope="remote"}`
	agentReads = `
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRole
metadata: {name: identity-test}
rules: [{apiGroups: [""], resources: [pods], verbs: [list, watch]}]
---
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRoleBinding
metadata: {name: identity-test}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: identity-test}
subjects: [{kind: ServiceAccount, name: default, namespace: shop}]
`
)

// The agent names pods and services from a real API server, on interfaces as of
// different CNIs, while pods come and go and the API server is unavailable. It has
// only the permissions that layertrace install grants.
func TestIdentity(t *testing.T) {
	c := theCluster(t)
	makeNamespace(t, c, shop)
	n := newNode(t, c)

	front := n.addRouted(t, "front", "vethfront", frontIP)
	n.addBridged(t, "reviews", "vethreviews", reviewsIP)
	ratings := makePodNamespace(t, "ratings")
	if err := errors.Join(
		c.Namespace.AddPair("veth-ratings", cluster.Bridge, ratings, ratingsIP+"/24"),
		ratings.AddRoute("10.50.0.0/16", nodeIP), ratings.AddRoute("10.60.0.0/16", nodeIP),
	); err != nil {
		t.Fatal(err)
	}
	serve(t, ratings, "0.0.0.0:"+podPort)

	frontPod := deploy(t, c, shop, "front-v1", "app: front")
	reviewsPod := deploy(t, c, shop, "reviews-v2", "app: x, service.istio.io/canonical-name: reviews")
	setStatus(t, c, frontPod, core.PodRunning, frontIP, nodeIP)
	setStatus(t, c, reviewsPod, core.PodRunning, reviewsIP, nodeIP)
	setStatus(t, c, makePod(t, c, shop, "ratings", otherNode, false), core.PodRunning, ratingsIP, otherIP)
	// Neither has an address of its own: one has ended, one uses the node's network.
	setStatus(t, c, makePod(t, c, shop, "done", agentNode, false), core.PodSucceeded, reviewsIP, nodeIP)
	setStatus(t, c, makePod(t, c, shop, "proxy", agentNode, true), core.PodRunning, nodeIP, nodeIP)

	n.startAgent(t, shop)
	n.awaitReady(t, http.StatusServiceUnavailable, "grant list and watch on pods")
	grant(t, c)
	n.awaitReady(t, http.StatusOK, "ok\n")

	t.Run("service, pod and controller", func(t *testing.T) {
		n.expect(t, front, reviewsIP, "vethfront", map[string]string{
			"service.name": "front", "k8s.namespace.name": shop, "k8s.pod.name": frontPod.Name, "k8s.pod.uid": string(frontPod.UID),
			"k8s.deployment.name": "front-v1", "k8s.node.name": agentNode,
			"layertrace.server.service": "reviews",
		})
		n.expect(t, front, reviewsIP, "vethreviews", map[string]string{
			"service.name": "reviews", "k8s.pod.name": reviewsPod.Name, "k8s.deployment.name": "reviews-v2",
			"layertrace.client.service": "front",
		})
		n.awaitMetric(t, `layertrace_identity_interfaces{by="routes"}`, "1")
		n.awaitMetric(t, `layertrace_identity_interfaces{by="bridge"}`, "1")
	})
	t.Run("both ends at a physical interface", func(t *testing.T) {
		n.expect(t, front, ratingsIP, "eth0", map[string]string{
			"service.name": agentNode, "layertrace.client.service": "front", "layertrace.server.service": "ratings",
		})
	})
	t.Run("a node's own traffic", func(t *testing.T) {
		n.expect(t, n.namespace, ratingsIP, "eth0", map[string]string{
			"layertrace.client.node": agentNode, "layertrace.client.service": "", "layertrace.server.service": "ratings",
		})
	})
	n.podWithoutAddress(t, front) // afterwards the agent is attached to all interfaces
	n.reuseAddress(t, front)
	t.Run("the API server is away", func(t *testing.T) { n.outage(t, front) })
}

func grant(t *testing.T, c *cluster.Cluster) {
	t.Helper()
	if err := c.Apply(interrupted, []byte(agentReads)); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := c.Delete(interrupted, []byte(agentReads)); err != nil {
			t.Error(err)
		}
	})
}

// awaitReady waits until /readyz responds with a status and a text: either exactly
// "ok\n", or containing another text.
func (n *testNode) awaitReady(t *testing.T, status int, want string) {
	t.Helper()
	awaitNil(t, "readiness", func() error {
		code, body, err := n.get("/readyz")
		if err == nil && (code != status || !strings.Contains(body, want) || want == "ok\n" && body != want) {
			err = fmt.Errorf("status %d: %s", code, body)
		}
		return err
	})
}

// expect sends requests until the span of one at an interface has all attributes (an
// empty value: does not have the attribute).
func (n *testNode) expect(t *testing.T, from *sandbox.Namespace, to, nic string, want map[string]string) {
	t.Helper()
	awaitNil(t, "names at "+nic, func() error {
		id := call(t, from, to)
		var s *trace.Span
		// A request before the agent was attached to the interface has no span.
		err := sandbox.Await(interrupted, "span at "+nic, 15*time.Second, 50*time.Millisecond, func(context.Context) error {
			var ok bool
			if s, ok = n.spanAt(id, nic); !ok {
				return errors.Join(errors.New("none"), n.agent.Running())
			}
			return nil
		})
		if err != nil {
			return err
		}
		attributes := n.spans.Texts(s)
		for key, value := range want {
			if attributes[key] != value {
				return fmt.Errorf("%s is %q, want %q", key, attributes[key], value)
			}
		}
		if service := want["service.name"]; service != "" && s.Name != service+"_"+nic {
			return fmt.Errorf("name %s", s.Name)
		}
		return nil
	})
}

// podWithoutAddress connects a pod whose address is not in its status. The agent sees
// the host's processes, as with hostPID, and finds the pod by the cgroup of a process
// in the pod's network namespace.
func (n *testNode) podWithoutAddress(t *testing.T, front *sandbox.Namespace) {
	const ip = "10.50.0.7"
	namespace := n.addRouted(t, "early", "vethearly", ip)
	pod := deploy(t, n.cluster, shop, "early-v1", "app: early")
	group, err := sandbox.NewGroup("layertrace-cluster-" + *clusterName + "-pod" + string(pod.UID))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), limit) // the test's context has ended
		defer cancel()
		if err := group.Remove(ctx); err != nil {
			t.Error(err)
		}
	})
	sleep, err := exec.LookPath("sleep")
	if err != nil {
		t.Fatal(err)
	}
	_, err = sandbox.Start(sandbox.Spec{
		Name: "a pod's process", Path: sleep, Args: []string{"infinity"},
		Namespace: namespace, Cgroup: group, Stderr: filepath.Join(t.TempDir(), "log"),
	})
	if err != nil {
		t.Fatal(err)
	}
	n.expect(t, front, ip, "vethearly", map[string]string{"service.name": "early", "k8s.pod.name": pod.Name})
	n.awaitMetric(t, `layertrace_identity_interfaces{by="namespace"}`, "1")
}

// reuseAddress replaces reviews with another pod of the same address.
func (n *testNode) reuseAddress(t *testing.T, front *sandbox.Namespace) {
	background := meta.DeletePropagationBackground
	err := n.cluster.Client.AppsV1().Deployments(shop).Delete(interrupted, "reviews-v2", meta.DeleteOptions{PropagationPolicy: &background})
	if err != nil {
		t.Fatal(err)
	}
	n.awaitMetric(t, `layertrace_identity_pods{scope="local"}`, "3") // front, proxy and early
	const watched = `layertrace_interfaces{kind="vnic"}`
	interfaces := n.number(t, watched)
	n.removeBridged(t, "vethreviews")
	n.awaitMetric(t, watched, strconv.Itoa(interfaces-1))
	n.addBridged(t, "details", "vethdetails", reviewsIP)
	n.awaitMetric(t, watched, strconv.Itoa(interfaces))
	id := call(t, front, reviewsIP) // before its pod is known: must not be named reviews
	pod := deploy(t, n.cluster, shop, "details-v1", "app.kubernetes.io/name: details")
	setStatus(t, n.cluster, pod, core.PodRunning, reviewsIP, nodeIP)
	n.expect(t, front, reviewsIP, "vethdetails", map[string]string{"service.name": "details", "k8s.pod.name": pod.Name})
	n.expect(t, front, reviewsIP, "vethfront", map[string]string{"service.name": "front", "layertrace.server.service": "details"})
	awaitNil(t, "span of the first call", func() error {
		s, ok := n.spanAt(id, "vethdetails")
		if !ok {
			return errors.New("none")
		}
		if n.spans.Texts(s)["service.name"] == "reviews" {
			t.Error("a call of details has the name of the pod that had its address before")
		}
		return nil
	})
}

// outage stops the API server and starts it again.
func (n *testNode) outage(t *testing.T, front *sandbox.Namespace) {
	before := n.number(t, remotePods)
	if err := n.cluster.StopAPIServer(); err != nil {
		t.Fatal(err)
	}
	stopped := true
	defer func() { // for the tests that follow
		if stopped {
			if err := n.cluster.StartAPIServer(interrupted); err != nil {
				t.Error(err)
			}
		}
	}()
	n.awaitReady(t, http.StatusOK, "does not respond")
	n.expect(t, front, reviewsIP, "vethdetails", map[string]string{"service.name": "details", "layertrace.client.service": "front"})
	if err := n.cluster.StartAPIServer(interrupted); err != nil {
		t.Fatal(err)
	}
	stopped = false
	late := makePod(t, n.cluster, shop, "late", otherNode, false)
	setStatus(t, n.cluster, late, core.PodRunning, "10.50.9.9", otherIP)
	n.awaitMetric(t, remotePods, strconv.Itoa(before+1))
	n.awaitReady(t, http.StatusOK, "ok\n")
	n.awaitMetric(t, "layertrace_identity_api_away_seconds", "0")
	if failures, err := n.metric("layertrace_identity_api_failures_total"); err != nil || failures == "0" {
		t.Errorf("failures of the API server: %s, %v", failures, err)
	}
}

var crowdSize = flag.Int("pods", 500, "number of pods on other nodes in TestMemoryInACrowd")

// An agent's memory hardly depends on the number of pods in the cluster, whether they
// are created while it runs or exist when it starts.
func TestMemoryInACrowd(t *testing.T) {
	c := theCluster(t)
	makeNamespace(t, c, shop)
	grant(t, c)
	n := newNode(t, c)
	stop := n.startAgent(t, shop)
	n.awaitReady(t, http.StatusOK, "ok\n")
	want := strconv.Itoa(n.number(t, remotePods) + *crowdSize)
	alone := n.memory(t)

	makeCrowd(t, c, *crowdSize)
	n.awaitMetric(t, remotePods, want)
	watched := n.memory(t)
	stop()

	read := func(env ...string) sandbox.Memory {
		stop := n.startAgent(t, shop, env...)
		defer stop()
		n.awaitReady(t, http.StatusOK, "ok\n")
		n.awaitMetric(t, remotePods, want)
		return n.memory(t)
	}
	streamed := read()
	// As client-go does with older servers, which cannot stream a list.
	listed := read("KUBE_FEATURE_WatchListClient=false")

	const mib = 1 << 20
	t.Logf("%d pods: %d MiB without them, %d after watching their creation, %d after a streamed list at the start, %d after a list in one response",
		*crowdSize, alone.Resident/mib, watched.Resident/mib, streamed.Peak/mib, listed.Peak/mib)
	// The permanent cost per pod is tested where it can be measured; this bound
	// leaves room for garbage.
	bound := alone.Resident + 48*mib + uint64(*crowdSize)*2048
	for what, m := range map[string]sandbox.Memory{"watching": watched, "a stream of": streamed, "one response with": listed} {
		if m.Peak > bound {
			t.Errorf("up to %d MiB after %s %d pods, want at most %d", m.Peak/mib, what, *crowdSize, bound/mib)
		}
	}
}

func (n *testNode) memory(t *testing.T) sandbox.Memory {
	t.Helper()
	m, err := sandbox.ReadMemory(n.agent.PID())
	if err != nil {
		t.Fatal(err)
	}
	return m
}

// makeCrowd creates running pods on other nodes, with manifests as large as those of
// pods with a sidecar.
func makeCrowd(t *testing.T, c *cluster.Cluster, size int) {
	t.Helper()
	config := rest.CopyConfig(c.Config)
	config.QPS = -1 // as fast as the server can
	client, err := kubernetes.NewForConfig(config)
	if err != nil {
		t.Fatal(err)
	}
	group, ctx := errgroup.WithContext(interrupted)
	group.SetLimit(16)
	for i := range size {
		group.Go(func() error { return makeOneOfMany(ctx, client, i) })
	}
	if err := group.Wait(); err != nil {
		t.Fatal(err)
	}
}

func makeOneOfMany(ctx context.Context, client kubernetes.Interface, i int) error {
	grace := int64(0)
	pods := client.CoreV1().Pods(shop)
	pod, err := pods.Create(ctx, &core.Pod{
		ObjectMeta: meta.ObjectMeta{
			Name:        fmt.Sprintf("crowd-%d", i),
			Labels:      map[string]string{"app": fmt.Sprintf("service-%d", i%200)},
			Annotations: map[string]string{"sidecar.istio.io/status": strings.Repeat("x", 4000)},
		},
		Spec: core.PodSpec{
			NodeName: fmt.Sprintf("node-%d", 100+i%100), TerminationGracePeriodSeconds: &grace,
			Containers: []core.Container{
				{Name: "app", Image: "none"},
				{Name: "istio-proxy", Image: "none", Args: strings.Fields(strings.Repeat("--flag=value ", 100))},
			},
		},
	}, meta.CreateOptions{})
	if err != nil {
		return fmt.Errorf("create pod %d: %w", i, err)
	}
	ip := fmt.Sprintf("10.%d.%d.%d", 100+i>>16, i>>8&255, i&255)
	pod.Status = core.PodStatus{
		Phase: core.PodRunning, PodIP: ip, PodIPs: []core.PodIP{{IP: ip}},
		HostIP: otherIP, HostIPs: []core.HostIP{{IP: otherIP}},
	}
	if _, err := pods.UpdateStatus(ctx, pod, meta.UpdateOptions{}); err != nil {
		return fmt.Errorf("set status of pod %d: %w", i, err)
	}
	return nil
}
