// SPDX-License-Identifier: Apache-2.0

package install

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	extensionsv1alpha1 "istio.io/client-go/pkg/apis/extensions/v1alpha1"
	networkingv1alpha3 "istio.io/client-go/pkg/apis/networking/v1alpha3"
	telemetryv1 "istio.io/client-go/pkg/apis/telemetry/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/selection"
)

// An installation changes the proxies of the whole mesh, or of chosen ones:
//
//   - by namespace: the objects that Istio reads are in these namespaces instead of the root
//     namespace, the agents' services are known to the proxies of these namespaces only, and
//     the agents report requests of these namespaces only;
//   - by workload: the objects select pods by their labels;
//   - by revision: only the control plane of that revision reads the objects.

const (
	// revisionLabel of an object: only the control plane of this revision reads it.
	revisionLabel = "istio.io/rev"
	// defaultRevision is that of a control plane without a name.
	defaultRevision = "default"
	// namespacesSetting is that of the agents.
	namespacesSetting = "namespaces"
	// exportAnnotation of a Service: only proxies of these namespaces get a configuration for
	// it, "." is its own. Without it, each proxy of the mesh gets one.
	exportAnnotation = "networking.istio.io/exportTo"
)

// checkScope validates the flags that limit an installation.
func (o *Options) checkScope() error {
	if _, err := labels.Parse(o.NamespaceSelector); err != nil {
		return fmt.Errorf("--namespace-selector %q: %w", o.NamespaceSelector, err)
	}
	if _, err := labels.ConvertSelectorToLabelsMap(o.WorkloadSelector); err != nil {
		return fmt.Errorf("--workload-selector %q: write KEY=VALUE,..., as Istio selects by equal labels only: %w", o.WorkloadSelector, err)
	}
	if o.Revision != "" && !nameText.MatchString(o.Revision) {
		return fmt.Errorf("--revision %q is not a valid name of a revision", o.Revision)
	}
	telemetry := o.TracingProvider != "" || o.readsEncrypted() && o.MTLSLog == MTLSTelemetry
	if o.WorkloadSelector != "" && o.NamespaceSelector == "" && telemetry {
		return fmt.Errorf("--workload-selector with --tracing-provider or --mtls-log %s needs --namespace-selector: a Telemetry resource selects workloads of its own namespace only", MTLSTelemetry)
	}
	return nil
}

// namedNamespaces returns the namespaces that a selector names, nil if it selects by
// other labels, so that only a cluster can tell.
func namedNamespaces(text string) ([]string, error) {
	all, err := labels.Parse(text)
	if err != nil {
		return nil, err
	}
	requirements, selectable := all.Requirements()
	if !selectable || len(requirements) != 1 || requirements[0].Key() != corev1.LabelMetadataName {
		return nil, nil
	}
	switch requirements[0].Operator() {
	case selection.Equals, selection.DoubleEquals, selection.In:
		return slices.Sorted(slices.Values(requirements[0].ValuesUnsorted())), nil
	default:
		return nil, nil
	}
}

// checkNamespaces finds the selected namespaces and control plane.
func checkNamespaces(ctx context.Context, c *Cluster, o *Options, m *Mesh) ([]Finding, error) {
	if o.Revision != "" && !slices.Contains(m.Revisions, o.Revision) {
		return one(Refusal, "no control plane in %s has the revision %s (there is %s): correct --revision", o.IstioNamespace, o.Revision, listOr(m.Revisions, "none"))
	}
	var findings []Finding
	if o.Revision != "" {
		findings = append(findings, Finding{Level: Fine, Text: "limited to the proxies of revision " + o.Revision})
	}
	if o.WorkloadSelector != "" {
		findings = append(findings, Finding{Level: Fine, Text: fmt.Sprintf("limited to the proxies of pods with %s; the agents report requests of others too, if they are traced", o.WorkloadSelector)})
	}
	if o.NamespaceSelector == "" {
		return findings, nil
	}
	found, err := List[corev1.Namespace](ctx, c, KindNamespace, "", metav1.ListOptions{LabelSelector: o.NamespaceSelector})
	if err != nil {
		return nil, err
	}
	o.namespaces = nil
	for _, n := range found {
		switch {
		case n.Name == o.IstioNamespace:
			return one(Refusal, "--namespace-selector %q selects %s, where objects apply to the whole mesh: exclude it, such as by %s!=%s", o.NamespaceSelector, n.Name, corev1.LabelMetadataName, n.Name)
		case n.DeletionTimestamp == nil && n.Name != o.Namespace:
			o.namespaces = append(o.namespaces, n.Name)
		}
	}
	slices.Sort(o.namespaces)
	if len(o.namespaces) == 0 {
		return one(Refusal, "--namespace-selector %q selects no namespace", o.NamespaceSelector)
	}
	return append(findings, Finding{Level: Fine, Text: fmt.Sprintf("limited to the namespaces %s, as they are now; repeat the installation after a change", strings.Join(o.namespaces, ", "))}), nil
}

