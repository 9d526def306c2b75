// SPDX-License-Identifier: Apache-2.0

package k8s

import (
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	meta "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"

	"github.com/layertrace/layertrace/e2e/cluster"
)

// Install refuses with one line, and changes nothing.
func testRefusals(t *testing.T, c *cluster.Cluster) {
	makeNamespace(t, c, "shop")
	object := func(manifest string) func(t *testing.T) {
		return func(t *testing.T) {
			if err := c.Apply(interrupted, []byte(manifest)); err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() {
				if err := c.Delete(interrupted, []byte(manifest)); err != nil {
					t.Error(err)
				}
			})
		}
	}
	for _, test := range []struct {
		name    string
		prepare func(t *testing.T)
		args    []string
		want    string
	}{
		{"unknown provider", nil, []string{"--reorder=lua", "--tracing-provider=nosuch"}, `no tracing provider "nosuch" (it has otel-tracing)`},
		{"provider that does not trace", nil, []string{"--reorder=lua", "--tracing-provider=metrics"}, `no tracing provider "metrics"`},
		{"no module", nil, []string{"--reorder=wasmplugin"}, "--wasm-url"},
		{"no proxy image", nil, []string{"--reorder=patched"}, "--proxy-image"},
		{"old kernel", func(t *testing.T) { makeKernel(t, c, "old", "5.10.0-9-amd64") }, []string{"--reorder=lua"}, "no node can capture"},
		{"another Telemetry", object(`
apiVersion: telemetry.istio.io/v1
kind: Telemetry
metadata: {name: mesh-default, namespace: istio-system}
spec: {tracing: [{randomSamplingPercentage: 5}]}
`), []string{"--reorder=lua", "--tracing-provider=otel-tracing"}, "Telemetry istio-system/mesh-default already applies to the whole mesh"},
		{"another Telemetry, for the access log", object(`
apiVersion: telemetry.istio.io/v1
kind: Telemetry
metadata: {name: mesh-default, namespace: istio-system}
spec: {tracing: [{randomSamplingPercentage: 5}]}
`), []string{"--reorder=lua", "--mtls=on", "--mtls-log=telemetry"}, "Telemetry istio-system/mesh-default already applies to the whole mesh"},
		{"another EnvoyFilter", object(`
apiVersion: networking.istio.io/v1alpha3
kind: EnvoyFilter
metadata: {name: compress, namespace: shop}
spec:
  configPatches:
  - applyTo: HTTP_FILTER
    match: {context: SIDECAR_OUTBOUND, listener: {filterChain: {filter: {name: envoy.filters.network.http_connection_manager, subFilter: {name: envoy.filters.http.router}}}}}
    patch:
      operation: MERGE
      value:
        name: envoy.filters.http.router
        typed_config:
          "@type": type.googleapis.com/envoy.extensions.filters.http.router.v3.Router
          upstream_http_filters:
          - name: envoy.filters.http.upstream_codec
`), []string{"--reorder=lua"}, "EnvoyFilter shop/compress already sets the router's upstream_http_filters"},
		{"an object of that name", object(`
apiVersion: networking.istio.io/v1alpha3
kind: EnvoyFilter
metadata: {name: layertrace, namespace: istio-system}
spec: {}
`), []string{"--reorder=lua"}, "EnvoyFilter istio-system/layertrace exists and was not created by layertrace install"},
	} {
		t.Run(test.name, func(t *testing.T) {
			if test.prepare != nil {
				test.prepare(t)
			}
			before := all(t, c)
			out, failed := layertrace(t, c, append([]string{"install", "--yes"}, test.args...)...)
			if !failed {
				t.Fatal("install did not refuse")
			}
			lines := strings.Split(strings.TrimSpace(out), "\n")
			if last := lines[len(lines)-1]; !strings.Contains(last, test.want) || !strings.Contains(last, "nothing was changed") {
				t.Errorf("the last line is %q, want it to contain %q", last, test.want)
			}
			if after := all(t, c); !slices.Equal(before, after) {
				t.Errorf("before\n%v\nafter\n%v", before, after)
			}
		})
	}
}

// refused are kinds for refuseKind, each with an object that the API server accepts.
var refused = map[string]struct{ group, probe string }{
	"daemonsets": {"apps", `
apiVersion: apps/v1
kind: DaemonSet
metadata: {name: probe, namespace: default}
spec:
  selector: {matchLabels: {app: probe}}
  template:
    metadata: {labels: {app: probe}}
    spec: {containers: [{name: probe, image: example.org/probe:1}]}
`},
	"envoyfilters": {"networking.istio.io", `
apiVersion: networking.istio.io/v1alpha3
kind: EnvoyFilter
metadata: {name: probe, namespace: default}
spec: {}
`},
}

