// SPDX-License-Identifier: Apache-2.0

package install

import (
	"context"
	"fmt"
	"maps"
	"math"
	"os"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/dynamic/fake"
	clienttesting "k8s.io/client-go/testing"
)

// placesOf returns the namespaces of a kind's objects, sorted.
func placesOf(objects []*unstructured.Unstructured, kind string) (places []string) {
	for _, o := range objects {
		if o.GetKind() == kind {
			places = append(places, o.GetNamespace())
		}
	}
	slices.Sort(places)
	return places
}

// Limited to namespaces, no object of the mesh is in the root namespace, and the agents
// report requests of these namespaces only.
func TestLimitedToNamespaces(t *testing.T) {
	for _, reorder := range Reorders {
		o := defaults(reorder)
		o.MTLS, o.NamespaceSelector = MTLSOn, "kubernetes.io/metadata.name in (shop, bank)"
		objects := render(t, o)
		want := map[string][]string{"Telemetry": {"bank", "shop"}, "EnvoyFilter": {"bank", "shop"}} // of the log
		if o.usesUpstreamFilters() {
			want["EnvoyFilter"] = []string{"bank", "bank", "shop", "shop"}
		}
		if reorder == ReorderWasmPlugin || reorder == ReorderInlineHeaders {
			want["WasmPlugin"] = []string{"bank", "shop"}
		}
		for _, kind := range []string{"Telemetry", "EnvoyFilter", "WasmPlugin"} {
			if got := placesOf(objects, kind); !slices.Equal(got, want[kind]) {
				t.Errorf("%s: %s in %v, want %v", reorder, kind, got, want[kind])
			}
		}
		for _, object := range objects {
			text := fmt.Sprint(object.Object)
			if got := object.GetAnnotations()[exportAnnotation]; object.GetKind() == "Service" && got != ".,bank,shop" {
				t.Errorf("%s: %s is exported to %q", reorder, describe(object), got)
			}
			if object.GetNamespace() == DefaultIstioNamespace {
				t.Errorf("%s: %s is in the root namespace", reorder, describe(object))
			}
			if name, err := pluginResource("", object.GetNamespace()); reorder == ReorderWasmPlugin && object.GetKind() == "EnvoyFilter" && object.GetName() == objectName &&
				(err != nil || !strings.Contains(text, name)) {
				t.Errorf("%s does not run the module of its namespace: %s", describe(object), text)
			}
		}
		if settings := agentSettings(t, slices.DeleteFunc(objects, func(o *unstructured.Unstructured) bool { return o.GetName() == BootstrapName })); !slices.Equal(settings.Namespaces, []string{"bank", "shop"}) {
			t.Errorf("%s: the agents report %v", reorder, settings.Namespaces)
		}
	}
}

// Workloads are selected by the field of each kind, and a revision by a label.
func TestLimitedToWorkloads(t *testing.T) {
	o := defaults(ReorderWasmPlugin)
	o.NamespaceSelector, o.WorkloadSelector, o.Revision = "kubernetes.io/metadata.name=shop", "app=web,version=v2", "canary"
	objects := render(t, o)
	want := map[string]string{"app": "web", "version": "v2"}
	paths := map[string][]string{
		"EnvoyFilter": {"spec", "workloadSelector", "labels"},
		"WasmPlugin":  {"spec", "selector", "matchLabels"}, "Telemetry": {"spec", "selector", "matchLabels"},
	}
	for kind, path := range paths {
		object := find(objects, kind)
		got, _, err := unstructured.NestedStringMap(object.Object, path...)
		if err != nil || !maps.Equal(got, want) || object.GetLabels()["istio.io/rev"] != "canary" || object.GetLabels()[managedBy] != fieldManager {
			t.Errorf("%s selects %v (%v) with labels %v", kind, got, err, object.GetLabels())
		}
	}
	if rev := find(objects, "DaemonSet").GetLabels()["istio.io/rev"]; rev != "" {
		t.Errorf("the agents have the revision %s", rev)
	}
}

