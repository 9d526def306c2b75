// SPDX-License-Identifier: Apache-2.0

package install

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	securityapi "istio.io/api/security/v1beta1"
	securityv1 "istio.io/client-go/pkg/apis/security/v1"
	telemetryv1 "istio.io/client-go/pkg/apis/telemetry/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"github.com/layertrace/layertrace/internal/printable"
	"github.com/layertrace/layertrace/internal/screen"
	"github.com/layertrace/layertrace/istio"
)

// Level is the severity of a finding.
type Level string

// Levels; Refusal prevents an installation.
const (
	Fine    Level = "ok"
	Warning Level = "warning"
	Refusal Level = "refused"
)

// Finding is one line of the result of a check.
type Finding struct {
	Check string `json:"check"`
	Level Level  `json:"level"`
	Text  string `json:"text"`
}

// Line returns the finding as text in a width in columns, 0 for any. YAML that follows its first
// line is as it is.
func (f Finding) Line(width int) string {
	return screen.WrapHead(fmt.Sprintf("%-9s %-17s ", f.Level, printable.Text(f.Check)), f.Text, width)
}

// check is one of the preflight checks.
type check struct {
	name string
	// installed: the check also applies to an existing installation.
	installed bool
	run       func(ctx context.Context, c *Cluster, o *Options, m *Mesh) ([]Finding, error)
}

// checks are all checks, in the order in which they are reported.
var checks = []check{
	{"istio", true, checkIstio},
	{"limits", false, checkNamespaces},
	{"tracing", false, checkTracing},
	{"mtls", true, checkMTLS},
	{"access-log", true, checkAccessLog},
	{"upstream-filters", true, checkUpstreamFilters},
	{"image", false, checkImage},
	{"module", false, checkModule},
	{"proxy-image", false, checkProxyImage},
	{"cost", false, checkCost},
	{"nodes", true, checkNodes},
	{"prometheus", false, checkPodMonitor},
	{"monitoring", false, checkMonitoring},
}

// Preflight checks whether an installation can work, without changing anything.
// It sets the options that depend on the cluster: Istio's version, and whether to
// add a PodMonitor. An error means that a check could not be made.
func (c *Cluster) Preflight(ctx context.Context, o *Options) ([]Finding, error) {
	m, err := c.ReadMesh(ctx, o.IstioNamespace, o.Revision)
	if err != nil {
		return nil, err
	}
	return c.runChecks(ctx, o, m, checks)
}

// CheckInstalled repeats the checks that also apply to an existing installation, within its
// limits. There is nothing to refuse any more, so refusals become warnings.
func (c *Cluster) CheckInstalled(ctx context.Context, o *Options, l Limits, m *Mesh) ([]Finding, error) {
	o.namespaces, o.WorkloadSelector, o.Revision = l.Namespaces, l.Workloads, l.Revision
	apply := slices.DeleteFunc(slices.Clone(checks), func(k check) bool {
		return !k.installed || k.name == "istio" && m.Version == ""
	})
	findings, err := c.runChecks(ctx, o, m, apply)
	for i := range findings {
		if findings[i].Level == Refusal {
			findings[i].Level = Warning
		}
	}
	return findings, err
}

func (c *Cluster) runChecks(ctx context.Context, o *Options, m *Mesh, checks []check) ([]Finding, error) {
	var all []Finding
	for _, check := range checks {
		findings, err := check.run(ctx, c, o, m)
		if err != nil {
			return nil, fmt.Errorf("check %s: %w", check.name, err)
		}
		for _, f := range findings {
			f.Check = check.name
			all = append(all, f)
		}
	}
	return all, nil
}

// Refused returns the refusals among the findings as one error, nil without any.
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

// oldestMTLSMinor is the first Istio 1.x for which the proxies' access log is installed. Its
// Envoy is 1.34; the newest command in the log, COMMON_DURATION, came with 1.31.
const oldestMTLSMinor = 26

// oldestUpstreamMinor is the first Istio 1.x whose Envoy (1.34) has Lua and
// extension discovery as upstream HTTP filters.
const oldestUpstreamMinor = 26

func checkIstio(ctx context.Context, c *Cluster, o *Options, m *Mesh) ([]Finding, error) {
	for _, kind := range []schema.GroupVersionKind{kindEnvoyFilter, kindWasmPlugin, KindTelemetry} {
		known, err := c.hasKind(ctx, kind)
		if err != nil {
			return nil, err
		}
		if !known {
			return one(Refusal, "the cluster has no %s %s: install Istio 1.%d or later first (istioctl install)", kind.GroupVersion(), kind.Kind, oldestUpstreamMinor)
		}
	}
	switch {
	case m.Version != "":
		return istioVersion(o, m.Version)
	case o.IstioVersion != "":
		return istioVersion(o, o.IstioVersion)
	}
	return one(Warning, "Istio's version is unknown, assuming the newest: no Deployment with app=istiod in %s has one; correct --istio-namespace, or set --istio-version", o.IstioNamespace)
}

