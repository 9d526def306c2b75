// SPDX-License-Identifier: Apache-2.0

package k8s

import (
	"bytes"
	"errors"
	"fmt"
	"os/exec"
	"slices"
	"strings"
	"testing"

	core "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	meta "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"github.com/layertrace/layertrace/e2e/cluster"
)

// installed are the resources of the objects that layertrace install creates.
var installed = []schema.GroupVersionResource{
	{Version: "v1", Resource: "namespaces"},
	{Version: "v1", Resource: "serviceaccounts"},
	{Version: "v1", Resource: "configmaps"},
	{Version: "v1", Resource: "services"},
	{Group: "apps", Version: "v1", Resource: "daemonsets"},
	{Group: "rbac.authorization.k8s.io", Version: "v1", Resource: "clusterroles"},
	{Group: "rbac.authorization.k8s.io", Version: "v1", Resource: "clusterrolebindings"},
	{Group: "telemetry.istio.io", Version: "v1", Resource: "telemetries"},
	{Group: "extensions.istio.io", Version: "v1alpha1", Resource: "wasmplugins"},
	{Group: "networking.istio.io", Version: "v1alpha3", Resource: "envoyfilters"},
}

const meshConfig = `
apiVersion: v1
kind: ConfigMap
metadata: {name: istio, namespace: istio-system}
data:
  mesh: |
    extensionProviders:
    - name: otel-tracing
      opentelemetry: {service: jaeger-collector.istio-system.svc.cluster.local, port: 4317}
    - name: metrics
      prometheus: {}
`

const (
	agentNamespace = "layertrace-system"
	module         = "--wasm-url=oci://example.org/layertrace/filter:1"
)

// makeIstio creates Istio's root namespace with a mesh configuration.
func makeIstio(t *testing.T, c *cluster.Cluster) {
	t.Helper()
	makeNamespace(t, c, "istio-system")
	if err := c.Apply(interrupted, []byte(meshConfig)); err != nil {
		t.Fatal(err)
	}
}

// layertrace runs the program against the cluster, as its admin.
func layertrace(t *testing.T, c *cluster.Cluster, args ...string) (output string, failed bool) {
	t.Helper()
	program := theAgent(t)
	args = append(args, "--kubeconfig", c.Kubeconfig)
	out, err := exec.CommandContext(interrupted, program, args...).CombinedOutput()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		t.Fatal(err)
	}
	t.Logf("layertrace %s\n%s", strings.Join(args, " "), out)
	return string(out), err != nil
}

// does runs layertrace, which must succeed.
func does(t *testing.T, c *cluster.Cluster, args ...string) string {
	t.Helper()
	out, failed := layertrace(t, c, args...)
	if failed {
		t.Fatalf("layertrace %s failed:\n%s", strings.Join(args, " "), out)
	}
	return out
}

// all returns the objects of the resources above, sorted: KIND NAMESPACE/NAME VERSION.
// It skips objects that controllers create.
func all(t *testing.T, c *cluster.Cluster) []string {
	t.Helper()
	var names []string
	for _, r := range installed {
		list, err := c.Dynamic.Resource(r).List(interrupted, meta.ListOptions{})
		if err != nil {
			t.Fatal(err)
		}
		for _, o := range list.Items {
			if o.GetName() != "kube-root-ca.crt" && o.GetName() != "default" && o.GetDeletionTimestamp() == nil {
				names = append(names, fmt.Sprintf("%s %s/%s %s", o.GetKind(), o.GetNamespace(), o.GetName(), o.GetResourceVersion()))
			}
		}
	}
	slices.Sort(names)
	return names
}

// uninstallAfter uninstalls at the end of the test, even if that failed half-way.
func uninstallAfter(t *testing.T, c *cluster.Cluster) {
	t.Helper()
	t.Cleanup(func() {
		layertrace(t, c, "uninstall", "--yes")
		deleteNamespace(t, c, agentNamespace) // uninstall keeps it when a test created something in it
	})
}

func expect(t *testing.T, out string, lines ...string) {
	t.Helper()
	for _, line := range lines {
		if !strings.Contains(out, line) {
			t.Errorf("no %q in the output:\n%s", line, out)
		}
	}
}