// Without a cluster, namespaces have to be named.
func TestNamespacesByLabelsNeedACluster(t *testing.T) {
	for selector, want := range map[string]string{
		"team=web": "needs a cluster", "kubernetes.io/metadata.name!=shop": "needs a cluster",
		"kubernetes.io/metadata.name in (shop, istio-system)": "root namespace",
	} {
		o := defaults(ReorderLua)
		o.NamespaceSelector = selector
		if err := o.Check(); err != nil {
			t.Error(err)
		}
		if _, err := Render(o); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %q", selector, err, want)
		}
	}
}

// clusterOf is a client of an API server with namespaces that have labels (YAML).
func clusterOf(t *testing.T, namespaces map[string]string) *Cluster {
	t.Helper()
	var objects []runtime.Object
	for name, labels := range namespaces {
		objects = append(objects, parse[unstructured.Unstructured](t, "{apiVersion: v1, kind: Namespace, metadata: {name: "+name+", labels: "+labels+"}}"))
	}
	return clusterWith(objects)
}

// clusterWith is a client of an API server with objects of a few kinds.
func clusterWith(objects []runtime.Object) *Cluster {
	c := &Cluster{known: map[schema.GroupVersion][]metav1.APIResource{}}
	lists := map[schema.GroupVersionResource]string{}
	for resource, kind := range map[string]schema.GroupVersionKind{
		"namespaces": KindNamespace, "envoyfilters": kindEnvoyFilter, "telemetries": KindTelemetry, "wasmplugins": kindWasmPlugin,
		"deployments": kindDeployment, "configmaps": kindConfigMap, "sidecars": kindSidecar, "daemonsets": KindDaemonSet,
		"pods": KindPod, "nodes": kindNode, "services": kindService, "endpointslices": kindEndpointSlice, "serviceaccounts": {Version: "v1", Kind: "ServiceAccount"},
		"clusterroles":        {Group: "rbac.authorization.k8s.io", Version: "v1", Kind: "ClusterRole"},
		"clusterrolebindings": {Group: "rbac.authorization.k8s.io", Version: "v1", Kind: "ClusterRoleBinding"},
		"podmonitors":         kindPodMonitor,
	} {
		version := kind.GroupVersion()
		cluster := slices.Contains([]string{"Namespace", "Node", "ClusterRole", "ClusterRoleBinding"}, kind.Kind)
		c.known[version] = append(c.known[version], metav1.APIResource{Name: resource, Kind: kind.Kind, Namespaced: !cluster})
		lists[version.WithResource(resource)] = kind.Kind + "List"
	}
	c.objects = fake.NewSimpleDynamicClientWithCustomListKinds(runtime.NewScheme(), lists, objects...)
	return c
}

// With a cluster, namespaces are found by their labels, and a selection is refused that is
// empty, or would apply to the whole mesh, or to a control plane that does not exist.
func TestCheckNamespaces(t *testing.T) {
	c := clusterOf(t, map[string]string{
		"shop": "{team: web}", "bank": "{team: web}", "other": "{}", DefaultIstioNamespace: "{mesh: root}", DefaultNamespace: "{team: web}",
	})
	for _, test := range []struct {
		selector, revision string
		refusal            string
		want               []string
	}{
		{"team=web", "", "", []string{"bank", "shop"}},
		{"team=web", "canary", "", []string{"bank", "shop"}},
		{"", "", "", nil},
		{"team=none", "", "selects no namespace", nil},
		{"mesh=root", "", "apply to the whole mesh", nil},
		{"", "blue", "no control plane in istio-system has the revision blue (there is canary, default)", nil},
	} {
		o := defaults(ReorderLua)
		o.NamespaceSelector, o.Revision = test.selector, test.revision
		findings, err := checkNamespaces(t.Context(), c, &o, &Mesh{Revisions: []string{"canary", "default"}})
		if err != nil {
			t.Fatal(err)
		}
		refused := Refused(findings)
		if (refused != nil) != (test.refusal != "") || refused != nil && !strings.Contains(refused.Error(), test.refusal) {
			t.Errorf("%s, %s: %v, want %q", test.selector, test.revision, refused, test.refusal)
		}
		if test.refusal == "" && !slices.Equal(o.namespaces, test.want) {
			t.Errorf("%s: namespaces %v, want %v", test.selector, o.namespaces, test.want)
		}
	}
}

