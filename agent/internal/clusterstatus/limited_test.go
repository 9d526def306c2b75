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
