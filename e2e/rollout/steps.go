// SPDX-License-Identifier: Apache-2.0

package rollout

import "context"

type step struct {
	name string
	// needed: without it nothing that follows makes sense.
	needed bool
	do     func(context.Context, *rollout) error
}

// steps returns all steps in their order.
func steps() []step {
	all := []step{
		{"API server with Istio's resources", true, startCluster},
		{"istiod", true, startMesh},
		{"sidecar", true, startPods},
		{"stock order without layertrace", true, showsStockOrder},
	}
	for _, way := range ways {
		all = append(all, way.steps()...)
	}
	return append(all, inline.inlineSteps()...)
}
