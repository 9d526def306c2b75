// SPDX-License-Identifier: Apache-2.0

package install

import (
	"context"
	"errors"
	"strings"

	"google.golang.org/protobuf/types/known/structpb"
	extensionsv1alpha1 "istio.io/client-go/pkg/apis/extensions/v1alpha1"
	networkingv1alpha3 "istio.io/client-go/pkg/apis/networking/v1alpha3"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
)

// upstreamFiltersKey is the router's field (Envoy, router.proto).
const upstreamFiltersKey = "upstream_http_filters"

// setModule names the Wasm module.
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

// moduleFields lead from a patch of an EnvoyFilter to the module's source.
var moduleFields = []string{"patch", "value", "typed_config", "config", "vm_config", "code", "remote"}

// setUpstreamName writes the name under which this Istio serves the WasmPlugin.
func setUpstreamName(objects []*unstructured.Unstructured, o Options) error {
	if o.Reorder != ReorderWasmPlugin {
		return nil
	}
	name, err := pluginResource(o.IstioVersion, o.IstioNamespace)
	if err != nil {
		return err
	}
	return changePatches(find(objects, "EnvoyFilter"), func(patch map[string]any) error {
		filters, _, err := unstructured.NestedSlice(patch, upstreamFields...)
		if err != nil || len(filters) == 0 {
			return errors.Join(errors.New("the EnvoyFilter has no upstream filters"), err)
		}
		first, err := asMap(filters[0])
		if err != nil {
			return err
		}
		first["name"] = name
		return unstructured.SetNestedSlice(patch, filters, upstreamFields...)
	})
}

// upstreamFields lead from a patch of an EnvoyFilter to the upstream filters.
var upstreamFields = []string{"patch", "value", "typed_config", upstreamFiltersKey}

// pluginResource returns the name of the extension configuration that istiod
// makes of our WasmPlugin (Istio, pilot/pkg/model/extensions.go).
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

// changePatches lets change edit each patch of an EnvoyFilter.
func changePatches(filter *unstructured.Unstructured, change func(patch map[string]any) error) error {
	patches, found, err := unstructured.NestedSlice(filter.Object, "spec", "configPatches")
	if err != nil || !found {
		return errors.Join(errors.New("the EnvoyFilter has no patches"), err)
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

// programmed returns which way our objects in Istio's root namespace program,
// ReorderNone when there are none: then the order is Envoy's, or a patched one's.
func (c *Cluster) programmed(ctx context.Context, root string) (string, error) {
	ours := metav1.ListOptions{LabelSelector: selector}
	filters, err := list[networkingv1alpha3.EnvoyFilter](ctx, c, kindEnvoyFilter, root, ours)
	if err != nil {
		return "", err
	}
	for _, f := range filters {
		for _, p := range f.Spec.ConfigPatches {
			if way := wayOf(p.GetPatch().GetValue()); way != "" {
				return way, nil
			}
		}
	}
	plugins, err := list[extensionsv1alpha1.WasmPlugin](ctx, c, kindWasmPlugin, root, ours)
	if err != nil || len(plugins) == 0 {
		return ReorderNone, err
	}
	return ReorderInlineHeaders, nil
}

// wayOf tells a way by the first upstream filter of the router, "" for a patch
// without one.
func wayOf(value *structpb.Struct) string {
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
