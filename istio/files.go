// SPDX-License-Identifier: Apache-2.0

// Package istio holds the manifests that put layertrace on a cluster with
// Istio. People use them with kustomize, `layertrace install` out of the binary.
package istio

import "embed"

//go:generate go run ./generate

// Files has every kustomization: agent, telemetry, podmonitor and reorder/*,
// and in overlays/* what belongs together.
//
//go:embed agent telemetry podmonitor reorder overlays
var Files embed.FS
