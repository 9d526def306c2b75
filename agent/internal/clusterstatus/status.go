// SPDX-License-Identifier: Apache-2.0

// Package clusterstatus reports the health of an installation in a cluster: its
// agents, the workloads of the mesh, and problems with their causes.
package clusterstatus

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/layertrace/layertrace/agent/internal/install"
	appsv1 "k8s.io/api/apps/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// Status is the health of an installation.
type Status struct {
	// Installed reports whether there is a DaemonSet.
	Installed bool `json:"installed"`
	// Reorder is the installed reordering method, one of install.Reorders.
	Reorder string `json:"reorder"`
	// Limits are the proxies that the installation changes.
	Limits install.Limits `json:"limits"`
	// MTLS is how the proxies get to report encrypted requests, one of install.MTLSLogs,
	// or "" if they do not.
	MTLS string `json:"mtls"`
	// Istio is its version, "" if unknown.
	Istio string `json:"istio,omitempty"`
	// Findings of the preflight checks that still apply.
	Findings []install.Finding `json:"findings"`
	// Agents by node name.
	Agents []Agent `json:"agents"`
	// Workloads whose pods have a sidecar or should have one.
	Workloads []Workload `json:"workloads"`
	// Problems, each with its cause and what to do.
	Problems []string `json:"problems"`
}

// Options of Collect.
type Options struct {
	IstioNamespace string
	// Window is the time for which traffic is counted; 0: since each agent started.
	Window time.Duration
}

// ErrNotInstalled means that the cluster has no agents.
var ErrNotInstalled = errors.New("layertrace is not installed: no DaemonSet has the label app.kubernetes.io/name=layertrace")

// Collect reads the status of an installation. It changes nothing.
func Collect(ctx context.Context, c *install.Cluster, o Options) (*Status, error) {
	limits, err := c.InstalledLimits(ctx, o.IstioNamespace)
	if err != nil {
		return nil, err
	}
	mesh, err := c.ReadMesh(ctx, o.IstioNamespace, limits.Revision)
	if err != nil {
		return nil, err
	}
	s := &Status{Istio: mesh.Version, Limits: limits}
	if s.Reorder, err = c.InstalledReorder(ctx, o.IstioNamespace); err != nil {
		return nil, err
	}
	sets, err := install.List[appsv1.DaemonSet](ctx, c, install.KindDaemonSet, "", metav1.ListOptions{LabelSelector: agentSelector})
	if err != nil {
		return nil, err
	}
	installed := install.Options{Reorder: s.Reorder, Namespace: install.DefaultNamespace, IstioNamespace: o.IstioNamespace}
	if s.Installed = len(sets) > 0; s.Installed {
		installed.Namespace = namespaceOf(sets)
	}
	if s.MTLS, err = c.InstalledMTLS(ctx, o.IstioNamespace); err != nil {
		return nil, err
	}
	if installed.MTLSLog = s.MTLS; s.MTLS != "" {
		installed.MTLS = install.MTLSOn
	}
	if s.Findings, err = c.CheckInstalled(ctx, &installed, s.Limits, mesh); err != nil {
		return nil, err
	}
	s.Agents = []Agent{} // JSON readers expect a list
	if s.Installed {
		if s.Agents, err = readAgents(ctx, c, installed.Namespace, o.Window); err != nil {
			return nil, err
		}
	}
	if s.Workloads, err = readWorkloads(ctx, c, o, mesh, s); err != nil {
		return nil, err
	}
	s.Problems = s.findProblems()
	return s, nil
}

// namespaceOf returns the namespace of the installation: whoever may create objects anywhere
// can give them its labels, so the usual one counts if it has a DaemonSet.
func namespaceOf(sets []*appsv1.DaemonSet) string {
	for _, set := range sets {
		if set.Namespace == install.DefaultNamespace {
			return set.Namespace
		}
	}
	return sets[0].Namespace
}

// Healthy reports whether agents are installed and all of them are ready.
func (s *Status) Healthy() bool {
	for _, a := range s.Agents {
		if !a.Ready {
			return false
		}
	}
	return s.Installed && len(s.Agents) > 0
}

// sufficientShare is the share of contexts in the prefix window (or with --reorder none, of
// those that are found) below which an agent has a problem.
const sufficientShare = 0.99

