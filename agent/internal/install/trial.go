// SPDX-License-Identifier: Apache-2.0

package install

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	telemetryv1 "istio.io/client-go/pkg/apis/telemetry/v1"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"github.com/layertrace/layertrace/agent/internal/config"
)

// A trial is an installation in one namespace that `layertrace try` makes and removes. It
// fetches no module and needs no trace store: the agents keep their spans, and try reads them.
// Its objects have a label, so that a trial is never taken for an installation, nor the reverse.

const (
	// instanceLabel of a trial's objects has the value trialInstance.
	instanceLabel = "app.kubernetes.io/instance"
	trialInstance = "layertrace-try"
	// trialSpans is the number of spans that each agent keeps: some 5 MB.
	trialSpans = 8192
	// jaegerUI is the port of Jaeger's UI, zipkinUI that of Zipkin.
	jaegerUI, zipkinUI = 16686, 9411
)

// TrialReorders are the methods for a trial, the default first: those that fetch nothing.
var TrialReorders = []string{ReorderNone, ReorderLua}

// ErrNoNamespace is returned for a namespace that does not exist.
var ErrNoNamespace = errors.New("no such namespace")

var (
	kindService       = schema.GroupVersionKind{Version: "v1", Kind: "Service"}
	kindEndpointSlice = schema.GroupVersionKind{Group: "discovery.k8s.io", Version: "v1", Kind: "EndpointSlice"}
)

// Trial is what to try.
type Trial struct {
	// Namespace whose proxies are changed and whose requests are reported.
	Namespace, IstioNamespace string
	// Reorder is one of TrialReorders.
	Reorder string
	// Image of the agents; empty: that of the manifests.
	Image string
	// TracingProvider of the namespace's proxies; empty: that which the mesh uses, or has.
	TracingProvider string
	// Sampling in percent.
	Sampling float64
	// Sends is set if requests with sampled contexts of their own are sent, for which no proxy
	// has to begin a trace.
	Sends         bool
	AgentSettings []string
}

// TrialPlan is a trial that was checked.
type TrialPlan struct {
	Options  Options
	Findings []Finding
	// UI is that of the mesh's own trace store, which gets the agents' spans too; nil: none
	// was found.
	UI *UI

	trial Trial
}

// UI is a service with the UI of a trace store.
type UI struct {
	Namespace, Service string
	// Port of the service, and what it is: jaegerUI or zipkinUI.
	Port, Product int32
}

// Forward is the command that makes the UI reachable at URL.
func (u *UI) Forward() string {
	return fmt.Sprintf("kubectl -n %s port-forward service/%s %d:%d", u.Namespace, u.Service, u.Product, u.Port)
}

// URL is the page of a trace, with Forward.
func (u *UI) URL(traceID string) string {
	if u.Product == zipkinUI {
		return fmt.Sprintf("http://localhost:%d/zipkin/traces/%s", zipkinUI, traceID)
	}
	return fmt.Sprintf("http://localhost:%d/trace/%s", jaegerUI, traceID)
}

// options returns the options of the installation.
func (t Trial) options() Options {
	settings := []string{fmt.Sprintf("keep-spans=%d", trialSpans)}
	if !t.exports() {
		settings = append(settings, exportNone)
	}
	return Options{
		Reorder: t.Reorder, Namespace: DefaultNamespace, IstioNamespace: t.IstioNamespace, Image: t.Image,
		OTLPInsecure: true, Spans: config.SpansLayers, Tracer: Tracers[0],
		MTLS: MTLSAuto, MTLSLog: MTLSEnvoyFilter,
		NamespaceSelector: corev1.LabelMetadataName + "=" + t.Namespace,
		Sampling:          t.Sampling, TracingProvider: t.TracingProvider,
		AgentSettings: append(settings, t.AgentSettings...), // the last of a name counts
		trial:         true,
	}
}

// exportNone is the setting of agents that only keep their spans.
const exportNone = "export=none"

// exports reports whether the user chose where the agents send spans.
func (t Trial) exports() bool {
	return slices.ContainsFunc(t.AgentSettings, func(s string) bool { return strings.HasPrefix(s, "export=") })
}