// What is installed shows its limits, method and log, whichever tool installed it. Neither a
// patched proxy nor none needs an object in the mesh.
func TestInstalledLimits(t *testing.T) {
	const limits = "namespaces bank, shop; pods with app=web; revision canary"
	for _, reorder := range Reorders {
		bare := reorder == ReorderPatched || reorder == ReorderNone
		for _, log := range []string{"", MTLSEnvoyFilter, MTLSTelemetry} {
			for _, limited := range []bool{false, true} {
				o, want := defaults(reorder), ""
				if o.TracingProvider = ""; log != "" {
					o.MTLS, o.MTLSLog = MTLSOn, log
				}
				if limited {
					o.NamespaceSelector, o.WorkloadSelector, o.Revision = "kubernetes.io/metadata.name in (shop, bank)", "app=web", "canary"
				}
				if limited && (log != "" || !bare) {
					want = limits
				}
				c := clusterWith(installedByHelm(render(t, o)))
				got, err := c.InstalledLimits(t.Context(), DefaultIstioNamespace)
				if err != nil || got.String() != want {
					t.Errorf("%s, log %q: limits %q, %v, want %q", reorder, log, got.String(), err, want)
				}
				method, err := c.InstalledReorder(t.Context(), DefaultIstioNamespace)
				if fits := method == reorder || bare && method == ReorderNone; err != nil || !fits {
					t.Errorf("%s: method %s, %v", reorder, method, err)
				}
				if got, err := c.InstalledMTLS(t.Context(), DefaultIstioNamespace); err != nil || got != log {
					t.Errorf("%s: log %q, %v, want %q", reorder, got, err, log)
				}
			}
		}
	}
}

// Limits cover a pod if all of them do.
func TestCovers(t *testing.T) {
	for _, test := range []struct {
		limits Limits
		want   string // of the pods below
	}{
		{Limits{}, "shop/web shop/db bank/web"},
		{Limits{Revision: "canary"}, "shop/web shop/db bank/web"}, // not known
		{Limits{Namespaces: []string{"a", "shop"}}, "shop/web shop/db"},
		{Limits{Workloads: "app=web,tier=1"}, "shop/web bank/web"},
		{Limits{Namespaces: []string{"shop"}, Workloads: "app=web"}, "shop/web"},
	} {
		var got []string
		for _, pod := range []string{"shop/web", "shop/db", "bank/web"} {
			namespace, app, _ := strings.Cut(pod, "/")
			if test.limits.Covers(namespace, map[string]string{"app": app, "tier": "1"}) {
				got = append(got, pod)
			}
		}
		if strings.Join(got, " ") != test.want {
			t.Errorf("%s: %v, want %s", test.limits.String(), got, test.want)
		}
	}
}

// installedByHelm returns the objects that Istio reads, with the labels of another tool.
func installedByHelm(all []*unstructured.Unstructured) (objects []runtime.Object) {
	for _, object := range all {
		labels := object.GetLabels()
		labels[managedBy] = "Helm"
		object.SetLabels(labels)
		if slices.Contains([]string{"EnvoyFilter", "WasmPlugin", "Telemetry"}, object.GetKind()) {
			objects = append(objects, object)
		}
	}
	return objects
}

// An EnvoyFilter that moves to another namespace is deleted before the new one is created:
// Envoy refuses a listener with both.
func TestMovedFilterIsDeletedFirst(t *testing.T) {
	old := find(render(t, defaults(ReorderLua)), "EnvoyFilter")
	old.SetManagedFields([]metav1.ManagedFieldsEntry{{Manager: fieldManager}})
	c := clusterWith([]runtime.Object{old})
	var steps []string
	c.objects.(*fake.FakeDynamicClient).PrependReactor("*", "*", func(action clienttesting.Action) (bool, runtime.Object, error) {
		step := action.GetVerb() + " " + action.GetNamespace()
		switch action.GetVerb() {
		case "delete":
			steps = append(steps, step)
		case "patch":
			steps = append(steps, step)
			return true, old, nil
		}
		return false, nil, nil
	})
	kinds, err := manifestKinds()
	if err != nil {
		t.Fatal(err)
	}
	for _, kind := range kinds {
		if _, known := c.known[kind.GroupVersion()]; !known {
			c.known[kind.GroupVersion()] = nil // the cluster does not have it
		}
	}
	o := defaults(ReorderLua)
	o.NamespaceSelector = "kubernetes.io/metadata.name=shop"
	filter := find(render(t, o), "EnvoyFilter")
	if err := c.Apply(t.Context(), []*unstructured.Unstructured{filter}, func(Change) {}); err != nil {
		t.Fatal(err)
	}
	if want := []string{"delete istio-system", "patch shop"}; !slices.Equal(steps, want) {
		t.Errorf("steps %v, want %v", steps, want)
	}
}

