// SPDX-License-Identifier: Apache-2.0

package install

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"google.golang.org/protobuf/types/known/structpb"
	extensionsv1alpha1 "istio.io/client-go/pkg/apis/extensions/v1alpha1"
	networkingv1alpha3 "istio.io/client-go/pkg/apis/networking/v1alpha3"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
)

// cost is what a method takes in each sidecar, measured (docs/reordering.md).
type cost struct {
	micros float64 // CPU time for each attempt of each request, µs
	memory int     // MiB
}

// compactMemory is what the Wasm filter takes as compact module, MiB, measured
// (docs/reordering.md, docs/decisions/018-compact-module.md).
const compactMemory = 19

// costs are those of the methods that run code in a stock proxy.
var costs = map[string]cost{
	ReorderWasmPlugin: {12, 73}, ReorderEnvoyFilter: {12, 73}, ReorderInlineHeaders: {12, 75}, ReorderLua: {14, 3},
}

func (c cost) String() string {
	return fmt.Sprintf("%v µs of CPU time per request and %d MiB of memory", c.micros, c.memory)
}

// checkCost reports what the installation takes in each sidecar.
func checkCost(_ context.Context, _ *Cluster, o *Options, _ *Mesh) ([]Finding, error) {
	switch known, ok := costs[o.Reorder]; {
	case !ok && o.Reorder == ReorderPatched:
		return one(Fine, "no measurable cost in the sidecars with the patched proxy")
	case !ok:
		return one(Fine, "no cost in the sidecars; the agents take more CPU time, as they search for contexts (--deep=auto)")
	case o.Reorder == ReorderLua:
		return one(Fine, "in each sidecar about %v; --reorder %s: %v", known, ReorderWasmPlugin, costs[ReorderWasmPlugin])
	default:
		return one(Fine, "in each sidecar about %v (%d MiB with the compact module, docs/install.md#compact); --reorder %s: %v, and %s none",
			known, compactMemory, ReorderLua, costs[ReorderLua], ReorderNone)
	}
}

// upstreamFiltersKey is the router's field (Envoy, router.proto).
const upstreamFiltersKey = "upstream_http_filters"

// setModule writes the location of the Wasm module.
func setModule(objects []*unstructured.Unstructured, o Options) error {
	if plugin := find(objects, "WasmPlugin"); plugin != nil {
		set := map[string]string{"url": o.WasmURL, "sha256": o.WasmSHA256, "imagePullSecret": o.WasmPullSecret}
		for key, value := range set {
			if value == "" {
				continue
			}
			if err := unstructured.SetNestedField(plugin.Object, value, "spec", key); err != nil {
				return err
			}
		}
		if o.Reorder == ReorderInlineHeaders {
			return unstructured.SetNestedField(plugin.Object, o.Tracer, "spec", "pluginConfig", "placeholders")
		}
		return nil
	}
	if o.Reorder != ReorderEnvoyFilter {
		return nil
	}
	return changePatches(find(objects, "EnvoyFilter"), func(patch map[string]any) error {
		remote, found, err := unstructured.NestedMap(patch, moduleFields...)
		if err != nil || !found {
			return err
		}
		if o.WasmURL != "" {
			if err := unstructured.SetNestedField(remote, o.WasmURL, "http_uri", "uri"); err != nil {
				return err
			}
		}
		if o.WasmSHA256 != "" {
			remote["sha256"] = o.WasmSHA256
		}
		return unstructured.SetNestedMap(patch, remote, moduleFields...)
	})
}

// moduleFields is the path from a patch of an EnvoyFilter to the module's source.
var moduleFields = []string{"patch", "value", "typed_config", "config", "vm_config", "code", "remote"}

// setUpstreamNames sets the upstream filter of each namespace to the name under which
// this version of Istio serves the WasmPlugin there.
func setUpstreamNames(objects []*unstructured.Unstructured, o Options) error {
	if o.Reorder != ReorderWasmPlugin {
		return nil
	}
	for _, object := range objects {
		if object.GetKind() != kindEnvoyFilter.Kind || object.GetName() != objectName {
			continue
		}
		name, err := pluginResource(o.IstioVersion, object.GetNamespace())
		if err != nil {
			return err
		}
		if err := setUpstreamName(object, name); err != nil {
			return err
		}
	}
	return nil
}

func setUpstreamName(filter *unstructured.Unstructured, name string) error {
	return changePatches(filter, func(patch map[string]any) error {
		filters, _, err := unstructured.NestedSlice(patch, upstreamFields...)
		if err != nil || len(filters) == 0 {
			return errors.Join(errors.New("EnvoyFilter has no upstream filters"), err)
		}
		first, err := asMap(filters[0])
		if err != nil {
			return err
		}
		first["name"] = name
		return unstructured.SetNestedSlice(patch, filters, upstreamFields...)
	})
}

// upstreamFields is the path from a patch of an EnvoyFilter to the upstream filters.
var upstreamFields = []string{"patch", "value", "typed_config", upstreamFiltersKey}

