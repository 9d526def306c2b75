// SPDX-License-Identifier: Apache-2.0

package install

import (
	"k8s.io/apimachinery/pkg/runtime/schema"

	"github.com/layertrace/layertrace/istio"
)

// Kinds that are read.
var (
	kindConfigMap          = schema.GroupVersionKind{Version: "v1", Kind: "ConfigMap"}
	kindNamespace          = schema.GroupVersionKind{Version: "v1", Kind: "Namespace"}
	kindNode               = schema.GroupVersionKind{Version: "v1", Kind: "Node"}
	kindPod                = schema.GroupVersionKind{Version: "v1", Kind: "Pod"}
	kindDaemonSet          = schema.GroupVersionKind{Group: "apps", Version: "v1", Kind: "DaemonSet"}
	kindDeployment         = schema.GroupVersionKind{Group: "apps", Version: "v1", Kind: "Deployment"}
	kindEnvoyFilter        = schema.GroupVersionKind{Group: "networking.istio.io", Version: "v1alpha3", Kind: "EnvoyFilter"}
	kindWasmPlugin         = schema.GroupVersionKind{Group: "extensions.istio.io", Version: "v1alpha1", Kind: "WasmPlugin"}
	kindTelemetry          = schema.GroupVersionKind{Group: "telemetry.istio.io", Version: "v1", Kind: "Telemetry"}
	kindPeerAuthentication = schema.GroupVersionKind{Group: "security.istio.io", Version: "v1", Kind: "PeerAuthentication"}
	kindPodMonitor         = schema.GroupVersionKind{Group: "monitoring.coreos.com", Version: "v1", Kind: "PodMonitor"}
)

// installed returns the kinds of all manifests, in the order of application.
func installed() ([]schema.GroupVersionKind, error) {
	var kinds []schema.GroupVersionKind
	seen := map[schema.GroupVersionKind]bool{}
	for _, part := range []string{
		"agent", "podmonitor", "telemetry",
		"reorder/" + ReorderInlineHeaders, "reorder/" + ReorderWasmPlugin, // the ConfigMap and the WasmPlugin before the EnvoyFilter
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
