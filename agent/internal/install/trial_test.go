// SPDX-License-Identifier: Apache-2.0

package install

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"sigs.k8s.io/yaml"
)

// shopTrial is a trial of namespace shop.
func shopTrial() Trial {
	return Trial{Namespace: "shop", IstioNamespace: DefaultIstioNamespace, Reorder: ReorderNone, Sampling: 100}
}

// clusterOfYAML is a client of an API server with the objects of YAML documents.
func clusterOfYAML(t *testing.T, documents ...string) *Cluster {
	t.Helper()
	var objects []runtime.Object
	for _, text := range documents {
		objects = append(objects, parse[unstructured.Unstructured](t, text))
	}
	return clusterWith(objects)
}

// textOf is what findings say, with the level of each.
func textOf(findings []Finding) string {
	var lines []string
	for _, f := range findings {
		lines = append(lines, string(f.Level)+": "+f.Text)
	}
	return strings.Join(lines, "\n")
}

// A trial is limited to its namespace, fetches nothing, keeps the spans, and all of its objects
// have its label; so does nothing of an installation.
func TestTrialIsLimitedAndMarked(t *testing.T) {
	for _, reorder := range TrialReorders {
		trial := shopTrial()
		trial.Reorder, trial.TracingProvider = reorder, "otel"
		if err := trial.Check(); err != nil {
			t.Fatal(err)
		}
		objects := render(t, trial.options())
		for _, o := range objects {
			if !isTrial(o) {
				t.Errorf("%s is not marked", describe(o))
			}
			if o.GetNamespace() == DefaultIstioNamespace || o.GetKind() == "WasmPlugin" {
				t.Errorf("%s: %s", reorder, describe(o))
			}
		}
		settings := agentSettings(t, objects)
		if settings.KeepSpans != trialSpans || !slices.Equal(settings.Namespaces, []string{"shop"}) || !settings.Layers() || !settings.Exports("none") {
			t.Errorf("the agents' settings are %+v", settings)
		}
	}
	for _, o := range render(t, defaults(ReorderLua)) {
		if isTrial(o) {
			t.Errorf("%s of an installation is marked as a trial's", describe(o))
		}
	}
}

func TestTrialRefusesFlags(t *testing.T) {
	for want, change := range map[string]func(*Trial){
		"--namespace is missing":       func(t *Trial) { t.Namespace = "" },
		"not a valid namespace name":   func(t *Trial) { t.Namespace = "A b" },
		"Istio's root namespace":       func(t *Trial) { t.Namespace = DefaultIstioNamespace },
		"that of the agents":           func(t *Trial) { t.Namespace = DefaultNamespace },
		"is not one of none, lua":      func(t *Trial) { t.Reorder = ReorderWasmPlugin },
		"--sampling is 101":            func(t *Trial) { t.Sampling = 101 },
		`unknown setting "keep-span"`:  func(t *Trial) { t.AgentSettings = []string{"keep-span=1"} },
		"--agent-setting keep-spans=x": func(t *Trial) { t.AgentSettings = []string{"keep-spans=x"} },
		"otlp-grpc needs HOST:PORT":    func(t *Trial) { t.AgentSettings = []string{"export=otlp-grpc", "otlp-endpoint=x"} },
		"none cannot be combined":      func(t *Trial) { t.AgentSettings = []string{"export=none,otlp-http"} },
	} {
		trial := shopTrial()
		change(&trial)
		if err := trial.Check(); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("got %v, want %q", err, want)
		}
	}
}

const otelProvider = `{extensionProviders: [{name: metrics, prometheus: {}}, {name: otel, opentelemetry: {service: %s, port: 4317}}]%s}`