// A control plane's mesh configuration is istio, or istio-REVISION.
func TestMeshOfARevision(t *testing.T) {
	for _, test := range []struct {
		name, revision string
		another, want  bool
	}{
		{"istio", "", false, true}, {"istio-canary", "", false, true}, {"istio-canary", "", true, false}, {"istio", "default", false, true},
		{"istio", "canary", false, false}, {"istio-canary", "canary", true, true}, {"istio-blue", "canary", false, false}, {"other", "", false, false},
	} {
		if got := isMeshOf(test.name, test.revision, test.another); got != test.want {
			t.Errorf("%+v: %v", test, got)
		}
	}
}

// A Telemetry resource of a namespace keeps the access logs of the mesh-wide one that it
// replaces, or is refused.
func TestMeshWideLogsStay(t *testing.T) {
	const ours = "{providers: [{name: layertrace-client}, {name: layertrace-server}]}"
	mesh := func(name, day, spec string) string {
		return "apiVersion: telemetry.istio.io/v1\nkind: Telemetry\nmetadata: {name: " + name + ", namespace: istio-system, creationTimestamp: \"2026-01-" + day + "T00:00:00Z\"}\nspec: " + spec
	}
	for name, test := range map[string]struct {
		telemetry string
		kept      []string
		elsewhere bool
		refusal   string
	}{
		"none":              {"", []string{"implicit"}, false, ""},
		"tracing only":      {mesh("m", "01", "{tracing: [{}]}"), []string{"implicit"}, false, ""},
		"a log":             {mesh("m", "01", "{accessLogging: [{providers: [{name: envoy}]}]}"), []string{"envoy"}, false, ""},
		"several":           {mesh("m", "01", "{accessLogging: [{providers: [{name: envoy}, {name: a}]}, {providers: [{name: a}], match: {mode: CLIENT_AND_SERVER}, disabled: false}]}"), []string{"envoy", "a"}, false, ""},
		"ours":              {mesh("m", "01", "{accessLogging: ["+ours+"]}"), nil, true, ""},
		"a filter":          {mesh("m", "01", "{accessLogging: [{providers: [{name: envoy}], filter: {expression: x}}]}"), nil, false, "the mesh-wide Telemetry istio-system/m has accessLogging with match"},
		"one side":          {mesh("m", "01", "{accessLogging: [{providers: [{name: envoy}], match: {mode: SERVER}}]}"), nil, false, "the mesh-wide Telemetry istio-system/m has accessLogging with match"},
		"disabled":          {mesh("m", "01", "{accessLogging: [{providers: [{name: envoy}], disabled: true}]}"), nil, false, "the mesh-wide Telemetry istio-system/m has accessLogging with match"},
		"the default log":   {mesh("m", "01", "{accessLogging: [{}]}"), nil, false, "the mesh-wide Telemetry istio-system/m has accessLogging with match"},
		"an empty selector": {mesh("m", "01", "{selector: {}, accessLogging: [{providers: [{name: envoy}]}]}"), []string{"envoy"}, false, ""},
		"a gateway's":       {mesh("m", "01", "{targetRef: {kind: Gateway, name: g}, accessLogging: [{providers: [{name: envoy}]}]}"), []string{"implicit"}, false, ""},
		"the oldest": {mesh("new", "02", "{accessLogging: [{providers: [{name: new}]}]}") + "\n---\n" + mesh("old", "01", "{accessLogging: [{providers: [{name: old}]}]}"),
			[]string{"old"}, false, ""},
	} {
		var objects []runtime.Object
		if test.telemetry != "" {
			objects = objectsIn(t, test.telemetry)
		}
		o := mtlsOptions(MTLSTelemetry)
		o.namespaces = []string{"bank", "shop"}
		findings, err := checkTelemetryLog(t.Context(), clusterWith(objects), &o, &Mesh{Config: parse[MeshConfig](t, "{defaultProviders: {accessLogging: [implicit]}}")})
		if err != nil {
			t.Fatal(err)
		}
		refused := Refused(findings)
		if (refused == nil) != (test.refusal == "") || refused != nil && !strings.Contains(refused.Error(), test.refusal) {
			t.Errorf("%s: %v, want %q", name, refused, test.refusal)
		}
		if !slices.Equal(o.keptLogs, test.kept) || o.loggedElsewhere != test.elsewhere {
			t.Errorf("%s: keeps %v, logged elsewhere %v; want %v, %v", name, o.keptLogs, o.loggedElsewhere, test.kept, test.elsewhere)
		}
	}
}

