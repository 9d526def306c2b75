// SPDX-License-Identifier: Apache-2.0

package k8s

import (
	"context"
	"flag"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/sync/errgroup"
	core "k8s.io/api/core/v1"
	meta "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"

	"github.com/layertrace/layertrace/e2e/cluster"
	"github.com/layertrace/layertrace/e2e/sandbox"
)

var crowdSize = flag.Int("pods", 500, "how many pods of other nodes TestMemoryInACrowd makes")

// An agent's memory hardly depends on how many pods the cluster has, whether
// they come while it runs or are there when it starts.
func TestMemoryInACrowd(t *testing.T) {
	c := theCluster(t)
	makeNamespace(t, c, shop)
	grant(t, c)
	n := newNode(t, c)
	stop := n.startAgent(t, shop)
	n.awaitReady(t, http.StatusOK, "ok\n")
	want := strconv.Itoa(n.number(t, elsewhere) + *crowdSize)
	alone := n.memory(t)

	makeCrowd(t, c, *crowdSize)
	n.awaitMetric(t, elsewhere, want)
	watched := n.memory(t)
	stop()

	read := func(env ...string) sandbox.Memory {
		stop := n.startAgent(t, shop, env...)
		defer stop()
		n.awaitReady(t, http.StatusOK, "ok\n")
		n.awaitMetric(t, elsewhere, want)
		return n.memory(t)
	}
	streamed := read()
	// What client-go does when the server, an older one, cannot stream a list.
	listed := read("KUBE_FEATURE_WatchListClient=false")

	const mib = 1 << 20
	t.Logf("%d pods: %d MiB without them, %d after watching them come, %d after a streamed list at the start, %d after one in one answer",
		*crowdSize, alone.Resident/mib, watched.Resident/mib, streamed.Peak/mib, listed.Peak/mib)
	// What a pod costs for good is tested where it can be measured; here is
	// room for what the garbage collector has not freed.
	bound := alone.Resident + 48*mib + uint64(*crowdSize)*2048
	for what, m := range map[string]sandbox.Memory{"watching": watched, "a stream of": streamed, "one answer with": listed} {
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

// makeCrowd makes running pods on other nodes, with manifests as large as those
// of pods with a sidecar.
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
		return fmt.Errorf("make pod %d: %w", i, err)
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
