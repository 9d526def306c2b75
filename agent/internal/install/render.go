// SPDX-License-Identifier: Apache-2.0

package install

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path"
	"slices"
	"strings"

	"github.com/layertrace/layertrace/agent/internal/config"
	"github.com/layertrace/layertrace/istio"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	utilyaml "k8s.io/apimachinery/pkg/util/yaml"
	"sigs.k8s.io/yaml"
)

// Names in the manifests.
const (
	objectName = "layertrace" // Telemetry, WasmPlugin, EnvoyFilter
	// BootstrapName is the ConfigMap with the bootstrap override.
	BootstrapName = "layertrace-bootstrap"
	configMapName = "layertrace-agent"
	configKey     = "config.yaml"
	baseKey       = "base.yaml" // a part of the settings, which config.yaml overrides
	managedBy     = "app.kubernetes.io/managed-by"
	selector      = managedBy + "=" + fieldManager
	// ours selects the objects of layertrace, whichever tool created them: Helm writes its
	// own name into managedBy.
	nameLabel = "app.kubernetes.io/name"
	ours      = nameLabel + "=" + fieldManager
)

// Render returns the objects of an installation in the order in which they are
// applied: the overlay istio/overlays/REORDER, changed by the options. It needs
// no cluster.
func Render(o Options) ([]*unstructured.Unstructured, error) {
	if err := o.findNamespaces(); err != nil {
		return nil, err
	}
	if len(o.AppNamespaces) == 0 {
		o.AppNamespaces = o.namespaces
	}
	parts := []string{"agent"}
	if o.PodMonitor {
		parts = append(parts, "podmonitor")
	}
	if o.Monitoring {
		parts = append(parts, "monitoring")
	}
	if o.TracingProvider != "" {
		parts = append(parts, "telemetry")
	}
	if o.usesWasm() || o.usesUpstreamFilters() {
		parts = append(parts, "reorder/"+o.Reorder)
	}
	var all []*unstructured.Unstructured
	for _, part := range parts {
		objects, err := readKustomization(istio.Files, part)
		if err != nil {
			return nil, fmt.Errorf("render the embedded manifests: %w", err)
		}
		all = append(all, objects...)
	}
	all = perNamespace(all, o.AppNamespaces)
	var err error
	if o.Spans == config.SpansLayers {
		if all, err = addComponent(all, "layers"); err != nil {
			return nil, fmt.Errorf("render the embedded manifests: %w", err)
		}
	}
	if all, err = addMTLS(all, o); err != nil {
		return nil, fmt.Errorf("render the embedded manifests: %w", err)
	}
	for _, change := range []func([]*unstructured.Unstructured, Options) error{
		setNamespaces, setAgent, setTelemetry, setModule,
	} {
		if err := change(all, o); err != nil {
			return nil, fmt.Errorf("render the embedded manifests: %w", err)
		}
	}
	if all, err = limit(all, o); err == nil {
		err = setUpstreamNames(all, o)
	}
	if err != nil {
		return nil, fmt.Errorf("render the embedded manifests: %w", err)
	}
	if o.trial {
		markTrial(all)
	}
	return all, nil
}

// kustomization is the part of kustomize's format that the manifests use. It
// saves linking kustomize (5 MB); a test compares the results.
type kustomization struct {
	APIVersion string      `json:"apiVersion"`
	Kind       string      `json:"kind"`
	Resources  []string    `json:"resources"`
	Components []string    `json:"components"`
	Generators []generator `json:"configMapGenerator"`
	Patches    []struct {
		Target struct {
			Kind string `json:"kind"`
			Name string `json:"name"`
		} `json:"target"`
		Path string `json:"path"`
	} `json:"patches"`
}

// generator makes a ConfigMap of files, or adds them to one (merge).
type generator struct {
	Name      string   `json:"name"`
	Namespace string   `json:"namespace"`
	Behavior  string   `json:"behavior"`
	Files     []string `json:"files"`
	Options   struct {
		Labels map[string]string `json:"labels"`
		// DisableNameSuffixHash has no effect: setAgent adds the only hash.
		DisableNameSuffixHash bool `json:"disableNameSuffixHash"`
	} `json:"options"`
}