// Each selected namespace is judged by its own Telemetry resource, not by that of another.
func TestLogsOfSeveralNamespaces(t *testing.T) {
	const (
		ours  = "{accessLogging: [{providers: [{name: layertrace-client}, {name: layertrace-server}]}]}"
		other = "{accessLogging: [{providers: [{name: envoy}]}]}"
	)
	for _, test := range []struct {
		bank, shop string // their Telemetry resources, created one after the other
		elsewhere  bool
		refusals   []string
	}{
		{"", "", false, nil},
		{ours, ours, true, nil},
		{ours, "", true, []string{"send the records of bank, but not of shop"}},
		{"", ours, true, []string{"send the records of shop, but not of bank"}},
		{ours, other, true, []string{"Telemetry shop/own already applies to the whole namespace"}},
		{other, ours, true, []string{"Telemetry bank/own already applies to the whole namespace"}},
		{other, other, false, []string{"Telemetry bank/own already", "Telemetry shop/own already"}},
		{other, "", false, []string{"Telemetry bank/own already"}},
	} {
		var objects []runtime.Object
		for i, spec := range []string{test.bank, test.shop} {
			if spec != "" {
				objects = append(objects, objectsIn(t, fmt.Sprintf("apiVersion: telemetry.istio.io/v1\nkind: Telemetry\nmetadata: {name: own, namespace: %s, creationTimestamp: \"2026-01-0%dT00:00:00Z\"}\nspec: %s",
					[]string{"bank", "shop"}[i], i+1, spec))...)
			}
		}
		o := mtlsOptions(MTLSTelemetry)
		o.namespaces = []string{"bank", "shop"}
		findings, err := checkTelemetryLog(t.Context(), clusterWith(objects), &o, &Mesh{})
		if err != nil {
			t.Fatal(err)
		}
		var refusals, lines []string
		for _, f := range findings {
			switch {
			case f.Level == Refusal:
				refusals = append(refusals, f.Text)
			case strings.Contains(f.Text, "mode: SERVER") && !strings.Contains(f.Text, "lacks"):
				lines = append(lines, f.Text)
			}
		}
		fits := len(refusals) == len(test.refusals) && len(lines) == len(refusals) // each with its remedy, once
		for i := range min(len(refusals), len(test.refusals)) {
			fits = fits && strings.Contains(refusals[i], test.refusals[i])
		}
		if !fits || o.loggedElsewhere != test.elsewhere {
			t.Errorf("bank %s, shop %s: logged elsewhere %v, %q, %q; want %v, %q", test.bank, test.shop, o.loggedElsewhere, refusals, lines, test.elsewhere, test.refusals)
		}
	}
}