// limit restricts the objects that Istio reads to the chosen proxies: one in each chosen
// namespace instead of one in the root namespace, with a selector of workloads, and the
// label of the revision. Services are exported to these namespaces alone.
func limit(all []*unstructured.Unstructured, o Options) ([]*unstructured.Unstructured, error) {
	workloads, err := labels.ConvertSelectorToLabelsMap(o.WorkloadSelector)
	if err != nil {
		return nil, err
	}
	selected := map[string]any{}
	for key, value := range workloads {
		selected[key] = value
	}
	var limited []*unstructured.Unstructured
	for _, object := range all {
		path := []string{"spec", "selector", "matchLabels"}
		switch object.GetKind() {
		case kindEnvoyFilter.Kind:
			path = []string{"spec", "workloadSelector", "labels"}
		case kindWasmPlugin.Kind, KindTelemetry.Kind:
		case "Service":
			if len(o.namespaces) > 0 {
				object.SetAnnotations(map[string]string{exportAnnotation: strings.Join(append([]string{"."}, o.namespaces...), ",")})
			}
			limited = append(limited, object)
			continue
		default:
			limited = append(limited, object)
			continue
		}
		if len(selected) > 0 {
			if err := unstructured.SetNestedMap(object.Object, selected, path...); err != nil {
				return nil, err
			}
		}
		if o.Revision != "" {
			marked := object.GetLabels()
			marked[revisionLabel] = o.Revision
			object.SetLabels(marked)
		}
		if len(o.namespaces) == 0 {
			limited = append(limited, object)
		}
		for _, namespace := range o.namespaces {
			one := object.DeepCopy()
			one.SetNamespace(namespace)
			limited = append(limited, one)
		}
	}
	return limited, nil
}

// findNamespaces sets the chosen namespaces without a cluster.
func (o *Options) findNamespaces() error {
	if o.NamespaceSelector == "" || len(o.namespaces) > 0 {
		return nil
	}
	var err error
	if o.namespaces, err = namedNamespaces(o.NamespaceSelector); err != nil {
		return err
	}
	if len(o.namespaces) == 0 {
		return fmt.Errorf("--namespace-selector %q needs a cluster: with --dry-run name the namespaces, as in '%s in (A, B)'", o.NamespaceSelector, corev1.LabelMetadataName)
	}
	if slices.Contains(o.namespaces, o.IstioNamespace) {
		return errors.New("--namespace-selector names Istio's root namespace, where objects apply to the whole mesh")
	}
	return nil
}

// leaves reports whether objects in a namespace apply only to proxies that stay as they are.
// Those in the root namespace apply to all.
func (o *Options) leaves(namespace string) bool {
	return len(o.namespaces) > 0 && namespace != o.IstioNamespace && !slices.Contains(o.namespaces, namespace)
}

// widest returns the namespaces in which a Telemetry resource without a selector applies
// to all chosen proxies: the root namespace, or the chosen ones.
func (o *Options) widest() []string {
	if len(o.namespaces) > 0 {
		return o.namespaces
	}
	return []string{o.IstioNamespace}
}

// wideTelemetry returns the Telemetry resources of others that apply to all proxies of a
// namespace, or in the root namespace of the mesh: those without a selector.
func (c *Cluster) wideTelemetry(ctx context.Context, namespaces []string) ([]*telemetryv1.Telemetry, error) {
	var wide []*telemetryv1.Telemetry
	for _, namespace := range namespaces {
		all, err := List[telemetryv1.Telemetry](ctx, c, KindTelemetry, namespace, metav1.ListOptions{})
		if err != nil {
			return nil, err
		}
		wide = append(wide, slices.DeleteFunc(all, func(t *telemetryv1.Telemetry) bool {
			return !ForWholeNamespace(t) || isOurs(t.Labels)
		})...)
	}
	return wide, nil
}

