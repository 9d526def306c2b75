// SPDX-License-Identifier: Apache-2.0

package clusterstatus

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/layertrace/layertrace/agent/internal/install"
	"golang.org/x/sync/errgroup"
	telemetryapi "istio.io/api/telemetry/v1alpha1"
	telemetryv1 "istio.io/client-go/pkg/apis/telemetry/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
)

const (
	proxyContainer = "istio-proxy"
	// proxyStatsPort is where the sidecar's agent serves Envoy's statistics.
	proxyStatsPort = 15020
	// maxProxies is the number of proxies of a workload whose statistics are read.
	maxProxies         = 3
	overrideAnnotation = "sidecar.istio.io/bootstrapOverride"
)

// Workload is the set of pods of one controller.
type Workload struct {
	Namespace string `json:"namespace"`
	Name      string `json:"name"`
	Pods      int    `json:"pods"`
	// Sidecars is the number of pods that have one.
	Sidecars int     `json:"sidecars"`
	Tracing  Tracing `json:"tracing"`
	// Reordered counts the requests that the Wasm filter reordered in its proxies, of at
	// most maxProxies pods, since the proxies started; nil without that counter: another
	// method is installed, or the proxies have no filter.
	Reordered *float64 `json:"reordered,omitempty"`
	// Traffic of the nodes that the pods run on.
	Traffic Traffic `json:"traffic"`
	// Reports is whether its proxies report encrypted requests, Encrypted what became of
	// the reports. Workloads of the same service have the same counts.
	Reports   Reports   `json:"reports"`
	Encrypted Encrypted `json:"encrypted"`
	// RecordsDropped are the reports that its proxies dropped because no agent took them,
	// since the proxies started, of at most maxProxies pods; nil if they do not count them.
	RecordsDropped *float64 `json:"records_dropped,omitempty"`
	// ProxyImage of one pod.
	ProxyImage string `json:"proxy_image,omitempty"`
	// Problem is why contexts are missing or not in the prefix window.
	Problem string `json:"problem,omitempty"`

	pods []*corev1.Pod
}

// readWorkloads returns the workloads of the mesh, by namespace and name.
func readWorkloads(ctx context.Context, c *install.Cluster, o Options, mesh *install.Mesh, s *Status) ([]Workload, error) {
	telemetries, err := install.List[telemetryv1.Telemetry](ctx, c, install.KindTelemetry, "", metav1.ListOptions{})
	if err != nil {
		return nil, err
	}
	injected, err := injectedNamespaces(ctx, c)
	if err != nil {
		return nil, err
	}
	pods, err := listPods(ctx, c, "", "")
	if err != nil {
		return nil, err
	}
	all := group(pods, injected)
	byNode := map[string]*Agent{}
	for i := range s.Agents {
		byNode[s.Agents[i].Node] = &s.Agents[i]
	}
	work, ctx := errgroup.WithContext(ctx)
	work.SetLimit(maxRequests)
	for i := range all {
		work.Go(func() error {
			w := &all[i]
			w.Tracing = tracingOf(w.pods[0], o.IstioNamespace, telemetries, mesh.Config)
			w.sumNodes(byNode)
			w.Reports = reportsOf(w.pods[0], o.IstioNamespace, s.MTLS, s.Limits, telemetries, mesh.Config)
			w.askProxies(ctx, c)
			w.Problem = w.findProblem(s.Reorder, s.Limits)
			return nil
		})
	}
	return all, work.Wait()
}

// injectedNamespaces returns the namespaces whose pods get a sidecar.
func injectedNamespaces(ctx context.Context, c *install.Cluster) (map[string]bool, error) {
	namespaces, err := install.List[corev1.Namespace](ctx, c, install.KindNamespace, "", metav1.ListOptions{})
	if err != nil {
		return nil, err
	}
	injected := map[string]bool{}
	for _, n := range namespaces {
		revision := n.Labels["istio.io/rev"] != ""
		injected[n.Name] = n.Labels["istio-injection"] == "enabled" || revision && n.Labels["istio-injection"] != "disabled"
	}
	return injected, nil
}

// group groups pods by workload. Pods without a sidecar count if their namespace
// should give them one.
func group(pods []*corev1.Pod, injected map[string]bool) []Workload {
	found := map[[2]string]*Workload{}
	for _, pod := range pods {
		image := proxyImage(pod)
		ended := pod.Status.Phase == corev1.PodSucceeded || pod.Status.Phase == corev1.PodFailed
		if ended || pod.Spec.HostNetwork || image == "" && !injected[pod.Namespace] {
			continue
		}
		key := [2]string{pod.Namespace, workloadName(pod)}
		w := found[key]
		if w == nil {
			w = &Workload{Namespace: key[0], Name: key[1]}
			found[key] = w
		}
		w.Pods++
		w.pods = append(w.pods, pod)
		if image != "" {
			w.Sidecars++
			w.ProxyImage = image
		}
	}
	all := make([]Workload, 0, len(found))
	for _, w := range found {
		all = append(all, *w)
	}
	slices.SortFunc(all, func(a, b Workload) int {
		return cmp.Or(cmp.Compare(a.Namespace, b.Namespace), cmp.Compare(a.Name, b.Name))
	})
	return all
}

