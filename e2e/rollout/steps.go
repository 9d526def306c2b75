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
	all = append(all, inline.inlineSteps()...)
	return append(all,
		step{"node with kubelet, containerd and CNI", true, startNode},
		step{"Jaeger", true, startJaeger},
		step{"agent's pod from the project's image, ready", true, agentRuns},
		step{"pod that starts later: its spans name it in Jaeger", false, laterPodIsNamed},
		step{"agent uninstalled, its pod gone", false, agentGoes})
}