// What traces the namespace is found; what is missing is said with the command that adds it.
func TestTrialFindsTracing(t *testing.T) {
	service := "{apiVersion: v1, kind: Service, metadata: {name: jaeger, namespace: obs}, spec: {ports: [{port: 4317}]}}"
	telemetry := func(namespace, spec string) string {
		return "{apiVersion: telemetry.istio.io/v1, kind: Telemetry, metadata: {name: own, namespace: " + namespace + "}, spec: " + spec + "}"
	}
	inside := fmt.Sprintf(otelProvider, "jaeger.obs.svc.cluster.local", "")
	for _, test := range []struct {
		name, mesh   string
		objects      []string
		sends        bool
		want         string
		wantProvider string
	}{
		{"the only provider", inside, []string{service}, false, "ok: tracing with otel (opentelemetry), 100 % of requests", "otel"},
		{"the default provider", fmt.Sprintf(otelProvider, "jaeger.obs.svc", ", defaultProviders: {tracing: [otel]}"), []string{service}, false, "ok: tracing with otel", "otel"},
		{"the mesh's Telemetry", `{extensionProviders: [{name: a, zipkin: {service: z.example.org, port: 1}}, {name: b, zipkin: {service: z.example.org, port: 1}}]}`,
			[]string{telemetry("istio-system", "{tracing: [{providers: [{name: b}], randomSamplingPercentage: 1}]}")}, false, "ok: tracing with b (zipkin), 100 %", "b"},
		{"no provider", `{}`, nil, false, "refused: the mesh configuration has no tracing provider", ""},
		{"no provider, but requests are sent", `{}`, nil, true, "warning: the mesh configuration has no tracing provider", ""},
		{"no service", inside, nil, false, "refused: the tracing provider otel sends to Service obs/jaeger, which does not exist, and Istio then begins no traces: kubectl -n obs create service clusterip jaeger --tcp=4317", "otel"},
		{"no service, but requests are sent", inside, nil, true, "warning: the tracing provider otel sends to Service obs/jaeger", "otel"},
		{"its own Telemetry, which samples little", inside, []string{telemetry("shop", "{tracing: [{randomSamplingPercentage: 5}]}")}, false, "warning: Telemetry shop/own decides on tracing, and samples less than 100 %", ""},
		{"its own Telemetry, which samples all", inside, []string{telemetry("shop", "{tracing: [{randomSamplingPercentage: 100}]}")}, false, "ok: tracing is configured by Telemetry shop/own, 100 % of requests", ""},
		{"an unknown provider", `{defaultProviders: {tracing: [gone]}}`, nil, false, `refused: the mesh configuration has no tracing provider "gone"`, "gone"},
	} {
		t.Run(test.name, func(t *testing.T) {
			m := &Mesh{Config: &MeshConfig{}}
			if err := yaml.Unmarshal([]byte(test.mesh), m.Config); err != nil {
				t.Fatal(err)
			}
			trial := shopTrial()
			trial.Sends = test.sends
			o := trial.options()
			o.namespaces = []string{"shop"}
			findings, err := trial.checkTracing(t.Context(), clusterOfYAML(t, test.objects...), &o, m)
			if err != nil {
				t.Fatal(err)
			}
			if got := textOf(findings); !strings.Contains(got, test.want) {
				t.Errorf("got %q, want %q", got, test.want)
			}
			if o.TracingProvider != test.wantProvider {
				t.Errorf("the provider is %q, want %q", o.TracingProvider, test.wantProvider)
			}
		})
	}
}

// Where the provider sends: only services of the cluster are looked for.
func TestProviderInCluster(t *testing.T) {
	for service, want := range map[string]string{
		"jaeger.obs.svc.cluster.local":     "obs/jaeger",
		"jaeger.obs.svc":                   "obs/jaeger",
		"obs/jaeger.obs.svc.cluster.local": "obs/jaeger",
		"obs/jaeger":                       "obs/jaeger",
		"jaeger":                           "",
		"otlp.example.org":                 "",
		"obs/otlp.example.org":             "",
		"":                                 "",
	} {
		got := ""
		if s := (provider{Service: service}).inCluster(); s != nil {
			got = s.namespace + "/" + s.name
		}
		if got != want {
			t.Errorf("%s: %q, want %q", service, got, want)
		}
	}
}

// A store that runs gets the agents' spans too, and its UI is named. Without one, agents send
// nothing.
func TestTrialFindsStore(t *testing.T) {
	service := "{apiVersion: v1, kind: Service, metadata: {name: jaeger, namespace: obs}, spec: {ports: [{port: 4317}]}}"
	ui := "{apiVersion: v1, kind: Service, metadata: {name: tracing, namespace: obs}, spec: {ports: [{port: 80, targetPort: 16686}]}}"
	endpoints := func(ready string) string {
		return "{apiVersion: discovery.k8s.io/v1, kind: EndpointSlice, metadata: {name: jaeger-1, namespace: obs, labels: {kubernetes.io/service-name: jaeger}}, addressType: IPv4, endpoints: [{addresses: [10.0.0.1], conditions: {ready: " + ready + "}}]}"
	}
	for name, test := range map[string]struct {
		objects  []string
		settings []string
		sends    string
		ui       *UI
	}{
		"none runs":           {[]string{service, ui, endpoints("false")}, nil, "", nil},
		"one runs":            {[]string{service, ui, endpoints("true")}, nil, "jaeger.obs.svc:4317", &UI{"obs", "tracing", 80, jaegerUI}},
		"one runs without UI": {[]string{service, endpoints("true")}, nil, "jaeger.obs.svc:4317", nil},
		"the user chose":      {[]string{service, ui, endpoints("true")}, []string{"export=none"}, "", nil},
	} {
		t.Run(name, func(t *testing.T) {
			m := &Mesh{Config: &MeshConfig{}}
			if err := yaml.Unmarshal(fmt.Appendf(nil, otelProvider, "jaeger.obs.svc.cluster.local", ""), m.Config); err != nil {
				t.Fatal(err)
			}
			trial := shopTrial()
			trial.AgentSettings, trial.TracingProvider = test.settings, "otel"
			plan := &TrialPlan{Options: trial.options(), trial: trial}
			if _, err := plan.findStore(t.Context(), clusterOfYAML(t, test.objects...), &plan.Options, m); err != nil {
				t.Fatal(err)
			}
			if got := plan.Options.OTLPEndpoint; got != test.sends || slices.Contains(plan.Options.AgentSettings, exportNone) != (test.sends == "") {
				t.Errorf("the agents send to %q with %v, want %q", got, plan.Options.AgentSettings, test.sends)
			}
			if (plan.UI == nil) != (test.ui == nil) || plan.UI != nil && *plan.UI != *test.ui {
				t.Errorf("the UI is %+v, want %+v", plan.UI, test.ui)
			}
			if err := plan.Options.Check(); err != nil {
				t.Error(err)
			}
		})
	}
	u := UI{"obs", "tracing", 80, jaegerUI}
	if u.Forward() != "kubectl -n obs port-forward service/tracing 16686:80" || u.URL("1f") != "http://localhost:16686/trace/1f" {
		t.Errorf("%s, %s", u.Forward(), u.URL("1f"))
	}
}

