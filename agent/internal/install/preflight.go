// SPDX-License-Identifier: Apache-2.0

package install

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"google.golang.org/protobuf/types/known/structpb"
	securityapi "istio.io/api/security/v1beta1"
	networkingv1alpha3 "istio.io/client-go/pkg/apis/networking/v1alpha3"
	securityv1 "istio.io/client-go/pkg/apis/security/v1"
	telemetryv1 "istio.io/client-go/pkg/apis/telemetry/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
)

// Level says how grave a finding is.
type Level string

// Levels.
const (
	Fine    Level = "ok"
	Warning Level = "warning"
	Refusal Level = "refused"
)

// Finding is the result of one check, one line for people.
type Finding struct {
	Check string `json:"check"`
	Level Level  `json:"level"`
	Text  string `json:"text"`
}

// check is one thing that is looked at before an installation.
type check struct {
	name string
	look func(ctx context.Context, c *Cluster, o *Options, m *mesh) ([]Finding, error)
}

// checks are all, in the order in which they are told.
var checks = []check{
	{"istio", checkIstio},
	{"tracing", checkTracing},
	{"mtls", checkMTLS},
	{"upstream-filters", checkUpstreamFilters},
	{"module", checkModule},
	{"proxy-image", checkProxyImage},
	{"nodes", checkNodes},
	{"prometheus", checkPodMonitor},
}

// Preflight looks whether an installation can work, changes nothing, and sets
// what the cluster decides in the options: Istio's version, whether there is a
// PodMonitor. The error is about not being able to look.
func (c *Cluster) Preflight(ctx context.Context, o *Options) ([]Finding, error) {
	m, err := c.readIstio(ctx, o.IstioNamespace)
	if err != nil {
		return nil, fmt.Errorf("look at the cluster: %w", err)
	}
	var all []Finding
	for _, check := range checks {
		findings, err := check.look(ctx, c, o, m)
		if err != nil {
			return nil, fmt.Errorf("look at the cluster (%s): %w", check.name, err)
		}
		for _, f := range findings {
			f.Check = check.name
			all = append(all, f)
		}
	}
	return all, nil
}

// Refused returns what stands against an installation, nil when nothing does.
func Refused(findings []Finding) error {
	var lines []string
	for _, f := range findings {
		if f.Level == Refusal {
			lines = append(lines, f.Text)
		}
	}
	if len(lines) == 0 {
		return nil
	}
	return errors.New(strings.Join(lines, "; "))
}

func one(level Level, format string, args ...any) ([]Finding, error) {
	return []Finding{{Level: level, Text: fmt.Sprintf(format, args...)}}, nil
}

// oldestUpstream is the Istio whose Envoy (1.34) has Lua and the extension
// discovery of Wasm as upstream HTTP filters.
const oldestUpstreamMinor = 26

func checkIstio(ctx context.Context, c *Cluster, o *Options, m *mesh) ([]Finding, error) {
	for _, kind := range []schema.GroupVersionKind{kindEnvoyFilter, kindWasmPlugin, kindTelemetry} {
		known, err := c.knows(ctx, kind)
		if err != nil {
			return nil, err
		}
		if !known {
			return one(Refusal, "the cluster knows no %s %s: install Istio 1.%d or later first (istioctl install)", kind.GroupVersion(), kind.Kind, oldestUpstreamMinor)
		}
	}
	switch {
	case m.version != "":
		return istioVersion(o, m.version)
	case o.IstioVersion != "":
		return istioVersion(o, o.IstioVersion)
	}
	return one(Warning, "Istio's CRDs are there, but no Deployment with app=istiod in %s tells a version: taken for the newest; correct --istio-namespace, or name it by --istio-version", o.IstioNamespace)
}

// istioVersion sees whether a version has what the options ask for.
func istioVersion(o *Options, version string) ([]Finding, error) {
	o.IstioVersion = version
	old, err := olderThan(version, 1, oldestUpstreamMinor)
	if err != nil {
		return nil, err
	}
	if old && o.usesUpstreamFilters() {
		return one(Refusal, "Istio is %s, and --reorder %s needs 1.%d or later (upstream HTTP filters): upgrade Istio, or choose --reorder %s or %s",
			version, o.Reorder, oldestUpstreamMinor, ReorderInlineHeaders, ReorderNone)
	}
	return one(Fine, "Istio %s", version)
}

func checkModule(_ context.Context, _ *Cluster, o *Options, _ *mesh) ([]Finding, error) {
	if o.usesWasm() && o.WasmURL == "" {
		return one(Refusal, "--reorder %s needs the module: push it to a registry that the nodes reach (make wasm), and name it by --wasm-url; or choose --reorder %s, which needs none", o.Reorder, ReorderLua)
	}
	return nil, nil
}

func checkPodMonitor(ctx context.Context, c *Cluster, o *Options, _ *mesh) ([]Finding, error) {
	var err error
	if o.PodMonitor, err = c.knows(ctx, kindPodMonitor); err != nil {
		return nil, err
	}
	if !o.PodMonitor {
		return one(Fine, "no Prometheus operator: without a PodMonitor")
	}
	return one(Fine, "with a PodMonitor for the Prometheus operator")
}

