// SPDX-License-Identifier: Apache-2.0

package install

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strings"

	"golang.org/x/sync/errgroup"
	telemetryv1 "istio.io/client-go/pkg/apis/telemetry/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

const (
	proxyContainer = "istio-proxy"
	// proxyStats is where the sidecar's agent serves Envoy's statistics.
	proxyStatsPort     = 15020
	overrideAnnotation = "sidecar.istio.io/bootstrapOverride"
)

// Workload is a set of like pods.
type Workload struct {
	Namespace string `json:"namespace"`
	Name      string `json:"name"`
	Pods      int    `json:"pods"`
	// Sidecars is how many of them have one.
	Sidecars int     `json:"sidecars"`
	Tracing  Tracing `json:"tracing"`
	// Reordered counts the requests whose context the filter moved to the front,
	// in one pod's proxy since it started; nil when its statistics have no such
	// counter: it is another way, or the filter is not there.
	Reordered *float64 `json:"reordered,omitempty"`
	// Traffic that the agents saw on the nodes of these pods.
	Traffic Traffic `json:"traffic"`
	// ProxyImage of the first pod.
	ProxyImage string `json:"proxy_image,omitempty"`
	// Problem says what keeps the contexts from the front.
	Problem string `json:"problem,omitempty"`

	pods []*corev1.Pod
}

// workloads returns the workloads of the mesh, by namespace and name.
func (c *Cluster) workloads(ctx context.Context, o StatusOptions, m *mesh, s *Status) ([]Workload, error) {
	telemetries, err := list[telemetryv1.Telemetry](ctx, c, kindTelemetry, "", metav1.ListOptions{})
	if err != nil {
		return nil, err
	}
	injected, err := c.injectedNamespaces(ctx)
	if err != nil {
		return nil, err
	}
	pods, err := c.pods(ctx, "")
	if err != nil {
		return nil, err
	}
	all := group(pods, injected)
	byNode := map[string]Traffic{}
	for _, a := range s.Agents {
		byNode[a.Node] = a.Traffic
	}
	work, ctx := errgroup.WithContext(ctx)
	work.SetLimit(16)
	for i := range all {
		work.Go(func() error {
			w := &all[i]
			w.Tracing = tracingOf(w.pods[0], o.IstioNamespace, telemetries, m.config)
			w.Traffic = traffic(w.pods, byNode)
			w.Reordered = c.reordered(ctx, w.pods)
			w.Problem = w.problem(s.Reorder)
			return nil
		})
	}
	return all, work.Wait()
}

// injectedNamespaces are those whose pods get a sidecar.
func (c *Cluster) injectedNamespaces(ctx context.Context) (map[string]bool, error) {
	namespaces, err := list[corev1.Namespace](ctx, c, kindNamespace, "", metav1.ListOptions{})
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

// group puts the pods of a workload together. Pods without a sidecar count where
// their namespace gives them one.
func group(pods []*corev1.Pod, injected map[string]bool) []Workload {
	found := map[[2]string]*Workload{}
	for _, pod := range pods {
		image := proxyImage(pod)
		over := pod.Status.Phase == corev1.PodSucceeded || pod.Status.Phase == corev1.PodFailed
		if over || pod.Spec.HostNetwork || image == "" && !injected[pod.Namespace] {
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

// proxyImage returns the image of a pod's proxy, "" when it has none. A native
// sidecar is an init container.
func proxyImage(pod *corev1.Pod) string {
	for _, c := range slices.Concat(pod.Spec.InitContainers, pod.Spec.Containers) {
		if c.Name == proxyContainer {
			return c.Image
		}
	}
	return ""
}

// workloadName is the controller's name; of a Deployment's ReplicaSet, without
// the hash that the Deployment puts behind.
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

// traffic sums what the agents of the pods' nodes saw.
func traffic(pods []*corev1.Pod, byNode map[string]Traffic) Traffic {
	var sum Traffic
	seen := map[string]bool{}
	for _, pod := range pods {
		if !seen[pod.Spec.NodeName] {
			seen[pod.Spec.NodeName] = true
			sum = sum.plus(byNode[pod.Spec.NodeName], 1)
		}
	}
	return sum
}

// reordered reads the Wasm filter's counter from the statistics of the first
// proxy that tells them.
func (c *Cluster) reordered(ctx context.Context, pods []*corev1.Pod) *float64 {
	for _, pod := range pods {
		if proxyImage(pod) == "" || pod.Status.PodIP == "" || !isReady(pod) {
			continue
		}
		m, err := c.podMetrics(ctx, pod.Namespace, pod.Name, proxyStatsPort, "stats/prometheus")
		if err != nil {
			continue // told by the lack of a figure; the share says more
		}
		if sum, found := m.ending("layertrace_requests_reordered"); found {
			return &sum
		}
		return nil
	}
	return nil
}

// problem says what keeps the contexts of this workload from the front.
func (w *Workload) problem(reorder string) string {
	switch {
	case w.Sidecars < w.Pods:
		return fmt.Sprintf("%d of %d pods have no sidecar: restart the workload", w.Pods-w.Sidecars, w.Pods)
	case !w.Tracing.On:
		return "tracing is off: " + w.Tracing.Reason
	case reorder == ReorderInlineHeaders && w.withoutOverride() > 0:
		return fmt.Sprintf("%d of %d pods lack the annotation %s: %s: the tracer moves the context back to the end",
			w.withoutOverride(), w.Pods, overrideAnnotation, bootstrapName)
	}
	return ""
}

func (w *Workload) withoutOverride() int {
	n := 0
	for _, pod := range w.pods {
		if pod.Annotations[overrideAnnotation] != bootstrapName {
			n++
		}
	}
	return n
}
