// SPDX-License-Identifier: Apache-2.0

package install

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	networkingv1alpha3 "istio.io/client-go/pkg/apis/networking/v1alpha3"
	appsv1 "k8s.io/api/apps/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"sigs.k8s.io/yaml"
)

// parse returns the object in a YAML text.
func parse[T any](t *testing.T, text string) *T {
	t.Helper()
	into := new(T)
	if err := yaml.Unmarshal([]byte(text), into); err != nil {
		t.Fatal(err)
	}
	return into
}

func TestIstioVersionOfAnImage(t *testing.T) {
	for image, want := range map[string]string{
		"istio/pilot:1.31.1": "1.31.1",
		"registry.example:5000/istio/pilot:1.29.0-distroless":   "1.29.0-distroless",
		"istio/pilot:v1.28.3@sha256:" + strings.Repeat("0", 64): "1.28.3",
		"istio/pilot:latest":                                             "",
		"registry.example:5000/istio/pilot":                              "",
		"registry.example/istio/pilot@sha256:" + strings.Repeat("1", 64): "",
	} {
		d := parse[appsv1.Deployment](t, `{spec: {template: {spec: {containers: [{name: discovery, image: "`+image+`"}]}}}}`)
		if got := imageVersion(d); got != want {
			t.Errorf("%s: %q, want %q", image, got, want)
		}
	}
}

// Of several control planes the oldest one counts.
func TestVersionLess(t *testing.T) {
	for _, test := range []struct {
		a, b string
		want bool
	}{{"1.30", "", true}, {"1.29.1", "1.30.0", true}, {"1.30.5", "1.30.1", false}, {"2.0", "1.31", false}, {"1.9", "1.10", true}} {
		if got, err := versionLess(test.a, test.b); err != nil || got != test.want {
			t.Errorf("%s < %s: %v, %v", test.a, test.b, got, err)
		}
	}
}

// An EnvoyFilter with upstream filters of the router is found in every form in
// which it can be written, and the method of our own is recognized.
func TestSetsUpstreamFilters(t *testing.T) {
	filter := func(value string) *networkingv1alpha3.EnvoyFilter {
		return parse[networkingv1alpha3.EnvoyFilter](t, `
apiVersion: networking.istio.io/v1alpha3
kind: EnvoyFilter
metadata: {name: other}
spec:
  configPatches:
  - applyTo: HTTP_FILTER
    patch: {operation: MERGE, value: `+value+`}
`)
	}
	for value, want := range map[string]bool{
		`{name: r, typed_config: {"@type": x, upstream_http_filters: [{name: a}]}}`:              true,
		`{name: r, typedConfig: {"@type": x, upstreamHttpFilters: [{name: a}]}}`:                 true,
		`{typed_config: {http_filters: [{name: r, typed_config: {upstream_http_filters: []}}]}}`: true,
		`{name: r, typed_config: {"@type": x, suppress_envoy_headers: true}}`:                    false,
		`{name: upstream_http_filters, typed_config: {inline_string: "upstream_http_filters"}}`:  false,
	} {
		if got := setsUpstreamFilters(filter(value).Spec.ConfigPatches[0].GetPatch().GetValue()); got != want {
			t.Errorf("%s: %v, want %v", value, got, want)
		}
	}
	for _, reorder := range []string{ReorderWasmPlugin, ReorderEnvoyFilter, ReorderLua} {
		object := find(render(t, defaults(reorder)), "EnvoyFilter").Object
		ours := &networkingv1alpha3.EnvoyFilter{}
		if err := runtime.DefaultUnstructuredConverter.FromUnstructured(object, ours); err != nil {
			t.Fatal(err)
		}
		patches := ours.Spec.ConfigPatches
		if got := methodOf(patches[len(patches)-1].GetPatch().GetValue()); got != reorder {
			t.Errorf("%s is recognized as %q", reorder, got)
		}
	}
}