// DryRun lets the API server check what it can of the objects without keeping
// them: permissions, schemas, admission. Objects in namespaces that are yet to
// be made are left out.
func (c *Cluster) DryRun(ctx context.Context, objects []*unstructured.Unstructured) error {
	var failures []error
	for _, o := range objects {
		before, err := c.get(ctx, o)
		switch {
		case err != nil:
			failures = append(failures, fmt.Errorf("%s: %w", describe(o), err))
			continue
		case before != nil && !isOurs(before):
			if o.GetKind() != kindNamespace.Kind {
				failures = append(failures, fmt.Errorf("%s exists and was not made by layertrace install: remove or rename it", describe(o)))
			}
			continue
		}
		_, err = c.patch(ctx, o, true)
		if apierrors.IsNotFound(err) && o.GetNamespace() != "" {
			continue // the namespace is yet to come
		}
		if err != nil {
			failures = append(failures, fmt.Errorf("%s: %w", describe(o), err))
		}
	}
	return errors.Join(failures...)
}

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

// Kernels, as major and minor, that have what the agent uses.
var (
	kernelCapture = [2]int{5, 14} // the sweep: BPF_PROG_TYPE_SYSCALL that walks a map
	kernelTCX     = [2]int{6, 6}  // before it, clsact
)

// checkNodes looks at each node's kernel and architecture. The agent itself tries
// the features (layertrace doctor); this tells beforehand what to expect.
func checkNodes(ctx context.Context, c *Cluster, _ *Options, _ *mesh) ([]Finding, error) {
	nodes, err := list[corev1.Node](ctx, c, kindNode, "", metav1.ListOptions{})
	if err != nil {
		return nil, err
	}
	var works, clsact, unfit []string
	for _, n := range nodes {
		info := n.Status.NodeInfo
		if info.OperatingSystem != "" && info.OperatingSystem != "linux" {
			continue // the DaemonSet leaves it out
		}
		if info.Architecture != "" && !slices.Contains([]string{"amd64", "arm64"}, info.Architecture) {
			unfit = append(unfit, fmt.Sprintf("%s (%s)", n.Name, info.Architecture))
			continue
		}
		old, err := olderThan(info.KernelVersion, kernelCapture[0], kernelCapture[1])
		if err != nil {
			unfit = append(unfit, fmt.Sprintf("%s (kernel %q)", n.Name, info.KernelVersion))
			continue
		}
		if old {
			unfit = append(unfit, fmt.Sprintf("%s (kernel %s)", n.Name, info.KernelVersion))
			continue
		}
		works = append(works, n.Name)
		if older, err := olderThan(info.KernelVersion, kernelTCX[0], kernelTCX[1]); err == nil && older {
			clsact = append(clsact, fmt.Sprintf("%s (%s)", n.Name, info.KernelVersion))
		}
	}
	return nodeFindings(works, clsact, unfit)
}

func nodeFindings(works, clsact, unfit []string) ([]Finding, error) {
	needs := fmt.Sprintf("the agent needs kernel %d.%d on amd64 or arm64", kernelCapture[0], kernelCapture[1])
	if len(works) == 0 && len(unfit) > 0 {
		return one(Refusal, "no node can capture, %s: %s", needs, strings.Join(unfit, ", "))
	}
	findings := []Finding{{Level: Fine, Text: fmt.Sprintf("%d nodes can capture by their kernel versions", len(works))}}
	if len(works) == 0 {
		findings[0] = Finding{Level: Warning, Text: "there are no nodes"}
	}
	if len(unfit) > 0 {
		findings = append(findings, Finding{Level: Warning, Text: fmt.Sprintf("no spans from %s: %s", strings.Join(unfit, ", "), needs)})
	}
	if len(clsact) > 0 {
		findings = append(findings, Finding{Level: Fine, Text: fmt.Sprintf("no TCX before %d.%d, so clsact is used on %s", kernelTCX[0], kernelTCX[1], strings.Join(clsact, ", "))})
	}
	return findings, nil
}

// checkProxyImage sees whether the sidecar injector uses the patched proxy.
func checkProxyImage(ctx context.Context, c *Cluster, o *Options, _ *mesh) ([]Finding, error) {
	if o.Reorder != ReorderPatched {
		return nil, nil
	}
	if o.ProxyImage == "" {
		return one(Refusal, "--reorder %s needs --proxy-image: the patched proxy's, as in istioctl install --set values.global.proxy.image", ReorderPatched)
	}
	maps, err := list[corev1.ConfigMap](ctx, c, kindConfigMap, o.IstioNamespace, metav1.ListOptions{})
	if err != nil {
		return nil, err
	}
	for _, found := range maps {
		if strings.HasPrefix(found.Name, "istio-sidecar-injector") && strings.Contains(found.Data["values"], `"`+o.ProxyImage+`"`) {
			return one(Fine, "the sidecar injector uses %s", o.ProxyImage)
		}
	}
	return one(Warning, "the sidecar injector does not use %s yet: istioctl install --set values.global.proxy.image=%s, then restart the workloads", o.ProxyImage, o.ProxyImage)
}
