// SPDX-License-Identifier: Apache-2.0

package clusterstatus

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"

	telemetryv1 "istio.io/client-go/pkg/apis/telemetry/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/labels"
	"sigs.k8s.io/yaml"

	"github.com/layertrace/layertrace/agent/internal/install"
)

// served are the kinds that the test's API server has, by path and resource.
var served = map[string]map[string]string{
	"/api/v1":                            {"namespaces": "Namespace", "nodes": "Node", "configmaps": "ConfigMap", "pods": "Pod"},
	"/apis/apps/v1":                      {"deployments": "Deployment", "daemonsets": "DaemonSet"},
	"/apis/networking.istio.io/v1alpha3": {"envoyfilters": "EnvoyFilter", "sidecars": "Sidecar"},
	"/apis/extensions.istio.io/v1alpha1": {"wasmplugins": "WasmPlugin"},
	"/apis/telemetry.istio.io/v1":        {"telemetries": "Telemetry"},
}

// clusterOf is a client of an API server that lists the objects of YAML documents.
func clusterOf(t *testing.T, text string) *install.Cluster {
	t.Helper()
	var objects []*unstructured.Unstructured
	for _, document := range strings.Split(text, "\n---\n") {
		object := &unstructured.Unstructured{}
		if err := yaml.Unmarshal([]byte(document), &object.Object); err != nil {
			t.Fatal(err)
		}
		objects = append(objects, object)
	}
	respond := func(r *http.Request) any {
		for prefix, kinds := range served {
			if r.URL.Path == prefix {
				var list metav1.APIResourceList
				for resource, kind := range kinds {
					list.APIResources = append(list.APIResources, metav1.APIResource{Name: resource, Kind: kind, Namespaced: kind != "Namespace" && kind != "Node"})
				}
				return list
			}
			path, within := strings.CutPrefix(r.URL.Path, prefix+"/")
			namespace := ""
			if rest, one := strings.CutPrefix(path, "namespaces/"); one {
				namespace, path, _ = strings.Cut(rest, "/")
			}
			if kind := kinds[path]; within && kind != "" {
				selector, err := labels.Parse(r.URL.Query().Get("labelSelector"))
				if err != nil {
					return nil
				}
				items := []any{}
				for _, o := range objects {
					if o.GetKind() == kind && (namespace == "" || o.GetNamespace() == namespace) && selector.Matches(labels.Set(o.GetLabels())) {
						items = append(items, o.Object)
					}
				}
				version := strings.TrimPrefix(strings.TrimPrefix(prefix, "/apis/"), "/api/")
				return map[string]any{"apiVersion": version, "kind": kind + "List", "metadata": map[string]any{}, "items": items}
			}
		}
		return nil
	}
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		found := respond(r)
		if found == nil {
			http.NotFound(w, r)
			return
		}
		w.Header().Set("Content-Type", "application/json")
		if err := json.NewEncoder(w).Encode(found); err != nil {
			t.Error(err)
		}
	}))
	t.Cleanup(server.Close)
	kubeconfig := filepath.Join(t.TempDir(), "kubeconfig")
	config := fmt.Sprintf("clusters: [{name: c, cluster: {server: %q}}]\ncontexts: [{name: c, context: {cluster: c}}]\ncurrent-context: c\n", server.URL)
	if err := os.WriteFile(kubeconfig, []byte(config), 0o600); err != nil {
		t.Fatal(err)
	}
	c, err := install.Connect(kubeconfig, "")
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// canaryYAML is an installation that is limited to a namespace and a revision, beside
// another revision, which does not have the providers.
const canaryYAML = `
apiVersion: apps/v1
kind: Deployment
metadata: {name: istiod, namespace: istio-system, labels: {app: istiod}}
spec: {template: {spec: {containers: [{name: discovery, image: "istio/pilot:1.29.2"}]}}}
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: istiod-canary, namespace: istio-system, labels: {app: istiod, istio.io/rev: canary}}
spec: {template: {spec: {containers: [{name: discovery, image: "istio/pilot:1.31.1"}]}}}
---
apiVersion: v1
kind: ConfigMap
metadata: {name: istio, namespace: istio-system}
data: {mesh: "{}"}
---
apiVersion: v1
kind: ConfigMap
metadata: {name: istio-canary, namespace: istio-system}
data:
  mesh: |
    defaultProviders: {tracing: [otel]}
    extensionProviders:
    - {name: otel, opentelemetry: {service: x, port: 4317}}
    - {name: layertrace-client, envoyOtelAls: {service: layertrace-access-log.layertrace-system.svc.cluster.local, port: 4327}}
    - {name: layertrace-server, envoyOtelAls: {service: layertrace-access-log.layertrace-system.svc.cluster.local, port: 4327}}
---
apiVersion: telemetry.istio.io/v1
kind: Telemetry
metadata: {name: layertrace, namespace: shop, labels: {app.kubernetes.io/name: layertrace, istio.io/rev: canary}}
spec: {accessLogging: [{match: {mode: CLIENT}, providers: [{name: layertrace-client}]}, {match: {mode: SERVER}, providers: [{name: layertrace-server}]}]}
---
apiVersion: telemetry.istio.io/v1
kind: Telemetry
metadata: {name: other, namespace: istio-system}
spec: {accessLogging: [{providers: [{name: envoy}]}]}
---
apiVersion: telemetry.istio.io/v1
kind: Telemetry
metadata: {name: other, namespace: bank}
spec: {accessLogging: [{providers: [{name: envoy}]}]}
---
apiVersion: networking.istio.io/v1alpha3
kind: Sidecar
metadata: {name: other, namespace: bank}
spec: {egress: [{hosts: ["./*"]}]}
---
apiVersion: v1
kind: Node
metadata: {name: n1}
status: {nodeInfo: {kernelVersion: 6.12.1}}
---
apiVersion: v1
kind: Pod
metadata: {name: web, namespace: shop}
spec: {containers: [{name: istio-proxy, image: proxyv2}]}
`

