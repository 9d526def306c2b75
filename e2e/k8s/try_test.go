// SPDX-License-Identifier: Apache-2.0

package k8s

import (
	"errors"
	"os/exec"
	"slices"
	"strings"
	"testing"

	core "k8s.io/api/core/v1"
	meta "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/layertrace/layertrace/e2e/cluster"
)

// tries runs layertrace try and returns its exit code.
func tries(t *testing.T, c *cluster.Cluster, args ...string) (out string, code int) {
	t.Helper()
	cmd := exec.CommandContext(interrupted, theAgent(t), append([]string{"try", "--yes", "--kubeconfig", c.Kubeconfig}, args...)...)
	text, err := cmd.CombinedOutput()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		t.Fatal(err)
	}
	t.Logf("layertrace try %s\n%s", strings.Join(args, " "), text)
	return string(text), cmd.ProcessState.ExitCode()
}

// withoutAgents returns what all does, but of DaemonSets, whose status controllers write, the
// name alone.
func withoutAgents(t *testing.T, c *cluster.Cluster) []string {
	t.Helper()
	names := all(t, c)
	for i, name := range names {
		if strings.HasPrefix(name, "DaemonSet ") {
			names[i] = name[:strings.LastIndexByte(name, ' ')]
		}
	}
	return names
}

// A trial finds beforehand what is missing, and then changes nothing; gives up in time; and is
// removed without a trace. An installation is not taken for a trial. (The steps of e2e/istio
// have a kubelet, and with it a trial that shows layers.)
func testTry(t *testing.T, c *cluster.Cluster) {
	uninstallAfter(t, c)
	unchanged := func(t *testing.T, want int, line string, args ...string) {
		t.Helper()
		before := withoutAgents(t, c)
		out, code := tries(t, c, args...)
		if code != want {
			t.Errorf("exit code %d, want %d", code, want)
		}
		expect(t, out, line)
		if after := withoutAgents(t, c); !slices.Equal(before, after) {
			t.Errorf("before\n%v\nafter\n%v", before, after)
		}
	}
	unchanged(t, 2, "--namespace is missing")
	unchanged(t, 3, "no such namespace: shop", "--namespace=shop")
	unchanged(t, 0, "Nothing to remove", "--remove")

	makeKernel(t, c, statusNode, "6.18.0")
	makeWorkload(t, c)
	const noService = "kubectl -n istio-system create service clusterip jaeger-collector --tcp=4317"
	unchanged(t, 1, "no pod runs in shop", "--namespace=shop")
	unchanged(t, 1, noService, "--namespace=shop")
	pod, err := c.Client.CoreV1().Pods("shop").Get(interrupted, "web", meta.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	setStatus(t, c, pod, core.PodRunning, webIP, webIP)
	const service = "{apiVersion: v1, kind: Service, metadata: {name: jaeger-collector, namespace: istio-system}, spec: {ports: [{port: 4317}]}}"
	apply(t, c, service)
	t.Cleanup(func() {
		if err := c.Delete(interrupted, []byte(service)); err != nil {
			t.Error(err)
		}
	})

	before := all(t, c)
	out, code := tries(t, c, "--namespace=shop", "--timeout=3s")
	if code != 1 {
		t.Errorf("exit code %d without a kubelet, want 1", code)
	}
	expect(t, out, "tracing with otel-tracing (opentelemetry), 100 % of requests", "1 pods run in shop, 1 with a sidecar",
		"the agents' image layertrace/agent:devel is not on "+statusNode, "created   DaemonSet layertrace-system/layertrace-agent",
		"created   Telemetry shop/layertrace", "created   EnvoyFilter shop/layertrace-mtls",
		"no agent was ready in time (--timeout)", "layertrace try --remove removes the trial")
	for _, object := range all(t, c) {
		if strings.HasPrefix(object, "EnvoyFilter istio-system/") || strings.HasPrefix(object, "Telemetry istio-system/") {
			t.Errorf("in the root namespace: %s", object)
		}
	}
	out, code = tries(t, c, "--namespace=shop", "--timeout=1s")
	if code != 1 {
		t.Errorf("exit code %d of another attempt, want 1", code)
	}
	expect(t, out, "there is a trial already", "unchanged DaemonSet layertrace-system/layertrace-agent")
	if out, code = tries(t, c, "--remove"); code != 0 {
		t.Errorf("exit code %d of --remove:\n%s", code, out)
	}
	if after := all(t, c); !slices.Equal(before, after) {
		t.Errorf("before\n%v\nafter\n%v", before, after)
	}

	does(t, c, "install", "--yes", "--reorder=none")
	unchanged(t, 1, "layertrace install has installed it already", "--namespace=shop")
	unchanged(t, 1, "layertrace uninstall removes it", "--remove")
	does(t, c, "uninstall", "--yes")
}