// proxyImage returns the image of a pod's proxy, "" without one. A native sidecar is
// an init container.
func proxyImage(pod *corev1.Pod) string {
	for _, c := range slices.Concat(pod.Spec.InitContainers, pod.Spec.Containers) {
		if c.Name == proxyContainer {
			return c.Image
		}
	}
	return ""
}

// workloadName returns the name of the pod's controller. A Deployment's ReplicaSet
// loses the hash that the Deployment appends.
func workloadName(pod *corev1.Pod) string {
	owner := metav1.GetControllerOf(pod)
	if owner == nil {
		return pod.Name
	}
	if hash := pod.Labels["pod-template-hash"]; owner.Kind == "ReplicaSet" && hash != "" {
		return strings.TrimSuffix(owner.Name, "-"+hash)
	}
	return owner.Name
}

// sumNodes sums what the agents of the pods' nodes have counted.
func (w *Workload) sumNodes(byNode map[string]*Agent) {
	seen := map[string]bool{}
	for _, pod := range w.pods {
		agent := byNode[pod.Spec.NodeName]
		if agent == nil || seen[pod.Spec.NodeName] {
			continue
		}
		seen[pod.Spec.NodeName] = true
		w.Traffic = w.Traffic.plus(agent.Traffic, 1)
		own := agent.bySender[senderOf(pod)]
		own.Connections, own.Refused = agent.Encrypted.Connections, agent.Encrypted.Refused
		w.Encrypted = w.Encrypted.plus(own, 1)
	}
}

// askProxies reads the statistics of the workload's proxies. Without those of a proxy the
// sums have less, without any there is none.
func (w *Workload) askProxies(ctx context.Context, c *install.Cluster) {
	asked := 0
	for _, pod := range w.pods {
		if proxyImage(pod) == "" || pod.Status.PodIP == "" || !isReady(pod) || asked == maxProxies {
			continue
		}
		asked++
		families, err := podMetrics(ctx, c, pod, proxyStatsPort, "stats/prometheus")
		if err != nil {
			continue
		}
		m := sums(families)
		addCounter(&w.Reordered, m, "layertrace_requests_reordered")
		addCounter(&w.RecordsDropped, m, droppedSuffix)
	}
}

// addCounter adds the metrics with a suffix to a sum, which is nil as long as there are none.
func addCounter(sum **float64, m metrics, suffix string) {
	n, found := m.withSuffix(suffix)
	if !found {
		return
	}
	if *sum != nil {
		n += **sum
	}
	*sum = &n
}

// findProblem returns why contexts of this workload are missing or not in the
// prefix window, "" without a problem or if the limits leave it out.
func (w *Workload) findProblem(reorder string, limits install.Limits) string {
	switch {
	case slices.ContainsFunc(w.pods, func(p *corev1.Pod) bool { return !limits.Covers(p.Namespace, p.Labels) }):
		return ""
	case w.Sidecars < w.Pods:
		return fmt.Sprintf("%d of %d pods have no sidecar: restart the workload", w.Pods-w.Sidecars, w.Pods)
	case !w.Tracing.On:
		return "tracing is off: " + w.Tracing.Reason
	case reorder == install.ReorderInlineHeaders && w.withoutOverride() > 0:
		return fmt.Sprintf("%d of %d pods lack the annotation %s: %s, so the tracer moves the context back to the end",
			w.withoutOverride(), w.Pods, overrideAnnotation, install.BootstrapName)
	}
	return ""
}

func (w *Workload) withoutOverride() int {
	n := 0
	for _, pod := range w.pods {
		if pod.Annotations[overrideAnnotation] != install.BootstrapName {
			n++
		}
	}
	return n
}

// Tracing is the tracing configuration of a workload's proxies.
type Tracing struct {
	On bool `json:"on"`
	// Providers in use.
	Providers []string `json:"providers,omitempty"`
	// Sampling in percent.
	Sampling float64 `json:"sampling"`
	// By is the Telemetry resource that decides, or the mesh configuration.
	By string `json:"by"`
	// Reason is why tracing is off.
	Reason string `json:"reason,omitempty"`
}

// istioSampling is Istio's default, in percent.
const istioSampling = 1

// tracingOf merges the resources that apply to a pod, from the mesh to the
// workload: each level overrides the fields that it sets (Istio, Telemetry API).
func tracingOf(pod *corev1.Pod, root string, all []*telemetryv1.Telemetry, config *install.MeshConfig) Tracing {
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
				break // Istio uses one per level
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

func (t *Tracing) conclude(config *install.MeshConfig, disabled bool) {
	var unknown []string
	if config != nil {
		known := config.TracingProviders()
		for _, p := range t.Providers {
			if _, ok := known[p]; !ok {
				unknown = append(unknown, p)
			}
		}
	}
	switch {
	case len(t.Providers) == 0:
		t.Reason = "no provider is configured"
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