// Install, status and uninstall, one after the other in a cluster with Istio's root
// namespace.
func TestInstall(t *testing.T) {
	c := theCluster(t)
	makeIstio(t, c)
	for _, test := range []struct {
		name string
		run  func(*testing.T, *cluster.Cluster)
	}{
		{"again, another way, uninstall", testInstall},
		{"manifests are valid", testManifestsAreValid},
		{"refusals", testRefusals},
		{"failure leaves what it found", testFailureLeavesWhatItFound},
		{"uninstall leaves what is not its", testUninstallLeavesWhatIsNotIts},
		{"asks", testAsks},
		{"what the cluster decides", testCluster},
		{"encrypted traffic", testEncrypted},
		{"limited", testLimited},
		{"try", testTry},
		{"Helm", testHelm},
		{"the agent's role", testAgentRole},
		{"status", testStatus},
	} {
		t.Run(test.name, func(t *testing.T) { test.run(t, c) })
	}
}

// Install, install again, change the method, and uninstall.
func testInstall(t *testing.T, c *cluster.Cluster) {
	before := all(t, c)
	uninstallAfter(t, c)

	out := does(t, c, "install", "--yes", "--reorder=lua", "--tracing-provider=otel-tracing", "--sampling=100", "--image=example.org/agent:1")
	expect(t, out, "created   Namespace /layertrace-system", "created   DaemonSet layertrace-system/layertrace-agent",
		"created   Telemetry istio-system/layertrace", "created   EnvoyFilter istio-system/layertrace")
	ds, err := c.Client.AppsV1().DaemonSets(agentNamespace).Get(interrupted, "layertrace-agent", meta.GetOptions{})
	if err != nil || ds.Spec.Template.Spec.Containers[0].Image != "example.org/agent:1" {
		t.Fatalf("the DaemonSet's image is not the chosen one: %v", err)
	}
	for _, e := range ds.ManagedFields {
		if e.Operation == meta.ManagedFieldsOperationApply && e.Manager != "layertrace" {
			t.Errorf("%s owns fields", e.Manager)
		}
	}

	first := withoutStatus(t, c)
	out = does(t, c, "install", "--yes", "--reorder=lua", "--tracing-provider=otel-tracing", "--sampling=100", "--image=example.org/agent:1")
	expect(t, out, "Nothing to change")
	if now := withoutStatus(t, c); !slices.Equal(first, now) {
		t.Errorf("the second installation changed something:\n%v\n%v", first, now)
	}

	out = does(t, c, "install", "--yes", "--reorder=wasmplugin", module, "--tracing-provider=otel-tracing", "--image=example.org/agent:1")
	expect(t, out, "created   WasmPlugin istio-system/layertrace", "changed   EnvoyFilter istio-system/layertrace",
		"changed   Telemetry istio-system/layertrace", "unchanged DaemonSet layertrace-system/layertrace-agent")
	out = does(t, c, "install", "--yes", "--reorder=none", "--image=example.org/agent:1")
	expect(t, out, "deleted   WasmPlugin istio-system/layertrace", "deleted   EnvoyFilter istio-system/layertrace", "deleted   Telemetry istio-system/layertrace")

	out = does(t, c, "uninstall", "--yes")
	expect(t, out, "deleted   DaemonSet layertrace-system/layertrace-agent", "deleted   Namespace /layertrace-system")
	if _, err := c.Client.CoreV1().Namespaces().Get(interrupted, agentNamespace, meta.GetOptions{}); !apierrors.IsNotFound(err) {
		t.Errorf("uninstall did not wait for the end of the namespace: %v", err)
	}
	if after := all(t, c); !slices.Equal(before, after) {
		t.Errorf("before\n%v\nafter\n%v", before, after)
	}
	expect(t, does(t, c, "uninstall", "--yes"), "Nothing to remove")
}

