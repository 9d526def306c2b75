// SPDX-License-Identifier: Apache-2.0

package install

import (
	"bytes"
	"io/fs"
	"net"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/spf13/pflag"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"sigs.k8s.io/kustomize/api/krusty"
	"sigs.k8s.io/kustomize/kyaml/filesys"
	"sigs.k8s.io/yaml"

	"github.com/layertrace/layertrace/agent/internal/config"
	"github.com/layertrace/layertrace/agent/internal/probe"
	"github.com/layertrace/layertrace/istio"
)

// defaults are the options that install an overlay unchanged.
func defaults(reorder string) Options {
	o := Options{
		Reorder: reorder, Namespace: DefaultNamespace, IstioNamespace: DefaultIstioNamespace, OTLPInsecure: true,
		TracingProvider: "otel-tracing", Sampling: 1, Tracer: "opentelemetry", Spans: config.SpansInterfaces,
		MTLS: MTLSOff, MTLSLog: MTLSEnvoyFilter,
	}
	if o.usesWasm() {
		o.WasmURL = "oci://" + istio.FilterRepository + ":" + istio.Version
	}
	return o
}

func render(t *testing.T, o Options) []*unstructured.Unstructured {
	t.Helper()
	if err := o.Check(); err != nil {
		t.Fatal(err)
	}
	objects, err := Render(o)
	if err != nil {
		t.Fatal(err)
	}
	return objects
}

// manifestFiles returns the manifests as a file system for kustomize.
func manifestFiles(t *testing.T) filesys.FileSystem {
	t.Helper()
	disk := filesys.MakeFsInMemory()
	err := fs.WalkDir(istio.Files, ".", func(name string, entry fs.DirEntry, err error) error {
		if err != nil || entry.IsDir() {
			return err
		}
		data, err := fs.ReadFile(istio.Files, name)
		if err != nil {
			return err
		}
		return disk.WriteFile("/"+name, data)
	})
	if err != nil {
		t.Fatal(err)
	}
	return disk
}

// kustomize builds an overlay with kustomize itself.
func kustomize(t *testing.T, overlay string) map[string]map[string]any {
	t.Helper()
	return kustomizeIn(t, manifestFiles(t), "/overlays/"+overlay)
}

func kustomizeIn(t *testing.T, disk filesys.FileSystem, folder string) map[string]map[string]any {
	t.Helper()
	built, err := krusty.MakeKustomizer(krusty.MakeDefaultOptions()).Run(disk, folder)
	if err != nil {
		t.Fatal(err)
	}
	data, err := built.AsYaml()
	if err != nil {
		t.Fatal(err)
	}
	return documents(t, data)
}

// documents parses YAML documents, keyed by KIND NAMESPACE/NAME.
func documents(t *testing.T, data []byte) map[string]map[string]any {
	t.Helper()
	all := map[string]map[string]any{}
	for _, document := range bytes.Split(append([]byte("\n"), data...), []byte("\n---\n")) {
		o := &unstructured.Unstructured{}
		if err := yaml.UnmarshalStrict(document, &o.Object); err != nil {
			t.Fatal(err)
		}
		if o.Object == nil { // only comments
			continue
		}
		if all[describe(o)] != nil {
			t.Errorf("%s occurs twice", describe(o))
		}
		all[describe(o)] = o.Object
	}
	return all
}

// objectsOf returns documents as objects.
func objectsOf(documents map[string]map[string]any) (objects []*unstructured.Unstructured) {
	for _, document := range documents {
		objects = append(objects, &unstructured.Unstructured{Object: document})
	}
	return objects
}

// For each method, --dry-run and kustomize produce the same objects.
func TestDryRunIsKustomizeBuild(t *testing.T) {
	overlays, err := fs.ReadDir(istio.Files, "overlays")
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, o := range overlays {
		names = append(names, o.Name())
	}
	want := slices.Clone(Reorders)
	slices.Sort(want)
	if !slices.Equal(names, want) {
		t.Errorf("overlays %v, methods %v", names, want)
	}
	for _, reorder := range Reorders {
		t.Run(reorder, func(t *testing.T) {
			var out bytes.Buffer
			if err := Write(&out, render(t, defaults(reorder))); err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(kustomize(t, reorder), documents(t, out.Bytes())); diff != "" {
				t.Errorf("kustomize - install +\n%s", diff)
			}
		})
	}
}

