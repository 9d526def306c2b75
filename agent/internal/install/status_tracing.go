// SPDX-License-Identifier: Apache-2.0

package install

import (
	"fmt"
	"strings"

	telemetryapi "istio.io/api/telemetry/v1alpha1"
	telemetryv1 "istio.io/client-go/pkg/apis/telemetry/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/labels"
)

// Tracing says whether a workload's proxies trace.
type Tracing struct {
	On bool `json:"on"`
	// Providers that exist, and are used.
	Providers []string `json:"providers,omitempty"`
	// Sampling in percent.
	Sampling float64 `json:"sampling"`
	// By names the Telemetry resource that says so, or the mesh configuration.
	By string `json:"by"`
	// Reason says why it is off.
	Reason string `json:"reason,omitempty"`
}

// istioSampling is Istio's default, in percent.
const istioSampling = 1

// tracingOf merges what speaks for a pod, from the mesh to the workload: each
// level replaces what it names (Istio, Telemetry API).
func tracingOf(pod *corev1.Pod, root string, all []*telemetryv1.Telemetry, config *meshConfig) Tracing {
	t := Tracing{Sampling: istioSampling, By: "mesh configuration"}
	if config != nil {
		t.Providers = config.DefaultProviders.Tracing
	}
	disabled := false
	for _, level := range []func(*telemetryv1.Telemetry) bool{
		func(r *telemetryv1.Telemetry) bool { return r.Namespace == root && r.Spec.Selector == nil },
		func(r *telemetryv1.Telemetry) bool {
			return r.Namespace == pod.Namespace && r.Namespace != root && r.Spec.Selector == nil
		},
		func(r *telemetryv1.Telemetry) bool {
			return r.Namespace == pod.Namespace && r.Spec.Selector != nil &&
				labels.SelectorFromSet(r.Spec.Selector.MatchLabels).Matches(labels.Set(pod.Labels))
		},
	} {
		for _, r := range all {
			if level(r) && len(r.Spec.Tracing) > 0 {
				t.merge(r.Spec.Tracing[0], &disabled)
				t.By = fmt.Sprintf("Telemetry %s/%s", r.Namespace, r.Name)
				break // of several on one level, Istio takes one
			}
		}
	}
	t.conclude(config, disabled)
	return t
}

func (t *Tracing) merge(spec *telemetryapi.Tracing, disabled *bool) {
	if len(spec.Providers) > 0 {
		t.Providers = nil
		for _, p := range spec.Providers {
			t.Providers = append(t.Providers, p.Name)
		}
	}
	if spec.RandomSamplingPercentage != nil {
		t.Sampling = spec.RandomSamplingPercentage.Value
	}
	if spec.DisableSpanReporting != nil {
		*disabled = spec.DisableSpanReporting.Value
	}
}

func (t *Tracing) conclude(config *meshConfig, disabled bool) {
	var unknown []string
	if config != nil {
		known := config.tracingProviders()
		for _, p := range t.Providers {
			if _, ok := known[p]; !ok {
				unknown = append(unknown, p)
			}
		}
	}
	switch {
	case len(t.Providers) == 0:
		t.Reason = "no provider is named"
	case len(unknown) > 0:
		t.Reason = "the mesh configuration has no tracing provider " + strings.Join(unknown, ", ")
	case disabled:
		t.Reason = "disableSpanReporting is set"
	case t.Sampling == 0:
		t.Reason = "0 % of requests are sampled"
	default:
		t.On = true
	}
}