// Warnings are about the chosen proxies only; what is in the root namespace applies to them too.
func TestWarningsWithinLimits(t *testing.T) {
	var objects []runtime.Object
	for _, namespace := range []string{"bank", "shop", DefaultIstioNamespace} {
		objects = append(objects, objectsIn(t, `
apiVersion: telemetry.istio.io/v1
kind: Telemetry
metadata: {name: web, namespace: `+namespace+`}
spec: {selector: {matchLabels: {app: web}}, accessLogging: [{providers: [{name: envoy}]}]}
---
apiVersion: networking.istio.io/v1alpha3
kind: Sidecar
metadata: {name: narrow, namespace: `+namespace+`}
spec: {egress: [{hosts: ["./*"]}]}
`)...)
	}
	for _, test := range []struct{ namespaces, want []string }{
		{nil, []string{"Sidecar bank", "Sidecar istio-system", "Sidecar shop", "Telemetry bank", "Telemetry istio-system", "Telemetry shop"}},
		{[]string{"shop"}, []string{"Sidecar istio-system", "Sidecar shop", "Telemetry shop"}},
	} {
		o := mtlsOptions(MTLSTelemetry)
		o.namespaces = test.namespaces
		findings, err := checkAccessLog(t.Context(), clusterWith(objects), &o, &Mesh{})
		if err != nil {
			t.Fatal(err)
		}
		var got []string
		for _, f := range findings {
			if name, _, found := strings.Cut(f.Text, "/"); found && f.Level == Warning && strings.Count(name, " ") == 1 {
				got = append(got, name)
			}
		}
		if slices.Sort(got); !slices.Equal(got, test.want) {
			t.Errorf("limited to %v: warnings about %q, want %q", test.namespaces, got, test.want)
		}
	}
}

// What is missing in a mesh configuration is missing in that of the revision.
func TestMeshNameInMessages(t *testing.T) {
	for revision, name := range map[string]string{"": "istio", "default": "istio", "canary": "istio-canary"} {
		o := mtlsOptions(MTLSTelemetry)
		o.Revision = revision
		for want, check := range map[string]func(context.Context, *Cluster, *Options, *Mesh) ([]Finding, error){
			"(ConfigMap " + name + ")": checkTracing, "edit configmap " + name + " (key mesh)": checkTelemetryLog,
		} {
			findings, err := check(t.Context(), clusterWith(nil), &o, &Mesh{})
			if err != nil || !strings.Contains(fmt.Sprint(findings), want) {
				t.Errorf("%q: %v, %v, want %q", revision, findings, err, want)
			}
		}
	}
}

// objectsIn parses the objects of YAML documents.
func objectsIn(t *testing.T, text string) (objects []runtime.Object) {
	t.Helper()
	for _, o := range objectsOf(documents(t, []byte(text))) {
		objects = append(objects, o)
	}
	return objects
}

// Of two control planes, the version and mesh configuration are those of the revision; without
// one, the oldest version counts, and the plain configuration.
func TestReadMeshOfARevision(t *testing.T) {
	c := clusterWith(objectsIn(t, `
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
data: {mesh: "accessLogFile: /dev/stdout"}
---
apiVersion: v1
kind: ConfigMap
metadata: {name: istio-canary, namespace: istio-system}
data: {mesh: "accessLogFile: /canary"}
`))
	for revision, want := range map[string]string{"": "1.29.2 /dev/stdout", "default": "1.29.2 /dev/stdout", "canary": "1.31.1 /canary"} {
		m, err := c.ReadMesh(t.Context(), DefaultIstioNamespace, revision)
		if err != nil || m.Version+" "+m.Config.AccessLogFile != want || !slices.Equal(m.Revisions, []string{"canary", "default"}) {
			t.Errorf("%q: %+v, %v, want %s", revision, m, err, want)
		}
	}
}