// With --monitoring, the objects of istio/monitoring are added, in the agents' namespace.
func TestMonitoringIsKustomizeBuild(t *testing.T) {
	o := defaults(ReorderLua)
	o.Monitoring = true
	disk := manifestFiles(t)
	if err := disk.WriteFile("/both/kustomization.yaml", []byte("resources: [../overlays/lua, ../monitoring]")); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(kustomizeIn(t, disk, "/both"), installed(t, o)); diff != "" {
		t.Errorf("kustomize - install +\n%s", diff)
	}
	o.Namespace = "tracing"
	all := installed(t, o)
	for _, name := range []string{"PrometheusRule tracing/layertrace", "ConfigMap tracing/layertrace-dashboard"} {
		if all[name] == nil {
			t.Errorf("there is no %s", name)
		}
	}
}

// Each manifest is in the kustomization of its folder, and every object has the label of
// its manager.
func TestEveryManifestIsUsed(t *testing.T) {
	for _, part := range []string{"agent", "podmonitor", "monitoring", "telemetry", "reorder/wasmplugin", "reorder/wasmplugin-inline-headers", "reorder/envoyfilter", "reorder/lua"} {
		objects, err := readKustomization(istio.Files, part)
		if err != nil {
			t.Fatal(err)
		}
		for _, o := range objects {
			if o.GetLabels()[managedBy] != fieldManager {
				t.Errorf("%s: %s lacks the label %s", part, describe(o), managedBy)
			}
		}
	}
	err := fs.WalkDir(istio.Files, ".", func(name string, entry fs.DirEntry, err error) error {
		if err != nil || entry.IsDir() || path.Base(name) == "kustomization.yaml" || name == providerFile { // TestRecordsGoToTheAgentsNamespace
			return err
		}
		kustomization, err := fs.ReadFile(istio.Files, path.Join(path.Dir(name), "kustomization.yaml"))
		if err == nil && !regexp.MustCompile(`(?m)[-:] `+regexp.QuoteMeta(path.Base(name))+`$`).Match(kustomization) {
			t.Errorf("%s is not in its kustomization", name)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
}

func TestRenderOptions(t *testing.T) {
	o := defaults(ReorderWasmPlugin)
	o.Namespace, o.IstioNamespace = "tracing", "mesh"
	o.Image, o.OTLPEndpoint, o.OTLPInsecure = "example.org/agent:1", "collector:4317", false
	o.TracingProvider, o.Sampling = "zipkin", 12.5
	o.WasmURL, o.WasmSHA256 = "oci://example.org/filter:1", strings.Repeat("a", 64)
	o.WasmPullSecret, o.PodMonitor = "registry", true
	o.AgentSettings = []string{"pnic=eth0,kind:physical", "deep=true"}
	var out bytes.Buffer
	if err := Write(&out, render(t, o)); err != nil {
		t.Fatal(err)
	}
	text := out.String()
	for _, gone := range []string{DefaultNamespace, DefaultIstioNamespace + "\n", "otel-tracing", istio.AgentImage()} {
		if strings.Contains(text, gone) {
			t.Errorf("%q is still there", gone)
		}
	}
	for _, want := range []string{
		"image: example.org/agent:1", "otlp-endpoint: collector:4317", "otlp-insecure: false", "kubernetes: true",
		"- name: zipkin", "randomSamplingPercentage: 12.5", "kind: PodMonitor", "pnic: eth0,kind:physical", `deep: "true"`, "imagePullSecret: registry", "url: oci://example.org/filter:1",
		"sha256: " + o.WasmSHA256, "extensions.istio.io/trafficextension/mesh.layertrace~istio-translated-wasmplugin",
	} {
		if !strings.Contains(text, want) {
			t.Errorf("the output lacks %q", want)
		}
	}
	before, after := render(t, defaults(ReorderWasmPlugin)), render(t, o)
	if configMapOf(t, before) == configMapOf(t, after) {
		t.Error("a changed configuration does not restart the agents")
	}
}

// configMapOf returns the name of the ConfigMap that the agents' pods have.
func configMapOf(t *testing.T, objects []*unstructured.Unstructured) string {
	t.Helper()
	name := daemonSetOf(t, objects).Spec.Template.Spec.Volumes[0].ConfigMap.Name
	if findNamed(objects, "ConfigMap", name) == nil {
		t.Fatalf("there is no ConfigMap %s", name)
	}
	return name
}

// Without a provider there is no Telemetry; the EnvoyFilter has the module.
func TestRenderEnvoyFilter(t *testing.T) {
	o := defaults(ReorderEnvoyFilter)
	o.TracingProvider, o.WasmURL, o.WasmSHA256 = "", "https://example.org/filter.wasm", strings.Repeat("b", 64)
	objects := render(t, o)
	if find(objects, "Telemetry") != nil || find(objects, "WasmPlugin") != nil {
		t.Error("there is a Telemetry or a WasmPlugin")
	}
	patches, _, err := unstructured.NestedSlice(find(objects, "EnvoyFilter").Object, "spec", "configPatches")
	if err != nil {
		t.Fatal(err)
	}
	remote, _, err := unstructured.NestedMap(patches[0].(map[string]any), moduleFields...)
	want := map[string]any{"http_uri": map[string]any{"uri": o.WasmURL, "timeout": "30s"}, "sha256": o.WasmSHA256}
	if diff := cmp.Diff(want, remote); err != nil || diff != "" {
		t.Error(err, diff)
	}
}

// The name under which istiod serves a WasmPlugin changed with Istio 1.30.
func TestPluginResource(t *testing.T) {
	for version, want := range map[string]string{
		"":              "extensions.istio.io/trafficextension/ns.layertrace~istio-translated-wasmplugin",
		"1.31.1":        "extensions.istio.io/trafficextension/ns.layertrace~istio-translated-wasmplugin",
		"1.30.0-beta.1": "extensions.istio.io/trafficextension/ns.layertrace~istio-translated-wasmplugin",
		"1.29.9":        "extensions.istio.io/wasmplugin/ns.layertrace",
		"1.26":          "extensions.istio.io/wasmplugin/ns.layertrace",
	} {
		if got, err := pluginResource(version, "ns"); err != nil || got != want {
			t.Errorf("%s: %s, %v", version, got, err)
		}
	}
	if _, err := pluginResource("latest", "ns"); err == nil {
		t.Error("accepted latest as a version")
	}
}

// Each namespace gets its bootstrap override, and the plugin the tracer.
func TestRenderInlineHeaders(t *testing.T) {
	o := defaults(ReorderInlineHeaders)
	o.AppNamespaces, o.Tracer = []string{"shop", "bank"}, "zipkin"
	var namespaces []string
	for _, object := range render(t, o) {
		if object.GetName() == BootstrapName {
			namespaces = append(namespaces, object.GetNamespace())
		}
		if object.GetKind() == "WasmPlugin" {
			if p, _, err := unstructured.NestedString(object.Object, "spec", "pluginConfig", "placeholders"); p != "zipkin" || err != nil {
				t.Errorf("placeholders %q, %v", p, err)
			}
		}
	}
	if !slices.Equal(namespaces, o.AppNamespaces) {
		t.Errorf("overrides in %v", namespaces)
	}
}

// The agent accepts the settings of the manifests: file and variables.
func TestAgentTakesItsSettings(t *testing.T) {
	o := defaults(ReorderNone)
	o.AgentSettings = []string{"pnic=eth[0-9]*,kind:physical", "deep=true"}
	settings := agentSettings(t, render(t, o))
	if !settings.Kubernetes || settings.Node != "node1" || settings.MetricsAddress != "[192.0.2.1]:9464" || !settings.OTLPInsecure ||
		settings.Deep != probe.DeepOn || settings.MTLS || !slices.Equal(settings.PNIC, []string{"eth[0-9]*", "kind:physical"}) {
		t.Errorf("settings %+v", settings)
	}
	listener, err := net.Listen("tcp", "[127.0.0.1]:0") // brackets around IPv4 are fine
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
}

// With encrypted traffic, the agent listens at its node's address only, at the port that
// the service and the proxies' configuration have. --agent-setting changes that.
func TestAgentTakesMTLS(t *testing.T) {
	for _, log := range MTLSLogs {
		objects := render(t, mtlsOptions(log))
		settings := agentSettings(t, objects)
		if !settings.MTLS || settings.AccessLogAddress != "[192.0.2.1]:4327" || settings.MetricsAddress != "[192.0.2.1]:9464" {
			t.Errorf("settings %+v", settings)
		}
		if port := logPortOf(t, objects); port != 4327 {
			t.Errorf("the container's port is %d", port)
		}
	}
	o := mtlsOptions(MTLSEnvoyFilter)
	o.AgentSettings = []string{"access-log-address=[$(HOST_IP)]:5000", "mtls-ports=8080"}
	objects := render(t, o)
	settings := agentSettings(t, objects)
	if !settings.MTLS || settings.AccessLogAddress != "[192.0.2.1]:5000" || !slices.Equal(settings.MTLSPorts, []uint16{8080}) {
		t.Errorf("settings %+v", settings)
	}
	if port := logPortOf(t, objects); port != 5000 {
		t.Errorf("the container's port is %d", port)
	}
}

// logPortOf returns the container's port to which the Service for records refers.
func logPortOf(t *testing.T, objects []*unstructured.Unstructured) int32 {
	t.Helper()
	service := &corev1.Service{}
	for _, o := range objects {
		if o.GetName() != AccessLogService {
			continue
		}
		if err := runtime.DefaultUnstructuredConverter.FromUnstructured(o.Object, service); err != nil {
			t.Fatal(err)
		}
	}
	for _, p := range daemonSetOf(t, objects).Spec.Template.Spec.Containers[0].Ports {
		if len(service.Spec.Ports) == 1 && p.Name == service.Spec.Ports[0].TargetPort.StrVal {
			return p.ContainerPort
		}
	}
	t.Errorf("no container's port is that of the service: %+v", service.Spec)
	return 0
}

func daemonSetOf(t *testing.T, objects []*unstructured.Unstructured) *appsv1.DaemonSet {
	t.Helper()
	daemonSet := &appsv1.DaemonSet{}
	if err := runtime.DefaultUnstructuredConverter.FromUnstructured(find(objects, "DaemonSet").Object, daemonSet); err != nil {
		t.Fatal(err)
	}
	return daemonSet
}

// agentSettings returns the settings of an agent that a DaemonSet starts, with the files
// that its volume has.
func agentSettings(t *testing.T, objects []*unstructured.Unstructured) *config.Config {
	t.Helper()
	texts, _, err := unstructured.NestedStringMap(find(objects, "ConfigMap").Object, "data")
	if err != nil {
		t.Fatal(err)
	}
	pod := daemonSetOf(t, objects).Spec.Template.Spec
	dir := t.TempDir()
	for _, item := range pod.Volumes[0].ConfigMap.Items {
		name := filepath.Join(dir, item.Path)
		if err := os.MkdirAll(filepath.Dir(name), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(name, []byte(texts[item.Key]), 0o600); err != nil {
			t.Fatal(err)
		}
		delete(texts, item.Key)
	}
	if len(texts) > 0 {
		t.Errorf("the volume lacks files of the ConfigMap: %v", texts)
	}
	var environ []string
	hostIP := "$(HOST_IP)" // Kubernetes expands only what was defined before
	for _, e := range pod.Containers[0].Env {
		value := e.Value
		if e.ValueFrom != nil {
			value = map[string]string{"spec.nodeName": "node1", "status.hostIP": "192.0.2.1"}[e.ValueFrom.FieldRef.FieldPath]
		}
		if e.Name == "HOST_IP" {
			hostIP = value
		}
		environ = append(environ, e.Name+"="+strings.ReplaceAll(value, "$(HOST_IP)", hostIP))
	}
	flags := pflag.NewFlagSet("agent", pflag.ContinueOnError)
	settings := config.Define(flags)
	args := pod.Containers[0].Args
	if !slices.Equal(args, []string{"agent", "--config", "/etc/layertrace/" + configKey}) {
		t.Errorf("arguments %q", args)
	}
	if err := flags.Parse([]string{"--config", filepath.Join(dir, configKey)}); err != nil {
		t.Fatal(err)
	}
	if err := config.Load(flags, settings, environ); err != nil {
		t.Fatal(err)
	}
	return settings
}

// The overlay in istio/README.md builds and has its effects.
func TestOverlayOfTheReadme(t *testing.T) {
	text, err := os.ReadFile("../../../istio/README.md")
	if err != nil {
		t.Fatal(err)
	}
	block := regexp.MustCompile("(?s)```yaml\n(.*?)```").FindSubmatch(text)
	if block == nil {
		t.Fatal("no overlay found")
	}
	overlay := strings.ReplaceAll(string(block[1]), "github.com/layertrace/layertrace/istio/overlays/", "../../overlays/")
	disk := manifestFiles(t)
	if err := disk.WriteFile("/users/own/kustomization.yaml", []byte(overlay)); err != nil {
		t.Fatal(err)
	}
	built, err := krusty.MakeKustomizer(krusty.MakeDefaultOptions()).Run(disk, "/users/own")
	if err != nil {
		t.Fatal(err)
	}
	data, err := built.AsYaml()
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{
		"image: registry.example/mirror/agent@sha256:DIGITS", "url: oci://registry.example/layertrace/filter:devel", "name: my-provider",
		"config.yaml: 'otlp-endpoint: collector.observability.svc:4317'", "otlp-endpoint: jaeger-collector",
	} {
		if !strings.Contains(string(data), want) {
			t.Errorf("it lacks %q", want)
		}
	}
}

// The demo, which install does not embed, builds.
func TestDemo(t *testing.T) {
	built, err := krusty.MakeKustomizer(krusty.MakeDefaultOptions()).Run(filesys.MakeFsOnDisk(), "../../../istio/demo")
	if err != nil {
		t.Fatal(err)
	}
	data, err := built.AsYaml()
	if err != nil {
		t.Fatal(err)
	}
	kinds := map[string]int{}
	for _, o := range documents(t, data) {
		kinds[(&unstructured.Unstructured{Object: o}).GetKind()]++
	}
	if kinds["Deployment"] != 7 || kinds["PeerAuthentication"] != 1 || kinds["VirtualService"] != 1 {
		t.Errorf("objects: %v", kinds)
	}
}

// With --spans layers and with --mtls on, --dry-run prints the same objects as kustomize
// with the components.
func TestComponentsAreKustomizeBuild(t *testing.T) {
	for _, test := range []struct {
		components string
		change     func(*Options)
	}{
		{"[../layers]", func(o *Options) { o.Spans = config.SpansLayers }},
		{"[../mtls/envoyfilter]", func(o *Options) { o.MTLS = MTLSOn }},
		{"[../layers, ../mtls/envoyfilter]", func(o *Options) { o.Spans, o.MTLS = config.SpansLayers, MTLSAuto }},
		{"[../mtls/telemetry]", func(o *Options) { o.MTLS, o.MTLSLog = MTLSOn, MTLSTelemetry }},
	} {
		t.Run(test.components, func(t *testing.T) {
			disk := manifestFiles(t)
			overlay := "kind: Kustomization\nresources: [../overlays/lua]\ncomponents: " + test.components + "\n"
			if err := disk.WriteFile("/own/kustomization.yaml", []byte(overlay)); err != nil {
				t.Fatal(err)
			}
			built, err := krusty.MakeKustomizer(krusty.MakeDefaultOptions()).Run(disk, "/own")
			if err != nil {
				t.Fatal(err)
			}
			want, err := built.AsYaml()
			if err != nil {
				t.Fatal(err)
			}
			o := defaults(ReorderLua)
			test.change(&o)
			var out bytes.Buffer
			if err := Write(&out, render(t, o)); err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(documents(t, want), documents(t, out.Bytes())); diff != "" {
				t.Errorf("kustomize - install +\n%s", diff)
			}
		})
	}
}

// An overlay can change the agents' settings for encrypted traffic, in the ConfigMap as all
// others: config.yaml overrides what the component sets.
func TestOverlayChangesMTLS(t *testing.T) {
	disk := manifestFiles(t)
	const overlay = `kind: Kustomization
resources: [../overlays/lua]
components: [../mtls/envoyfilter]
patches:
- target: {kind: ConfigMap, name: layertrace-agent}
  patch: |
    apiVersion: v1
    kind: ConfigMap
    metadata: {name: layertrace-agent}
    data:
      config.yaml: "{kubernetes: true, mtls-ports: [8080], access-log-address: ':5000'}"
`
	if err := disk.WriteFile("/own/kustomization.yaml", []byte(overlay)); err != nil {
		t.Fatal(err)
	}
	built, err := krusty.MakeKustomizer(krusty.MakeDefaultOptions()).Run(disk, "/own")
	if err != nil {
		t.Fatal(err)
	}
	text, err := built.AsYaml()
	if err != nil {
		t.Fatal(err)
	}
	settings := agentSettings(t, objectsOf(documents(t, text)))
	if !settings.MTLS || settings.AccessLogAddress != ":5000" || !slices.Equal(settings.MTLSPorts, []uint16{8080}) {
		t.Errorf("settings %+v", settings)
	}
}

// The agent accepts the settings for layers, and --agent-setting overrides them.
func TestAgentTakesLayers(t *testing.T) {
	o := defaults(ReorderNone)
	o.Spans = config.SpansLayers
	for setting, want := range map[string]string{"deep=true": config.SocketCgroupAuto, "socket-cgroup=/host/sys/fs/cgroup/pods": "/host/sys/fs/cgroup/pods"} {
		o.AgentSettings = []string{setting}
		settings := agentSettings(t, render(t, o))
		if !settings.Layers() || !slices.Equal(settings.SocketCgroups, []string{want}) {
			t.Errorf("%s: spans %s, cgroups %v", setting, settings.Spans, settings.SocketCgroups)
		}
	}
}

func TestSpansAreChecked(t *testing.T) {
	o := defaults(ReorderNone)
	o.Spans = "sockets"
	if err := o.Check(); err == nil || !strings.Contains(err.Error(), "--spans") {
		t.Errorf("got %v", err)
	}
}

// A setting that an overlay changes rolls the agents out: it changes the name of the
// ConfigMap in the DaemonSet. The other settings of the base stay, also with a component.
func TestOverlayChangesOneSetting(t *testing.T) {
	const overlay = `kind: Kustomization
resources: [../overlays/none]
components: [../layers]
configMapGenerator:
- name: layertrace-agent
  namespace: layertrace-system
  behavior: merge
  literals:
  - "config.yaml=otlp-endpoint: collector.observability.svc:4317"
`
	disk := manifestFiles(t)
	if err := disk.WriteFile("/own/kustomization.yaml", []byte(overlay)); err != nil {
		t.Fatal(err)
	}
	built, err := krusty.MakeKustomizer(krusty.MakeDefaultOptions()).Run(disk, "/own")
	if err != nil {
		t.Fatal(err)
	}
	text, err := built.AsYaml()
	if err != nil {
		t.Fatal(err)
	}
	objects := objectsOf(documents(t, text))
	settings := agentSettings(t, objects)
	if settings.OTLPEndpoint != "collector.observability.svc:4317" || !settings.OTLPInsecure || !settings.Kubernetes || !settings.Layers() {
		t.Errorf("settings %+v", settings)
	}
	before := objectsOf(kustomize(t, ReorderNone))
	if configMapOf(t, objects) == configMapOf(t, before) {
		t.Error("changed settings do not change the DaemonSet")
	}
}
