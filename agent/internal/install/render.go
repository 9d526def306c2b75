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
	"github.com/spf13/pflag"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	utilyaml "k8s.io/apimachinery/pkg/util/yaml"
	"sigs.k8s.io/yaml"
)

// Render returns the objects of an installation, in the order in which they are
// applied: those of the overlay istio/overlays/REORDER, with what the options
// say otherwise. It needs no cluster.
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
			return nil, fmt.Errorf("manifests of this binary: %w", err)
		}
		all = append(all, objects...)
	}
	all = perNamespace(all, o.AppNamespaces)
	for _, change := range []func([]*unstructured.Unstructured, Options) error{
		setNamespaces, setAgent, setTelemetry, setModule, setUpstreamName,
	} {
		if err := change(all, o); err != nil {
			return nil, fmt.Errorf("manifests of this binary: %w", err)
		}
	}
	return all, nil
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

// find returns the one object of a kind, nil when there is none.
func find(objects []*unstructured.Unstructured, kind string) *unstructured.Unstructured {
	for _, o := range objects {
		if o.GetKind() == kind {
			return o
		}
	}
	return nil
}

// perNamespace gives each namespace its copy of the bootstrap override.
func perNamespace(objects []*unstructured.Unstructured, namespaces []string) []*unstructured.Unstructured {
	var all []*unstructured.Unstructured
	for _, o := range objects {
		if o.GetName() != bootstrapName || len(namespaces) == 0 {
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

// setNamespaces moves everything to the chosen namespaces.
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

func setTelemetry(objects []*unstructured.Unstructured, o Options) error {
	telemetry := find(objects, "Telemetry")
	if telemetry == nil {
		return nil
	}
	return unstructured.SetNestedSlice(telemetry.Object, []any{map[string]any{
		"providers":                []any{map[string]any{"name": o.TracingProvider}},
		"randomSamplingPercentage": number(o.Sampling),
	}}, "spec", "tracing")
}

// number is a whole number where there is one, as YAML readers have it.
func number(f float64) any {
	if whole := int64(f); float64(whole) == f {
		return whole
	}
	return f
}

func asMap(v any) (map[string]any, error) {
	m, ok := v.(map[string]any)
	if !ok {
		return nil, fmt.Errorf("%T where a map is expected", v)
	}
	return m, nil
}

// describe names an object for people.
func describe(o *unstructured.Unstructured) string {
	return strings.TrimPrefix(fmt.Sprintf("%s %s/%s", o.GetKind(), o.GetNamespace(), o.GetName()), "/")
}

// kustomization is what the manifests use of kustomize. That is so little that
// the binary does without kustomize itself (some 5 MB); a test compares.
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

// Names in the manifests.
const (
	agentName     = "layertrace-agent"
	objectName    = "layertrace" // Telemetry, WasmPlugin, EnvoyFilter
	bootstrapName = "layertrace-bootstrap"
	configKey     = "config.yaml"
	configHash    = "layertrace/config-sha256" // annotation of the pods
	managedBy     = "app.kubernetes.io/managed-by"
	selector      = managedBy + "=" + FieldManager
)

// setAgent sets image and configuration of the DaemonSet.
func setAgent(objects []*unstructured.Unstructured, o Options) error {
	daemonSet := find(objects, "DaemonSet")
	if o.Image != "" {
		containers, _, err := unstructured.NestedSlice(daemonSet.Object, "spec", "template", "spec", "containers")
		if err != nil || len(containers) != 1 {
			return errors.Join(fmt.Errorf("the DaemonSet has %d containers, want 1", len(containers)), err)
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

// setAgentConfig writes what the options say into the agent's settings, and
// returns their text.
func setAgentConfig(configMap *unstructured.Unstructured, o Options) (string, error) {
	text, found, err := unstructured.NestedString(configMap.Object, "data", configKey)
	if err != nil || !found {
		return "", errors.Join(fmt.Errorf("the ConfigMap has no %s", configKey), err)
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
		// Which cgroup the pods of a node are in only its agent can find out.
		changed["spans"], changed["socket-cgroup"] = config.SpansLayers, config.SocketCgroupAuto
	}
	for _, setting := range o.AgentSettings {
		name, value, _ := strings.Cut(setting, "=")
		changed[name] = value
	}
	if !maps.Equal(settings, changed) { // else with its own order
		data, err := yaml.Marshal(changed)
		if err != nil {
			return "", err
		}
		text = string(data)
	}
	return text, unstructured.SetNestedField(configMap.Object, text, "data", configKey)
}

// checkSettings lets the agent's own flags read settings, so that a slip of the
// pen shows now, and not as an agent that does not start.
func checkSettings(spans string, settings []string) error {
	flags := pflag.NewFlagSet("agent", pflag.ContinueOnError)
	parsed := config.Define(flags)
	if err := flags.Set("spans", spans); err != nil {
		return fmt.Errorf("--spans: %w", err)
	}
	for _, setting := range settings {
		name, value, ok := strings.Cut(setting, "=")
		if !ok {
			return fmt.Errorf("--agent-setting %q: write NAME=VALUE, such as pnic=eth0", setting)
		}
		if flags.Lookup(name) == nil || name == "config" {
			return fmt.Errorf("--agent-setting %s: the agent has no setting %q%s", setting, name, config.Hint(flags, name))
		}
		if err := flags.Set(name, value); err != nil {
			return fmt.Errorf("--agent-setting %s: %w", setting, err)
		}
	}
	if err := config.Load(flags, parsed, nil); err != nil {
		return fmt.Errorf("--agent-setting: %w", err)
	}
	return nil
}
