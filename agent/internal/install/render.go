// SPDX-License-Identifier: Apache-2.0

package install

import (
	"errors"
	"fmt"
	"io"
	"strings"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/yaml"

	"github.com/layertrace/layertrace/istio"
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
