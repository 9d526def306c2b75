// SPDX-License-Identifier: Apache-2.0

package install

import (
	"bytes"
	"encoding/json"
	"errors"
	"maps"
	"os"
	"os/exec"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"github.com/layertrace/layertrace/agent/internal/config"
	"github.com/layertrace/layertrace/e2e/provision"
	"github.com/layertrace/layertrace/e2e/testrun"
	"github.com/layertrace/layertrace/istio"
)

const chartFolder = "../../../istio"

var theHelm struct {
	once sync.Once
	path string
	err  error
}

// helm runs Helm, which the first test builds from its Go module.
func helm(t *testing.T, args ...string) (output string, err error) {
	t.Helper()
	if testing.Short() {
		t.Skip("builds Helm")
	}
	theHelm.once.Do(func() {
		theHelm.path, theHelm.err = provision.Helm(t.Context(), testrun.Checkout(t), testrun.Report)
	})
	if theHelm.err != nil {
		t.Fatal(theHelm.err)
	}
	cmd := exec.CommandContext(t.Context(), theHelm.path, args...)
	home := t.TempDir() // not the user's repositories and plugins
	cmd.Env = []string{"HOME=" + home, "HELM_CACHE_HOME=" + home, "HELM_CONFIG_HOME=" + home, "HELM_DATA_HOME=" + home}
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if err := cmd.Run(); err != nil {
		return stdout.String(), errors.New(stderr.String())
	}
	return stdout.String(), nil
}

// values are those of the chart that install an overlay unchanged.
func values(reorder string) map[string]any {
	return map[string]any{
		"namespace": DefaultNamespace, "reorder.method": reorder, "tracing.provider": "otel-tracing", "mtls.enabled": false,
		"wasm.url": "oci://" + istio.FilterRepository + ":" + istio.Version,
	}
}

// template renders the chart with values by their paths.
func template(t *testing.T, values map[string]any) (map[string]map[string]any, error) {
	t.Helper()
	args := []string{"template", "layertrace", chartFolder, "--namespace=releases"}
	for _, path := range slices.Sorted(maps.Keys(values)) {
		value, err := json.Marshal(values[path])
		if err != nil {
			t.Fatal(err)
		}
		args = append(args, "--set-json="+path+"="+string(value))
	}
	out, err := helm(t, args...)
	if err != nil {
		return nil, err
	}
	return documents(t, []byte(out)), nil
}

func mustTemplate(t *testing.T, values map[string]any) map[string]map[string]any {
	t.Helper()
	found, err := template(t, values)
	if err != nil {
		t.Fatal(err)
	}
	return found
}

// installed returns the documents that install --dry-run prints.
func installed(t *testing.T, o Options) map[string]map[string]any {
	t.Helper()
	var out bytes.Buffer
	if err := Write(&out, render(t, o)); err != nil {
		t.Fatal(err)
	}
	return documents(t, out.Bytes())
}

// Helm makes the same objects as kustomize, for each method.
func TestChartIsKustomizeBuild(t *testing.T) {
	for _, reorder := range Reorders {
		t.Run(reorder, func(t *testing.T) {
			if diff := cmp.Diff(kustomize(t, reorder), mustTemplate(t, values(reorder))); diff != "" {
				t.Errorf("kustomize - chart +\n%s", diff)
			}
		})
	}
}