// Without running pods there is nothing to see; without sidecars little.
func TestTrialLooksAtWorkloads(t *testing.T) {
	pod := func(name, phase, containers string) string {
		return "{apiVersion: v1, kind: Pod, metadata: {name: " + name + ", namespace: shop}, status: {phase: " + phase + "}, spec: {containers: [" + containers + "]}}"
	}
	for want, pods := range map[string][]string{
		"refused: no pod runs in shop":                     {pod("a", "Pending", "{name: app}")},
		"warning: no pod of shop has a sidecar":            {pod("a", "Running", "{name: app}")},
		"ok: running pods of shop: 2, with a sidecar: 1":   {pod("a", "Running", "{name: app}"), pod("b", "Running", "{name: app}, {name: istio-proxy}")},
		"kubectl label namespace shop istio-injection=ena": {pod("a", "Running", "{name: app}")},
	} {
		findings, err := shopTrial().checkWorkloads(t.Context(), clusterOfYAML(t, pods...), nil, nil)
		if got := textOf(findings); err != nil || !strings.Contains(got, want) {
			t.Errorf("got %q, %v, want %q", got, err, want)
		}
	}
}

// An image that no registry can have must be on the nodes.
func TestTrialLooksForTheImage(t *testing.T) {
	node := func(images string) string {
		return "{apiVersion: v1, kind: Node, metadata: {name: n1, labels: {kubernetes.io/os: linux}}, status: {nodeInfo: {kernelVersion: 6.12.0, architecture: amd64}, images: [" + images + "]}}"
	}
	many := strings.Repeat("{names: [x]},", fewImages)
	for _, test := range []struct {
		image, images string
		missing       bool
	}{
		{"", "", true},
		{"", "{names: [" + DefaultImage() + "]}", false},
		{"mine:1", "{names: [" + DefaultImage() + "]}", true},
		{"mine:1", "{names: [docker.io/mine:1]}", false},
		{"", many, false},
		{"registry.example/agent:1", "", false},
		{"localhost/agent:1", "", false},
	} {
		trial := shopTrial()
		trial.Image = test.image
		o := trial.options()
		findings, err := checkImage(t.Context(), clusterOfYAML(t, node(test.images)), &o, nil)
		got := textOf(findings)
		if err != nil || strings.Contains(got, "is not on n1: make images") != test.missing {
			t.Errorf("image %q, on the node %q: %q, %v", test.image, test.images, got, err)
		}
	}
}

// A trial is not made beside an installation, and what an installation made is no trial's.
func TestTrialAndInstallation(t *testing.T) {
	set := func(labels, manager string) string {
		return "{apiVersion: apps/v1, kind: DaemonSet, metadata: {name: layertrace-agent, namespace: layertrace-system, managedFields: [{manager: " + manager + "}], labels: {app.kubernetes.io/name: layertrace, " + labels + "}}}"
	}
	const managed = "app.kubernetes.io/managed-by: layertrace"
	for _, test := range []struct {
		name, set    string
		refuses      string
		objects      int
		removalFails bool
	}{
		{"nothing", "", "", 0, false},
		{"a trial", set(managed+", app.kubernetes.io/instance: layertrace-try", "layertrace"), "ok: there is a trial already", 1, false},
		{"an installation", set(managed, "layertrace"), "refused: layertrace install has installed it already", 0, true},
		{"Helm's", set("app.kubernetes.io/managed-by: Helm", "helm"), "refused: it is installed already (DaemonSet layertrace-system/layertrace-agent)", 0, false},
	} {
		t.Run(test.name, func(t *testing.T) {
			var objects []string
			if test.set != "" {
				objects = append(objects, test.set)
			}
			c := clusterOfYAML(t, objects...)
			findings, err := checkNotInstalled(t.Context(), c, nil, nil)
			if got := textOf(findings); err != nil || !strings.HasPrefix(got, test.refuses) || test.refuses == "" && got != "" {
				t.Errorf("got %q, %v, want %q", got, err, test.refuses)
			}
			trial, err := c.Trial(t.Context())
			if len(trial) != test.objects || (err != nil) != test.removalFails {
				t.Errorf("%d objects of a trial, %v", len(trial), err)
			}
		})
	}
}
