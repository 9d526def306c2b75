// SPDX-License-Identifier: Apache-2.0

package install

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"path"
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
	configKey     = "config.yaml"
	configHash    = "layertrace/config-sha256" // annotation of the pods
	managedBy     = "app.kubernetes.io/managed-by"
	selector      = managedBy + "=" + fieldManager
)

// Render returns the objects of an installation in the order in which they are
// applied: the overlay istio/overlays/REORDER, changed by the options. It needs
// no cluster.
func Render(o Options) ([]*unstructured.Unstructured, error) {
	parts := []string{"agent"}
	if o.PodMonitor {
		parts = append(parts, "podmonitor")
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
	all, err := addMTLS(all, o)
	if err != nil {
		return nil, fmt.Errorf("render the embedded manifests: %w", err)
	}
	for _, change := range []func([]*unstructured.Unstructured, Options) error{
		setNamespaces, setAgent, setTelemetry, setModule, setUpstreamName,
	} {
		if err := change(all, o); err != nil {
			return nil, fmt.Errorf("render the embedded manifests: %w", err)
		}
	}
	return all, nil
}

// kustomization is the part of kustomize's format that the manifests use. It
// saves linking kustomize (5 MB); a test compares the results.
type kustomization struct {
	APIVersion string   `json:"apiVersion"`
	Kind       string   `json:"kind"`
	Resources  []string `json:"resources"`
}

// readKustomization returns the objects of the kustomization in dir, in order.
func readKustomization(files fs.FS, dir string) ([]*unstructured.Unstructured, error) {
	data, err := fs.ReadFile(files, path.Join(dir, "kustomization.yaml"))
	if err != nil {
		return nil, err
	}
	var k kustomization
	if err := yaml.UnmarshalStrict(data, &k); err != nil {
		return nil, fmt.Errorf("%s: %w", dir, err)
	}
	var all []*unstructured.Unstructured
	for _, resource := range k.Resources {
		name := path.Join(dir, resource)
		read := readObjects
		if info, err := fs.Stat(files, name); err == nil && info.IsDir() {
			read = readKustomization
		}
		objects, err := read(files, name)
		if err != nil {
			return nil, err
		}
		all = append(all, objects...)
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
		"agent", "podmonitor", "telemetry",
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
		containers, _, err := unstructured.NestedSlice(daemonSet.Object, "spec", "template", "spec", "containers")
		if err != nil || len(containers) != 1 {
			return errors.Join(fmt.Errorf("DaemonSet has %d containers, want 1", len(containers)), err)
		}
		container, err := asMap(containers[0])
		if err != nil {
			return err
		}
		container["image"] = o.Image
		if err := unstructured.SetNestedSlice(daemonSet.Object, containers, "spec", "template", "spec", "containers"); err != nil {
			return err
		}
	}
	text, err := setAgentConfig(find(objects, "ConfigMap"), o)
	if err != nil {
		return err
	}
	sum := sha256.Sum256([]byte(text))
	return unstructured.SetNestedField(daemonSet.Object, hex.EncodeToString(sum[:]),
		"spec", "template", "metadata", "annotations", configHash)
}

// setAgentConfig writes the options into the agent's settings and returns the
// settings' text.
func setAgentConfig(configMap *unstructured.Unstructured, o Options) (string, error) {
	text, found, err := unstructured.NestedString(configMap.Object, "data", configKey)
	if err != nil || !found {
		return "", errors.Join(fmt.Errorf("ConfigMap has no %s", configKey), err)
	}
	settings := map[string]any{}
	if err := yaml.UnmarshalStrict([]byte(text), &settings); err != nil {
		return "", err
	}
	changed := maps.Clone(settings)
	changed["otlp-insecure"] = o.OTLPInsecure
	if o.OTLPEndpoint != "" {
		changed["otlp-endpoint"] = o.OTLPEndpoint
	}
	if o.Spans == config.SpansLayers {
		// Each agent finds the pods' cgroup of its node itself.
		changed["spans"], changed["socket-cgroup"] = config.SpansLayers, config.SocketCgroupAuto
	}
	for _, setting := range o.AgentSettings {
		name, value, _ := strings.Cut(setting, "=")
		changed[name] = value
	}
	if !maps.Equal(settings, changed) { // if equal, keep the order of the file
		data, err := yaml.Marshal(changed)
		if err != nil {
			return "", err
		}
		text = string(data)
	}
	return text, unstructured.SetNestedField(configMap.Object, text, "data", configKey)
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

func asMap(v any) (map[string]any, error) {
	m, ok := v.(map[string]any)
	if !ok {
		return nil, fmt.Errorf("found %T, want a map", v)
	}
	return m, nil
}

// describe returns KIND NAMESPACE/NAME.
func describe(o *unstructured.Unstructured) string {
	return strings.TrimPrefix(fmt.Sprintf("%s %s/%s", o.GetKind(), o.GetNamespace(), o.GetName()), "/")
}
