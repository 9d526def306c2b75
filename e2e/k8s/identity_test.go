// SPDX-License-Identifier: Apache-2.0

package k8s

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	trace "go.opentelemetry.io/proto/otlp/trace/v1"
	core "k8s.io/api/core/v1"
	meta "k8s.io/apimachinery/pkg/apis/meta/v1"

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
	elsewhere  = `layertrace_identity_pods{where="elsewhere"}`
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

// The agent names pods and services from a real API server, on interfaces that
// are laid out as by different CNIs, while pods come and go and the API server
// is away. It has the rights that layertrace install gives it, and no others.
func TestIdentity(t *testing.T) {
	c := theCluster(t)
	makeNamespace(t, c, shop)
	n := newNode(t, c)

	front := n.addRouted(t, "front", "vethfront", frontIP)
	n.addBridged(t, "reviews", "vethreviews", reviewsIP)
	ratings := makeSpace(t, "ratings")
	if err := errors.Join(
		c.Namespace.AddPair("veth-ratings", cluster.Bridge, ratings, ratingsIP+"/24"),
		ratings.AddRoute("10.50.0.0/16", nodeIP), ratings.AddRoute("10.60.0.0/16", nodeIP),
	); err != nil {
		t.Fatal(err)
	}
	answer(t, ratings)

	frontPod := deploy(t, c, shop, "front-v1", "app: front")
	reviewsPod := deploy(t, c, shop, "reviews-v2", "app: x, service.istio.io/canonical-name: reviews")
	setStatus(t, c, frontPod, core.PodRunning, frontIP, nodeIP)
	setStatus(t, c, reviewsPod, core.PodRunning, reviewsIP, nodeIP)
	setStatus(t, c, makePod(t, c, shop, "ratings", otherNode, false), core.PodRunning, ratingsIP, otherIP)
	// Neither has an address of its own: one has ended, one is in the node's network.
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
		n.expect(t, n.space, ratingsIP, "eth0", map[string]string{
			"layertrace.client.node": agentNode, "layertrace.client.service": "", "layertrace.server.service": "ratings",
		})
	})
	n.podWithoutAddress(t, front) // all interfaces are attached to behind this
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

// awaitReady waits until /readyz answers with a status and a text: "ok\n" is
// all of it, another is contained.
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

// expect sends requests until the span of one at an interface has all
// attributes (an empty one: has it not), which it must in the end.
func (n *testNode) expect(t *testing.T, from *sandbox.Namespace, to, nic string, want map[string]string) {
	t.Helper()
	awaitNil(t, "names at "+nic, func() error {
		id := call(t, from, to)
		var s *trace.Span
		// A request that passed before the agent watched the interface has none.
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
				return fmt.Errorf("%s is %q, not %q", key, attributes[key], value)
			}
		}
		if service := want["service.name"]; service != "" && s.Name != service+"_"+nic {
			return fmt.Errorf("name %s", s.Name)
		}
		return nil
	})
}

// podWithoutAddress connects a pod whose address is not in its status. The
// agent sees the host's processes, as with hostPID, and finds the pod by the
// cgroup of one in the pod's network namespace.
func (n *testNode) podWithoutAddress(t *testing.T, front *sandbox.Namespace) {
	const ip = "10.50.0.7"
	space := n.addRouted(t, "early", "vethearly", ip)
	pod := deploy(t, n.cluster, shop, "early-v1", "app: early")
	group, err := sandbox.NewGroup("layertrace-cluster-" + *clusterName + "-pod" + string(pod.UID))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), limit) // the test's context is over
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
		Namespace: space, Cgroup: group, Stderr: filepath.Join(t.TempDir(), "log"),
	})
	if err != nil {
		t.Fatal(err)
	}
	n.expect(t, front, ip, "vethearly", map[string]string{"service.name": "early", "k8s.pod.name": pod.Name})
	n.awaitMetric(t, `layertrace_identity_interfaces{by="namespace"}`, "1")
}

// reuseAddress replaces reviews by another pod with its address.
func (n *testNode) reuseAddress(t *testing.T, front *sandbox.Namespace) {
	background := meta.DeletePropagationBackground
	err := n.cluster.Client.AppsV1().Deployments(shop).Delete(interrupted, "reviews-v2", meta.DeleteOptions{PropagationPolicy: &background})
	if err != nil {
		t.Fatal(err)
	}
	n.awaitMetric(t, `layertrace_identity_pods{where="here"}`, "3") // front, proxy and early
	const watched = `layertrace_interfaces{kind="vnic"}`
	interfaces := n.number(t, watched)
	n.removeBridged(t, "vethreviews")
	n.awaitMetric(t, watched, strconv.Itoa(interfaces-1))
	n.addBridged(t, "details", "vethdetails", reviewsIP)
	n.awaitMetric(t, watched, strconv.Itoa(interfaces))
	id := call(t, front, reviewsIP) // before its pod is known: nobody's, not reviews'
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
			t.Error("a call of details is named after the pod that had its address before")
		}
		return nil
	})
}

// outage takes the API server away and brings it back.
func (n *testNode) outage(t *testing.T, front *sandbox.Namespace) {
	before := n.number(t, elsewhere)
	if err := n.cluster.StopAPIServer(); err != nil {
		t.Fatal(err)
	}
	away := true
	defer func() { // for the tests that follow
		if away {
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
	away = false
	late := makePod(t, n.cluster, shop, "late", otherNode, false)
	setStatus(t, n.cluster, late, core.PodRunning, "10.50.9.9", otherIP)
	n.awaitMetric(t, elsewhere, strconv.Itoa(before+1))
	n.awaitReady(t, http.StatusOK, "ok\n")
	n.awaitMetric(t, "layertrace_identity_api_away_seconds", "0")
	if failures, err := n.metric("layertrace_identity_api_failures_total"); err != nil || failures == "0" {
		t.Errorf("failures of the API server: %s, %v", failures, err)
	}
}
