// SPDX-License-Identifier: Apache-2.0

package install

import (
	"context"
	"fmt"
	"strings"

	"google.golang.org/protobuf/types/known/structpb"
	securityapi "istio.io/api/security/v1beta1"
	networkingv1alpha3 "istio.io/client-go/pkg/apis/networking/v1alpha3"
	securityv1 "istio.io/client-go/pkg/apis/security/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// checkMTLS tells what encryption between sidecars hides.
func checkMTLS(ctx context.Context, c *Cluster, o *Options, m *mesh) ([]Finding, error) {
	policies, err := list[securityv1.PeerAuthentication](ctx, c, kindPeerAuthentication, o.IstioNamespace, metav1.ListOptions{})
	if err != nil {
		return nil, err
	}
	mode := securityapi.PeerAuthentication_MutualTLS_PERMISSIVE // Istio's default
	for _, p := range policies {
		if p.Spec.Selector == nil && p.Spec.Mtls != nil && p.Spec.Mtls.Mode != securityapi.PeerAuthentication_MutualTLS_UNSET {
			mode = p.Spec.Mtls.Mode
		}
	}
	const meaning = "no trace context can be read there yet, and those hops have no interface spans"
	auto := m.config == nil || m.config.EnableAutoMTLS == nil || *m.config.EnableAutoMTLS
	switch {
	case mode == securityapi.PeerAuthentication_MutualTLS_STRICT:
		return one(Warning, "mutual TLS is STRICT: traffic between sidecars is encrypted; %s", meaning)
	case mode == securityapi.PeerAuthentication_MutualTLS_PERMISSIVE && auto:
		return one(Warning, "mutual TLS is PERMISSIVE, and sidecars use it among themselves (auto mTLS): %s; a PeerAuthentication with mode DISABLE for a namespace makes its traffic readable", meaning)
	default:
		return one(Fine, "mutual TLS is %s", mode)
	}
}

// checkUpstreamFilters finds other EnvoyFilters that set the router's upstream
// filters. Envoy gets both lists as one, with two codecs, and refuses the
// listener.
func checkUpstreamFilters(ctx context.Context, c *Cluster, o *Options, _ *mesh) ([]Finding, error) {
	if !o.usesUpstreamFilters() {
		return nil, nil
	}
	filters, err := list[networkingv1alpha3.EnvoyFilter](ctx, c, kindEnvoyFilter, "", metav1.ListOptions{})
	if err != nil {
		return nil, err
	}
	var names []string
	for _, f := range filters {
		if f.Labels[managedBy] == FieldManager && f.Name == objectName && f.Namespace == o.IstioNamespace {
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
	return one(Refusal, "%s sets the router's %s already, and Envoy refuses a listener with both: join them by hand, or choose --reorder %s or %s",
		strings.Join(names, ", "), upstreamFiltersKey, ReorderInlineHeaders, ReorderPatched)
}

// setsUpstreamFilters looks for the field at any depth, under both names that
// protobuf's JSON reader takes.
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