// istioVersion checks whether a version supports the chosen options.
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

// fewImages: a kubelet that lists fewer images lists all that it has (its default for
// nodeStatusMaxImages is 50).
const fewImages = 50

// checkImage checks that the nodes have the agents' image, if no registry can have it: that of a
// checkout, and a name without a registry.
func checkImage(ctx context.Context, c *Cluster, o *Options, _ *Mesh) ([]Finding, error) {
	o.useRelease()
	host, _, named := strings.Cut(o.Image, "/")
	qualified := named && (strings.ContainsAny(host, ".:") || host == "localhost")
	if qualified && !strings.HasPrefix(o.Image, istio.Repository+"/") {
		return nil, nil
	}
	nodes, err := List[corev1.Node](ctx, c, kindNode, "", metav1.ListOptions{LabelSelector: corev1.LabelOSStable + "=linux"})
	if err != nil {
		return nil, err
	}
	var without []string
	for _, n := range nodes {
		has := slices.ContainsFunc(n.Status.Images, func(i corev1.ContainerImage) bool {
			return slices.ContainsFunc(i.Names, func(name string) bool { return strings.TrimPrefix(name, "docker.io/") == o.Image })
		})
		if !has && len(n.Status.Images) < fewImages {
			without = append(without, n.Name)
		}
	}
	if len(without) == 0 {
		return nil, nil
	}
	return one(Warning, "the agents' image %s is not on %s: make images and kind load image-archive bin/agent.tar (docs/install.md has other clusters), or push it to your registry and name it by --image",
		o.Image, strings.Join(without, ", "))
}

func checkModule(_ context.Context, _ *Cluster, o *Options, _ *Mesh) ([]Finding, error) {
	if o.usesWasm() && o.WasmURL == "" {
		return one(Refusal, "--reorder %s needs a Wasm module: push it to a registry that the nodes can reach (make wasm) and set --wasm-url, or choose --reorder %s, which needs none", o.Reorder, ReorderLua)
	}
	return nil, nil
}

func checkPodMonitor(ctx context.Context, c *Cluster, o *Options, _ *Mesh) ([]Finding, error) {
	var err error
	if o.PodMonitor, err = c.hasKind(ctx, kindPodMonitor); err != nil {
		return nil, err
	}
	if !o.PodMonitor {
		return one(Fine, "no Prometheus operator, so no PodMonitor")
	}
	return one(Fine, "found the Prometheus operator, adding a PodMonitor")
}

// checkMonitoring refuses alert rules that the cluster has no kind for.
func checkMonitoring(ctx context.Context, c *Cluster, o *Options, _ *Mesh) ([]Finding, error) {
	if !o.Monitoring {
		return nil, nil
	}
	known, err := c.hasKind(ctx, kindPrometheusRule)
	if err != nil {
		return nil, err
	}
	if !known {
		return one(Refusal, "--monitoring needs the Prometheus operator, and the cluster has no %s %s: install the operator first, or omit --monitoring and load rules and dashboard by hand (docs/metrics.md)",
			kindPrometheusRule.GroupVersion(), kindPrometheusRule.Kind)
	}
	return one(Fine, "adding alert rules, and a dashboard for Grafana's sidecar")
}

// DryRun sends the objects to the API server as a dry run, which checks
// permissions, schemas and admission. It skips objects whose namespace does not
// exist yet.
func (c *Cluster) DryRun(ctx context.Context, objects []*unstructured.Unstructured) error {
	var failures []error
	for _, o := range objects {
		before, err := c.get(ctx, o)
		switch {
		case err != nil:
			failures = append(failures, fmt.Errorf("%s: %w", describe(o), err))
			continue
		case before != nil && !isManaged(before):
			if o.GetKind() != KindNamespace.Kind {
				failures = append(failures, fmt.Errorf("%s %s", describe(o), notManaged(before)))
			}
			continue
		}
		_, err = c.patch(ctx, o, true)
		if apierrors.IsNotFound(err) && o.GetNamespace() != "" {
			continue // its namespace does not exist yet
		}
		if err != nil {
			failures = append(failures, fmt.Errorf("%s: %w", describe(o), err))
		}
	}
	return errors.Join(failures...)
}

