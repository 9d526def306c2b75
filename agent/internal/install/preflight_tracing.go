// SPDX-License-Identifier: Apache-2.0

package install

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"

	telemetryv1 "istio.io/client-go/pkg/apis/telemetry/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// checkTracing sees to it that the named provider exists, as Istio takes an
// unknown one for none and says nothing, and that no other Telemetry speaks for
// the whole mesh.
func checkTracing(ctx context.Context, c *Cluster, o *Options, m *mesh) ([]Finding, error) {
	others, err := c.meshTelemetry(ctx, o.IstioNamespace)
	if err != nil {
		return nil, err
	}
	if o.TracingProvider == "" {
		return withoutProvider(others, m)
	}
	if m.config == nil {
		return one(Warning, "no mesh configuration in %s (ConfigMap istio): whether there is a provider %q cannot be seen", o.IstioNamespace, o.TracingProvider)
	}
	known := m.config.tracingProviders()
	kind, ok := known[o.TracingProvider]
	if !ok {
		return one(Refusal, "the mesh configuration has no tracing provider %q (it has %s), and with an unknown one tracing is silently off: add it to extensionProviders, or correct --tracing-provider",
			o.TracingProvider, listOr(slices.Sorted(maps.Keys(known)), "none"))
	}
	for _, t := range others {
		return one(Refusal, "Telemetry %s/%s speaks for the whole mesh already, and Istio takes only one: set provider and sampling there and leave --tracing-provider out", t.Namespace, t.Name)
	}
	findings := []Finding{{Level: Fine, Text: fmt.Sprintf("tracing by %s (%s), %v %% of requests", o.TracingProvider, kind, o.Sampling)}}
	if m.config.EnableTracing != nil && !*m.config.EnableTracing {
		findings = append(findings, Finding{Level: Warning, Text: "the mesh configuration says enableTracing: false; the Telemetry resource wins over it"})
	}
	return findings, nil
}

func withoutProvider(others []*telemetryv1.Telemetry, m *mesh) ([]Finding, error) {
	for _, t := range others {
		if len(t.Spec.Tracing) > 0 {
			return one(Fine, "tracing as Telemetry %s/%s says", t.Namespace, t.Name)
		}
	}
	if m.config != nil && len(m.config.DefaultProviders.Tracing) > 0 {
		return one(Fine, "tracing by the mesh's default, %s", strings.Join(m.config.DefaultProviders.Tracing, ", "))
	}
	return one(Warning, "no Telemetry and no default provider switches tracing on for the mesh: without trace headers there is nothing to see; name a provider by --tracing-provider")
}

// meshTelemetry returns the Telemetry resources for the whole mesh that are not
// ours: those without a selector in the root namespace.
func (c *Cluster) meshTelemetry(ctx context.Context, root string) ([]*telemetryv1.Telemetry, error) {
	all, err := list[telemetryv1.Telemetry](ctx, c, kindTelemetry, root, metav1.ListOptions{})
	if err != nil {
		return nil, err
	}
	return slices.DeleteFunc(all, func(t *telemetryv1.Telemetry) bool {
		selects := t.Spec.Selector != nil || len(t.Spec.TargetRefs) > 0 //nolint:staticcheck // the field is set by users
		return selects || t.Labels[managedBy] == FieldManager
	}), nil
}

func listOr(names []string, empty string) string {
	if len(names) == 0 {
		return empty
	}
	return strings.Join(names, ", ")
}