// refuseKind makes the API server refuse writes to a resource, except in dry runs: a
// step then fails that no earlier check could predict. A policy takes effect a moment
// after its creation or deletion, which a probe detects.
func refuseKind(t *testing.T, c *cluster.Cluster, resource string) {
	t.Helper()
	kind := refused[resource]
	policy := []byte(fmt.Sprintf(`
apiVersion: admissionregistration.k8s.io/v1
kind: ValidatingAdmissionPolicy
metadata: {name: refuse-%[2]s}
spec:
  failurePolicy: Fail
  matchConstraints:
    resourceRules: [{apiGroups: [%[1]q], apiVersions: ["*"], operations: [CREATE, UPDATE], resources: [%[2]s]}]
  validations: [{expression: "has(request.dryRun) && request.dryRun", message: refused by the test}]
---
apiVersion: admissionregistration.k8s.io/v1
kind: ValidatingAdmissionPolicyBinding
metadata: {name: refuse-%[2]s}
spec: {policyName: refuse-%[2]s, validationActions: [Deny]}
`, kind.group, resource))
	if err := c.Apply(interrupted, policy); err != nil {
		t.Fatal(err)
	}
	refuses := func(want bool) func() error {
		return func() error {
			err := errors.Join(c.Apply(interrupted, []byte(kind.probe)), c.Delete(interrupted, []byte(kind.probe)))
			if got := err != nil && strings.Contains(err.Error(), "refused by the test"); got != want {
				return fmt.Errorf("probe refused: %v (%w)", got, err)
			}
			return nil
		}
	}
	t.Cleanup(func() {
		if err := c.Delete(interrupted, policy); err != nil {
			t.Error(err)
		}
		awaitNil(t, "the end of the policy", refuses(false))
	})
	awaitNil(t, "the policy", refuses(true))
}

// A failed installation restores the previous state: nothing after a first one, the
// previous installation after another.
func testFailureLeavesWhatItFound(t *testing.T, c *cluster.Cluster) {
	uninstallAfter(t, c)
	before := all(t, c)
	t.Run("first", func(t *testing.T) {
		refuseKind(t, c, "daemonsets")
		fails(t, c, "--reorder=lua")
		if after := all(t, c); !slices.Equal(before, after) {
			t.Errorf("before\n%v\nafter\n%v", before, after)
		}
		deleteNamespace(t, c, agentNamespace)
	})
	t.Run("another", func(t *testing.T) {
		does(t, c, "install", "--yes", "--reorder=lua", "--tracing-provider=otel-tracing")
		first := specs(t, c)
		refuseKind(t, c, "envoyfilters")
		fails(t, c, "--reorder=wasmplugin", module, "--tracing-provider=otel-tracing", "--sampling=50")
		if after := specs(t, c); !slices.Equal(first, after) {
			t.Errorf("before\n%v\nafter\n%v", first, after)
		}
	})
}

// fails runs an installation that the policy refuses.
func fails(t *testing.T, c *cluster.Cluster, args ...string) {
	t.Helper()
	out, failed := layertrace(t, c, append([]string{"install", "--yes"}, args...)...)
	if !failed {
		t.Fatal("the policy did not refuse the installation")
	}
	expect(t, out, "refused by the test", "all changes were rolled back")
}

// specs returns the spec, data or rules of all objects of layertrace.
func specs(t *testing.T, c *cluster.Cluster) []string {
	t.Helper()
	var all []string
	for _, r := range installed {
		list, err := c.Dynamic.Resource(r).List(interrupted, meta.ListOptions{LabelSelector: "app.kubernetes.io/managed-by=layertrace"})
		if err != nil {
			t.Fatal(err)
		}
		for _, o := range list.Items {
			delete(o.Object, "metadata")
			delete(o.Object, "status")
			all = append(all, fmt.Sprint(o.Object))
		}
	}
	slices.Sort(all)
	return all
}

// The agent's service account may list and watch pods, and nothing else. (testStatus
// shows that this is enough: its agent runs as this account.)
func testAgentRole(t *testing.T, c *cluster.Cluster) {
	uninstallAfter(t, c)
	does(t, c, "install", "--yes", "--reorder=none")
	config, err := c.ServiceAccountKubeconfig(interrupted, agentNamespace, "layertrace-agent", filepath.Join(t.TempDir(), "kubeconfig"), false)
	if err != nil {
		t.Fatal(err)
	}
	client, err := kubernetes.NewForConfig(config)
	if err != nil {
		t.Fatal(err)
	}
	core, all := client.CoreV1(), meta.ListOptions{}
	awaitNil(t, "the role", func() error {
		_, err := core.Pods("").List(interrupted, all)
		return err
	})
	watch, err := core.Pods("").Watch(interrupted, all)
	if err != nil {
		t.Errorf("watch pods: %v", err)
	} else {
		watch.Stop()
	}
	for what, try := range map[string]func() error{
		"get a pod":              func() error { _, err := core.Pods("default").Get(interrupted, "x", meta.GetOptions{}); return err },
		"delete a pod":           func() error { return core.Pods("default").Delete(interrupted, "x", meta.DeleteOptions{}) },
		"list nodes":             func() error { _, err := core.Nodes().List(interrupted, all); return err },
		"list secrets":           func() error { _, err := core.Secrets("").List(interrupted, all); return err },
		"list its own ConfigMap": func() error { _, err := core.ConfigMaps(agentNamespace).List(interrupted, all); return err },
		"list replica sets":      func() error { _, err := client.AppsV1().ReplicaSets("").List(interrupted, all); return err },
		"list jobs":              func() error { _, err := client.BatchV1().Jobs("").List(interrupted, all); return err },
	} {
		if err := try(); !apierrors.IsForbidden(err) {
			t.Errorf("%s: %v, want Forbidden", what, err)
		}
	}
}