// Check validates what does not need a cluster. Errors name the flag to correct.
func (t Trial) Check() error {
	if !slices.Contains(TrialReorders, t.Reorder) {
		return fmt.Errorf("--reorder %q is not one of %s; layertrace install has those that fetch a module", t.Reorder, strings.Join(TrialReorders, ", "))
	}
	switch {
	case t.Namespace == "":
		return errors.New("--namespace is missing: name the namespace to try, whose requests are traced")
	case !nameText.MatchString(t.Namespace):
		return fmt.Errorf("--namespace %q is not a valid namespace name", t.Namespace)
	case t.Namespace == t.IstioNamespace:
		return fmt.Errorf("--namespace %s is Istio's root namespace, where objects apply to the whole mesh: choose one with workloads", t.Namespace)
	case t.Namespace == DefaultNamespace:
		return fmt.Errorf("--namespace %s is that of the agents: choose one with workloads", t.Namespace)
	}
	o := t.options()
	return o.Check()
}

// PreflightTrial checks whether a trial can work, without changing anything, and finds what it
// takes from the cluster: the tracing provider, and the trace store if there is one.
func (c *Cluster) PreflightTrial(ctx context.Context, t Trial) (*TrialPlan, error) {
	namespace, err := c.get(ctx, named(KindNamespace, "", t.Namespace))
	if err != nil {
		return nil, err
	}
	if namespace == nil {
		return nil, fmt.Errorf("%w: %s; kubectl get namespaces", ErrNoNamespace, t.Namespace)
	}
	m, err := c.ReadMesh(ctx, t.IstioNamespace, "")
	if err != nil {
		return nil, err
	}
	plan := &TrialPlan{Options: t.options(), trial: t}
	all := []check{{"installed", false, checkNotInstalled}}
	for _, k := range checks {
		if k.name == "tracing" {
			k.run = t.checkTracing
		}
		all = append(all, k)
	}
	all = append(all, check{"workloads", false, t.checkWorkloads}, check{"trace-store", false, plan.findStore})
	plan.Findings, err = c.runChecks(ctx, &plan.Options, m, all)
	return plan, err
}

// named is an object of which only the name counts.
func named(kind schema.GroupVersionKind, namespace, name string) *unstructured.Unstructured {
	o := &unstructured.Unstructured{}
	o.SetGroupVersionKind(kind)
	o.SetNamespace(namespace)
	o.SetName(name)
	return o
}

// isTrial reports whether an object is a trial's.
func isTrial(o metav1.Object) bool { return o.GetLabels()[instanceLabel] == trialInstance }

// markTrial gives the objects of a trial their label.
func markTrial(objects []*unstructured.Unstructured) {
	for _, o := range objects {
		marked := o.GetLabels()
		if marked == nil {
			marked = map[string]string{}
		}
		marked[instanceLabel] = trialInstance
		o.SetLabels(marked)
	}
}

// checkNotInstalled refuses a trial beside an installation, by whichever tool.
func checkNotInstalled(ctx context.Context, c *Cluster, _ *Options, _ *Mesh) ([]Finding, error) {
	managed, err := c.Managed(ctx)
	if err != nil {
		return nil, err
	}
	for _, o := range managed {
		if !isTrial(o) {
			return one(Refusal, "layertrace install has installed it already (%s): layertrace status shows it, layertrace explain TRACE_ID explains a trace", describe(o))
		}
	}
	sets, err := List[appsv1.DaemonSet](ctx, c, KindDaemonSet, "", metav1.ListOptions{LabelSelector: ours})
	if err != nil {
		return nil, err
	}
	for _, set := range sets {
		if !isTrial(set) {
			return one(Refusal, "it is installed already (DaemonSet %s/%s): layertrace status shows it, layertrace explain TRACE_ID explains a trace", set.Namespace, set.Name)
		}
	}
	if len(managed) > 0 {
		return one(Fine, "there is a trial already: only what differs is changed")
	}
	return nil, nil
}

// Trial returns the objects of a trial. If there are objects of an installation, or of a
// trial that install has taken over, it returns an error.
func (c *Cluster) Trial(ctx context.Context) ([]*unstructured.Unstructured, error) {
	managed, err := c.Managed(ctx)
	if err != nil {
		return nil, err
	}
	for _, o := range managed {
		if !isTrial(o) {
			return nil, fmt.Errorf("%s is of layertrace install, not of a trial: layertrace uninstall removes it", describe(o))
		}
	}
	return managed, nil
}