// withoutStatus returns what all does, but the generation instead of the version of
// objects whose status controllers write.
func withoutStatus(t *testing.T, c *cluster.Cluster) []string {
	t.Helper()
	names := slices.DeleteFunc(all(t, c), func(s string) bool { return strings.HasPrefix(s, "DaemonSet ") })
	ds, err := c.Client.AppsV1().DaemonSets(agentNamespace).Get(interrupted, "layertrace-agent", meta.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	return append(names, fmt.Sprintf("DaemonSet of generation %d", ds.Generation))
}

// The printed manifests of each method pass the API server's strict validation of
// fields.
func testManifestsAreValid(t *testing.T, c *cluster.Cluster) {
	var manifests [][]byte
	t.Cleanup(func() {
		for _, m := range manifests {
			if err := c.Delete(interrupted, m); err != nil {
				t.Error(err)
			}
		}
		deleteNamespace(t, c, agentNamespace)
	})
	for _, reorder := range []string{"wasmplugin", "wasmplugin-inline-headers", "envoyfilter", "lua", "patched", "none"} {
		t.Run(reorder, func(t *testing.T) {
			args := []string{"install", "--dry-run", "--reorder", reorder, "--tracing-provider=otel-tracing"}
			var out, stderr bytes.Buffer
			cmd := exec.CommandContext(interrupted, theAgent(t), args...)
			cmd.Stdout, cmd.Stderr = &out, &stderr
			if err := cmd.Run(); err != nil {
				t.Fatalf("%v: %s", err, stderr.String())
			}
			if err := c.Apply(interrupted, out.Bytes()); err != nil {
				t.Error(err)
			}
			manifests = append(manifests, out.Bytes())
		})
	}
}

// Uninstall keeps a namespace with foreign objects, and objects of other tools.
func testUninstallLeavesWhatIsNotIts(t *testing.T, c *cluster.Cluster) {
	uninstallAfter(t, c)
	does(t, c, "install", "--yes", "--reorder=none")
	secret := &core.Secret{ObjectMeta: meta.ObjectMeta{Name: "mine"}}
	if _, err := c.Client.CoreV1().Secrets(agentNamespace).Create(interrupted, secret, meta.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	byHand := []byte(`
apiVersion: v1
kind: ConfigMap
metadata: {name: by-hand, namespace: istio-system, labels: {app.kubernetes.io/managed-by: layertrace}}
`)
	if err := c.Apply(interrupted, byHand); err != nil {
		t.Fatal(err)
	}
	out := does(t, c, "uninstall", "--yes")
	expect(t, out, "kept      Namespace /layertrace-system (it also has Secret mine)", "kept      ConfigMap istio-system/by-hand",
		"deleted   DaemonSet layertrace-system/layertrace-agent")
	if _, err := c.Client.CoreV1().Secrets(agentNamespace).Get(interrupted, "mine", meta.GetOptions{}); err != nil {
		t.Error(err)
	}
}

// Without confirmation nothing is installed.
func testAsks(t *testing.T, c *cluster.Cluster) {
	before := all(t, c)
	out, failed := layertrace(t, c, "install", "--reorder=none")
	if !failed {
		t.Error("install succeeded")
	}
	expect(t, out, "[y/N]", "nothing was changed")
	if after := all(t, c); !slices.Equal(before, after) {
		t.Errorf("before\n%v\nafter\n%v", before, after)
	}
}

// The cluster decides: Istio's version, the Prometheus operator, and the mode of mutual
// TLS, which is a warning.
func testCluster(t *testing.T, c *cluster.Cluster) {
	uninstallAfter(t, c)
	apply := func(manifest string) {
		if err := c.Apply(interrupted, []byte(manifest)); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			if err := c.Delete(interrupted, []byte(manifest)); err != nil {
				t.Error(err)
			}
		})
	}
	apply(`
apiVersion: apps/v1
kind: Deployment
metadata: {name: istiod, namespace: istio-system, labels: {app: istiod}}
spec:
  replicas: 0
  selector: {matchLabels: {app: istiod}}
  template:
    metadata: {labels: {app: istiod}}
    spec: {containers: [{name: discovery, image: "example.org/pilot:1.29.2-distroless"}]}
---
apiVersion: security.istio.io/v1
kind: PeerAuthentication
metadata: {name: default, namespace: istio-system}
spec: {mtls: {mode: STRICT}}
`)
	out, failed := layertrace(t, c, "install", "--yes", "--reorder=none", "--monitoring")
	if !failed {
		t.Error("install accepts --monitoring without the operator")
	}
	expect(t, out, "nothing was changed", "no monitoring.coreos.com/v1 PrometheusRule")
	// Only the kinds matter here, not their schemas.
	for plural, kind := range map[string]string{"podmonitors": "PodMonitor", "prometheusrules": "PrometheusRule"} {
		apply(fmt.Sprintf(`
apiVersion: apiextensions.k8s.io/v1
kind: CustomResourceDefinition
metadata: {name: %[1]s.monitoring.coreos.com}
spec:
  group: monitoring.coreos.com
  names: {kind: %[2]s, listKind: %[2]sList, plural: %[1]s, singular: %[3]s}
  scope: Namespaced
  versions:
  - name: v1
    served: true
    storage: true
    schema: {openAPIV3Schema: {type: object, x-kubernetes-preserve-unknown-fields: true}}
`, plural, kind, strings.ToLower(kind)))
		objects := c.Dynamic.Resource(schema.GroupVersionResource{Group: "monitoring.coreos.com", Version: "v1", Resource: plural})
		awaitNil(t, "the resource "+plural, func() error {
			_, err := objects.List(interrupted, meta.ListOptions{})
			return err
		})
	}
	out = does(t, c, "install", "--yes", "--reorder=wasmplugin", module, "--monitoring")
	expect(t, out, "Istio 1.29.2-distroless", "mutual TLS is STRICT", "created   PodMonitor layertrace-system/layertrace-agent",
		"created   PrometheusRule layertrace-system/layertrace", "created   ConfigMap layertrace-system/layertrace-dashboard")
	filters := c.Dynamic.Resource(schema.GroupVersionResource{Group: "networking.istio.io", Version: "v1alpha3", Resource: "envoyfilters"})
	filter, err := filters.Namespace("istio-system").Get(interrupted, "layertrace", meta.GetOptions{})
	if err != nil || !strings.Contains(fmt.Sprint(filter.Object), "extensions.istio.io/wasmplugin/istio-system.layertrace") {
		t.Errorf("Istio 1.29 has the module under another name: %v, %v", filter, err)
	}
	out = does(t, c, "uninstall", "--yes")
	expect(t, out, "deleted   PodMonitor layertrace-system/layertrace-agent",
		"deleted   PrometheusRule layertrace-system/layertrace", "deleted   ConfigMap layertrace-system/layertrace-dashboard")
}

