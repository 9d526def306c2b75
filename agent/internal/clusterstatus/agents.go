// SPDX-License-Identifier: Apache-2.0

package clusterstatus

import (
	"bytes"
	"cmp"
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/layertrace/layertrace/agent/internal/install"
	"github.com/layertrace/layertrace/agent/internal/unseen"
	dto "github.com/prometheus/client_model/go"
	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"
	"golang.org/x/sync/errgroup"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

const (
	// agentPort is the metrics port of the agents (istio/agent/daemonset.yaml).
	agentPort = 9464
	// agentSelector matches the agents' DaemonSet and pods.
	agentSelector = "app.kubernetes.io/name=layertrace,app.kubernetes.io/component=agent"
	// maxRequests is the number of pods that are asked at the same time.
	maxRequests = 16
)

// Agent is the agent of one node.
type Agent struct {
	Node  string `json:"node"`
	Pod   string `json:"pod"`
	Ready bool   `json:"ready"`
	// Interfaces is the number of captured interfaces.
	Interfaces int `json:"interfaces"`
	Traffic
	// MTLS is whether it follows encrypted connections and takes the proxies' records.
	MTLS bool `json:"mtls"`
	// Encrypted traffic, with MTLS.
	Encrypted Encrypted `json:"encrypted"`
	bySender  map[sender]Encrypted
	// Unseen is what passed by unread.
	Unseen []unseen.Sight `json:"unseen"`
	// SpansLost were refused by the receiver, or dropped.
	SpansLost float64 `json:"spans_lost"`
	// SpansOverLimit were not made, because of span-rate or trace-spans.
	SpansOverLimit float64 `json:"spans_over_limit"`
	// CPULimitStep is what it leaves out to keep within cpu-limit (layertrace_cpu_limit_step);
	// 0: nothing.
	CPULimitStep int `json:"cpu_limit_step"`
	// SpansExported were accepted by the receiver.
	SpansExported float64 `json:"spans_exported"`
	// KeptDropped were not kept for a client, because too many were.
	KeptDropped float64 `json:"-"`
	// Problem is why the agent is not ready, or why its metrics cannot be read.
	Problem string `json:"problem,omitempty"`
}

// Traffic counts the requests that agents saw.
type Traffic struct {
	// Requests of HTTP/1, with and without a trace context.
	Requests float64 `json:"requests"`
	// Found counts trace contexts, sampled or not. Behind counts those of them that were
	// beyond the prefix window: agents find them by deep.
	Found  float64 `json:"contexts_found"`
	Behind float64 `json:"contexts_behind_window"`
	// Unsampled counts those of Found that are not sampled.
	Unsampled float64 `json:"contexts_unsampled"`
	// Missed: heads longer than what was searched of them, without a context in it.
	Missed float64 `json:"contexts_missed"`
	// Without: complete heads without a context.
	Without float64 `json:"contexts_none"`
	// Searched counts heads that agents searched beyond the prefix window, and SearchBytes
	// the bytes there. A head that several capture points of a node see counts once.
	Searched    float64 `json:"heads_searched"`
	SearchBytes float64 `json:"search_bytes"`
	// OverBudget counts heads that were not searched to their end because deep-budget was
	// used up.
	OverBudget float64 `json:"searches_over_budget"`
}

// Share returns the share of the contexts that are in the prefix window, and false
// without any contexts.
func (t Traffic) Share() (float64, bool) {
	if t.Found+t.Missed == 0 {
		return 0, false
	}
	return t.inPrefix() / (t.Found + t.Missed), true
}

func (t Traffic) inPrefix() float64 { return max(0, t.Found-t.Behind) }

func (t Traffic) plus(u Traffic, sign float64) Traffic {
	return Traffic{
		t.Requests + sign*u.Requests, t.Found + sign*u.Found, t.Behind + sign*u.Behind, t.Unsampled + sign*u.Unsampled, t.Missed + sign*u.Missed, t.Without + sign*u.Without,
		t.Searched + sign*u.Searched, t.SearchBytes + sign*u.SearchBytes, t.OverBudget + sign*u.OverBudget,
	}
}

// savings returns what a reordering would save the agent, "" for nothing.
func (t Traffic) savings() string {
	if t.Searched == 0 {
		return ""
	}
	return fmt.Sprintf("%.0f of %.0f contexts (%.1f %%) were beyond the prefix window; %.0f heads searched there, %.1f KiB, %.0f bytes each",
		t.Behind, t.Found+t.Missed, 100*t.Behind/max(1, t.Found+t.Missed), t.Searched, t.SearchBytes/1024, t.SearchBytes/t.Searched)
}

// Agents returns the agents of the installation by node, and whether the DaemonSet has rolled
// out: each of its nodes has a pod of the present template, and all are ready.
func Agents(ctx context.Context, c *install.Cluster) (agents []Agent, rolledOut bool, err error) {
	sets, err := install.List[appsv1.DaemonSet](ctx, c, install.KindDaemonSet, "", metav1.ListOptions{LabelSelector: agentSelector})
	if err != nil {
		return nil, false, err
	}
	if len(sets) == 0 {
		return nil, false, ErrNotInstalled
	}
	namespace := namespaceOf(sets)
	if agents, err = readAgents(ctx, c, namespace, 0); err != nil {
		return nil, false, err
	}
	for _, set := range sets {
		if s := set.Status; set.Namespace == namespace && s.ObservedGeneration >= set.Generation && s.DesiredNumberScheduled > 0 &&
			s.UpdatedNumberScheduled == s.DesiredNumberScheduled && s.NumberReady == s.DesiredNumberScheduled {
			rolledOut = true
		}
	}
	return agents, rolledOut, nil
}

// Spans reads the spans that an agent keeps (setting keep-spans), which forgets them: OTLP's
// message TracesData in protobuf.
func (a Agent) Spans(ctx context.Context, c *install.Cluster) ([]byte, error) {
	namespace, pod, _ := strings.Cut(a.Pod, "/")
	return c.GetFromPod(ctx, namespace, pod, agentPort, "spans")
}

// readAgents returns the agents of a namespace by node, with the traffic during a window or, with
// 0, since they started.
func readAgents(ctx context.Context, c *install.Cluster, namespace string, window time.Duration) ([]Agent, error) {
	pods, err := listPods(ctx, c, namespace, agentSelector)
	if err != nil {
		return nil, err
	}
	all := askAgents(ctx, c, pods)
	if window == 0 {
		return all, nil
	}
	select {
	case <-ctx.Done():
		return nil, ctx.Err()
	case <-time.After(window):
	}
	later := askAgents(ctx, c, pods)
	for i := range later {
		later[i].Traffic = later[i].plus(all[i].Traffic, -1)
		later[i].Encrypted = later[i].Encrypted.plus(all[i].Encrypted, -1)
		later[i].bySender = minus(later[i].bySender, all[i].bySender)
		later[i].Unseen = unseen.Since(all[i].Unseen, later[i].Unseen)
	}
	return later, nil
}

// askAgents asks all agents concurrently. One that does not respond has a problem.
func askAgents(ctx context.Context, c *install.Cluster, pods []*corev1.Pod) []Agent {
	all := make([]Agent, len(pods))
	var group errgroup.Group
	group.SetLimit(maxRequests)
	for i, pod := range pods {
		group.Go(func() error {
			all[i] = askAgent(ctx, c, pod)
			return nil
		})
	}
	_ = group.Wait() // no call fails
	slices.SortFunc(all, func(a, b Agent) int { return cmp.Or(cmp.Compare(a.Node, b.Node), cmp.Compare(a.Pod, b.Pod)) })
	return all
}

func askAgent(ctx context.Context, c *install.Cluster, pod *corev1.Pod) Agent {
	a := Agent{Node: pod.Spec.NodeName, Pod: pod.Namespace + "/" + pod.Name, Ready: isReady(pod), Unseen: []unseen.Sight{}}
	if pod.Status.PodIP == "" {
		a.Problem = podProblem(pod)
		return a
	}
	families, err := podMetrics(ctx, c, pod, agentPort, "metrics")
	if err != nil {
		a.Problem = podProblem(pod)
		if a.Problem == "" {
			a.Problem = fmt.Sprintf("read its metrics: %v", err)
		}
		return a
	}
	if !a.Ready {
		a.Problem = podProblem(pod)
	}
	m := sums(families)
	a.Unseen = unseen.Of(slices.Collect(maps.Values(families)))
	a.Interfaces = int(m["layertrace_interfaces"])
	a.Traffic = Traffic{
		Requests:    m["layertrace_requests_total"],
		Found:       m["layertrace_contexts_found_total"] + m["layertrace_contexts_unsampled_total"],
		Behind:      m["layertrace_contexts_behind_window_total"],
		Unsampled:   m["layertrace_contexts_unsampled_total"],
		Missed:      m["layertrace_heads_truncated_total"],
		Without:     m["layertrace_contexts_none_total"],
		Searched:    m["layertrace_searches_total"],
		SearchBytes: m["layertrace_search_bytes_total"],
		OverBudget:  m["layertrace_searches_over_budget_total"],
	}
	a.MTLS = families[followedMetric] != nil
	a.Encrypted, a.bySender = encryptedOf(families)
	a.SpansExported = m["layertrace_spans_exported_total"]
	a.SpansLost = m["layertrace_spans_failed_total"] + m["layertrace_spans_dropped_total"]
	a.KeptDropped = m["layertrace_kept_spans_dropped_total"]
	a.CPULimitStep = int(m["layertrace_cpu_limit_step"])
	a.SpansOverLimit = m["layertrace_spans_over_limit_total"]
	return a
}

// listPods returns the pods of a namespace with a label selector; "": of all namespaces.
func listPods(ctx context.Context, c *install.Cluster, namespace, selector string) ([]*corev1.Pod, error) {
	return install.List[corev1.Pod](ctx, c, install.KindPod, namespace, metav1.ListOptions{LabelSelector: selector})
}

func isReady(pod *corev1.Pod) bool {
	return slices.ContainsFunc(pod.Status.Conditions, func(c corev1.PodCondition) bool {
		return c.Type == corev1.PodReady && c.Status == corev1.ConditionTrue
	})
}

// podProblem returns why a pod does not run according to Kubernetes, "" if it has
// no reason.
func podProblem(pod *corev1.Pod) string {
	for _, s := range slices.Concat(pod.Status.InitContainerStatuses, pod.Status.ContainerStatuses) {
		last := s.LastTerminationState.Terminated
		switch {
		case s.State.Waiting != nil && last != nil:
			return fmt.Sprintf("%s: %s (%s)", s.State.Waiting.Reason, last.Reason, last.Message)
		case s.State.Waiting != nil:
			return fmt.Sprintf("%s: %s", s.State.Waiting.Reason, s.State.Waiting.Message)
		case s.State.Terminated != nil:
			return fmt.Sprintf("terminated: %s %s", s.State.Terminated.Reason, s.State.Terminated.Message)
		}
	}
	for _, c := range pod.Status.Conditions {
		if c.Status == corev1.ConditionFalse && c.Message != "" {
			return fmt.Sprintf("%s: %s", c.Reason, c.Message)
		}
	}
	if pod.Status.Phase != corev1.PodRunning {
		return "its phase is " + string(pod.Status.Phase)
	}
	return ""
}

// metrics are the metrics of one process, each summed over all labels.
type metrics map[string]float64

// podMetrics reads the metrics that a pod serves.
func podMetrics(ctx context.Context, c *install.Cluster, pod *corev1.Pod, port int, path string) (map[string]*dto.MetricFamily, error) {
	data, err := c.GetFromPod(ctx, pod.Namespace, pod.Name, port, path)
	if err != nil {
		return nil, err
	}
	return parseMetrics(data)
}

// parseMetrics parses Prometheus' text format.
func parseMetrics(data []byte) (map[string]*dto.MetricFamily, error) {
	parser := expfmt.NewTextParser(model.UTF8Validation)
	families, err := parser.TextToMetricFamilies(bytes.NewReader(data))
	if err != nil {
		return nil, fmt.Errorf("parse metrics: %w", err)
	}
	return families, nil
}

func sums(families map[string]*dto.MetricFamily) metrics {
	m := metrics{}
	for name, family := range families {
		for _, one := range family.GetMetric() {
			m[name] += value(one)
		}
	}
	return m
}

func value(m *dto.Metric) float64 {
	return m.GetCounter().GetValue() + m.GetGauge().GetValue() + m.GetUntyped().GetValue()
}

// withSuffix returns the sum of the metrics whose names end with a suffix, and
// whether there are any: Envoy and Istio prefix a filter's counters differently.
func (m metrics) withSuffix(suffix string) (sum float64, found bool) {
	for name, v := range m {
		if strings.HasSuffix(name, suffix) {
			sum, found = sum+v, true
		}
	}
	return sum, found
}