// pluginResource returns the name of the extension configuration that istiod
// generates from the WasmPlugin (Istio, pilot/pkg/model/extensions.go).
func pluginResource(version, namespace string) (string, error) {
	old, err := olderThan(version, 1, 30)
	if err != nil {
		return "", err
	}
	if old {
		return "extensions.istio.io/wasmplugin/" + namespace + "." + objectName, nil
	}
	return "extensions.istio.io/trafficextension/" + namespace + "." + objectName + "~istio-translated-wasmplugin", nil
}

// changePatches calls change for each patch of an EnvoyFilter.
func changePatches(filter *unstructured.Unstructured, change func(patch map[string]any) error) error {
	patches, found, err := unstructured.NestedSlice(filter.Object, "spec", "configPatches")
	if err != nil || !found {
		return errors.Join(errors.New("EnvoyFilter has no patches"), err)
	}
	for _, p := range patches {
		patch, err := asMap(p)
		if err != nil {
			return err
		}
		if err := change(patch); err != nil {
			return err
		}
	}
	return unstructured.SetNestedSlice(filter.Object, patches, "spec", "configPatches")
}

// InstalledReorder returns the reordering method of the objects in Istio's root
// namespace, or of an installation that is limited to others. Without any it is
// ReorderNone, as a patched Envoy needs no object.
func (c *Cluster) InstalledReorder(ctx context.Context, root string) (string, error) {
	for _, namespace := range []string{root, ""} {
		if method, err := c.reorderIn(ctx, namespace); err != nil || method != ReorderNone {
			return method, err
		}
	}
	return ReorderNone, nil
}

// reorderIn returns the reordering method of the objects in a namespace, with "" in all.
func (c *Cluster) reorderIn(ctx context.Context, namespace string) (string, error) {
	filters, err := List[networkingv1alpha3.EnvoyFilter](ctx, c, kindEnvoyFilter, namespace, metav1.ListOptions{LabelSelector: ours})
	if err != nil {
		return "", err
	}
	for _, f := range filters {
		for _, p := range f.Spec.ConfigPatches {
			if method := methodOf(p.GetPatch().GetValue()); method != "" {
				return method, nil
			}
		}
	}
	plugins, err := List[extensionsv1alpha1.WasmPlugin](ctx, c, kindWasmPlugin, namespace, metav1.ListOptions{LabelSelector: ours})
	if err != nil || len(plugins) == 0 {
		return ReorderNone, err
	}
	return ReorderInlineHeaders, nil
}

// methodOf returns the reordering method of a patch by the router's first upstream
// filter, "" if it sets none.
func methodOf(value *structpb.Struct) string {
	filters := value.GetFields()["typed_config"].GetStructValue().GetFields()[upstreamFiltersKey].GetListValue().GetValues()
	if len(filters) == 0 {
		return ""
	}
	first := filters[0].GetStructValue().GetFields()
	name := first["name"].GetStringValue()
	switch {
	case first["config_discovery"] == nil:
		return ReorderLua
	case strings.HasPrefix(name, "extensions.istio.io/"):
		return ReorderWasmPlugin
	default:
		return ReorderEnvoyFilter
	}
}

// checkUpstreamFilters finds other EnvoyFilters that set the router's upstream
// filters. Istio would merge both lists into one with two codecs, and Envoy
// refuses such a listener.
func checkUpstreamFilters(ctx context.Context, c *Cluster, o *Options, _ *Mesh) ([]Finding, error) {
	if !o.usesUpstreamFilters() {
		return nil, nil
	}
	filters, err := List[networkingv1alpha3.EnvoyFilter](ctx, c, kindEnvoyFilter, "", metav1.ListOptions{})
	if err != nil {
		return nil, err
	}
	var names []string
	for _, f := range filters {
		if isOurs(f.Labels) && f.Name == objectName {
			continue
		}
		if o.leaves(f.Namespace) {
			continue
		}
		for _, p := range f.Spec.ConfigPatches {
			if setsUpstreamFilters(p.GetPatch().GetValue()) {
				names = append(names, fmt.Sprintf("EnvoyFilter %s/%s", f.Namespace, f.Name))
				break
			}
		}
	}
	if len(names) == 0 {
		return nil, nil
	}
	return one(Refusal, "%s already sets the router's %s, and Envoy refuses a listener with both: merge them by hand, or choose --reorder %s or %s",
		strings.Join(names, ", "), upstreamFiltersKey, ReorderInlineHeaders, ReorderPatched)
}

// setsUpstreamFilters searches for the field at any depth, under both names that
// protobuf's JSON decoder accepts.
func setsUpstreamFilters(s *structpb.Struct) bool {
	for key, value := range s.GetFields() {
		if key == upstreamFiltersKey || key == "upstreamHttpFilters" || valueSets(value) {
			return true
		}
	}
	return false
}

func valueSets(v *structpb.Value) bool {
	for _, item := range v.GetListValue().GetValues() {
		if valueSets(item) {
			return true
		}
	}
	return setsUpstreamFilters(v.GetStructValue())
}