// Helm makes the same objects as install, with the options that both have.
func TestChartIsInstall(t *testing.T) {
	for name, test := range map[string]struct {
		reorder string
		values  map[string]any
		options func(*Options)
	}{
		"layers": {ReorderLua, map[string]any{"spans": "layers"}, func(o *Options) { o.Spans = config.SpansLayers }},
		"encrypted": {ReorderLua, map[string]any{"mtls.enabled": true, "spans": "layers", "namespace": "tracing"},
			func(o *Options) { o.MTLS, o.Spans, o.Namespace = MTLSOn, config.SpansLayers, "tracing" }},
		"encrypted, by telemetry": {ReorderNone, map[string]any{"mtls.enabled": true, "mtls.log": MTLSTelemetry, "mtls.keepAccessLogs": []string{"envoy"}},
			func(o *Options) { o.MTLS, o.MTLSLog, o.keptLogs = MTLSOn, MTLSTelemetry, []string{"envoy"} }},
		"by telemetry without tracing": {ReorderNone, map[string]any{"mtls.enabled": true, "mtls.log": MTLSTelemetry, "tracing.provider": ""},
			func(o *Options) { o.MTLS, o.MTLSLog, o.TracingProvider = MTLSOn, MTLSTelemetry, "" }},
		"another port for records": {ReorderNone, map[string]any{"mtls.enabled": true, "settings.access-log-address": "[$(HOST_IP)]:5000"},
			func(o *Options) { o.MTLS, o.AgentSettings = MTLSOn, []string{"access-log-address=[$(HOST_IP)]:5000"} }},
		"settings": {ReorderNone, map[string]any{"settings": map[string]any{"otlp-endpoint": "collector:4317", "otlp-insecure": false, "deep": "true"}},
			func(o *Options) {
				o.OTLPEndpoint, o.OTLPInsecure, o.AgentSettings = "collector:4317", false, []string{"deep=true"}
			}},
		"monitoring":      {ReorderNone, map[string]any{"monitoring.enabled": true, "namespace": "tracing"}, func(o *Options) { o.Monitoring, o.Namespace = true, "tracing" }},
		"without tracing": {ReorderNone, map[string]any{"tracing.provider": ""}, func(o *Options) { o.TracingProvider = "" }},
		"namespaces, module and monitor": {ReorderWasmPlugin, map[string]any{
			"namespace": "tracing", "istio": map[string]any{"namespace": "mesh", "version": "1.29.2"}, "tracing.sampling": 12.5, "podMonitor.enabled": true,
			"wasm.url": "https://example.org/f.wasm", "wasm.sha256": strings.Repeat("a", 64), "wasm.pullSecret": "registry", "image": map[string]any{"repository": "example.org/agent", "tag": "1"},
		}, func(o *Options) {
			o.Namespace, o.IstioNamespace, o.IstioVersion, o.Sampling, o.PodMonitor = "tracing", "mesh", "1.29.2", 12.5, true
			o.WasmURL, o.WasmSHA256, o.WasmPullSecret, o.Image = "https://example.org/f.wasm", strings.Repeat("a", 64), "registry", "example.org/agent:1"
		}},
		"module without a plugin": {ReorderEnvoyFilter, map[string]any{"wasm.url": "https://example.org/f.wasm", "wasm.sha256": strings.Repeat("b", 64)},
			func(o *Options) { o.WasmURL, o.WasmSHA256 = "https://example.org/f.wasm", strings.Repeat("b", 64) }},
		"limited": {ReorderWasmPlugin, map[string]any{"mtls.enabled": true, "istio.version": "1.29.2", "limit": map[string]any{
			"namespaces": []string{"bank", "shop"}, "workloadLabels": map[string]any{"app": "web"}, "revision": "canary",
		}}, func(o *Options) {
			o.MTLS, o.NamespaceSelector, o.WorkloadSelector, o.Revision = MTLSOn, "kubernetes.io/metadata.name in (shop,bank)", "app=web", "canary"
			o.IstioVersion = "1.29.2"
		}},
		"inline headers in limits": {ReorderInlineHeaders, map[string]any{"limit.namespaces": []string{"shop"}, "mtls.enabled": true, "mtls.log": MTLSTelemetry},
			func(o *Options) {
				o.MTLS, o.MTLSLog, o.NamespaceSelector = MTLSOn, MTLSTelemetry, "kubernetes.io/metadata.name=shop"
			}},
		"inline headers": {ReorderInlineHeaders, map[string]any{"reorder.namespaces": []string{"shop", "bank"}, "reorder.tracer": "zipkin"},
			func(o *Options) { o.AppNamespaces, o.Tracer = []string{"shop", "bank"}, "zipkin" }},
	} {
		t.Run(name, func(t *testing.T) {
			o := defaults(test.reorder)
			test.options(&o)
			set := values(test.reorder)
			maps.Copy(set, test.values)
			if diff := cmp.Diff(installed(t, o), mustTemplate(t, set)); diff != "" {
				t.Errorf("install - chart +\n%s", diff)
			}
		})
	}
}

// Without a namespace of its own, everything is in that of the release, which Helm makes.
func TestChartInTheReleasesNamespace(t *testing.T) {
	set := values(ReorderNone)
	delete(set, "namespace")
	for name, object := range mustTemplate(t, set) {
		o := &unstructured.Unstructured{Object: object}
		if o.GetKind() == "Namespace" || o.GetNamespace() == DefaultNamespace || o.GetKind() == "DaemonSet" && o.GetNamespace() != "releases" {
			t.Errorf("there is %s", name)
		}
	}
}