// checkTracing checks that the provider exists, as Istio silently ignores an
// unknown one, and that no other Telemetry applies to the whole mesh.
func checkTracing(ctx context.Context, c *Cluster, o *Options, m *Mesh) ([]Finding, error) {
	others, err := c.wideTelemetry(ctx, o.widest())
	if err != nil {
		return nil, err
	}
	if o.TracingProvider == "" {
		if len(o.namespaces) > 0 {
			mesh, err := c.wideTelemetry(ctx, []string{o.IstioNamespace})
			if err != nil {
				return nil, err
			}
			others = append(others, mesh...)
		}
		return withoutProvider(others, m)
	}
	if m.Config == nil {
		return one(Warning, "no mesh configuration in %s (ConfigMap %s): cannot check that provider %q exists", o.IstioNamespace, meshName(o.Revision), o.TracingProvider)
	}
	known := m.Config.TracingProviders()
	kind, ok := known[o.TracingProvider]
	if !ok {
		return one(Refusal, "the mesh configuration has no tracing provider %q (it has %s), and Istio silently ignores an unknown one: add it to extensionProviders, or correct --tracing-provider",
			o.TracingProvider, listOr(slices.Sorted(maps.Keys(known)), "none"))
	}
	if len(others) > 0 && o.WorkloadSelector == "" { // one with a selector takes precedence
		t := others[0]
		return one(Refusal, "Telemetry %s/%s already applies to the whole %s, and Istio uses only one: set provider and sampling there and omit --tracing-provider", t.Namespace, t.Name, o.wideness())
	}
	findings := []Finding{{Level: Fine, Text: fmt.Sprintf("tracing with %s (%s), %v %% of requests", o.TracingProvider, kind, o.Sampling)}}
	if m.Config.EnableTracing != nil && !*m.Config.EnableTracing {
		findings = append(findings, Finding{Level: Warning, Text: "the mesh configuration has enableTracing: false; the Telemetry resource overrides it"})
	}
	return findings, nil
}

func withoutProvider(others []*telemetryv1.Telemetry, m *Mesh) ([]Finding, error) {
	for _, t := range others {
		if len(t.Spec.Tracing) > 0 {
			return one(Fine, "tracing is configured by Telemetry %s/%s", t.Namespace, t.Name)
		}
	}
	if m.Config != nil && len(m.Config.DefaultProviders.Tracing) > 0 {
		return one(Fine, "tracing with the mesh's default provider, %s", strings.Join(m.Config.DefaultProviders.Tracing, ", "))
	}
	return one(Warning, "tracing is off: the mesh has no Telemetry and no default provider, and without trace headers the agents find nothing; set --tracing-provider")
}

func listOr(names []string, empty string) string {
	if len(names) == 0 {
		return empty
	}
	return strings.Join(names, ", ")
}

// checkMTLS finds out whether encryption hides the traffic between sidecars, and with
// MTLSAuto sets o.MTLS by it.
func checkMTLS(ctx context.Context, c *Cluster, o *Options, m *Mesh) ([]Finding, error) {
	policies, err := List[securityv1.PeerAuthentication](ctx, c, kindPeerAuthentication, "", metav1.ListOptions{})
	if err != nil {
		return nil, err
	}
	old, err := olderThan(o.IstioVersion, 1, oldestMTLSMinor)
	if err != nil {
		return nil, err
	}
	if old && o.MTLS == MTLSOn {
		return one(Refusal, "Istio is %s, and --mtls on needs 1.%d or later: older proxies may refuse the access log, and with it their whole configuration; upgrade Istio, or choose --mtls off", o.IstioVersion, oldestMTLSMinor)
	}
	if old { // with MTLSAuto
		o.MTLS = MTLSOff
	}
	mode, somewhere := mtlsMode(policies, o.IstioNamespace, m)
	if o.MTLS == MTLSAuto {
		o.MTLS = MTLSOff
		if somewhere != "" {
			o.MTLS = MTLSOn
		}
	}
	for _, setting := range o.AgentSettings {
		if !o.readsEncrypted() && (strings.HasPrefix(setting, "mtls-") || strings.HasPrefix(setting, "access-log-address=")) {
			return one(Refusal, "--agent-setting %s has no effect where the mesh does not encrypt: omit it, or set --mtls on", setting)
		}
	}
	switch {
	case somewhere == "":
		return one(Fine, "mutual TLS is %s", mode)
	case old:
		return one(Warning, "%s: the agents cannot read its trace context, so those hops have no interface spans; from Istio 1.%d on, proxies can report it (--mtls)", somewhere, oldestMTLSMinor)
	case o.readsEncrypted():
		return one(Fine, "%s: encrypted hops get their trace from records of the proxies (--mtls-log %s)", somewhere, o.MTLSLog)
	default:
		return one(Warning, "%s: the agents cannot read its trace context, so those hops have no interface spans; --mtls on lets the proxies report it, or a PeerAuthentication with mode DISABLE makes the traffic of its namespace readable", somewhere)
	}
}

