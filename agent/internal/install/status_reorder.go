// SPDX-License-Identifier: Apache-2.0

package install

import (
	"context"
	"strings"

	"google.golang.org/protobuf/types/known/structpb"
	extensionsv1alpha1 "istio.io/client-go/pkg/apis/extensions/v1alpha1"
	networkingv1alpha3 "istio.io/client-go/pkg/apis/networking/v1alpha3"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

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