// The values of a chart that node agents usually have reach the pods. Resources, the node
// selector and affinity are merged into the manifest's, tolerations replace them.
func TestChartSetsThePods(t *testing.T) {
	digest := "sha256:" + strings.Repeat("d", 64)
	set := values(ReorderNone)
	maps.Copy(set, map[string]any{
		"image": map[string]any{"repository": "example.org/team/agent", "digest": digest, "pullPolicy": "Always"}, "imagePullSecrets": []any{map[string]any{"name": "registry"}},
		"resources.limits.memory": "512Mi", "resources.limits.cpu": nil, "nodeSelector.pool": "web", "priorityClassName": "system-node-critical",
		"affinity.podAntiAffinity": map[string]any{"preferredDuringSchedulingIgnoredDuringExecution": []any{}},
		"tolerations":              []any{map[string]any{"key": "own", "operator": "Exists"}},
		"labels":                   map[string]any{"team": "sre"}, "podAnnotations": map[string]any{"note": "x"},
	})
	all := mustTemplate(t, set)
	template := daemonSetOf(t, objectsOf(all)).Spec.Template
	pod, container := template.Spec, template.Spec.Containers[0]
	if container.Image != "example.org/team/agent@"+digest || container.ImagePullPolicy != corev1.PullAlways || !slices.Equal(pod.ImagePullSecrets, []corev1.LocalObjectReference{{Name: "registry"}}) {
		t.Errorf("image %s, %s, secrets %v", container.Image, container.ImagePullPolicy, pod.ImagePullSecrets)
	}
	if container.Resources.Limits.Memory().String() != "512Mi" || len(container.Resources.Limits) != 1 || container.Resources.Requests.Memory().String() != "96Mi" {
		t.Errorf("resources %v", container.Resources)
	}
	if pod.NodeSelector["pool"] != "web" || pod.NodeSelector["kubernetes.io/os"] != "linux" || pod.PriorityClassName != "system-node-critical" {
		t.Errorf("nodes %v, priority %s", pod.NodeSelector, pod.PriorityClassName)
	}
	if pod.Affinity.NodeAffinity == nil || pod.Affinity.PodAntiAffinity == nil || len(pod.Tolerations) != 1 || pod.Tolerations[0].Key != "own" {
		t.Errorf("affinity %v, tolerations %v", pod.Affinity, pod.Tolerations)
	}
	if template.Labels["team"] != "sre" || template.Labels["app.kubernetes.io/name"] != "layertrace" || template.Annotations["note"] != "x" {
		t.Errorf("pods have the labels %v and annotations %v", template.Labels, template.Annotations)
	}
	for name, object := range all {
		if labels := (&unstructured.Unstructured{Object: object}).GetLabels(); labels["team"] != "sre" || labels["app.kubernetes.io/name"] != "layertrace" {
			t.Errorf("%s has the labels %v", name, labels)
		}
	}
	set["tolerations"] = []any{}
	if pod := daemonSetOf(t, objectsOf(mustTemplate(t, set))).Spec.Template.Spec; len(pod.Tolerations) != 0 {
		t.Errorf("with [], tolerations are %v", pod.Tolerations)
	}
	if pod := daemonSetOf(t, objectsOf(mustTemplate(t, values(ReorderNone)))).Spec.Template.Spec; len(pod.Tolerations) != 1 {
		t.Errorf("by default, tolerations are %v", pod.Tolerations)
	}
}

// A wrong value is refused with its name, and so is a method without its module.
func TestChartRefusesWrongValues(t *testing.T) {
	for want, change := range map[string]map[string]any{
		"/reorder/method":         {"reorder.method": "front"},
		"'otlp-endpiont'":         {"settings.otlp-endpiont": "collector:4317"},
		"/settings/queue-size":    {"settings.queue-size": true},
		"/settings/log-level":     {"settings.log-level": "loud"},
		"'tolerance'":             {"tolerance": []any{}},
		"/image/digest":           {"image.digest": "latest"},
		"/tracing/sampling":       {"tracing.sampling": 101},
		"/wasm/url":               {"wasm.url": "file:///filter.wasm"},
		"set wasm.url, or choose": {"wasm.url": ""},
		"/namespace":              {"namespace": "A"},
		"/mtls/log":               {"mtls.log": "lua"},
		"apply to the whole mesh": {"limit.namespaces": []string{"istio-system"}},
		"needs limit.namespaces":  {"limit.workloadLabels": map[string]any{"app": "web"}},
	} {
		set := values(ReorderWasmPlugin)
		maps.Copy(set, change)
		if _, err := template(t, set); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v: got %v, want a message with %q", change, err, want)
		}
	}
}

func TestHelmLint(t *testing.T) {
	out, err := helm(t, "lint", "--strict", chartFolder)
	if err != nil || strings.Contains(out, "[WARNING]") || !strings.Contains(out, "0 chart(s) failed") {
		t.Errorf("%s\n%v", out, err)
	}
}

// docs/helm.md names each value, and the values in its examples are accepted.
func TestPageOfTheChart(t *testing.T) {
	page, err := os.ReadFile("../../../docs/helm.md")
	if err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile(chartFolder + "/values.yaml")
	if err != nil {
		t.Fatal(err)
	}
	all := *parse[map[string]any](t, string(text))
	for name, value := range all {
		names := []string{name}
		if parts, ok := value.(map[string]any); ok && len(parts) > 0 && name != "settings" {
			names = nil
			for part := range parts {
				names = append(names, name+"."+part)
			}
		}
		for _, name := range names {
			if !bytes.Contains(page, []byte("`"+name+"`")) && !bytes.Contains(page, []byte("--set "+name+"=")) {
				t.Errorf("the page lacks the value %s", name)
			}
		}
	}
	examples := 0
	for _, block := range regexp.MustCompile("(?s)```yaml\n(.*?)```").FindAllSubmatch(page, -1) {
		for name, document := range documents(t, block[1]) {
			for _, path := range [][]string{{"spec", "values"}, {"spec", "source", "helm", "valuesObject"}} {
				set, found, err := unstructured.NestedMap(document, path...)
				if err != nil || !found {
					continue
				}
				examples++
				if _, err := template(t, set); err != nil {
					t.Errorf("%s: %v", name, err)
				}
			}
		}
	}
	if examples != 2 {
		t.Errorf("%d examples of values, want 2", examples)
	}
}