// What is in the way of the whole mesh need not be in the way of a namespace, and the
// reverse.
func TestConflictsWithinLimits(t *testing.T) {
	c := clusterWith(objectsIn(t, `
apiVersion: telemetry.istio.io/v1
kind: Telemetry
metadata: {name: own, namespace: bank}
spec: {tracing: [{providers: [{name: x}]}]}
---
apiVersion: telemetry.istio.io/v1
kind: Telemetry
metadata: {name: one-workload, namespace: shop}
spec: {selector: {matchLabels: {app: web}}}
---
apiVersion: telemetry.istio.io/v1
kind: Telemetry
metadata: {name: mesh-default, namespace: istio-system}
spec: {}
---
apiVersion: networking.istio.io/v1alpha3
kind: EnvoyFilter
metadata: {name: other, namespace: bank}
spec: {configPatches: [{applyTo: HTTP_FILTER, patch: {operation: MERGE, value: {name: r, typed_config: {upstream_http_filters: []}}}}]}
---
apiVersion: networking.istio.io/v1alpha3
kind: EnvoyFilter
metadata: {name: layertrace, namespace: istio-system, labels: {app.kubernetes.io/name: layertrace}}
spec: {configPatches: [{applyTo: HTTP_FILTER, patch: {operation: MERGE, value: {name: r, typed_config: {upstream_http_filters: []}}}}]}
`))
	m := &Mesh{Config: parse[MeshConfig](t, "{extensionProviders: [{name: otel-tracing, opentelemetry: {service: x, port: 1}}]}")}
	for _, test := range []struct {
		namespaces        []string
		workloads         string
		tracing, upstream string // refusals
	}{
		{nil, "", "Telemetry istio-system/mesh-default already applies to the whole mesh", "EnvoyFilter bank/other already sets"},
		{[]string{"bank"}, "", "Telemetry bank/own already applies to the whole namespace", "EnvoyFilter bank/other already sets"},
		{[]string{"bank"}, "app=web", "", "EnvoyFilter bank/other already sets"},
		{[]string{"shop"}, "", "", ""},
	} {
		o := defaults(ReorderLua)
		o.namespaces, o.WorkloadSelector = test.namespaces, test.workloads
		for want, check := range map[*string]func(context.Context, *Cluster, *Options, *Mesh) ([]Finding, error){&test.tracing: checkTracing, &test.upstream: checkUpstreamFilters} {
			findings, err := check(t.Context(), c, &o, m)
			if err != nil {
				t.Fatal(err)
			}
			refused := Refused(findings)
			if (refused == nil) != (*want == "") || refused != nil && !strings.Contains(refused.Error(), *want) {
				t.Errorf("%v, %s: %v, want %q", test.namespaces, test.workloads, refused, *want)
			}
		}
	}
}

// What install says about costs is what was measured.
func TestCostsAreMeasured(t *testing.T) {
	page, err := os.ReadFile("../../../docs/reordering.md")
	if err != nil {
		t.Fatal(err)
	}
	rows := map[string][]float64{}
	for _, row := range regexp.MustCompile(`(?m)^\| ([^|]+) \| ([0-9.]+) \|[ ]*([0-9.]*) *\|[^|]+\|[^|]+\| ([0-9]+) \|$`).FindAllStringSubmatch(string(page), -1) {
		micros, _ := strconv.ParseFloat(row[3], 64) // stock has none
		memory, err := strconv.ParseFloat(row[4], 64)
		if err != nil {
			t.Fatal(err)
		}
		rows[row[1]] = []float64{micros, memory}
	}
	stock := rows["stock"]
	for method, variant := range map[string]string{
		ReorderWasmPlugin: "Wasm as upstream filter", ReorderEnvoyFilter: "Wasm as upstream filter",
		ReorderInlineHeaders: "Wasm in the connection manager, inline headers", ReorderLua: "Lua as upstream filter",
	} {
		row := rows[variant]
		if stock == nil || row == nil || costs[method].micros != row[0] || float64(costs[method].memory) != row[1]-stock[1] {
			t.Errorf("%s: %v, measured %v over %v", method, costs[method], row, stock)
		}
	}
	row := regexp.MustCompile(`\| Wasm, compact \| [0-9.]+ \| ([0-9.]+) \|`).FindSubmatch(page)
	if row == nil {
		t.Fatal("no measurement of the compact module")
	}
	if memory, err := strconv.ParseFloat(string(row[1]), 64); err != nil || math.Round(memory) != compactMemory {
		t.Errorf("the compact module takes %d MiB, measured %s", compactMemory, row[1])
	}
	for _, method := range Reorders {
		o := defaults(method)
		findings, err := checkCost(t.Context(), nil, &o, nil)
		if err != nil || len(findings) != 1 || !strings.Contains(findings[0].Text, "cost") && !strings.Contains(findings[0].Text, "MiB") {
			t.Errorf("%s: %v, %v", method, findings, err)
		}
	}
}