// Limited to a namespace and a workload, nothing is left in the root namespace, and status
// shows the limits. A control plane that does not exist is refused.
func testLimited(t *testing.T, c *cluster.Cluster) {
	before := all(t, c)
	uninstallAfter(t, c)
	makeNamespace(t, c, "shop")
	args := []string{"install", "--yes", "--reorder=wasmplugin", module, "--mtls=on", "--tracing-provider=otel-tracing"}
	does(t, c, args...)
	args = append(args, "--namespace-selector=kubernetes.io/metadata.name=shop", "--workload-selector=app=web")
	out := does(t, c, args...)
	expect(t, out, "limited to the namespaces shop", "in each sidecar about ",
		"created   EnvoyFilter shop/layertrace", "created   EnvoyFilter shop/layertrace-mtls", "created   WasmPlugin shop/layertrace", "created   Telemetry shop/layertrace",
		"deleted   EnvoyFilter istio-system/layertrace", "deleted   WasmPlugin istio-system/layertrace", "deleted   Telemetry istio-system/layertrace")
	for _, r := range installed {
		if r.Group == "" || r.Group == "apps" || r.Group == "rbac.authorization.k8s.io" {
			continue
		}
		list, err := c.Dynamic.Resource(r).Namespace("istio-system").List(interrupted, meta.ListOptions{})
		if err != nil || len(list.Items) > 0 {
			t.Errorf("%s in the root namespace: %v, %v", r.Resource, list, err)
		}
	}
	expect(t, does(t, c, args...), "Nothing to change")
	out, _ = layertrace(t, c, "status") // no agent is ready
	expect(t, out, "reorder           wasmplugin", "limits            namespaces shop; pods with app=web")

	out, failed := layertrace(t, c, append(args, "--revision=blue")...)
	if !failed {
		t.Error("install accepts a revision that does not exist")
	}
	expect(t, out, "no control plane in istio-system has the revision blue")
	does(t, c, "uninstall", "--yes")
	deleteNamespace(t, c, "shop")
	if after := all(t, c); !slices.Equal(before, after) {
		t.Errorf("before\n%v\nafter\n%v", before, after)
	}
}
