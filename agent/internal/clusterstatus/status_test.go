// SPDX-License-Identifier: Apache-2.0

package clusterstatus

import (
	"bytes"
	"maps"
	"slices"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/layertrace/layertrace/agent/internal/install"
	"github.com/layertrace/layertrace/agent/internal/unseen"
	telemetryv1 "istio.io/client-go/pkg/apis/telemetry/v1"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
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

const meshYAML = `
extensionProviders:
- name: otel-tracing
  opentelemetry: {service: collector.istio-system.svc.cluster.local, port: 4317}
- name: old
  zipkin: {service: zipkin.istio-system.svc.cluster.local, port: 9411}
- name: metrics
  prometheus: {}
defaultProviders: {tracing: [old]}
`

// Namespace and workload override the fields that they set.
func TestTracingOf(t *testing.T) {
	telemetry := func(namespace, name, spec string) *telemetryv1.Telemetry {
		return parse[telemetryv1.Telemetry](t, `
apiVersion: telemetry.istio.io/v1
kind: Telemetry
metadata: {namespace: `+namespace+`, name: `+name+`}
spec: `+spec)
	}
	root := telemetry("istio-system", "mesh", `{tracing: [{providers: [{name: otel-tracing}], randomSamplingPercentage: 10}]}`)
	for _, test := range []struct {
		name string
		all  []*telemetryv1.Telemetry
		mesh string
		want Tracing
	}{
		{"mesh default", nil, meshYAML, Tracing{On: true, Providers: []string{"old"}, Sampling: 1, By: "mesh configuration"}},
		{"nothing", nil, "{}", Tracing{Sampling: 1, By: "mesh configuration", Reason: "no provider is configured"}},
		{"root", []*telemetryv1.Telemetry{root}, meshYAML, Tracing{On: true, Providers: []string{"otel-tracing"}, Sampling: 10, By: "Telemetry istio-system/mesh"}},
		{"namespace without tracing", []*telemetryv1.Telemetry{telemetry("shop", "metrics", `{metrics: [{}]}`), root}, meshYAML,
			Tracing{On: true, Providers: []string{"otel-tracing"}, Sampling: 10, By: "Telemetry istio-system/mesh"}},
		{"workload samples more", []*telemetryv1.Telemetry{root, telemetry("shop", "web", `{selector: {matchLabels: {app: web}}, tracing: [{randomSamplingPercentage: 100}]}`)}, meshYAML,
			Tracing{On: true, Providers: []string{"otel-tracing"}, Sampling: 100, By: "Telemetry shop/web"}},
		{"another workload", []*telemetryv1.Telemetry{root, telemetry("shop", "api", `{selector: {matchLabels: {app: api}}, tracing: [{disableSpanReporting: true}]}`)}, meshYAML,
			Tracing{On: true, Providers: []string{"otel-tracing"}, Sampling: 10, By: "Telemetry istio-system/mesh"}},
		{"switched off", []*telemetryv1.Telemetry{root, telemetry("shop", "silent", `{tracing: [{disableSpanReporting: true}]}`)}, meshYAML,
			Tracing{Providers: []string{"otel-tracing"}, Sampling: 10, By: "Telemetry shop/silent", Reason: "disableSpanReporting is set"}},
		{"unknown provider", []*telemetryv1.Telemetry{telemetry("shop", "typo", `{tracing: [{providers: [{name: otel}]}]}`)}, meshYAML,
			Tracing{Providers: []string{"otel"}, Sampling: 1, By: "Telemetry shop/typo", Reason: "the mesh configuration has no tracing provider otel"}},
		{"provider of metrics", []*telemetryv1.Telemetry{telemetry("shop", "typo", `{tracing: [{providers: [{name: metrics}]}]}`)}, meshYAML,
			Tracing{Providers: []string{"metrics"}, Sampling: 1, By: "Telemetry shop/typo", Reason: "the mesh configuration has no tracing provider metrics"}},
		{"nothing sampled", []*telemetryv1.Telemetry{root, telemetry("shop", "none", `{tracing: [{randomSamplingPercentage: 0}]}`)}, meshYAML,
			Tracing{Providers: []string{"otel-tracing"}, By: "Telemetry shop/none", Reason: "0 % of requests are sampled"}},
	} {
		pod := parse[corev1.Pod](t, `{metadata: {namespace: shop, name: web, labels: {app: web}}}`)
		got := tracingOf(pod, "istio-system", test.all, parse[install.MeshConfig](t, test.mesh))
		if got.On != test.want.On || !slices.Equal(got.Providers, test.want.Providers) || got.Sampling != test.want.Sampling ||
			got.By != test.want.By || got.Reason != test.want.Reason {
			t.Errorf("%s: %+v, want %+v", test.name, got, test.want)
		}
	}
}

// Pods are grouped by controller, with and without a sidecar. Host-network pods,
// ended ones and those outside the mesh are skipped.
func TestGroup(t *testing.T) {
	pods := []*corev1.Pod{
		parse[corev1.Pod](t, `
metadata:
  {namespace: shop, name: web-abc-1, labels: {pod-template-hash: abc}, ownerReferences: [{apiVersion: apps/v1, kind: ReplicaSet, name: web-abc, uid: u, controller: true}]}
spec: {containers: [{name: web}, {name: istio-proxy, image: proxyv2:1}]}`),
		parse[corev1.Pod](t, `
metadata:
  {namespace: shop, name: web-abc-2, labels: {pod-template-hash: abc}, ownerReferences: [{apiVersion: apps/v1, kind: ReplicaSet, name: web-abc, uid: u, controller: true}]}
spec: {containers: [{name: web}]}`),
		parse[corev1.Pod](t, `
metadata:
  {namespace: shop, name: db-0, ownerReferences: [{apiVersion: apps/v1, kind: StatefulSet, name: db, uid: u, controller: true}]}
spec: {initContainers: [{name: istio-proxy, image: proxyv2:2}], containers: [{name: db}]}`),
		parse[corev1.Pod](t, `{metadata: {namespace: shop, name: job}, spec: {containers: [{name: a}, {name: istio-proxy}]}, status: {phase: Succeeded}}`),
		parse[corev1.Pod](t, `{metadata: {namespace: shop, name: host}, spec: {hostNetwork: true, containers: [{name: a}]}}`),
		parse[corev1.Pod](t, `{metadata: {namespace: kube-system, name: dns}, spec: {containers: [{name: a}]}}`),
		parse[corev1.Pod](t, `{metadata: {namespace: istio-system, name: gateway}, spec: {containers: [{name: istio-proxy, image: proxyv2:1}]}}`),
	}
	var got []string
	for _, w := range group(pods, map[string]bool{"shop": true}) {
		got = append(got, strings.Join([]string{w.Namespace, w.Name, w.ProxyImage}, " "))
		if w.Name == "web" && (w.Pods != 2 || w.Sidecars != 1) {
			t.Errorf("web: %+v", w)
		}
	}
	want := []string{"istio-system gateway proxyv2:1", "shop db proxyv2:2", "shop web proxyv2:1"}
	if !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
}

func TestWorkloadProblem(t *testing.T) {
	on := Tracing{On: true}
	pod := parse[corev1.Pod](t, `{metadata: {name: a}}`)
	annotated := parse[corev1.Pod](t, `{metadata: {name: b, annotations: {sidecar.istio.io/bootstrapOverride: layertrace-bootstrap}}}`)
	for _, test := range []struct {
		w       Workload
		reorder string
		want    string
	}{
		{Workload{Pods: 2, Sidecars: 1, Tracing: on}, install.ReorderLua, "1 of 2 pods have no sidecar"},
		{Workload{Pods: 1, Sidecars: 1, Tracing: Tracing{Reason: "why"}}, install.ReorderLua, "tracing is off: why"},
		{Workload{Pods: 2, Sidecars: 2, Tracing: on, pods: []*corev1.Pod{pod, annotated}}, install.ReorderInlineHeaders, "1 of 2 pods lack the annotation"},
		{Workload{Pods: 1, Sidecars: 1, Tracing: on, pods: []*corev1.Pod{annotated}}, install.ReorderInlineHeaders, ""},
		{Workload{Pods: 1, Sidecars: 1, Tracing: on, pods: []*corev1.Pod{pod}}, install.ReorderLua, ""},
	} {
		if got := test.w.findProblem(test.reorder, install.Limits{}); !strings.HasPrefix(got, test.want) || (test.want == "") != (got == "") {
			t.Errorf("%q, want %q", got, test.want)
		}
	}
}

// Each problem has one text with its cause; a healthy installation has none.
func TestExplain(t *testing.T) {
	workloads := []Workload{{Tracing: Tracing{On: true}}}
	agent := func(change func(*Agent)) Status {
		a := Agent{Node: "n1", Pod: "layertrace-system/a", Ready: true, Traffic: Traffic{Requests: 10, Found: 10}}
		change(&a)
		return Status{Installed: true, Reorder: install.ReorderLua, Agents: []Agent{a}, Workloads: workloads}
	}
	for want, s := range map[string]Status{
		"":                         agent(func(*Agent) {}),
		"not installed":            {},
		"no pods":                  {Installed: true},
		"ImagePullBackOff":         agent(func(a *Agent) { a.Ready, a.Problem = false, "ImagePullBackOff: no such image" }),
		"kubectl logs":             agent(func(a *Agent) { a.Ready = false }),
		"agent on no node (pod p)": agent(func(a *Agent) { a.Ready, a.Node, a.Pod, a.Problem = false, "", "p", "its phase is Pending" }),
		"mutual TLS":               agent(func(a *Agent) { a.Traffic = Traffic{} }),
		"requests, but 3 packets in VXLAN": agent(func(a *Agent) {
			a.Traffic, a.Unseen = Traffic{}, []unseen.Sight{{Kind: "vxlan", Count: 3}}
		}),
		"program cni ahead at tcx-ingress of eth0: if": agent(func(a *Agent) {
			a.Unseen = []unseen.Sight{unseen.Ahead("eth0", "xdp", "lb"), unseen.Ahead("eth0", "tcx-ingress", "cni")}
		}),
		"none of 10 requests":           agent(func(a *Agent) { a.Traffic = Traffic{Requests: 10, Without: 10} }),
		"40.0 % of the contexts":        agent(func(a *Agent) { a.Traffic = Traffic{Requests: 10, Found: 4, Missed: 6} }),
		"90.0 % of the contexts are in": agent(func(a *Agent) { a.Behind = 1 }),
		"2 heads were not searched":     agent(func(a *Agent) { a.OverBudget = 2 }),
		"5 spans were not made":         agent(func(a *Agent) { a.SpansOverLimit = 5 }),
		"it leaves out all new requ":    agent(func(a *Agent) { a.CPULimitStep = 3 }),
		"it leaves out layers, to keep": agent(func(a *Agent) { a.CPULimitStep = 1 }),
		"3 spans were lost":             agent(func(a *Agent) { a.SpansLost = 3 }),
		"no workload is traced":         {Installed: true, Agents: agent(func(*Agent) {}).Agents, Workloads: []Workload{{}}},
		"no pod has a sidecar":          {Installed: true, Agents: agent(func(*Agent) {}).Agents},
		"a --reorder other than n":      {Installed: true, Reorder: install.ReorderNone, Agents: agent(func(a *Agent) { a.Missed = 90 }).Agents, Workloads: workloads},
	} {
		got := strings.Join(s.findProblems(), "\n")
		if !strings.Contains(got, want) || (want == "") != (got == "") || len(s.findProblems()) > 1 {
			t.Errorf("%q, want %q", got, want)
		}
		var out bytes.Buffer
		s.Problems = s.findProblems()
		if err := s.WriteText(&out, 0); err != nil || !strings.Contains(out.String(), want) {
			t.Errorf("%v: %s", err, out.String())
		}
	}
}

// Without reordering contexts behind the window are no problem if they are found: the
// status says what reordering would save.
func TestSavings(t *testing.T) {
	a := Agent{Node: "n1", Ready: true, Traffic: Traffic{Requests: 10, Found: 8, Behind: 6, Searched: 3, SearchBytes: 3 * 2048}}
	none := &Status{Installed: true, Reorder: install.ReorderNone, Agents: []Agent{a}, Workloads: []Workload{{Tracing: Tracing{On: true}}}}
	lua := *none
	lua.Reorder = install.ReorderLua
	const saved = "- n1: 6 of 8 contexts (75.0 %) were beyond the prefix window; 3 heads searched there, 6.0 KiB, 2048 bytes each\n"
	for s, want := range map[*Status]bool{none: true, &lua: false} {
		s.Problems = s.findProblems()
		if (len(s.Problems) == 0) != want {
			t.Errorf("--reorder %s: problems %q", s.Reorder, s.Problems)
		}
		var out bytes.Buffer
		if err := s.WriteText(&out, 0); err != nil || strings.Contains(out.String(), saved) != want || !strings.Contains(out.String(), "25.0 % (2 of 8)") {
			t.Errorf("--reorder %s: %v: %s", s.Reorder, err, out.String())
		}
	}
	later := a.plus(Traffic{Requests: 1, Found: 1, Behind: 1, Searched: 1, SearchBytes: 100}, -1)
	if want := (Traffic{Requests: 9, Found: 7, Behind: 5, Searched: 2, SearchBytes: 3*2048 - 100}); later != want {
		t.Errorf("in a window: %+v, want %+v", later, want)
	}
}

// Where an installation is limited, the contexts of other proxies are no problem, and the
// limits are shown.
func TestLimited(t *testing.T) {
	a := Agent{Node: "n1", Ready: true, Traffic: Traffic{Requests: 10, Found: 8, Behind: 6}}
	s := &Status{Installed: true, Reorder: install.ReorderLua, Agents: []Agent{a}, Workloads: []Workload{{Tracing: Tracing{On: true}}}}
	if problems := s.findProblems(); len(problems) != 1 {
		t.Errorf("without limits: %q", problems)
	}
	s.Limits = install.Limits{Namespaces: []string{"bank", "shop"}, Workloads: "app=web", Revision: "canary"}
	if problems := s.findProblems(); len(problems) != 0 {
		t.Errorf("with limits: %q", problems)
	}
	var out bytes.Buffer
	if err := s.WriteText(&out, 0); err != nil || !strings.Contains(out.String(), "limits            namespaces bank, shop; pods with app=web; revision canary\n") {
		t.Errorf("%v: %s", err, out.String())
	}
}

// What agents do not read is named with what to do, and is no problem.
func TestUnseen(t *testing.T) {
	families, err := parseMetrics([]byte(`# TYPE layertrace_packets_encapsulated_total counter
layertrace_packets_encapsulated_total{kind="vxlan"} 3
layertrace_packets_encapsulated_total{kind="ipip"} 0
`))
	if err != nil {
		t.Fatal(err)
	}
	s := Status{Installed: true, Reorder: install.ReorderLua, Workloads: []Workload{{Tracing: Tracing{On: true}}}, Agents: []Agent{
		{Node: "n1", Ready: true, Traffic: Traffic{Requests: 1, Found: 1}, Unseen: unseen.Of(slices.Collect(maps.Values(families)))},
		{Node: "n2", Ready: true, Traffic: Traffic{Requests: 1, Found: 1}},
	}}
	s.Problems = s.findProblems()
	var out bytes.Buffer
	if err := s.WriteText(&out, 0); err != nil {
		t.Fatal(err)
	}
	if text := out.String(); strings.Count(text, "Not read") != 1 || !strings.Contains(text, "- n1: 3 packets in VXLAN: ") || !strings.Contains(text, "No problems") {
		t.Error(text)
	}
	s.Agents = s.Agents[1:]
	out.Reset()
	if err := s.WriteText(&out, 0); err != nil || strings.Contains(out.String(), "Not read") {
		t.Errorf("%v: %s", err, out.String())
	}
}

// Counters of the filter are found with any prefix of their name.
func TestParseMetrics(t *testing.T) {
	families, err := parseMetrics([]byte(`# TYPE layertrace_interfaces gauge
layertrace_interfaces{kind="vnic"} 3
layertrace_interfaces{kind="pnic"} 1
# TYPE layertrace_requests_total counter
layertrace_requests_total 12
# TYPE istio_layertrace_requests_reordered counter
istio_layertrace_requests_reordered{} 5
`))
	if err != nil {
		t.Fatal(err)
	}
	m := sums(families)
	if m["layertrace_interfaces"] != 4 || m["layertrace_requests_total"] != 12 {
		t.Errorf("metrics %v", m)
	}
	if sum, found := m.withSuffix("layertrace_requests_reordered"); !found || sum != 5 {
		t.Errorf("the filter's counter: %v, %v", sum, found)
	}
	if _, found := m.withSuffix("nosuch"); found {
		t.Error("found a metric that does not exist")
	}
	if _, err := parseMetrics([]byte("no metrics {")); err == nil {
		t.Error("accepted text that is no metrics")
	}
}

// Pods write their termination messages themselves, and agents name interfaces.
func TestStatusDoesNotControlTheTerminal(t *testing.T) {
	const hostile = "\x1b]0;owned\x07\x1b[2J\u009b31m\u202e"
	s := Status{
		Installed: true, Reorder: hostile, Problems: []string{"agent on node1: terminated: " + hostile},
		Findings:  []install.Finding{{Level: install.Fine, Check: hostile, Text: hostile}},
		Agents:    []Agent{{Node: hostile, Pod: hostile, Unseen: []unseen.Sight{}}},
		Workloads: []Workload{{Name: hostile}},
	}
	var out bytes.Buffer
	if err := s.WriteText(&out, 0); err != nil {
		t.Fatal(err)
	}
	if strings.ContainsAny(out.String(), "\x1b\x07\u009b\u202e") || !strings.Contains(out.String(), "owned") {
		t.Errorf("%q", out.String())
	}
}

// No line is wider than the terminal, and nothing is left out. Other outputs have whole lines.
func TestStatusFitsTheTerminal(t *testing.T) {
	traffic := Traffic{Requests: 123456, Found: 123000, Behind: 4000, Missed: 456}
	s := Status{
		Installed: true, Reorder: install.ReorderLua, MTLS: install.MTLSEnvoyFilter,
		Findings: []install.Finding{{Level: install.Warning, Check: "upstream-filters", Text: strings.Repeat("another EnvoyFilter ", 10) + "sets them"}},
		Agents: []Agent{{
			Node: "ip-10-0-1-17.eu-central-1.compute.internal", Pod: "layertrace-system/layertrace-agent-x7k2p", Ready: true, Interfaces: 110, Traffic: traffic, SpansExported: 1234567,
			Unseen: []unseen.Sight{{Kind: "tls", Count: 1234, Advice: strings.Repeat("they are encrypted ", 8) + "so far"}},
		}},
		Workloads: []Workload{{Namespace: "bookinfo-production", Name: "productpage-with-a-long-name-v1", Pods: 12, Sidecars: 12, Traffic: traffic, Problem: strings.Repeat("not reordered ", 12) + "at all"}},
		Problems:  []string{strings.Repeat("agent on a node: not ready ", 8) + "yet"},
	}
	words := func(width int) (text string, all []string) {
		var out bytes.Buffer
		if err := s.WriteText(&out, width); err != nil {
			t.Fatal(err)
		}
		return out.String(), strings.Fields(out.String())
	}
	whole, want := words(0)
	if !strings.Contains(whole, "not ready yet\n") || !strings.Contains(whole, "sets them\n") || strings.Count(whole, "\n") > 20 {
		t.Errorf("lines are broken:\n%s", whole)
	}
	for _, width := range []int{80, 120} {
		text, got := words(width)
		for line := range strings.Lines(text) {
			if columns := utf8.RuneCountInString(strings.TrimSuffix(line, "\n")); columns > width {
				t.Errorf("width %d: %d columns: %s", width, columns, line)
			}
		}
		// Cells are broken, and the title of the remarks is left out.
		count := func(words []string) int {
			return len(strings.NewReplacer("PROBLEM", "", "WHYNOT", "").Replace(strings.Join(words, "")))
		}
		if count(got) != count(want) {
			t.Errorf("width %d: %d characters, want %d:\n%s", width, count(got), count(want), text)
		}
	}
}

// A DaemonSet with the labels in somebody's namespace is not the installation.
func TestNamespaceOfTheInstallation(t *testing.T) {
	in := func(namespaces ...string) (sets []*appsv1.DaemonSet) {
		for _, n := range namespaces {
			set := &appsv1.DaemonSet{}
			set.Namespace = n
			sets = append(sets, set)
		}
		return sets
	}
	for want, sets := range map[string][]*appsv1.DaemonSet{
		install.DefaultNamespace: in("attacker", install.DefaultNamespace), "own": in("own"),
	} {
		if got := namespaceOf(sets); got != want {
			t.Errorf("%s, want %s", got, want)
		}
	}
}