func TestNodeFindings(t *testing.T) {
	for _, test := range []struct {
		capable, clsact, unfit []string
		level                  Level
		want                   string
	}{
		{nil, nil, []string{"n1 (kernel 5.10)"}, Refusal, "no node can capture"},
		{[]string{"n1"}, nil, []string{"n2 (kernel 5.10)"}, Warning, "no spans from n2 (kernel 5.10)"},
		{[]string{"n1"}, []string{"n1 (5.15)"}, nil, Fine, "clsact instead of TCX, which needs kernel 6.6, on n1 (5.15)"},
		{[]string{"n1", "n2"}, nil, nil, Fine, "2 nodes can capture"},
		{nil, nil, nil, Warning, "the cluster has no nodes"},
	} {
		findings, err := nodeFindings(test.capable, test.clsact, test.unfit)
		if err != nil {
			t.Fatal(err)
		}
		last := findings[len(findings)-1]
		if last.Level != test.level || !strings.Contains(last.Text, test.want) {
			t.Errorf("%+v, want %s %q", last, test.level, test.want)
		}
	}
}

// Upstream filters need a version of Istio whose Envoy supports them.
func TestOldIstio(t *testing.T) {
	for _, test := range []struct {
		version, reorder string
		refused          bool
	}{
		{"1.25.3", ReorderLua, true}, {"1.25.3", ReorderNone, false}, {"1.25.3", ReorderInlineHeaders, false}, {"1.26.0", ReorderLua, false},
	} {
		o := Options{Reorder: test.reorder}
		findings, err := istioVersion(&o, test.version)
		if err != nil {
			t.Fatal(err)
		}
		if refused := Refused(findings) != nil; refused != test.refused || o.IstioVersion != test.version {
			t.Errorf("%s on %s: %+v", test.reorder, test.version, findings)
		}
	}
}

// Without the kind of the alert rules, --monitoring is refused, and without the flag nothing
// is looked for.
func TestMonitoringNeedsTheOperator(t *testing.T) {
	kinds := ""
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != "/apis/monitoring.coreos.com/v1" || kinds == "" {
			http.NotFound(w, r)
			return
		}
		w.Header().Set("Content-Type", "application/json")
		fmt.Fprintf(w, `{"kind":"APIResourceList","groupVersion":"monitoring.coreos.com/v1","resources":[%s]}`, kinds)
	}))
	t.Cleanup(server.Close)
	const monitor, rule = `{"name":"podmonitors","kind":"PodMonitor","namespaced":true}`, `{"name":"prometheusrules","kind":"PrometheusRule","namespaced":true}`
	for _, test := range []struct {
		monitoring bool
		kinds      string
		level      Level
	}{{false, "", ""}, {true, "", Refusal}, {true, monitor, Refusal}, {true, monitor + "," + rule, Fine}} {
		kinds = test.kinds
		findings, err := checkMonitoring(t.Context(), connectTo(t, server), &Options{Monitoring: test.monitoring}, nil)
		if err != nil || len(findings) > 1 || (len(findings) == 1) != test.monitoring || test.monitoring && findings[0].Level != test.level {
			t.Errorf("%+v: %v, %v", test, findings, err)
		}
		if err := Refused(findings); (err != nil) != (test.level == Refusal) || err != nil && !strings.Contains(err.Error(), "omit --monitoring") {
			t.Errorf("%+v: %v", test, err)
		}
	}
}

// The YAML of a finding can be copied, in every width.
func TestFindingsKeepYAML(t *testing.T) {
	f := Finding{Level: Warning, Check: "mtls", Text: "the mesh lacks providers: add\nextensionProviders:\n- envoyOtelAls:\n    port: 1\n"}
	for _, width := range []int{0, 40} {
		if got := f.Line(width); !strings.HasSuffix(got, "add\nextensionProviders:\n- envoyOtelAls:\n    port: 1\n") || !strings.HasPrefix(got, "warning   mtls              the mesh") {
			t.Errorf("width %d:\n%s", width, got)
		}
	}
}
