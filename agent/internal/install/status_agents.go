// SPDX-License-Identifier: Apache-2.0

package install

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"time"

	"golang.org/x/sync/errgroup"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// metricsPort is that of the agents (istio/agent/daemonset.yaml).
const metricsPort = 9464

// agentSelector matches the agents' pods.
const agentSelector = "app.kubernetes.io/name=layertrace,app.kubernetes.io/component=agent"

// Agent is one agent, or the lack of one.
type Agent struct {
	Node  string `json:"node"`
	Pod   string `json:"pod"`
	Ready bool   `json:"ready"`
	// Interfaces that are watched.
	Interfaces int `json:"interfaces"`
	Traffic
	// SpansLost were refused by the receiver, or dropped.
	SpansLost float64 `json:"spans_lost"`
	// SpansExported were taken by the receiver.
	SpansExported float64 `json:"spans_exported"`
	// Problem says why an agent is not ready, or tells nothing.
	Problem string `json:"problem,omitempty"`
}

// Traffic is what agents saw of requests, as counters of their metrics.
type Traffic struct {
	// Requests of HTTP/1, with and without a trace context.
	Requests float64 `json:"requests"`
	// Found contexts in the first bytes, sampled or not.
	Found float64 `json:"contexts_found"`
	// Missed: the head went beyond the first bytes without a context in them.
	Missed float64 `json:"contexts_missed"`
	// Without a context in their whole head.
	Without float64 `json:"contexts_none"`
}

// Share returns which part of the contexts stands in the first bytes, and false
// when there was none to be found.
func (t Traffic) Share() (float64, bool) {
	if t.Found+t.Missed == 0 {
		return 0, false
	}
	return t.Found / (t.Found + t.Missed), true
}

func (t Traffic) plus(u Traffic, sign float64) Traffic {
	return Traffic{t.Requests + sign*u.Requests, t.Found + sign*u.Found, t.Missed + sign*u.Missed, t.Without + sign*u.Without}
}

// agents returns the agents by node, with the traffic of a window or, with 0,
// since they began.
func (c *Cluster) agents(ctx context.Context, window time.Duration) (installed bool, all []Agent, err error) {
	sets, err := list[appsv1.DaemonSet](ctx, c, kindDaemonSet, "", metav1.ListOptions{LabelSelector: agentSelector})
	if err != nil || len(sets) == 0 {
		return false, []Agent{}, err
	}
	pods, err := c.pods(ctx, agentSelector)
	if err != nil {
		return true, nil, err
	}
	all, err = c.readAgents(ctx, pods)
	if err != nil || window == 0 {
		return true, all, err
	}
	select {
	case <-ctx.Done():
		return true, nil, ctx.Err()
	case <-time.After(window):
	}
	later, err := c.readAgents(ctx, pods)
	for i := range later {
		later[i].Traffic = later[i].plus(all[i].Traffic, -1)
	}
	return true, later, err
}

// readAgents asks all agents at once. One that does not answer has a problem.
func (c *Cluster) readAgents(ctx context.Context, pods []*corev1.Pod) ([]Agent, error) {
	all := make([]Agent, len(pods))
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(16)
	for i, pod := range pods {
		group.Go(func() error {
			all[i] = c.readAgent(ctx, pod)
			return nil
		})
	}
	err := group.Wait()
	slices.SortFunc(all, func(a, b Agent) int { return cmp.Or(cmp.Compare(a.Node, b.Node), cmp.Compare(a.Pod, b.Pod)) })
	return all, err
}

func (c *Cluster) readAgent(ctx context.Context, pod *corev1.Pod) Agent {
	a := Agent{Node: pod.Spec.NodeName, Pod: pod.Namespace + "/" + pod.Name, Ready: isReady(pod)}
	if pod.Status.PodIP == "" {
		a.Problem = podProblem(pod)
		return a
	}
	m, err := c.podMetrics(ctx, pod.Namespace, pod.Name, metricsPort, "metrics")
	if err != nil {
		a.Problem = podProblem(pod)
		if a.Problem == "" {
			a.Problem = fmt.Sprintf("its metrics cannot be read: %v", err)
		}
		return a
	}
	if !a.Ready {
		a.Problem = podProblem(pod)
	}
	counter := func(name string) float64 { return m["layertrace_"+name+"_total"] }
	a.Interfaces = int(m["layertrace_interfaces"])
	a.Traffic = Traffic{
		Requests: counter("requests"),
		Found:    counter("contexts_found") + counter("contexts_unsampled"),
		Missed:   counter("heads_truncated"),
		Without:  counter("contexts_none"),
	}
	a.SpansExported = counter("spans_exported")
	a.SpansLost = counter("spans_failed") + counter("spans_dropped")
	return a
}

func isReady(pod *corev1.Pod) bool {
	return slices.ContainsFunc(pod.Status.Conditions, func(c corev1.PodCondition) bool {
		return c.Type == corev1.PodReady && c.Status == corev1.ConditionTrue
	})
}

// podProblem says why a pod does not run, as Kubernetes tells it; "" when it
// tells nothing.
func podProblem(pod *corev1.Pod) string {
	for _, s := range slices.Concat(pod.Status.InitContainerStatuses, pod.Status.ContainerStatuses) {
		last := s.LastTerminationState.Terminated
		switch {
		case s.State.Waiting != nil && last != nil:
			return fmt.Sprintf("%s: %s (%s)", s.State.Waiting.Reason, last.Reason, last.Message)
		case s.State.Waiting != nil:
			return fmt.Sprintf("%s: %s", s.State.Waiting.Reason, s.State.Waiting.Message)
		case s.State.Terminated != nil:
			return fmt.Sprintf("ended: %s %s", s.State.Terminated.Reason, s.State.Terminated.Message)
		}
	}
	for _, c := range pod.Status.Conditions {
		if c.Status == corev1.ConditionFalse && c.Message != "" {
			return fmt.Sprintf("%s: %s", c.Reason, c.Message)
		}
	}
	if pod.Status.Phase != corev1.PodRunning {
		return "it is " + string(pod.Status.Phase)
	}
	return ""
}