// The mesh configuration is that of the installed revision, and the checks are about the
// proxies within the limits.
func TestStatusWithinLimits(t *testing.T) {
	s, err := Collect(t.Context(), clusterOf(t, canaryYAML), Options{IstioNamespace: "istio-system"})
	if err != nil {
		t.Fatal(err)
	}
	if s.Istio != "1.31.1" || s.Limits.String() != "namespaces shop; revision canary" {
		t.Errorf("Istio %s, limits %s", s.Istio, s.Limits.String())
	}
	for _, f := range s.Findings { // the others' resources are of other proxies
		if f.Level == install.Warning {
			t.Errorf("%+v", f)
		}
	}
	if len(s.Workloads) != 1 || !s.Workloads[0].Tracing.On || !s.Workloads[0].Reports.On {
		t.Errorf("workloads %+v", s.Workloads)
	}
}

// Neither agents nor workloads have a problem because of proxies that the limits leave out.
func TestOutsideOfTheLimits(t *testing.T) {
	const log = `accessLogging: [{providers: [{name: layertrace-client}, {name: layertrace-server}]}]`
	limits := install.Limits{Namespaces: []string{"shop"}, Workloads: "app=web"}
	for _, test := range []struct {
		namespace, labels, method string
		telemetry                 string // in the pod's namespace
		reports                   Reports
		problem                   string
	}{
		{"shop", "{app: web}", install.MTLSEnvoyFilter, "{}", Reports{On: true}, "1 of 1 pods lack the annotation"},
		{"shop", "{app: db}", install.MTLSEnvoyFilter, "{}", Reports{Reason: "outside of the limits"}, ""},
		{"bank", "{app: web}", install.MTLSEnvoyFilter, "{}", Reports{Reason: "outside of the limits"}, ""},
		{"bank", "{app: web}", install.MTLSTelemetry, "{}", Reports{Reason: "outside of the limits"}, ""},
		{"shop", "{app: web}", install.MTLSTelemetry, "{}", Reports{Reason: "no Telemetry resource has accessLogging"}, "1 of 1 pods lack the annotation"},
		{"bank", "{app: web}", install.MTLSTelemetry, "{" + log + "}", Reports{On: true}, ""},
	} {
		pod := parse[corev1.Pod](t, `{metadata: {namespace: `+test.namespace+`, name: a, labels: `+test.labels+`}, spec: {containers: [{name: istio-proxy, image: p}]}}`)
		telemetry := parse[telemetryv1.Telemetry](t, `{metadata: {namespace: `+test.namespace+`, name: t}, spec: `+test.telemetry+`}`)
		if got := reportsOf(pod, "istio-system", test.method, limits, []*telemetryv1.Telemetry{telemetry}, nil); got != test.reports {
			t.Errorf("%s %s, %s: %+v, want %+v", test.namespace, test.labels, test.method, got, test.reports)
		}
		w := Workload{Pods: 1, Sidecars: 1, Tracing: Tracing{On: true}, pods: []*corev1.Pod{pod}}
		if got := w.findProblem(install.ReorderInlineHeaders, limits); !strings.HasPrefix(got, test.problem) || (got == "") != (test.problem == "") {
			t.Errorf("%s %s: %q, want %q", test.namespace, test.labels, got, test.problem)
		}
	}
	agent := Agent{Node: "n1", Ready: true, MTLS: true, Traffic: Traffic{Requests: 1, Found: 1}, Encrypted: Encrypted{Connections: 7}}
	s := &Status{Installed: true, MTLS: install.MTLSEnvoyFilter, Agents: []Agent{agent}, Workloads: []Workload{{Tracing: Tracing{On: true}}}}
	if problems := s.findProblems(); len(problems) != 1 || !strings.Contains(problems[0], "no proxy has sent a record") {
		t.Errorf("without limits: %q", problems)
	}
	s.Limits = limits
	if problems := s.findProblems(); len(problems) != 0 {
		t.Errorf("with limits: %q", problems)
	}
}