// ForWholeNamespace reports whether a Telemetry resource applies to all proxies of its
// namespace, or in the root namespace of the mesh.
func ForWholeNamespace(t *telemetryv1.Telemetry) bool {
	return len(t.Spec.GetSelector().GetMatchLabels()) == 0 && len(t.Spec.TargetRefs) == 0 && t.Spec.TargetRef == nil //nolint:staticcheck // users set the deprecated field
}

// oldestTelemetry returns the one of wideTelemetry in a namespace that Istio uses, nil without
// any.
func (c *Cluster) oldestTelemetry(ctx context.Context, namespace string) (*telemetryv1.Telemetry, error) {
	all, err := c.wideTelemetry(ctx, []string{namespace})
	if err != nil || len(all) == 0 {
		return nil, err
	}
	return slices.MinFunc(all, func(a, b *telemetryv1.Telemetry) int { return a.CreationTimestamp.Compare(b.CreationTimestamp.Time) }), nil
}

// wideness names what a Telemetry resource of widest applies to.
func (o *Options) wideness() string {
	if len(o.namespaces) > 0 {
		return "namespace"
	}
	return "mesh"
}

// Limits are the proxies that an installation changes; empty fields: all.
type Limits struct {
	Namespaces []string `json:"namespaces,omitempty"`
	// Workloads are the labels of pods, KEY=VALUE,...
	Workloads string `json:"workloads,omitempty"`
	Revision  string `json:"revision,omitempty"`
}

// String describes the limits, "" without any.
func (l *Limits) String() string {
	var parts []string
	if len(l.Namespaces) > 0 {
		parts = append(parts, "namespaces "+strings.Join(l.Namespaces, ", "))
	}
	if l.Workloads != "" {
		parts = append(parts, "pods with "+l.Workloads)
	}
	if l.Revision != "" {
		parts = append(parts, "revision "+l.Revision)
	}
	return strings.Join(parts, "; ")
}

// Covers reports whether the limits include a pod's proxy, by its namespace and labels, which
// do not tell its revision.
func (l *Limits) Covers(namespace string, pod map[string]string) bool {
	workloads, err := labels.ConvertSelectorToLabelsMap(l.Workloads)
	return err == nil && (len(l.Namespaces) == 0 || slices.Contains(l.Namespaces, namespace)) &&
		labels.SelectorFromSet(workloads).Matches(labels.Set(pod))
}

// InstalledLimits returns the limits of what is installed, by its EnvoyFilters,
// WasmPlugins and Telemetry resources.
func (c *Cluster) InstalledLimits(ctx context.Context, root string) (Limits, error) {
	options := metav1.ListOptions{LabelSelector: ours}
	filters, err := List[networkingv1alpha3.EnvoyFilter](ctx, c, kindEnvoyFilter, "", options)
	if err != nil {
		return Limits{}, err
	}
	plugins, err := List[extensionsv1alpha1.WasmPlugin](ctx, c, kindWasmPlugin, "", options)
	if err != nil {
		return Limits{}, err
	}
	telemetries, err := List[telemetryv1.Telemetry](ctx, c, KindTelemetry, "", options)
	if err != nil {
		return Limits{}, err
	}
	var l Limits
	add := func(object metav1.Object, workloads map[string]string) {
		if n := object.GetNamespace(); n != root && !slices.Contains(l.Namespaces, n) {
			l.Namespaces = append(l.Namespaces, n)
		}
		l.Workloads = cmp.Or(l.Workloads, labels.Set(workloads).String())
		l.Revision = cmp.Or(l.Revision, object.GetLabels()[revisionLabel])
	}
	for _, f := range filters {
		if workloads := f.Spec.GetWorkloadSelector().GetLabels(); f.Name == objectName || f.Name == mtlsName {
			add(f, workloads)
		}
	}
	for _, p := range plugins {
		if p.Name == objectName {
			add(p, p.Spec.GetSelector().GetMatchLabels())
		}
	}
	for _, t := range telemetries {
		if t.Name == objectName {
			add(t, t.Spec.GetSelector().GetMatchLabels())
		}
	}
	slices.Sort(l.Namespaces)
	return l, nil
}