// readKustomization returns the objects of the kustomization in dir, in the order in
// which they are applied: generated ConfigMaps right after the namespaces.
func readKustomization(files fs.FS, dir string) ([]*unstructured.Unstructured, error) {
	return build(files, dir, nil)
}

// addComponent applies an embedded component to the objects.
func addComponent(all []*unstructured.Unstructured, dir string) ([]*unstructured.Unstructured, error) {
	return build(istio.Files, dir, all)
}

// build adds what the kustomization in dir has to the objects.
func build(files fs.FS, dir string, all []*unstructured.Unstructured) ([]*unstructured.Unstructured, error) {
	data, err := fs.ReadFile(files, path.Join(dir, "kustomization.yaml"))
	if err != nil {
		return nil, err
	}
	var k kustomization
	if err := yaml.UnmarshalStrict(data, &k); err != nil {
		return nil, fmt.Errorf("%s: %w", dir, err)
	}
	for _, resource := range k.Resources {
		name := path.Join(dir, resource)
		if info, err := fs.Stat(files, name); err == nil && info.IsDir() {
			if all, err = build(files, name, all); err != nil {
				return nil, err
			}
			continue
		}
		objects, err := readObjects(files, name)
		if err != nil {
			return nil, err
		}
		all = append(all, objects...)
	}
	for _, component := range k.Components {
		if all, err = build(files, path.Join(dir, component), all); err != nil {
			return nil, err
		}
	}
	for _, g := range k.Generators {
		if all, err = g.apply(files, dir, all); err != nil {
			return nil, fmt.Errorf("%s: %w", dir, err)
		}
	}
	for _, p := range k.Patches {
		object := findNamed(all, p.Target.Kind, p.Target.Name)
		if object == nil {
			return nil, fmt.Errorf("%s: no %s %s to patch", dir, p.Target.Kind, p.Target.Name)
		}
		if err := patchObject(files, object, path.Join(dir, p.Path)); err != nil {
			return nil, err
		}
	}
	return all, nil
}

// apply makes or changes the ConfigMap.
func (g *generator) apply(files fs.FS, dir string, all []*unstructured.Unstructured) ([]*unstructured.Unstructured, error) {
	configMap := findNamed(all, "ConfigMap", g.Name)
	switch {
	case configMap == nil:
		configMap = &unstructured.Unstructured{Object: map[string]any{"apiVersion": "v1", "kind": "ConfigMap"}}
		configMap.SetName(g.Name)
		configMap.SetNamespace(g.Namespace)
		configMap.SetLabels(g.Options.Labels)
		namespaces := slices.IndexFunc(all, func(o *unstructured.Unstructured) bool { return o.GetKind() != KindNamespace.Kind })
		if namespaces < 0 {
			namespaces = len(all)
		}
		all = slices.Insert(all, namespaces, configMap)
	case g.Behavior != "merge":
		return nil, fmt.Errorf("ConfigMap %s exists already", g.Name)
	}
	for _, file := range g.Files {
		text, err := fs.ReadFile(files, path.Join(dir, file))
		if err != nil {
			return nil, err
		}
		if err := unstructured.SetNestedField(configMap.Object, string(text), "data", file); err != nil {
			return nil, err
		}
	}
	return all, nil
}

// readObjects returns the objects of one YAML file.
func readObjects(files fs.FS, name string) ([]*unstructured.Unstructured, error) {
	data, err := fs.ReadFile(files, name)
	if err != nil {
		return nil, err
	}
	var all []*unstructured.Unstructured
	decoder := utilyaml.NewYAMLOrJSONDecoder(bytes.NewReader(data), 4096)
	for {
		o := &unstructured.Unstructured{}
		switch err := decoder.Decode(&o.Object); {
		case errors.Is(err, io.EOF):
			return all, nil
		case err != nil:
			return nil, fmt.Errorf("%s: %w", name, err)
		case len(o.Object) > 0:
			all = append(all, o)
		}
	}
}