// mtlsMode returns the mesh's mode of mutual TLS, and where traffic between sidecars is
// encrypted, "" if nowhere.
func mtlsMode(policies []*securityv1.PeerAuthentication, root string, m *Mesh) (mode securityapi.PeerAuthentication_MutualTLS_Mode, somewhere string) {
	mode = securityapi.PeerAuthentication_MutualTLS_PERMISSIVE // Istio's default
	auto := m.Config == nil || m.Config.EnableAutoMTLS == nil || *m.Config.EnableAutoMTLS
	encrypts := func(mode securityapi.PeerAuthentication_MutualTLS_Mode) bool {
		return mode == securityapi.PeerAuthentication_MutualTLS_STRICT || mode == securityapi.PeerAuthentication_MutualTLS_PERMISSIVE && auto
	}
	for _, p := range policies {
		own := p.Spec.GetMtls().GetMode()
		switch {
		case own == securityapi.PeerAuthentication_MutualTLS_UNSET:
		case p.Namespace == root && p.Spec.Selector == nil:
			mode = own
		case encrypts(own):
			somewhere = fmt.Sprintf("mutual TLS is %s by PeerAuthentication %s/%s", own, p.Namespace, p.Name)
		}
	}
	switch {
	case mode == securityapi.PeerAuthentication_MutualTLS_STRICT:
		somewhere = "mutual TLS is STRICT: traffic between sidecars is encrypted"
	case encrypts(mode):
		somewhere = "mutual TLS is PERMISSIVE, and sidecars encrypt the traffic between them (auto mTLS)"
	}
	return mode, somewhere
}

// Oldest kernels, as major and minor.
var (
	kernelCapture = [2]int{5, 14} // the sweep: a BPF_PROG_TYPE_SYSCALL that iterates over a map
	kernelTCX     = [2]int{6, 6}  // clsact before
)

// checkNodes checks the kernel version and the architecture of each node. It is a
// forecast: the agent itself probes the features (layertrace doctor).
func checkNodes(ctx context.Context, c *Cluster, _ *Options, _ *Mesh) ([]Finding, error) {
	nodes, err := List[corev1.Node](ctx, c, kindNode, "", metav1.ListOptions{})
	if err != nil {
		return nil, err
	}
	var capable, clsact, unfit []string
	for _, n := range nodes {
		info := n.Status.NodeInfo
		if info.OperatingSystem != "" && info.OperatingSystem != "linux" {
			continue // the DaemonSet skips it
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
		capable = append(capable, n.Name)
		if older, err := olderThan(info.KernelVersion, kernelTCX[0], kernelTCX[1]); err == nil && older {
			clsact = append(clsact, fmt.Sprintf("%s (%s)", n.Name, info.KernelVersion))
		}
	}
	return nodeFindings(capable, clsact, unfit)
}

func nodeFindings(capable, clsact, unfit []string) ([]Finding, error) {
	needs := fmt.Sprintf("the agent needs kernel %d.%d on amd64 or arm64", kernelCapture[0], kernelCapture[1])
	if len(capable) == 0 && len(unfit) > 0 {
		return one(Refusal, "no node can capture: %s; %s", strings.Join(unfit, ", "), needs)
	}
	findings := []Finding{{Level: Fine, Text: fmt.Sprintf("%d nodes can capture according to their kernel versions", len(capable))}}
	if len(capable) == 0 {
		findings[0] = Finding{Level: Warning, Text: "the cluster has no nodes"}
	}
	if len(unfit) > 0 {
		findings = append(findings, Finding{Level: Warning, Text: fmt.Sprintf("no spans from %s; %s", strings.Join(unfit, ", "), needs)})
	}
	if len(clsact) > 0 {
		findings = append(findings, Finding{Level: Fine, Text: fmt.Sprintf("clsact instead of TCX, which needs kernel %d.%d, on %s", kernelTCX[0], kernelTCX[1], strings.Join(clsact, ", "))})
	}
	return findings, nil
}

// checkProxyImage checks whether the sidecar injector uses the patched proxy.
func checkProxyImage(ctx context.Context, c *Cluster, o *Options, _ *Mesh) ([]Finding, error) {
	if o.Reorder != ReorderPatched {
		return nil, nil
	}
	if o.ProxyImage == "" {
		return one(Refusal, "--reorder %s needs --proxy-image: the patched proxy, as in istioctl install --set values.global.proxy.image", ReorderPatched)
	}
	maps, err := List[corev1.ConfigMap](ctx, c, kindConfigMap, o.IstioNamespace, metav1.ListOptions{})
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
