// SPDX-License-Identifier: Apache-2.0

// Package istio embeds the manifests that install layertrace into a cluster with
// Istio, for `layertrace install`. They can also be applied with kustomize.
package istio

import "embed"

//go:generate go run ./generate

// Files has the bases (agent, telemetry, podmonitor, monitoring, reorder/*), the components
// (layers, mtls/*), the combinations in overlays/*, and the providers of a mesh configuration.
//
//go:embed agent layers telemetry podmonitor mtls reorder overlays mesh/mtls.yaml
//go:embed monitoring/kustomization.yaml monitoring/prometheusrule.yaml monitoring/layertrace-layers.json
var Files embed.FS