// manifestKinds returns the kinds of all manifests, in the order in which they are
// applied.
func manifestKinds() ([]schema.GroupVersionKind, error) {
	var kinds []schema.GroupVersionKind
	seen := map[schema.GroupVersionKind]bool{}
	for _, part := range []string{
		"agent", "podmonitor", "monitoring", "telemetry",
		"reorder/" + ReorderInlineHeaders, "reorder/" + ReorderWasmPlugin, // ConfigMap and WasmPlugin before EnvoyFilter
	} {
		objects, err := readKustomization(istio.Files, part)
		if err != nil {
			return nil, err
		}
		for _, o := range objects {
			if kind := o.GroupVersionKind(); !seen[kind] {
				seen[kind] = true
				kinds = append(kinds, kind)
			}
		}
	}
	return kinds, nil
}

// perNamespace copies the bootstrap override into each namespace.
func perNamespace(objects []*unstructured.Unstructured, namespaces []string) []*unstructured.Unstructured {
	var all []*unstructured.Unstructured
	for _, o := range objects {
		if o.GetName() != BootstrapName || len(namespaces) == 0 {
			all = append(all, o)
			continue
		}
		for _, namespace := range namespaces {
			one := o.DeepCopy()
			one.SetNamespace(namespace)
			all = append(all, one)
		}
	}
	return all
}

// setNamespaces moves the objects to the chosen namespaces.
func setNamespaces(objects []*unstructured.Unstructured, o Options) error {
	to := map[string]string{DefaultNamespace: o.Namespace, DefaultIstioNamespace: o.IstioNamespace}
	for _, object := range objects {
		switch kind := object.GetKind(); {
		case kind == "Namespace":
			object.SetName(to[object.GetName()])
		case kind == "ClusterRoleBinding":
			subjects, _, err := unstructured.NestedSlice(object.Object, "subjects")
			if err != nil || len(subjects) != 1 {
				return errors.Join(fmt.Errorf("%s has %d subjects, want 1", kind, len(subjects)), err)
			}
			subject, err := asMap(subjects[0])
			if err != nil {
				return err
			}
			subject["namespace"] = o.Namespace
			if err := unstructured.SetNestedSlice(object.Object, subjects, "subjects"); err != nil {
				return err
			}
		case to[object.GetNamespace()] != "":
			object.SetNamespace(to[object.GetNamespace()])
		}
	}
	return nil
}

// setAgent sets the image and the configuration of the DaemonSet.
func setAgent(objects []*unstructured.Unstructured, o Options) error {
	daemonSet := find(objects, "DaemonSet")
	if o.Image != "" {
		err := changeContainer(daemonSet, func(container map[string]any) error {
			container["image"] = o.Image
			return nil
		})
		if err != nil {
			return err
		}
	}
	configMap := findNamed(objects, "ConfigMap", configMapName)
	if err := setAgentConfig(configMap, o); err != nil {
		return err
	}
	name, err := hashedName(configMap)
	if err != nil {
		return err
	}
	configMap.SetName(name)
	return changeVolumes(daemonSet, func(volume map[string]any) error {
		if volume["configMap"] == nil {
			return nil
		}
		return unstructured.SetNestedField(volume, name, "configMap", "name")
	})
}

// changeContainer changes the only container of a DaemonSet.
func changeContainer(daemonSet *unstructured.Unstructured, change func(container map[string]any) error) error {
	containers, _, err := unstructured.NestedSlice(daemonSet.Object, "spec", "template", "spec", "containers")
	if err != nil || len(containers) != 1 {
		return errors.Join(fmt.Errorf("DaemonSet has %d containers, want 1", len(containers)), err)
	}
	container, err := asMap(containers[0])
	if err != nil {
		return err
	}
	if err := change(container); err != nil {
		return err
	}
	return unstructured.SetNestedSlice(daemonSet.Object, containers, "spec", "template", "spec", "containers")
}

func changeVolumes(daemonSet *unstructured.Unstructured, change func(volume map[string]any) error) error {
	volumes, _, err := unstructured.NestedSlice(daemonSet.Object, "spec", "template", "spec", "volumes")
	if err != nil {
		return err
	}
	for _, v := range volumes {
		volume, err := asMap(v)
		if err != nil {
			return err
		}
		if err := change(volume); err != nil {
			return err
		}
	}
	return unstructured.SetNestedSlice(daemonSet.Object, volumes, "spec", "template", "spec", "volumes")
}