// checkTracing chooses the tracing provider of the namespace. What the mesh uses is taken with
// another sampling. A Telemetry resource of the namespace's own is left as it is.
func (t Trial) checkTracing(ctx context.Context, c *Cluster, o *Options, m *Mesh) ([]Finding, error) {
	own, err := c.wideTelemetry(ctx, []string{t.Namespace})
	if err != nil {
		return nil, err
	}
	mesh, err := c.wideTelemetry(ctx, []string{t.IstioNamespace})
	if err != nil {
		return nil, err
	}
	if o.TracingProvider == "" && len(own) > 0 {
		return t.ownTracing(own[0])
	}
	o.TracingProvider = cmp.Or(o.TracingProvider, usedProvider(mesh, m))
	if o.TracingProvider == "" {
		return t.without("the mesh configuration has no tracing provider, so proxies begin no traces: add one to it, as istio/mesh/demo.yaml does (istioctl install -f istio/mesh/demo.yaml for a mesh without settings of your own)")
	}
	findings, err := checkTracing(ctx, c, o, m)
	if err != nil || Refused(findings) != nil || m.Config == nil {
		return findings, err
	}
	service := m.Config.providerOf(o.TracingProvider).inCluster()
	if service == nil {
		return findings, nil
	}
	if found, err := c.get(ctx, named(kindService, service.namespace, service.name)); err != nil || found != nil {
		return findings, err
	}
	missing, err := t.without(fmt.Sprintf("the tracing provider %s sends to Service %s/%s, which does not exist, and Istio then begins no traces: kubectl -n %s create service clusterip %s --tcp=%d (it needs no pods for a trial)",
		o.TracingProvider, service.namespace, service.name, service.namespace, service.name, service.port))
	return append(findings, missing...), err
}

// without is the finding for a namespace whose proxies begin no traces.
func (t Trial) without(text string) ([]Finding, error) {
	if t.Sends {
		return one(Warning, "%s. Traces are those of the requests that try sends", text)
	}
	return one(Refusal, "%s. Or let try send requests that are traced: --send SERVICE:PORT/PATH", text)
}

// ownTracing is the finding for a Telemetry resource of the namespace.
func (t Trial) ownTracing(own *telemetryv1.Telemetry) ([]Finding, error) {
	for _, tracing := range own.Spec.Tracing {
		if rate := tracing.GetRandomSamplingPercentage(); rate != nil && rate.GetValue() >= t.Sampling {
			return one(Fine, "tracing is configured by Telemetry %s/%s, %v %% of requests", own.Namespace, own.Name, rate.GetValue())
		}
	}
	return one(Warning, "Telemetry %s/%s decides on tracing, and samples less than %v %%: a trace may take long. For the trial set randomSamplingPercentage: 100 in spec.tracing by kubectl -n %s edit telemetry %s, or let try send requests: --send SERVICE:PORT/PATH",
		own.Namespace, own.Name, t.Sampling, own.Namespace, own.Name)
}

// usedProvider returns the tracing provider that the mesh uses, else one that it has, else "".
func usedProvider(mesh []*telemetryv1.Telemetry, m *Mesh) string {
	for _, t := range mesh {
		for _, tracing := range t.Spec.Tracing {
			for _, p := range tracing.GetProviders() {
				return p.GetName()
			}
		}
	}
	if m.Config == nil {
		return ""
	}
	for _, name := range m.Config.DefaultProviders.Tracing {
		return name
	}
	for _, name := range slices.Sorted(maps.Keys(m.Config.TracingProviders())) {
		return name
	}
	return ""
}

// provider is where a tracing provider sends spans.
type provider struct {
	kind    string
	Service string          `json:"service"`
	Port    int32           `json:"port"`
	HTTP    json.RawMessage `json:"http"`
}

// providerOf returns a tracing provider, an empty one if the mesh has none of that name.
func (m *MeshConfig) providerOf(name string) (p provider) {
	for _, one := range m.ExtensionProviders {
		var its string
		if json.Unmarshal(one["name"], &its) != nil || its != name {
			continue
		}
		for _, kind := range tracerKinds {
			if one[kind] == nil {
				continue
			}
			if p.kind = kind; json.Unmarshal(one[kind], &p) != nil {
				return provider{kind: kind} // istiod rejects it too
			}
		}
	}
	return p
}

// clusterService is a service of the cluster.
type clusterService struct {
	namespace, name string
	port            int32
}

// inCluster returns the service of the cluster to which a provider sends, nil if it is
// elsewhere. It is written as [NAMESPACE/]HOST (Istio, MeshConfig.ExtensionProvider).
func (p provider) inCluster() *clusterService {
	namespace, host, found := strings.Cut(p.Service, "/")
	if !found {
		namespace, host = "", p.Service
	}
	labels := strings.Split(host, ".")
	switch {
	case len(labels) >= 3 && labels[2] == "svc":
		return &clusterService{labels[1], labels[0], p.Port}
	case len(labels) == 1 && namespace != "" && host != "":
		return &clusterService{namespace, host, p.Port}
	}
	return nil
}