// findProblems returns what does not work, with its cause and what to do. It is
// never nil, as JSON readers expect a list.
func (s *Status) findProblems() []string {
	problems := []string{}
	if !s.Installed {
		return append(problems, ErrNotInstalled.Error()+"; see layertrace install --help")
	}
	if len(s.Agents) == 0 {
		return append(problems, "the DaemonSet has no pods: no node matches its selector, or the cluster has no nodes")
	}
	for _, a := range s.Agents {
		problems = append(problems, a.findProblems(s)...)
		problems = append(problems, a.findBlocked()...)
	}
	traced := slices.ContainsFunc(s.Workloads, func(w Workload) bool { return w.Tracing.On })
	if len(s.Workloads) > 0 && !traced {
		problems = append(problems, "no workload is traced: install with --tracing-provider, or create a Telemetry resource")
	}
	if len(s.Workloads) == 0 {
		problems = append(problems, "no pod has a sidecar: label a namespace with istio-injection=enabled and restart its workloads")
	}
	return problems
}

// leftOut is what an agent leaves out at each step of cpu-limit.
var leftOut = [...]string{"", "layers", "layers and contexts beyond the prefix window", "all new requests"}

func (a Agent) findProblems(s *Status) []string {
	reorder := s.Reorder
	var problems []string
	add := func(format string, args ...any) {
		problems = append(problems, fmt.Sprintf("agent on %s: ", cmp.Or(a.Node, "no node (pod "+a.Pod+")"))+fmt.Sprintf(format, args...))
	}
	if a.Problem != "" {
		add("%s", a.Problem)
	}
	if !a.Ready {
		if a.Problem == "" {
			add("not ready; see kubectl logs -n %s", a.Pod)
		}
		return problems
	}
	share, known := a.Share()
	switch {
	case a.Problem != "", a.Requests == 0 && a.Encrypted.Received > 0:
	case a.Requests == 0 && len(a.Unseen) > 0:
		add("it saw no HTTP/1 requests, but %s", a.Unseen[0])
	case a.Requests == 0:
		add("it saw no HTTP/1 requests: there was no traffic, or it is HTTP/2 or encrypted (mutual TLS; see --mtls)")
	case !known:
		add("none of %.0f requests had a trace context: tracing is off, or they come from outside the mesh", a.Requests)
	case reorder == install.ReorderNone && a.Missed > (1-sufficientShare)*(a.Found+a.Missed):
		add("%.1f %% of the contexts were missed, behind what was searched: choose a --reorder other than none, or search more (deep, deep-window, deep-budget)", 100*a.Missed/(a.Found+a.Missed))
	case reorder == install.ReorderNone, s.Limits.String() != "": // nothing moves the others, and they are found
	case share < sufficientShare:
		add("only %.1f %% of the contexts are in the prefix window: this includes requests from before --reorder %s was installed (--window 30s counts from now on); see the workloads", 100*share, reorder)
	}
	if a.OverBudget > 0 {
		add("%.0f heads were not searched for their context: deep-budget is used up; choose a --reorder other than none, or raise it", a.OverBudget)
	}
	if problem := a.findEncrypted(s.MTLS, s.Limits.String() != ""); a.Problem == "" && problem != "" {
		add("%s", problem)
	}
	if left := leftOut[min(max(a.CPULimitStep, 0), len(leftOut)-1)]; left != "" {
		add("it leaves out %s, to keep within cpu-limit: raise that, or sample less", left)
	}
	if a.SpansOverLimit > 0 {
		add("%.0f spans were not made, because of span-rate or trace-spans: sample less, or raise them", a.SpansOverLimit)
	}
	if a.SpansLost > 0 {
		add("%.0f spans were lost: the receiver is slow, unreachable or refuses them; see kubectl logs -n %s", a.SpansLost, a.Pod)
	}
	return problems
}

// findBlocked returns the interfaces at which programs of others or a CNI may keep
// packets from the agent.
func (a Agent) findBlocked() (problems []string) {
	for _, s := range a.Unseen {
		if s.IsBlocked() {
			problems = append(problems, fmt.Sprintf("agent on %s: %s: %s", a.Node, s, s.Advice))
		}
	}
	return problems
}