// hashedName returns a ConfigMap's name with the hash of its content, as kustomize
// computes it: changed settings change the DaemonSet, which rolls the agents out.
func hashedName(configMap *unstructured.Unstructured) (string, error) {
	data, err := json.Marshal(map[string]any{"kind": "ConfigMap", "name": "", "data": configMap.Object["data"]})
	if err != nil {
		return "", err
	}
	sum := sha256.Sum256(data)
	// Without vowels and some digits, so that no words appear.
	readable := strings.NewReplacer("0", "g", "1", "h", "3", "k", "a", "m", "e", "t")
	return configMap.GetName() + "-" + readable.Replace(hex.EncodeToString(sum[:])[:10]), nil
}

// setAgentConfig writes the options that differ from the base into the agent's settings.
func setAgentConfig(configMap *unstructured.Unstructured, o Options) error {
	text, found, err := unstructured.NestedString(configMap.Object, "data", baseKey)
	if err != nil || !found {
		return errors.Join(fmt.Errorf("ConfigMap has no %s", baseKey), err)
	}
	base := map[string]any{}
	if err := yaml.UnmarshalStrict([]byte(text), &base); err != nil {
		return err
	}
	settings := map[string]any{}
	if o.OTLPInsecure != base["otlp-insecure"] {
		settings["otlp-insecure"] = o.OTLPInsecure
	}
	if o.OTLPEndpoint != "" && o.OTLPEndpoint != base["otlp-endpoint"] {
		settings["otlp-endpoint"] = o.OTLPEndpoint
	}
	if len(o.namespaces) > 0 {
		settings[namespacesSetting] = strings.Join(o.namespaces, ",")
	}
	for _, setting := range o.AgentSettings {
		name, value, _ := strings.Cut(setting, "=")
		settings[name] = value
	}
	if len(settings) == 0 {
		return nil
	}
	data, err := yaml.Marshal(settings)
	if err != nil {
		return err
	}
	return unstructured.SetNestedField(configMap.Object, string(data), "data", configKey)
}

// setTelemetry sets the tracing provider and the sampling.
func setTelemetry(objects []*unstructured.Unstructured, o Options) error {
	telemetry := find(objects, "Telemetry")
	if telemetry == nil || o.TracingProvider == "" {
		return nil
	}
	return unstructured.SetNestedSlice(telemetry.Object, []any{map[string]any{
		"providers":                []any{map[string]any{"name": o.TracingProvider}},
		"randomSamplingPercentage": number(o.Sampling),
	}}, "spec", "tracing")
}

// number returns an integer if f is one, as YAML readers do.
func number(f float64) any {
	if whole := int64(f); float64(whole) == f {
		return whole
	}
	return f
}

// Write writes objects as YAML documents.
func Write(out io.Writer, objects []*unstructured.Unstructured) error {
	for i, o := range objects {
		data, err := yaml.Marshal(o.Object)
		if err != nil {
			return err
		}
		if i > 0 {
			data = append([]byte("---\n"), data...)
		}
		if _, err := out.Write(data); err != nil {
			return err
		}
	}
	return nil
}

// find returns the object of a kind, nil if there is none.
func find(objects []*unstructured.Unstructured, kind string) *unstructured.Unstructured {
	for _, o := range objects {
		if o.GetKind() == kind {
			return o
		}
	}
	return nil
}

// findNamed returns the object of a kind and name, nil if there is none.
func findNamed(objects []*unstructured.Unstructured, kind, name string) *unstructured.Unstructured {
	for _, o := range objects {
		if o.GetKind() == kind && o.GetName() == name {
			return o
		}
	}
	return nil
}

func asMap(v any) (map[string]any, error) {
	m, ok := v.(map[string]any)
	if !ok {
		return nil, fmt.Errorf("found %T, want a map", v)
	}
	return m, nil
}

// isOurs reports whether an object with these labels is layertrace's, whichever tool
// created it.
func isOurs(labels map[string]string) bool { return labels[nameLabel] == fieldManager }

// describe returns KIND NAMESPACE/NAME.
func describe(o *unstructured.Unstructured) string {
	return strings.TrimPrefix(fmt.Sprintf("%s %s/%s", o.GetKind(), o.GetNamespace(), o.GetName()), "/")
}