// findStore finds the trace store of the provider. If it takes the agents' spans, they are
// sent there too, so that they are in the traces that its users see.
func (p *TrialPlan) findStore(ctx context.Context, c *Cluster, o *Options, m *Mesh) ([]Finding, error) {
	const fromAgents = "no trace store is needed: the agents keep their spans, and try reads them through the API server"
	name := o.TracingProvider
	if name == "" || m.Config == nil {
		return one(Fine, fromAgents)
	}
	to := m.Config.providerOf(name)
	service := to.inCluster()
	if service == nil || to.kind != "opentelemetry" || to.HTTP != nil {
		return one(Fine, fromAgents)
	}
	runs, err := c.hasEndpoints(ctx, service)
	if err != nil {
		return nil, err
	}
	if !runs || p.trial.exports() {
		return one(Fine, fromAgents)
	}
	o.AgentSettings = slices.DeleteFunc(o.AgentSettings, func(s string) bool { return s == exportNone })
	o.OTLPEndpoint = fmt.Sprintf("%s.%s.svc:%d", service.name, service.namespace, service.port)
	if p.UI, err = c.findUI(ctx, service.namespace); err != nil {
		return nil, err
	}
	return one(Fine, "%s; they also go to %s, where the proxies' spans are", fromAgents, o.OTLPEndpoint)
}

// hasEndpoints reports whether a pod is ready to serve a service.
func (c *Cluster) hasEndpoints(ctx context.Context, s *clusterService) (bool, error) {
	slicesOf, err := List[discoveryv1.EndpointSlice](ctx, c, kindEndpointSlice, s.namespace, metav1.ListOptions{LabelSelector: discoveryv1.LabelServiceName + "=" + s.name})
	if err != nil {
		return false, err
	}
	for _, slice := range slicesOf {
		for _, e := range slice.Endpoints {
			if len(e.Addresses) > 0 && (e.Conditions.Ready == nil || *e.Conditions.Ready) {
				return true, nil
			}
		}
	}
	return false, nil
}

// findUI returns the UI of Jaeger or Zipkin in a namespace, nil if there is none.
func (c *Cluster) findUI(ctx context.Context, namespace string) (*UI, error) {
	services, err := List[corev1.Service](ctx, c, kindService, namespace, metav1.ListOptions{})
	if err != nil {
		return nil, err
	}
	for _, product := range []int32{jaegerUI, zipkinUI} {
		for _, s := range services {
			for _, port := range s.Spec.Ports {
				if port.Port == product || port.TargetPort.IntVal == product {
					return &UI{Namespace: s.Namespace, Service: s.Name, Port: port.Port, Product: product}, nil
				}
			}
		}
	}
	return nil, nil
}

// sidecar is the name of a proxy's container.
const sidecar = "istio-proxy"

// checkWorkloads checks that pods run in the namespace, and have proxies that trace.
func (t Trial) checkWorkloads(ctx context.Context, c *Cluster, _ *Options, _ *Mesh) ([]Finding, error) {
	pods, err := List[corev1.Pod](ctx, c, KindPod, t.Namespace, metav1.ListOptions{})
	if err != nil {
		return nil, err
	}
	running, proxies := 0, 0
	for _, pod := range pods {
		if pod.DeletionTimestamp != nil || pod.Status.Phase != corev1.PodRunning {
			continue
		}
		running++
		if slices.ContainsFunc(slices.Concat(pod.Spec.InitContainers, pod.Spec.Containers), func(c corev1.Container) bool { return c.Name == sidecar }) {
			proxies++
		}
	}
	switch {
	case running == 0:
		return one(Refusal, "no pod runs in %s, so no request can be seen: deploy a service there first, or choose another --namespace", t.Namespace)
	case proxies == 0:
		return one(Warning, "no pod of %s has a sidecar: only requests from proxies elsewhere, or those of --send, are traced. To add sidecars: kubectl label namespace %s istio-injection=enabled && kubectl -n %s rollout restart deployment", t.Namespace, t.Namespace, t.Namespace)
	}
	return one(Fine, "running pods of %s: %d, with a sidecar: %d", t.Namespace, running, proxies)
}
